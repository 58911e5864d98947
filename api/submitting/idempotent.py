"""How a request that creates something is remembered: by the key its client chose, or, where a client tells how often
it tried, by what it sent, as the official client repeats a request whose answer was lost without any key."""

import hashlib

import orjson
from fastapi import Request

from api.submitting.submission import check_key
from models.errors import RequestError
from models.idempotency import Once, by_key, by_retry_count

RETRY_COUNT = "x-stainless-retry-count"
MIRROR = "idempotency_key"  # of the header, for clients that cannot set one


def once_of(request: Request, body: object, *, key: str | None) -> Once | None:
    """`key` is the body's mirror of the header. Raises RequestError where both are given and differ."""
    header, path = request.headers.get("idempotency-key"), request.scope["path"]
    if key is not None and header is not None and key != header:
        raise RequestError(
            "invalid_idempotency_key", f"the header Idempotency-Key and {MIRROR} differ: send one", param=MIRROR
        )
    digest = _digest(body)
    chosen = header if key is None else key
    if chosen is not None:
        return by_key(check_key(chosen), path, digest)
    count = request.headers.get(RETRY_COUNT, "")
    if not (count.isascii() and count.isdecimal() and len(count) < 4):
        return None
    return by_retry_count(path, digest, retry_count=int(count))


def _digest(body: object) -> bytes:
    """Equal for equal requests, whichever way the key was sent."""
    content = {name: value for name, value in body.items() if name != MIRROR} if isinstance(body, dict) else body
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).digest()
