"""Images in a JSON body: `{"images": ["iVBORw0K...", "data:image/png;base64,iVBORw0K..."]}`."""

from __future__ import annotations

import binascii
import io
import json

from service.errors import BadParameter, TooLarge

__all__ = ["read_json_images"]

MAX_SYNTAX_BYTES = 65_536  # beside strings: brackets, commas and spaces, of which 64 indented images need some 1,000
MAX_PREFIX_BYTES = 256  # in which the `data:` prefix of an image must end
BLOCK_BYTES = 2**18  # decoded at a time, since Python's lock is held meanwhile
ESCAPES = ((rb"\/", b"/"), (rb"\u002b", b"+"), (rb"\u002B", b"+"), (rb"\u003d", b"="), (rb"\u003D", b"="))
"""Escapes that JSON writers use for characters of base64."""


def read_json_images(body: bytes, *, max_images: int) -> list[bytes]:
    """The images of a JSON body, decoded from base64.

    A JSON parser would build every value of a hostile body before their number could be checked. Here the body is split
    into its strings and the rest, which must be few and short; the rest, with a number in place of each string, is
    parsed as JSON. Base64 has no quotes, so that a string that contains one is refused as base64 later.

    Raises `TooLarge` for more than `max_images` images, and `BadParameter` for a body that cannot be read.
    """
    most_quotes = 2 * (max_images + 1)
    parts = _split_at_quotes(body, most_quotes)
    if len(parts) > most_quotes + 1:
        raise TooLarge(f"the JSON body has too many strings; a request may have at most {max_images} images")
    if sum(map(len, parts[::2])) > MAX_SYNTAX_BYTES:
        raise BadParameter(
            f"the JSON body has more than {MAX_SYNTAX_BYTES} bytes outside of strings; images are strings in base64"
        )
    images = [parts[number] for number in _image_numbers(parts)]
    if len(images) > max_images:
        raise TooLarge(f"{len(images)} images were sent, a request may have {max_images}")
    return [_decode(index, image) for index, image in enumerate(images)]


def _split_at_quotes(body: bytes, most_quotes: int) -> list[memoryview]:
    """What stands between the first quotes of the body, at most one more than `most_quotes`, uncopied."""
    view, start = memoryview(body), 0
    parts: list[memoryview] = []
    while len(parts) <= most_quotes and (quote := body.find(b'"', start)) >= 0:
        parts.append(view[start:quote])
        start = quote + 1
    return [*parts, view[start:]]


def _image_numbers(parts: list[memoryview]) -> list[int]:
    """Which parts are the images, once the syntax has been checked; parts of odd number are the strings."""
    syntax = b"".join(b'"%d"' % number if number % 2 else part for number, part in enumerate(parts))
    try:
        pairs = json.loads(syntax.decode("ascii"), object_pairs_hook=tuple)
    except (ValueError, RecursionError) as error:
        raise BadParameter("the body cannot be read as JSON") from error
    if not isinstance(pairs, tuple) or [parts[int(key)] for key, _ in pairs] != [b"images"]:
        raise BadParameter("the JSON body must be an object with the one key `images`")
    ((_, images),) = pairs
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise BadParameter("`images` in the JSON body must be a list of strings")
    return [int(image) for image in images]


def _decode(index: int, text: memoryview) -> bytes:
    """The bytes of one base64 string, with or without a `data:` prefix."""
    prefix = 0
    head, separator, _ = bytes(text[:MAX_PREFIX_BYTES]).partition(b";base64,")
    if head.startswith(b"data:"):
        if not separator:
            raise BadParameter(
                f"images[{index}] is a data URL without `;base64,` in its first {MAX_PREFIX_BYTES} bytes"
            )
        prefix = len(head) + len(separator)
    decoded, rest = io.BytesIO(), b""  # `getvalue` does not copy
    try:
        for start in range(prefix, len(text), BLOCK_BYTES):
            last = start + BLOCK_BYTES >= len(text)
            quartets, rest = _quartets(rest + text[start : start + BLOCK_BYTES], last=last)
            if quartets.endswith(b"=") and not last:
                raise binascii.Error("Excess data after padding")
            decoded.write(binascii.a2b_base64(quartets, strict_mode=True))
    except binascii.Error as error:
        raise BadParameter(f"images[{index}] is not base64: {error}") from error
    return decoded.getvalue()


def _quartets(block: bytes, *, last: bool) -> tuple[bytes, bytes]:
    """The block without escapes, cut to whole quartets of base64, and the rest, which belongs to the next block."""
    escape = -1 if last else block.rfind(b"\\", -max(len(escape) for escape, _ in ESCAPES) + 1)
    plain, cut_off = (block, b"") if escape < 0 else (block[:escape], block[escape:])
    if b"\\" in plain:
        for escaped, character in ESCAPES:
            plain = plain.replace(escaped, character)
    whole = len(plain) if last else len(plain) - len(plain) % 4
    return plain[:whole], plain[whole:] + cut_off
