"""JSON answers, written by orjson: quick, and strict where Python's own writer lets NaN through."""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response
from starlette.background import BackgroundTask

REPLAYED = {"idempotent-replayed": "true"}  # of an answer about what an earlier request stored


def json_response(
    body: Mapping[str, Any],
    status: int = 200,
    *,
    headers: Mapping[str, str] | None = None,
    background: BackgroundTask | None = None,
) -> Response:
    """An answer with a JSON body, and what is to be done once it is sent."""
    content = orjson.dumps(body)
    return Response(content, status, headers=dict(headers or {}), media_type="application/json", background=background)
