"""The documents say what the code does: settings, calls, names; and no document has a link that leads nowhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.http.app import create_app
from service.settings import Settings
from vampprior import LIKELIHOODS, MODELS, PRIORS

ROOT = Path(__file__).parent.parent
HTTP, OPERATIONS, TRAINING = (
    (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("http", "operations", "training")
)
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")]


def settings_rows() -> list[tuple[str, str, str]]:
    rows = []
    for name, field in Settings.model_fields.items():
        secret = getattr(field.default, "get_secret_value", None)
        default = str(secret() if secret else field.default)
        rows.append((f"`VAMP_{name.upper()}`", f"`{default}`" if default else "", str(field.description)))
    return rows


@pytest.mark.parametrize("row", settings_rows(), ids=lambda row: row[0])
def test_every_setting_stands_in_the_table_as_the_code_has_it(row):
    assert f"| {row[0]} | {row[1]} | {row[2]} |" in OPERATIONS


def test_the_table_has_no_other_setting():
    known = {row[0] for row in settings_rows()}
    assert set(re.findall(r"^\| (`VAMP_\w+`) \|", OPERATIONS, re.MULTILINE)) == known


def test_every_call_is_described():
    paths = create_app(Settings()).openapi()["paths"]
    missing = [path for path in paths if path.replace("{k}", "42") not in HTTP]
    assert missing == []


@pytest.mark.parametrize("names", [MODELS, PRIORS, LIKELIHOODS])
def test_every_name_that_a_recipe_may_use_is_described(names):
    assert " or ".join(names) in TRAINING


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.stem)
def test_relative_links_lead_somewhere(document):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_the_readme_is_a_front_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200
