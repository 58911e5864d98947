"""Stored API keys to what administrators read: whose each is and whether it is good, never the key."""

from datetime import UTC, datetime

from api.rendering.bodies import Json, seconds
from models.records import KeyRecord


def key_body(key: KeyRecord) -> Json:
    """A key as the service and the command line show it."""
    return {
        "id": key.id,
        "object": "api_key",
        "tenant": key.tenant,
        "is_admin": key.is_admin,
        "status": key_status(key),
        "created_at": seconds(key.created_at),
        "last_used_at": seconds(key.last_used_at),
        "expires_at": seconds(key.expires_at),
        "revoked_at": seconds(key.revoked_at),
    }


def key_status(key: KeyRecord) -> str:
    """`active`, `revoked` or `expired`: for reading only, as requests are judged by the database's clock."""
    if key.revoked_at is not None:
        return "revoked"
    expired = key.expires_at is not None and key.expires_at <= datetime.now(UTC)
    return "expired" if expired else "active"
