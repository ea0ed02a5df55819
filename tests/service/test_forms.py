"""Multipart forms: what is read, and that every hostile one is refused cleanly."""

from __future__ import annotations

import tempfile
import threading
from concurrent.futures import CancelledError
from typing import Any

import httpx
import numpy as np
import pytest

from service.errors import BadParameter, Problem, TooLarge
from service.http.forms import MAX_OTHERS, read_form_files
from service.images import encode_png

FORM = "multipart/form-data; boundary=X"
FILE = 'Content-Disposition: form-data; name="file"; filename="a.png"'


def part(*headers: str, content: bytes = b"abc") -> bytes:
    return "\r\n".join(["--X", *headers, "", ""]).encode() + content + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--X--\r\n"


def read(body: bytes, content_type: str = FORM, max_images: int = 3) -> list[tuple[str, bytes]]:
    return read_form_files(content_type, body, max_images=max_images, stop=threading.Event())


def test_files_come_in_their_order_and_other_fields_are_ignored() -> None:
    other = part('Content-Disposition: form-data; name="comment"')
    body = form(other, part(FILE), other, part(FILE.replace("a.png", "b.png"), content=b"\r\n--X\0--\r\n"))
    assert read(body) == [("a.png", b"abc"), ("b.png", b"\r\n--X\0--\r\n")]


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('form-data; name="file"; filename="\u4ee3.png"', "\u4ee3.png"),
        ('form-data; name="file"; filename=""', "image 0"),
        ('form-data; name="file"; filename="a\\"b.png"', 'a"b.png'),
        ("form-data; name=file; filename=a.png", "a.png"),
        ('FORM-DATA; NAME="file"; FILENAME="a;b.png"', "a;b.png"),
        ('form-data; name="file"; filename="a.png"; filename*=utf-8\'\'b.png', "a.png"),
        ('form-data; name="file"; filename="a.png"; filename*=undefined\'x\'%ff%', "a.png"),
        ('form-data; name="file"; filename="a.png"; filename*0="b"; filename*1="c"', "a.png"),
    ],
)
def test_names_of_files(disposition: str, name: str) -> None:
    assert read(form(part(f"Content-Disposition: {disposition}"))) == [(name, b"abc")]


def test_a_name_that_is_not_utf_8_is_kept_as_far_as_it_can_be_read() -> None:
    body = form(part(FILE)).replace(b"a.png", b"a\xff.png")
    assert read(body) == [("a\ufffd.png", b"abc")]


@pytest.mark.parametrize("charset", ["undefined", "punycode", "rot13", "idna", "utf-16", "no-such", "\xe9", "'; x="])
def test_the_charset_of_a_form_is_ignored(charset: str) -> None:
    assert read(form(part(FILE)), f"multipart/form-data; charset={charset}; boundary=X") == [("a.png", b"abc")]


@pytest.mark.parametrize("piece", range(1, 20))
def test_a_form_may_be_parsed_in_pieces_of_any_length(monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr("service.http.forms.PIECE_BYTES", piece)
    content = b"\r\n--X\0\r\n--X-\r\n\r\n--" * 5
    padded = form(part(FILE, content=content), part(FILE, content=b"")).replace(b"\r\n--X\r\n", b"\r\n--X \t\r\n")
    assert read(padded) == [("a.png", content), ("a.png", b"")]


def test_parsing_ends_after_the_piece_during_which_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, written = threading.Event(), []

    def note(*arguments: Any) -> None:
        written.append(arguments)
        stop.set()

    monkeypatch.setattr("service.http.forms.MultipartParser.write", note)
    with pytest.raises(CancelledError):
        read_form_files(FORM, bytes(1_000_000), max_images=3, stop=stop)
    assert len(written) == 1


TEXT = 'Content-Disposition: form-data; name="file"'
HOSTILE = {
    "no boundary": ("multipart/form-data", form(part(FILE)), BadParameter),
    "an empty boundary": ("multipart/form-data; boundary=", form(part(FILE)), BadParameter),
    "a boundary of 10 kB": (f"multipart/form-data; boundary={'X' * 10_000}", form(part(FILE)), BadParameter),
    "another boundary": ("multipart/form-data; boundary=Y", form(part(FILE)), BadParameter),
    "no final boundary": (FORM, part(FILE), BadParameter),
    "half a final boundary": (FORM, part(FILE) + b"--X-", BadParameter),
    "headers alone": (FORM, b"--X\r\n" + FILE.encode(), BadParameter),
    "thousands of empty parts": (FORM, form(b"--X\r\n\r\n\r\n" * 10_000), BadParameter),
    "thousands of empty files": (FORM, form(part(FILE, content=b"") * 10_000), TooLarge),
    "thousands of empty fields": (FORM, form(part(FILE.replace("file", "x"), content=b"") * 10_000), TooLarge),
    "a header of 100 kB": (FORM, form(part(FILE, "X-Long: " + "x" * 100_000)), BadParameter),
    "a name of 100 kB": (FORM, form(part(FILE.replace("a.png", "a" * 100_000))), BadParameter),
    "10,000 headers": (FORM, form(part(FILE, *["X: y"] * 10_000)), BadParameter),
    "a header without a colon": (FORM, form(part(FILE, "nonsense")), BadParameter),
    "no disposition": (FORM, form(part("Content-Type: image/png")), BadParameter),
    "another disposition": (FORM, form(part(FILE.replace("form-data", "attachment"))), BadParameter),
    "no name": (FORM, form(part('Content-Disposition: form-data; filename="a.png"')), BadParameter),
    "an extended name alone": (FORM, form(part(TEXT.replace("name=", "name*=") + '; filename="a"')), BadParameter),
    "text in the file": (FORM, form(part(TEXT)), BadParameter),
    "an extended file name alone": (FORM, form(part(TEXT + "; filename*=utf-8''a.png")), BadParameter),
    "base64": (FORM, form(part(FILE, "Content-Transfer-Encoding: base64")), BadParameter),
    "quoted-printable": (FORM, form(part(FILE, "Content-Transfer-Encoding: quoted-printable")), BadParameter),
    "an unknown transfer encoding": (FORM, form(part(FILE, "Content-Transfer-Encoding: zip")), BadParameter),
    "false boundaries": (FORM, form(part(FILE, content=b"\r\n--XX" * 1000)), BadParameter),
    "almost boundaries": (FORM, form(part(FILE, content=b"\r\n--X-X\r\n--X\rX" * 1000)), BadParameter),
    "a boundary with 10,000 spaces": (
        FORM,
        part(FILE) + b"--X" + b" \t" * 5000 + b"\r\n" + form(part(FILE)),
        BadParameter,
    ),
    "1,000 boundaries with spaces": (FORM, form((part(FILE) + b"--X \r\n").join([b""] * 1000)), BadParameter),
    "a header of 10 spaces over the limit": (FORM, form(part(FILE, "X:" + " " * 2058)), BadParameter),
    "carriage returns": (FORM, b"\r" * 100_000, BadParameter),
    "noise": (FORM, bytes(range(256)) * 100, BadParameter),
}


@pytest.mark.parametrize(("content_type", "body", "error"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_form_is_refused(content_type: str, body: bytes, error: type[Problem]) -> None:
    with pytest.raises(error) as caught:
        read(body, content_type)
    assert len(caught.value.detail) < 400


@pytest.mark.parametrize(("content_type", "body", "error"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_form_is_answered(
    client: httpx.Client, problem: Any, content_type: str, body: bytes, error: type[Problem]
) -> None:
    body = body.replace(b"abc", encode_png(np.zeros((1, 8, 8), np.float32)))
    response = client.post("/encode", content=body, headers={"Content-Type": content_type})
    problem(response, error.status, error.slug)


@pytest.mark.parametrize("charset", ["undefined", "punycode"])
def test_an_odd_charset_is_no_fault_of_the_service(client: httpx.Client, pngs: list[bytes], charset: str) -> None:
    headers = {"Content-Type": f"multipart/form-data; charset={charset}; boundary=X"}
    body = form(part(FILE.replace("a.png", "\u00fc.png"), content=pngs[0]))
    response = client.post("/encode", content=body, headers=headers)
    assert response.status_code == 200
    assert response.json()["results"][0]["file"] == "\u00fc.png"


def test_a_form_within_a_form_is_no_image(client: httpx.Client, problem: Any) -> None:
    inner = form(part(FILE)).replace(b"--X", b"--Y")
    body = form(part(FILE, "Content-Type: multipart/mixed; boundary=Y", content=inner))
    problem(client.post("/encode", content=body, headers={"Content-Type": FORM}), 415, "unsupported-media-type")


def test_as_many_fields_as_are_allowed_are_taken() -> None:
    other = part('Content-Disposition: form-data; name="x"')
    assert len(read(form(other * MAX_OTHERS, part(FILE) * 3))) == 3
    for body in (form(other * (MAX_OTHERS + 1), part(FILE)), form(part(FILE) * 4)):
        with pytest.raises(TooLarge):
            read(body)


def test_a_large_file_needs_no_disk(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    for name in ("TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    noise = np.random.default_rng(0).random((3, 1000, 1000)).astype(np.float32)
    png = encode_png(noise)
    assert len(png) > 2_000_000
    assert client.post("/encode?resize=true", files={"file": png}).status_code == 200
