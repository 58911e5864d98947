"""File objects and the headers of downloads."""

from datetime import UTC, datetime
from typing import Any

import pytest

from api.rendering.files import display_name, download_headers, file_body
from models.ids import uuid7
from models.records import FileRecord

MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


def record(**changes: Any) -> FileRecord:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {
        "id": uuid7(),
        "tenant": "t",
        "purpose": "batch",
        "filename": "in.jsonl",
        "bytes": 3,
        "status": "processed",
        "status_details": None,
        "created_at": MOMENT,
        "expires_at": None,
    }
    return FileRecord(**fields | changes)


def test_file_object_is_openais() -> None:
    file = record(expires_at=MOMENT)

    assert file_body(file) == {
        "id": f"file-{file.id.hex}",
        "object": "file",
        "bytes": 3,
        "created_at": 1767225600,
        "filename": "in.jsonl",
        "purpose": "batch",
        "status": "processed",
        "status_details": None,
        "expires_at": 1767225600,
    }


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("in.jsonl", "in.jsonl"),
        ("größe 1.jsonl", "größe 1.jsonl"),
        ("a\0b\r\nc\x1b[31m\x7f\u202e.jsonl", "abc[31m.jsonl"),
        ("x" * 4096, "x" * 255),
        ("../../etc/passwd", "../../etc/passwd"),
        ("CON", "CON"),
        ("\r\n", "file"),
        ("", "file"),
    ],
)
def test_name_is_text_to_show(given: str, shown: str) -> None:
    assert display_name(given) == shown


@pytest.mark.parametrize(
    ("filename", "disposition"),
    [
        ("in.jsonl", "attachment; filename=\"in.jsonl\"; filename*=UTF-8''in.jsonl"),
        ("größe.txt", "attachment; filename=\"gr??e.txt\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.txt"),
        ('a";b\\c%41.txt', "attachment; filename=\"c_41.txt\"; filename*=UTF-8''c%2541.txt"),
        ("../../etc/passwd", "attachment; filename=\"passwd\"; filename*=UTF-8''passwd"),
        ("folder/", "attachment; filename=\"file\"; filename*=UTF-8''file"),
    ],
)
def test_download_is_an_attachment(filename: str, disposition: str) -> None:
    headers = download_headers(record(filename=filename))

    assert headers["content-disposition"] == disposition
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("purpose", "filename", "kind"),
    [
        ("batch", "page.html", "application/jsonl"),
        ("batch_output", "x", "application/jsonl"),
        ("user_data", "A.JSONL", "application/jsonl"),
        ("user_data", "page.html", "application/octet-stream"),
    ],
)
def test_download_is_never_a_page(purpose: str, filename: str, kind: str) -> None:
    assert download_headers(record(purpose=purpose, filename=filename))["content-type"] == kind
