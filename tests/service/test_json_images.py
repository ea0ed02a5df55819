"""JSON bodies of images: what is read, what is refused, and what refusing costs."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.errors import BadParameter, Problem, TooLarge
from service.http.json_images import BLOCK_BYTES, read_json_images

MEGABYTE = 1024 * 1024


def read(body: bytes, max_images: int = 3) -> list[bytes]:
    return read_json_images(body, max_images=max_images)


@pytest.mark.parametrize(
    "body",
    [
        b'{"images": ["YWJj", "data:image/png;base64,YWJj", "YWJj"]}',
        b' {\n"images":["YWJj","data:;base64,YWJj","YWJj"]\t}\r\n',
        rb'{"images": ["YWJj", "data:image\/png;base64,YWJj", "YWJj"]}',
        b'{"images": ["data:image/png;base64,YWJj", "data:image/jpeg;x=y;base64,YWJj", "data:image/webp;base64,YWJj"]}',
    ],
)
def test_images_with_and_without_prefix_and_escapes(body: bytes) -> None:
    assert read(body) == [b"abc"] * 3


@pytest.mark.parametrize("content", [b"", b"a", b"ab", b"abc", bytes(range(256)) * 5])
def test_any_bytes_come_back(content: bytes) -> None:
    assert read(json.dumps({"images": [base64.b64encode(content).decode()]}).encode()) == [content]


def test_escaped_plus_and_slash_are_base64() -> None:
    text = base64.b64encode(b"\xfb\xff\xfe").decode()
    assert text == "+//+"
    assert read(b'{"images": ["\\u002b\\/\\/\\u002B"]}') == [b"\xfb\xff\xfe"]
    assert read(b'{"images": ["YQ\\u003d\\u003D"]}') == [b"a"]


@pytest.mark.parametrize("escape", [lambda text: text, lambda text: text.replace("/", "\\/").replace("+", "\\u002b")])
@pytest.mark.parametrize("length", [BLOCK_BYTES // 4 * 3 + extra for extra in range(-7, 8)])
def test_a_string_of_several_blocks(length: int, escape: Callable[[str], str]) -> None:
    content = np.random.default_rng(length).bytes(length)
    text = escape(base64.b64encode(content).decode())
    assert read(b'{"images": ["' + text.encode() + b'", "YQ=="]}') == [content, b"a"]


@pytest.mark.parametrize("place", [BLOCK_BYTES - 4, BLOCK_BYTES - 2, BLOCK_BYTES, 2 * BLOCK_BYTES - 4])
@pytest.mark.parametrize("wrong", [b"YQ==", b"=", b"\\", b"\\n", b"\\u002", b"!", b"\xff"])
def test_what_is_no_base64_is_found_in_any_block(place: int, wrong: bytes) -> None:
    text = b"A" * place + wrong + b"A" * (3 * BLOCK_BYTES - place - len(wrong))
    with pytest.raises(BadParameter, match=r"images\[0\] is not base64"):
        read(b'{"images": ["' + text + b'"]}')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"1e400",
        b'"images"',
        b"{",
        b"{}",
        b'{"images": null}',
        b'{"images": {}}',
        b'{"images": "YWJj"}',
        b'{"images": [1]}',
        b'{"images": [null]}',
        b'{"images": ["YWJj",]}',
        b'{"images": ["YWJj"]',
        b'{"images": ["YWJj"]}]',
        b'{"images": ["YWJj"]} x',
        b'{"images": ["YWJj"], "images": ["YWJj"]}',
        b'{"images": null, "images": ["YWJj"]}',
        b'{"images": ["YWJj"], "images": null}',
        b'{"images": ["YWJj"], "seed": 3}',
        b'{"seed": 3, "images": ["YWJj"]}',
        b'{"images": ["data:image/png;base64,YWJj"], "seed": 3}',
        b'{"seed": [3]}',
        b'{"images": [["YWJj"]]}',
        b'{"images": [{"a": "YWJj"}]}',
        b'{"images": [' + b"9" * 100_000 + b"]}",
        b'{"images": [1e' + b"9" * 100_000 + b"]}",
        b'{"images": [NaN]}',
        b'{"images": ["YW\nJj"]}',
        b'{"images": ["YW\\nJj"]}',
        b'{"images": ["YWJ"]}',
        b'{"images": ["YW=Jj"]}',
        b'{"images": ["YWJj\\ud800"]}',
        b'{"images": ["\\ud800\\ud800"]}',
        b'{"images": ["YWJj\xff"]}',
        b'{"images": ["\xc3\xbc"]}',
        b'{"\xff": ["YWJj"]}',
        b'{"images\xff": ["YWJj"]}',
        b'\xef\xbb\xbf{"images": ["YWJj"]}',
        '{"images": ["YWJj"]}'.encode("utf-16"),
        '{"images": ["YWJj"]}'.encode("utf-32-le"),
        b"[" * 100_000,
        b'{"images":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"images": ["data:image/png,YWJj"]}',
        b'{"images": ["data:image/png;base64"]}',
        b'{"images": ["data:' + b"a" * 300 + b';base64,YWJj"]}',
    ],
)
def test_a_body_that_cannot_be_read_is_refused(body: bytes) -> None:
    with pytest.raises(BadParameter) as caught:
        read(body)
    assert len(caught.value.detail) < 400
    caught.value.detail.encode()


def test_the_number_of_images_is_checked_before_any_is_decoded() -> None:
    assert read(b'{"images": ["YWJj", "YWJj", "YWJj"]}') == [b"abc"] * 3
    for body in (b'{"a":' * 100_000, b'{"images": ["?", "?", "?", "?"]}', b'{"images": [' + b'"?",' * 50 + b'"?"]}'):
        with pytest.raises(TooLarge, match="3"):
            read(body)


def fill(start: bytes, unit: bytes, end: bytes) -> bytes:
    return start + unit * ((16 * MEGABYTE - len(start) - len(end)) // len(unit)) + end


WIDE = b"\\ud83d\\ude00"  # Python stores a string with such a character in 4 bytes per character
HOSTILE = {
    "numbers": (b'{"images":[', b"1,", b"1]}"),
    "empty strings": (b'{"images":[', b'"",', b'""]}'),
    "lists": (b'{"images":[', b"[],", b"[]]}"),
    "objects": (b'{"images":[', b"{},", b"{}]}"),
    "keys": (b"{", b'"a":1,', b'"a":1}'),
    "depth": (b'{"images":', b"[", b""),
    "one long key": (b'{"', b"k", b'":1,"images":["YWJj"]}'),
    "one long wide key": (b'{"images":["YWJj"],"' + WIDE, b"k", b'":1}'),
    "one long number": (b'{"images":[', b"1", b"]}"),
    "one long string": (b'{"images":["', b"A", b'"]}'),
    "one long prefixed string": (b'{"images":["data:image/png;base64,', b"AAAA", b'"]}'),
    "one long wide string": (b'{"images":["' + WIDE, b"A", b'"]}'),
    "escapes": (b'{"images":["', b"\\u0041", b'"]}'),
    "wide escapes": (b'{"images":["', WIDE, b'"]}'),
    "spaces": (b'{"images":[', b" ", b"]}"),
    "no JSON": (b"", b"x", b""),
    "commas": (b"", b",", b""),
    "zeros": (b"", b"\0", b""),
    "quotes": (b"", b'"', b""),
    "escaped slashes": (b'{"images":["', b"\\/", b'"]}'),
}


@pytest.mark.parametrize("parts", HOSTILE.values(), ids=HOSTILE)
def test_no_body_takes_more_than_twice_its_size(peak_memory: Any, parts: tuple[bytes, bytes, bytes]) -> None:
    """Twice beside the body itself, so three times with it."""
    body = fill(*parts)

    def attempt() -> None:
        try:
            read(body, max_images=64)
        except Problem as problem:
            assert problem.status in (413, 422)  # noqa: PT017

    assert peak_memory(attempt) < 2 * len(body)
