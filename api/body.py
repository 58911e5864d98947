"""A request's JSON body, read from raw bytes: limited while it streams in, strict about what JSON is."""

import asyncio

from fastapi import Request

from api.errors import RequestTimeout, RequestTooLarge, UnsupportedMedia
from models.strict_json import parse

MAX_BODY_BYTES = 4 << 20  # one job; files have an endpoint and a limit of their own
GAP_SECONDS = 30.0  # without a byte of a body
WHOLE_SECONDS = 300.0  # for all of it


async def read_json(request: Request) -> object:
    """The decoded body. Raises RequestError or one of its kind: 400, 408, 413, 415."""
    return parse(await read_raw_json(request))


async def read_raw_json(request: Request) -> bytes:
    """The body, not decoded yet; raises as read_json."""
    _check_headers(request)
    return await read_limited(request, MAX_BODY_BYTES)


async def read_optional_json(request: Request) -> object:
    """As read_json; no body at all is an empty object."""
    return parse(await read_raw_json(request) or b"{}")


async def read_limited(request: Request, max_bytes: int) -> bytes:
    """Read the body, and no further than the limit: a length is only announced, and a chunked body announces none.
    Nor for longer than the limits of time, where it comes byte by byte."""
    too_large = RequestTooLarge("request_too_large", f"the request body may have at most {max_bytes} bytes")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > max_bytes:
        raise too_large
    body = bytearray()
    clock = asyncio.get_running_loop().time
    ends = clock() + WHOLE_SECONDS
    try:
        async with asyncio.timeout(GAP_SECONDS) as limit:
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_large
                limit.reschedule(min(clock() + GAP_SECONDS, ends))
    except TimeoutError:
        raise RequestTimeout("request_timeout", "the request body comes too slowly") from None
    return bytes(body)


def _check_headers(request: Request) -> None:
    coding = request.headers.get("content-encoding", "identity").strip().lower()
    if coding != "identity":
        raise UnsupportedMedia("unsupported_encoding", "send the body without Content-Encoding")
    media = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if media != "application/json" and not media.endswith("+json"):
        raise UnsupportedMedia("unsupported_media_type", "send the body as Content-Type: application/json")
