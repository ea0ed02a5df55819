"""The examples of the Python client run as they stand, with the shipped model."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("document", "printed"),
    [
        (
            "README.md",
            "digit.png False 0.249675\nimage 1 False 0.353965\nimage 2 True 0.0001\n-70.017 0.2539 low\n",
        ),
        (
            "docs/client.md",
            "There is no clear sign that this image is new: 2,496 of 10,000 calibration images look at least as "
            "unusual (p = 0.25, more than the false-alarm rate of 0.01).\n",
        ),
    ],
)
def test_an_example_runs_as_it_stands(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, document: str, printed: str
) -> None:
    program = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text("utf-8"), re.DOTALL)[0]
    assert "vampprior_client" in program
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "digit.png", tmp_path / "docs")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    model = "static_mnist-hvae-vampprior"
    with serve(model_store=ROOT / "model_store", default_model=model, models=model) as service:
        program = program.replace("http://localhost:8000", service.url)
        ended = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert ended.stderr == ""
    number = re.compile(r"-?\d+\.\d+")
    assert number.sub("#", ended.stdout) == number.sub("#", printed)
    # the last digits depend on the processor
    numbers = [[float(text) for text in number.findall(text)] for text in (ended.stdout, printed)]
    assert numbers[0] == pytest.approx(numbers[1], abs=2e-3)
