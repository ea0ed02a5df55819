"""Which model answers, and what the service says about those it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

CALLS = [
    ("POST", "/sample"),
    ("POST", "/reconstruct"),
    ("POST", "/loglik"),
    ("POST", "/encode"),
    ("GET", "/pseudo-inputs"),
    ("GET", "/pseudo-inputs/0"),
]


def test_all_models_are_listed_the_newest_version_first(client: httpx.Client) -> None:
    body = client.get("/models").json()
    assert (body["default"], body["loading"]) == ("tiny-vamp", False)
    listed = [(model["name"], model["version"], model["status"]) for model in body["models"]]
    assert listed == [
        ("tiny-colour", "1", "ready"),
        ("tiny-normal", "1", "ready"),
        ("tiny-vamp", "10", "ready"),
        ("tiny-vamp", "2", "ready"),
        ("tiny-vamp", "1", "ready"),
        ("damaged", "1", "refused"),
    ]
    assert [model["version"] for model in body["models"] if model["default"]] == ["10"]


def test_the_list_says_what_a_model_is(client: httpx.Client, load_model: Any) -> None:
    (colour,) = [model for model in client.get("/models").json()["models"] if model["name"] == "tiny-colour"]
    assert colour["architecture"] == load_model("tiny-colour@1").config.to_dict()


def test_the_list_says_why_a_checkpoint_was_refused(client: httpx.Client) -> None:
    (damaged,) = [model for model in client.get("/models").json()["models"] if model["status"] == "refused"]
    assert "sha256" in damaged["reason"]
    assert damaged["architecture"] is None


def test_the_list_stands_cards_that_were_written_by_hand(serve: Any, save_model: Any, tmp_path: Path) -> None:
    free_parts = {"named": {"name": "mnist"}, "listed": {"name": ["mnist"]}, "numbered": {"name": 1}}
    scores = {"named": -80, "listed": "n/a", "numbered": None}
    for name, dataset in free_parts.items():
        path = save_model(tmp_path, name, "1", seed=1) / "card.json"
        changed = {"dataset": dataset, "metrics": {"log_likelihood": scores[name]}}
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with serve(model_store=tmp_path, default_model="named") as service:
        told = {m["name"]: (m["dataset"], m["log_likelihood"]) for m in service.client.get("/models").json()["models"]}
    assert told == {"named": ("mnist", -80), "listed": (None, None), "numbered": (None, None)}


@pytest.mark.parametrize(
    ("reference", "version"), [("tiny-vamp", "10"), ("tiny-vamp@2", "2"), ("tiny-vamp@10", "10"), ("tiny-vamp@1", "1")]
)
def test_a_model_is_its_card(client: httpx.Client, model_store: Path, reference: str, version: str) -> None:
    card = json.loads((model_store / "tiny-vamp" / version / "card.json").read_text())
    assert client.get(f"/models/{reference}").json() == card


@pytest.mark.parametrize(
    ("reference", "version"),
    [(None, "10"), ("", "10"), ("tiny-vamp", "10"), ("tiny-vamp@10", "10"), ("tiny-vamp@2", "2"), ("tiny-normal", "1")],
)
def test_a_request_picks_its_model(client: httpx.Client, reference: str | None, version: str) -> None:
    response = client.post("/sample", params={} if reference is None else {"model": reference})
    assert response.headers["x-model"] == ("tiny-normal" if reference == "tiny-normal" else "tiny-vamp")
    assert response.headers["x-model-version"] == version


def test_versions_answer_differently(client: httpx.Client) -> None:
    answers = {client.get("/pseudo-inputs", params={"model": f"tiny-vamp@{v}"}).content for v in (1, 2, 10)}
    assert len(answers) == 3


@pytest.mark.parametrize(
    "reference",
    ["tiny-vamp@3", "tiny-vamp@1.0", "tiny-vamp@", "tiny", "Tiny-Vamp", "@1", "damaged", "damaged@1", "../x"],
)
@pytest.mark.parametrize(("method", "path"), CALLS)
def test_a_model_that_is_not_there(
    client: httpx.Client, problem: Any, pngs: list[bytes], method: str, path: str, reference: str
) -> None:
    files = {"files": {"file": pngs[0]}} if path in ("/reconstruct", "/loglik", "/encode") else {}
    response = client.request(method, path, params={"model": reference}, **files)
    assert reference in problem(response, 404, "model-not-found")["detail"]


@pytest.mark.parametrize("reference", ["tiny-vamp@3", "tiny", "damaged@1"])
def test_a_card_that_is_not_there(client: httpx.Client, problem: Any, reference: str) -> None:
    problem(client.get(f"/models/{reference}"), 404, "model-not-found")


@pytest.mark.parametrize(("default", "version"), [("tiny-vamp@2", "2"), ("tiny-normal", "1")])
def test_the_default_is_a_setting(serve: Any, default: str, version: str) -> None:
    with serve(default_model=default) as service:
        response = service.client.post("/sample")
        named = [m for m in service.client.get("/models").json()["models"] if m["default"]]
    assert (response.headers["x-model"], response.headers["x-model-version"]) == (default.partition("@")[0], version)
    assert [(model["name"], model["version"]) for model in named] == [(default.partition("@")[0], version)]
