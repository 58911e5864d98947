"""A request's JSON body, read from raw bytes: limited while it streams in, strict about what JSON is."""

import orjson
from fastapi import Request

from api.errors import RequestTooLarge, UnsupportedMedia
from models.errors import RequestError

MAX_BODY_BYTES = 4 << 20  # one job; files have an endpoint and a limit of their own


async def read_json(request: Request) -> object:
    """The decoded body. Raises RequestError or one of its kind: 400, 413, 415."""
    _check_headers(request)
    return parse_json(await read_limited(request, MAX_BODY_BYTES))


async def read_limited(request: Request, max_bytes: int) -> bytes:
    """Read the body, and no further than the limit: a length is only announced, and a chunked body announces none."""
    too_large = RequestTooLarge("request_too_large", f"the request body may have at most {max_bytes} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


def parse_json(raw: bytes) -> object:
    """Decode; NaN, half a surrogate pair, bottomless nesting and endless integers are not JSON here."""
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "surrogate" in error.msg and "UTF-8" not in error.msg:
            raise RequestError("invalid_unicode", "the body holds half of a surrogate pair") from None
        raise RequestError("invalid_json", f"the body is not valid JSON: {error.msg}") from None


def _check_headers(request: Request) -> None:
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMedia("unsupported_encoding", "send the body without Content-Encoding")
    media = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise UnsupportedMedia("unsupported_media_type", "send the body as Content-Type: application/json")
