"""A form with one file, parsed as it streams in: small fields are kept, the file's bytes are handed on and forgotten.

Knows neither HTTP nor where the bytes go.
"""

import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from api.errors import RequestTooLarge, UnsupportedMedia
from models.errors import RequestError

MAX_PARTS = 10
MAX_FIELD_BYTES = 1024  # of a field that is not the file
FILE = "file"
CODE = "invalid_multipart"
PLAIN_ENCODINGS = (b"binary", b"7bit", b"8bit")  # those that change no byte
MAX_SHOWN_CHARS = 64  # of a name that the client made up


@dataclass(frozen=True, slots=True)
class Form:
    """What a form held."""

    fields: dict[str, str]
    filename: str
    num_bytes: int


@dataclass(slots=True)
class _Part:
    header: bytearray = field(default_factory=bytearray)  # the name of the header being read
    value: bytearray = field(default_factory=bytearray)
    disposition: str = ""
    name: str = ""
    data: bytearray = field(default_factory=bytearray)


class FormReader:
    """Feed it the body in pieces of any size, then ask for the form.

    Raises RequestError or one of its kind from `feed` and `form`; so does `write`, which gets the file's bytes: a view
    that is valid during the call.
    """

    def __init__(
        self,
        boundary: bytes,
        write: Callable[[memoryview], None],
        *,
        fields: Collection[str],
        max_file_bytes: int,
        strict: bool,
    ) -> None:
        self._write, self._known, self._max_file_bytes, self._strict = write, fields, max_file_bytes, strict
        self._parser = _parser(boundary, self)
        self._part = _Part()
        self._num_parts = self._num_bytes = 0
        self._fields: dict[str, str] = {}
        self._filename: str | None = None
        self._ended = False

    def feed(self, data: bytes) -> None:
        """Take the next piece of the body."""
        try:
            self._parser.write(data)
        except FormParserError:  # its message tells bytes of the body
            raise RequestError(CODE, "the body is not a form as multipart/form-data has it") from None

    def form(self) -> Form:
        """The form, after the body's last piece."""
        if not self._ended:
            raise RequestError(CODE, "the form ends before its closing boundary")
        if self._filename is None:
            raise RequestError("missing_required_parameter", "the form needs a file in its part `file`", param=FILE)
        return Form(self._fields, self._filename, self._num_bytes)

    def on_part_begin(self) -> None:
        """A part begins."""
        self._part = _Part()
        self._num_parts += 1
        if self._num_parts > MAX_PARTS:
            raise RequestError(CODE, f"the form may have at most {MAX_PARTS} parts")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        """A piece of a header's name."""
        self._part.header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        """A piece of a header's value."""
        self._part.value += data[start:end]

    def on_header_end(self) -> None:
        """A header is whole."""
        part = self._part
        if part.header.lower() == b"content-disposition":
            part.disposition = part.value.decode("latin-1")
        if part.header.lower() == b"content-transfer-encoding" and bytes(part.value).lower() not in PLAIN_ENCODINGS:
            raise RequestError(CODE, "send the parts of the form without Content-Transfer-Encoding")
        part.header, part.value = bytearray(), bytearray()

    def on_headers_finished(self) -> None:
        """The part's data begins."""
        kind, options = parse_options_header(self._part.disposition)
        if kind != b"form-data" or b"name" not in options:
            raise RequestError(CODE, "each part of the form needs Content-Disposition: form-data with a name")
        self._part.name = name = options[b"name"].decode("utf-8", "replace")
        if name == FILE:
            self._begin_file(options.get(b"filename"))
        elif name in self._fields:
            raise RequestError("duplicate_key", f"{name} stands twice in the form", param=name)
        elif name not in self._known and self._strict:
            shown = name[:MAX_SHOWN_CHARS]
            raise RequestError("unknown_parameter", f"{shown} is not a known parameter", param=shown)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        """A piece of a part's data."""
        if self._part.name == FILE:
            self._num_bytes += end - start
            if self._num_bytes > self._max_file_bytes:
                raise too_large(self._max_file_bytes)
            self._write(memoryview(data)[start:end])
            return
        if len(self._part.data) + end - start > MAX_FIELD_BYTES:
            raise RequestError(CODE, f"a field of the form may have at most {MAX_FIELD_BYTES} bytes")
        self._part.data += data[start:end]

    def on_part_end(self) -> None:
        """A part is whole."""
        part = self._part
        if part.name in self._known:
            with contextlib.suppress(UnicodeDecodeError):
                self._fields[part.name] = part.data.decode()
                return
            raise RequestError("invalid_unicode", f"{part.name} is not UTF-8", param=part.name)

    def on_end(self) -> None:
        """The closing boundary was read."""
        self._ended = True

    def _begin_file(self, filename: bytes | None) -> None:
        if self._filename is not None:
            raise RequestError("multiple_files", "the form may have one file", param=FILE)
        if filename is None:
            raise RequestError("invalid_file", "file must be a file: its part has no filename", param=FILE)
        self._filename = filename.decode("utf-8", "replace")


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names. Raises UnsupportedMedia, RequestError."""
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise UnsupportedMedia("unsupported_media_type", "send the file as Content-Type: multipart/form-data")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:  # RFC 2046, 5.1.1
        raise RequestError(CODE, "Content-Type must name the form's boundary, of 1 to 70 characters")
    return boundary


def too_large(max_bytes: int) -> RequestTooLarge:
    """The refusal of a file."""
    return RequestTooLarge("file_too_large", f"the file may have at most {max_bytes} bytes", param=FILE)


def _parser(boundary: bytes, reader: FormReader) -> MultipartParser:
    return MultipartParser(
        boundary,
        {
            "on_part_begin": reader.on_part_begin,
            "on_header_field": reader.on_header_field,
            "on_header_value": reader.on_header_value,
            "on_header_end": reader.on_header_end,
            "on_headers_finished": reader.on_headers_finished,
            "on_part_data": reader.on_part_data,
            "on_part_end": reader.on_part_end,
            "on_end": reader.on_end,
        },
    )
