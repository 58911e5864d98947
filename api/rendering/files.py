"""A stored file to what users read: OpenAI's file object, and the headers of a download."""

from urllib.parse import quote

from api.rendering.bodies import Json, seconds
from models.files import BATCH_OUTPUT
from models.ids import public_id
from models.records import FileRecord

MAX_FILENAME_CHARS = 255
JSONL, BYTES = "application/jsonl", "application/octet-stream"
UNSAFE = dict.fromkeys(map(ord, '"\\%;'), "_")  # in a quoted header value


def file_body(file: FileRecord) -> Json:
    """The file object. `bytes` is null for a batch's output that nobody has read to its end yet."""
    return {
        "id": public_id("file", file.id),
        "object": "file",
        "bytes": file.bytes,
        "created_at": seconds(file.created_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": file.status,
        "status_details": file.status_details,
        "expires_at": seconds(file.expires_at),
    }


def display_name(filename: str) -> str:
    """The name a client gave, as text to show: without control characters and line breaks, at most 255 characters."""
    return "".join(char for char in filename if char.isprintable())[:MAX_FILENAME_CHARS] or "file"


def download_headers(file: FileRecord) -> dict[str, str]:
    """What every download says: its type, that it is no page to show, its name without any folder (RFC 6266)."""
    name = file.filename.replace("\\", "/").rsplit("/", 1)[-1] or "file"
    plain = name.encode("ascii", "replace").decode().translate(UNSAFE)
    return {
        "content-type": JSONL if _is_jsonl(file) else BYTES,
        "content-disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}",
        "x-content-type-options": "nosniff",
    }


def _is_jsonl(file: FileRecord) -> bool:
    return file.purpose in ("batch", BATCH_OUTPUT) or file.filename.lower().endswith(".jsonl")
