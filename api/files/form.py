"""What the form of an upload must say: a purpose, and when the file is to be deleted."""

from uuid import UUID

from api.files.multipart import Form
from api.rendering.files import display_name
from models.errors import RequestError
from models.files import BATCH_OUTPUT
from models.records import NewFile

ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
FIELDS = frozenset({"purpose", ANCHOR, SECONDS})
PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
MIN_EXPIRY_SECONDS, MAX_EXPIRY_SECONDS = 3600, 2_592_000
BATCH_EXPIRY_SECONDS = MAX_EXPIRY_SECONDS  # of files of purpose batch that say nothing; others stay


def new_file(id: UUID, tenant: str, form: Form) -> NewFile:
    """The row to store. Raises RequestError."""
    purpose = form.fields.get("purpose")
    if purpose not in PURPOSES:
        raise RequestError("invalid_purpose", f"purpose must be one of {', '.join(PURPOSES)}", param="purpose")
    after = _expires_after_seconds(form.fields)
    if after is None and purpose == "batch":
        after = BATCH_EXPIRY_SECONDS
    return NewFile(id, tenant, purpose, display_name(form.filename), form.num_bytes, after)


def check_listed_purpose(purpose: str | None) -> None:
    """Refuse a filter that no file can match. Raises RequestError."""
    if purpose is not None and purpose not in (*PURPOSES, BATCH_OUTPUT):
        known = ", ".join((*PURPOSES, BATCH_OUTPUT))
        raise RequestError("invalid_purpose", f"purpose must be one of {known}", param="purpose")


def _expires_after_seconds(fields: dict[str, str]) -> int | None:
    if ANCHOR not in fields and SECONDS not in fields:
        return None
    if fields.get(ANCHOR) != "created_at":
        raise RequestError("invalid_value", f"{ANCHOR} must be created_at", param=ANCHOR)
    text = fields.get(SECONDS, "")
    seconds = int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else 0
    if not MIN_EXPIRY_SECONDS <= seconds <= MAX_EXPIRY_SECONDS:
        limits = f"from {MIN_EXPIRY_SECONDS} to {MAX_EXPIRY_SECONDS}"
        raise RequestError("invalid_value", f"{SECONDS} must be a whole number {limits}", param=SECONDS)
    return seconds
