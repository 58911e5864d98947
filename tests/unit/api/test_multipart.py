"""Forms parsed as they stream in, wherever they are cut."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import RequestTooLarge, UnsupportedMedia
from api.files.multipart import MAX_FIELD_BYTES, MAX_PARTS, Form, FormReader, boundary_of
from models.errors import RequestError
from tests.unit.api.forms import BOUNDARY, Part, encoded, upload

FIELDS = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})
# Bytes that look like the end of a part are what a parser stumbles over.
TRICKY = st.sampled_from(
    [b"\r\n", b"\r", b"--", b"-", b"\r\n--" + BOUNDARY[:-1], BOUNDARY, b"\n--" + BOUNDARY, b"\r\n--"]
)
DATA = (
    st.lists(st.one_of(st.binary(max_size=40), TRICKY), max_size=12)
    .map(b"".join)
    .filter(lambda data: b"\r\n--" + BOUNDARY not in b"\r\n" + data)
)


def read(pieces: Sequence[bytes], *, max_file_bytes: int = 1 << 20, strict: bool = True) -> tuple[Form, bytes]:
    """The form and its file's bytes."""
    written = bytearray()
    reader = FormReader(BOUNDARY, written.extend, fields=FIELDS, max_file_bytes=max_file_bytes, strict=strict)
    for piece in pieces:
        reader.feed(piece)
    return reader.form(), bytes(written)


def refusal(body: bytes, **settings: bool) -> tuple[str, str | None]:
    """The code and parameter that a body is refused with."""
    with pytest.raises(RequestError) as refused:
        read([body], **settings)
    return refused.value.error_code, refused.value.param


@given(
    data=DATA,
    fields=st.dictionaries(st.sampled_from(sorted(FIELDS)), st.text("abc-é1", max_size=20)),
    place=st.integers(0, 3),
    cuts=st.lists(st.integers(0, 2000), max_size=30),
)
def test_form_is_read_as_it_was_written(data: bytes, fields: dict[str, str], place: int, cuts: list[int]) -> None:
    """Any bytes, parts in any order, cut anywhere."""
    parts: list[Part] = [(name, None, value.encode()) for name, value in fields.items()]
    parts.insert(place, ("file", "in.jsonl", data))
    body = encoded(parts)
    borders = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})

    form, written = read([body[start:stop] for start, stop in itertools.pairwise(borders)])

    assert (form.fields, form.filename, form.num_bytes) == (fields, "in.jsonl", len(data))
    assert written == data


def test_form_is_read_whatever_the_border() -> None:
    data = b"a\r\n--\r\n--" + BOUNDARY[:5] + b"\r\r\n\n--b"
    body = encoded(upload(data))

    for border in range(len(body) + 1):
        form, written = read([body[:border], body[border:]])
        assert (form.fields, written) == ({"purpose": "batch"}, data)


def test_form_is_read_byte_by_byte() -> None:
    body = encoded(upload(b"x\r\n--y"))

    assert read([bytes([byte]) for byte in body])[1] == b"x\r\n--y"


def test_every_truncation_is_refused() -> None:
    """All but that of the line break after the end."""
    body = encoded(upload(b"{}\n{}\n"))

    for length in range(len(body) - 2):
        assert refusal(body[:length])[0] == "invalid_multipart"


@pytest.mark.parametrize(
    ("parts", "code", "param"),
    [
        ([("purpose", None, b"batch")], "missing_required_parameter", "file"),
        ([*upload(), ("file", "b", b"")], "multiple_files", "file"),
        ([("file", None, b"text")], "invalid_file", "file"),
        ([*upload(), ("purpose", None, b"batch")], "duplicate_key", "purpose"),
        ([("colour", None, b"red"), *upload()], "unknown_parameter", "colour"),
        ([("purpose", None, b"\xff"), ("file", "a", b"")], "invalid_unicode", "purpose"),
        ([("purpose", None, b"x" * (MAX_FIELD_BYTES + 1)), ("file", "a", b"")], "invalid_multipart", None),
        ([("x" * 5000, None, b""), *upload()], "invalid_multipart", None),
    ],
)
def test_other_forms_are_refused(parts: list[Part], code: str, param: str | None) -> None:
    assert refusal(encoded(parts)) == (code, param)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"{}",
        b"--other\r\n\r\n",
        b"--%s--\r\n" % BOUNDARY,
        b"--%s\r\n\r\nno headers\r\n--%s--" % (BOUNDARY, BOUNDARY),
        b"--%s\r\nContent-Disposition: attachment; name=file\r\n\r\n\r\n--%s--" % (BOUNDARY, BOUNDARY),
        b"--%s\r\nContent-Disposition: form-data\r\n\r\n\r\n--%s--" % (BOUNDARY, BOUNDARY),
        b"--%s\r\nbad header\r\n\r\n\r\n--%s--" % (BOUNDARY, BOUNDARY),
        b"--%s\r\n%s\r\n\r\n--%s--" % (BOUNDARY, b"a: b\r\n" * 100, BOUNDARY),
    ],
)
def test_what_is_no_form_is_refused(body: bytes) -> None:
    assert refusal(body)[0] in ("invalid_multipart", "missing_required_parameter")


def test_endless_parts_are_refused() -> None:
    parts: list[Part] = [(f"field{index}", None, b"") for index in range(MAX_PARTS + 1)]

    assert refusal(encoded(parts), strict=False) == ("invalid_multipart", None)


def test_transfer_encoding_is_refused() -> None:
    """Or the encoded text would be stored for the file."""
    body = encoded(upload()).replace(b"Content-Type:", b"Content-Transfer-Encoding: base64\r\nContent-Type:")

    assert refusal(body) == ("invalid_multipart", None)


def test_unknown_fields_are_ignored_where_the_service_is_not_strict() -> None:
    form, written = read([encoded([("colour", None, b"red"), *upload(b"x")])], strict=False)

    assert (form.fields, written) == ({"purpose": "batch"}, b"x")


def test_file_of_just_the_limit_is_read() -> None:
    assert read([encoded(upload(b"12345"))], max_file_bytes=5)[1] == b"12345"


def test_file_over_the_limit_is_refused_before_it_is_written() -> None:
    written = bytearray()
    reader = FormReader(BOUNDARY, written.extend, fields=FIELDS, max_file_bytes=5, strict=True)

    with pytest.raises(RequestTooLarge) as refused:
        reader.feed(encoded(upload(b"123456")))

    assert (refused.value.error_code, bytes(written)) == ("file_too_large", b"")


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('Multipart/Form-Data; charset=utf-8; boundary="a b"', b"a b"),
    ],
)
def test_boundary_is_read(content_type: str, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    "content_type",
    ["multipart/form-data", "multipart/form-data; boundary=", f"multipart/form-data; boundary={'x' * 71}"],
)
def test_missing_boundary_is_refused(content_type: str) -> None:
    with pytest.raises(RequestError) as refused:
        boundary_of(content_type)

    assert refused.value.error_code == "invalid_multipart"


@pytest.mark.parametrize("content_type", ["", "text/xml", "application/json", "multipart/mixed; boundary=abc"])
def test_other_media_are_refused(content_type: str) -> None:
    with pytest.raises(UnsupportedMedia):
        boundary_of(content_type)
