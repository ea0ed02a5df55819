from __future__ import annotations

import numpy as np
import pytest
from starlette.requests import Request

from service.http.answers import choose_format, rounded


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


def test_numbers_are_rounded_as_decimals_not_as_floats() -> None:
    assert rounded(np.array([[0.1, 1 / 3]], dtype=np.float32)) == [[0.1, 0.333333]]
