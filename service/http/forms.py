"""Files of a multipart form (RFC 7578), parsed in memory."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import BadParameter, TooLarge

__all__ = ["iterate_form_files", "read_form_files"]

MAX_OTHERS = 100  # fields beside `file`
MAX_FALSE_BOUNDARIES = 100  # in the contents of parts, where a client's random boundary never occurs
MAX_PADDING = 100  # spaces and tabs after a boundary
MAX_HEADER_BYTES = 2048
PIECE_BYTES = 65_536  # parsed at a time
PLAIN_ENCODINGS = {b"", b"7bit", b"8bit", b"binary"}


def read_form_files(
    content_type: str, body: bytes, *, max_images: int, stop: threading.Event
) -> list[tuple[str, bytes]]:
    """All that `iterate_form_files` gives."""
    return list(iterate_form_files(content_type, body, max_images=max_images, stop=stop))


def iterate_form_files(
    content_type: str, body: bytes, *, max_images: int, stop: threading.Event
) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in the field `file`, in their order; other fields are ignored.

    No more than the files of 64 KB of the body are held at a time, or a single larger one. Starlette's parser is not
    used: it spools files of more than 1 MB to disk, and decodes names with any codec that the client asks for. Parsing
    ends soon after `stop` is set.

    Raises `TooLarge` for more than `max_images` files or 100 other fields, `BadParameter` for a form that cannot be
    read, and `CancelledError` after `stop`.
    """
    _, options = parse_options_header(content_type)
    form = _Form(max_images)
    try:
        parser = MultipartParser(
            options.get(b"boundary", b""),
            {
                "on_part_begin": form.begin_part,
                "on_header_field": form.add_header_name,
                "on_header_value": form.add_header_value,
                "on_header_end": form.end_header,
                "on_headers_finished": form.end_headers,
                "on_part_data": form.add_data,
                "on_part_end": form.end_part,
                "on_end": form.end,
            },
            max_header_size=MAX_HEADER_BYTES,
        )
        if not options.get(b"boundary"):
            raise BadParameter("the form cannot be read: its Content-Type names no boundary")
        _check_boundaries(body, b"\r\n--" + options[b"boundary"])
        for start in range(0, len(body), PIECE_BYTES):
            if stop.is_set():
                raise CancelledError
            parser.write(body[start : start + PIECE_BYTES])
            files, form.files = form.files, []
            yield from files
    except FormParserError as error:
        raise BadParameter(f"the form cannot be read: {str(error)[:200]}") from error
    if not form.ended:
        raise BadParameter("the form cannot be read: its final boundary is missing")


def _check_boundaries(body: bytes, boundary: bytes) -> None:
    """Raise `BadParameter` for boundaries that the parser would examine byte by byte in Python, if they are many."""
    false = body.count(boundary) - body.count(boundary + b"\r\n") - body.count(boundary + b"--")
    if false > MAX_FALSE_BOUNDARIES:
        raise BadParameter("the form cannot be read: its boundary occurs too often in its parts")
    if re.search(re.escape(boundary) + rb"[ \t]{%d}" % (MAX_PADDING + 1), body):
        raise BadParameter(f"the form cannot be read: more than {MAX_PADDING} spaces follow its boundary")


@dataclass
class _Form:
    """Collects the files of a form from the parser's callbacks.

    files: that have been read, until somebody takes them
    count: number of files that have begun
    name:  name of the file that is being read, None while another field is
    """

    max_images: int
    files: list[tuple[str, bytes]] = field(default_factory=list)
    count: int = 0
    others: int = 0
    ended: bool = False
    headers: dict[bytes, bytes] = field(default_factory=dict)
    header: tuple[bytes, bytes] = (b"", b"")
    name: str | None = None
    data: io.BytesIO = field(default_factory=io.BytesIO)

    def begin_part(self) -> None:
        self.headers, self.header, self.data = {}, (b"", b""), io.BytesIO()

    def add_header_name(self, data: bytes, start: int, end: int) -> None:
        self.header = (self.header[0] + data[start:end], b"")

    def add_header_value(self, data: bytes, start: int, end: int) -> None:
        self.header = (self.header[0], self.header[1] + data[start:end])

    def end_header(self) -> None:
        self.headers[self.header[0].lower()] = self.header[1]
        self.header = (b"", b"")

    def end_headers(self) -> None:
        disposition, options = parse_options_header(self.headers.get(b"content-disposition"))
        if disposition != b"form-data" or b"name" not in options:
            raise BadParameter("the form cannot be read: a part lacks `Content-Disposition: form-data` with a name")
        self.name = None
        if options[b"name"] != b"file":
            self.others += 1
            if self.others > MAX_OTHERS:
                raise TooLarge(f"the form has more than {MAX_OTHERS} fields beside `file`")
            return
        if b"filename" not in options:
            raise BadParameter("the form field `file` must be a file, not text; with curl: -F file=@digit.png")
        if self.headers.get(b"content-transfer-encoding", b"").strip().lower() not in PLAIN_ENCODINGS:
            raise BadParameter("the form field `file` must hold the bytes of the file, without a transfer encoding")
        if self.count == self.max_images:
            raise TooLarge(f"a request may have {self.max_images} images; send the others in further requests")
        self.name = options[b"filename"].decode(errors="replace") or f"image {self.count}"
        self.count += 1

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if self.name is not None:
            self.data.write(memoryview(data)[start:end])

    def end_part(self) -> None:
        if self.name is not None:
            self.files.append((self.name, self.data.getvalue()))  # `getvalue` does not copy

    def end(self) -> None:
        self.ended = True
