from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from starlette.requests import Request

from service.http.answers import choose_format, results_json


def request(accept: str) -> Request:
    return Request({"type": "http", "headers": [(b"accept", accept.encode())]})


@pytest.mark.parametrize(
    "accept", ["", ",", ";", ";q=1", "q=1", "*/*;q=", "*/*;q=high", "application/json;q=nan", "application/json;q=-1"]
)
def test_an_accept_header_that_makes_no_sense_is_answered_all_the_same(accept: str) -> None:
    assert choose_format(request(accept), None) == "png"


@pytest.mark.parametrize(
    ("accept", "format_"),
    [
        ("application/json ; q=0.9 , application/x-npy ; q=1.0", "npy"),
        ("application/json;charset=utf-8;q=0.9, image/png;q=0.8", "json"),
        ("image/png;q=0.8, application/json;q=0.8", "png"),
        ("application/json;q=0.8, image/png;q=0.8", "json"),
        ("application/json;q=0, image/png;q=0, */*;q=0.1", "npy"),
    ],
)
def test_parameters_and_ties(accept: str, format_: str) -> None:
    assert choose_format(request(accept), None) == format_


def test_results_get_the_names_of_their_files() -> None:
    loaded = SimpleNamespace(card=SimpleNamespace(name="vamp", version="2"))
    names = ["a.png", '"\\ \n \ud83d\ude00.png'.encode("utf-16", "surrogatepass").decode("utf-16")]
    body = json.loads(results_json(loaded, names, [b'{"x":1}', b'{"x":2,"y":[3]}'], seed=7))  # type: ignore[arg-type]
    assert body == {
        "model": "vamp",
        "model_version": "2",
        "seed": 7,
        "results": [{"file": names[0], "x": 1}, {"file": names[1], "x": 2, "y": [3]}],
    }
