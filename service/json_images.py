"""Images in a JSON body: `{"images": ["iVBORw0K...", "data:image/png;base64,iVBORw0K..."]}`."""

from __future__ import annotations

import msgspec

from service.errors import BadParameter, TooLarge

__all__ = ["read_json_images"]

MAX_PREFIX = 256  # bytes in which the `data:` prefix of an image must end


class _Body(msgspec.Struct):
    """The body with its images unparsed, so that none is copied before their number is known."""

    images: list[msgspec.Raw]


def read_json_images(body: bytes, *, max_images: int) -> list[bytes]:
    """The images of a JSON body, decoded from base64.

    The body's structure is bounded before it is parsed: base64 has none of the characters `,` `:` `[` `{`, so that
    `max_images` images, each with a `data:` prefix, need few of them. Raises `TooLarge` for more images than
    `max_images`, and `BadParameter` for a body that cannot be read.
    """
    for character, most in ((b"[", 1), (b"{", 1)):
        if _has_more(body, character, most):
            raise BadParameter("the JSON body may have no list but `images`, and no other object in it")
    for character, most in ((b",", 2 * max_images - 1), (b":", max_images + 1)):
        if _has_more(body, character, most):
            raise TooLarge(f"the JSON body has more values than {max_images} images, the most of a request, need")
    try:
        images = msgspec.json.decode(body, type=_Body).images
    except ValueError as error:  # msgspec's errors and UnicodeDecodeError
        raise BadParameter(f"the JSON body cannot be read: {str(error)[:200]}") from error
    if len(images) > max_images:
        raise TooLarge(f"{len(images)} images were sent, a request may have {max_images}")
    prefixes = [_prefix_length(index, memoryview(image)) for index, image in enumerate(images)]
    if body.count(b":") != 1 + sum(length > 0 for length in prefixes):
        raise BadParameter("the JSON body may have no key but `images`")
    return [
        _decode(index, b'"' + memoryview(image)[1 + length :] if length else image)
        for index, (image, length) in enumerate(zip(images, prefixes, strict=True))
    ]


def _has_more(body: bytes, character: bytes, most: int) -> bool:
    """Return True if the character occurs more than `most` times; the search ends there."""
    position = -1
    for _ in range(most + 1):
        position = body.find(character, position + 1)
        if position < 0:
            return False
    return True


def _prefix_length(index: int, image: memoryview) -> int:
    """Length of `data:...;base64,` at the start of a JSON string; 0 if it has no such prefix."""
    start = bytes(image[1 : 1 + MAX_PREFIX])
    if not start.startswith(b"data:"):
        return 0
    head, separator, _ = start.partition(b";base64,")
    if not separator:
        raise BadParameter(f"images[{index}] is a data URL without `;base64,` in its first {MAX_PREFIX} bytes")
    return len(head) + len(separator)


def _decode(index: int, text: bytes | msgspec.Raw) -> bytes:
    try:
        return msgspec.json.decode(text, type=bytes)
    except ValueError as error:
        raise BadParameter(f"images[{index}] is not a string of base64") from error
