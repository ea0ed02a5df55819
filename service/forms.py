"""Files of a multipart form (RFC 7578), parsed in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import BadParameter, TooLarge

__all__ = ["read_form_files"]

MAX_OTHERS = 100  # fields beside `file`
PLAIN_ENCODINGS = {b"", b"7bit", b"8bit", b"binary"}


def read_form_files(content_type: str, body: bytes, *, max_images: int) -> list[tuple[str, bytes]]:
    """Name and content of each file in the field `file`, in their order; other fields are ignored.

    Starlette's parser is not used: it spools files of more than 1 MB to disk, and decodes names with any codec that the
    client asks for. Raises `TooLarge` for more than `max_images` files or 100 other fields, and `BadParameter` for a
    form that cannot be read.
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
        )
        if not options.get(b"boundary"):
            raise BadParameter("the form cannot be read: its Content-Type names no boundary")
        parser.write(body)
    except FormParserError as error:
        raise BadParameter(f"the form cannot be read: {str(error)[:200]}") from error
    if not form.ended:
        raise BadParameter("the form cannot be read: its final boundary is missing")
    return form.files


@dataclass
class _Form:
    """Collects the files of a form from the parser's callbacks.

    name: name of the file that is being read, None while another field is
    """

    max_images: int
    files: list[tuple[str, bytes]] = field(default_factory=list)
    others: int = 0
    ended: bool = False
    headers: dict[bytes, bytes] = field(default_factory=dict)
    header: tuple[bytes, bytes] = (b"", b"")
    name: str | None = None
    data: list[memoryview] = field(default_factory=list)

    def begin_part(self) -> None:
        self.headers, self.header, self.data = {}, (b"", b""), []

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
        if len(self.files) == self.max_images:
            raise TooLarge(f"a request may have {self.max_images} images")
        self.name = options[b"filename"].decode(errors="replace") or f"image {len(self.files)}"

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if self.name is not None:
            self.data.append(memoryview(data)[start:end])

    def end_part(self) -> None:
        if self.name is not None:
            self.files.append((self.name, b"".join(self.data)))

    def end(self) -> None:
        self.ended = True
