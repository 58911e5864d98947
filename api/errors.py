"""Exceptions to answers: one table, one lookup along the class hierarchy, one body shape (OpenAI's)."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from models import errors as ours

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 2  # the official client waits that long; above 60 some of its versions never retry


class RequestTooLarge(ours.RequestError):
    """The request body is too large."""


class UnsupportedMedia(ours.RequestError):
    """The request body has a form or a coding that is not read here."""


class RequestTimeout(ours.RequestError):
    """The request body comes too slowly."""

    headers: ClassVar[Mapping[str, str]] = {"connection": "close"}  # the rest of the body is not read


class RangeNotSatisfiable(ours.BatchmillError):
    """The range lies beyond the end of the file."""

    code = "range_not_satisfiable"

    def __init__(self, num_bytes: int) -> None:
        super().__init__(f"the file has {num_bytes} bytes: the range lies beyond its end")
        self.headers = {"content-range": f"bytes */{num_bytes}"}


class Conflict(ours.RequestError):
    """The thing is in a state in which that cannot be done."""


class ModelNotFound(ours.RequestError):
    """No worker serves the model."""


class JobFailed(ours.BatchmillError):
    """A job somebody waits for ended without a result, and not by the request's fault."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.error_code = code


class JobCancelled(JobFailed):
    """A job somebody waits for was cancelled."""


class JobExpired(JobFailed):
    """The deadline of a job somebody waits for passed."""


class ResultNotReady(ours.BatchmillError):
    """The job has no result yet: ask again later, or wait for it with GET /v1/jobs/{id}?wait=60."""

    code = "result_not_ready"


class SyncTimeout(ours.BatchmillError):
    """The completion was not ready in time; the job goes on."""

    code = "sync_timeout"


class Unauthorized(ours.BatchmillError):
    """An API key is needed: send it as Authorization: Bearer bm_...; `batchmill keys create NAME` makes one."""

    code = "missing_api_key"


class InvalidKey(Unauthorized):
    """The API key is not valid."""

    code = "invalid_api_key"


class InsufficientScope(ours.BatchmillError):
    """This needs an administrator's API key: `batchmill keys create NAME --admin` makes one."""

    code = "insufficient_scope"


@dataclass(frozen=True, slots=True)
class Answer:
    """How a class of errors is answered. `code` None: the exception carries its own."""

    status: int
    type: str
    code: str | None = None
    retry: bool | None = None  # None: the client's own rule for the status holds


INVALID, SERVER = "invalid_request_error", "server_error"
TABLE: dict[type[Exception], Answer] = {
    ours.RequestError: Answer(400, INVALID),
    RequestTooLarge: Answer(413, INVALID),
    Conflict: Answer(409, INVALID, retry=False),
    RequestTimeout: Answer(408, "timeout_error"),
    RangeNotSatisfiable: Answer(416, INVALID),
    UnsupportedMedia: Answer(415, INVALID),
    Unauthorized: Answer(401, "authentication_error"),
    InsufficientScope: Answer(403, "permission_error"),
    ours.NotFound: Answer(404, "not_found_error"),
    ours.ResultExpired: Answer(410, "not_found_error", retry=False),
    ours.InputExpired: Answer(410, "not_found_error", retry=False),
    ModelNotFound: Answer(404, "not_found_error"),
    # The official client would try these again, and so queue the work twice.
    SyncTimeout: Answer(408, "timeout_error", retry=False),
    JobExpired: Answer(408, "timeout_error", retry=False),
    JobCancelled: Answer(409, INVALID, retry=False),
    JobFailed: Answer(500, SERVER, retry=False),
    ResultNotReady: Answer(409, INVALID, retry=True),
    ours.IdempotencyKeyReused: Answer(422, INVALID),
    ours.BatchClosed: Answer(409, INVALID, retry=False),
    ours.IntakeLost: Answer(409, INVALID, retry=False),  # between workers; no request meets it
    ours.BatchNotFinal: Answer(409, INVALID, retry=False),
    ours.JobNotFinal: Answer(409, INVALID, retry=False),
    ours.JobNotQueued: Answer(409, INVALID, retry=False),
    ours.JobOfBatch: Answer(409, INVALID, retry=False),
    ours.FileInUse: Answer(409, INVALID, retry=False),
    ours.DatabaseUnavailable: Answer(503, SERVER, retry=True),
    ours.DatabaseBusy: Answer(503, SERVER, retry=True),
    ours.BrokerUnavailable: Answer(503, SERVER, retry=True),
    ours.BlobsUnavailable: Answer(503, SERVER, retry=True),
    ours.Overloaded: Answer(503, SERVER, retry=True),
    ours.StorageFull: Answer(507, SERVER, retry=True),
    ours.ConfigurationError: Answer(503, SERVER, retry=False),
    Exception: Answer(500, SERVER, "internal_error"),
}
FIXED_HEADERS = {
    401: {"www-authenticate": "Bearer"},
    413: {"connection": "close"},  # the rest of the body is not read
}
CLIENT_GONE = 499  # nobody reads this answer; the access log does
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")  # that some route takes
HTTP_CODES = {404: "not_found", 405: "method_not_allowed"}


def answer_to(error: Exception) -> Answer:
    """The table's entry for the nearest class of an exception."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def code_of(error: Exception) -> str:
    """The stable code of one of our errors: the instance's own, or its class's."""
    return str(getattr(error, "error_code", None) or getattr(error, "code", "internal_error"))


def install(app: FastAPI) -> None:
    """Have every error of the application answered from the table."""
    app.add_exception_handler(ours.BatchmillError, on_error)
    app.add_exception_handler(Exception, on_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RequestValidationError, on_invalid_parameter)
    app.add_exception_handler(ClientDisconnect, on_client_gone)


def on_error(request: Request, error: Exception) -> Response:
    """Answer one of our errors, or a bug."""
    answer = answer_to(error)
    code = answer.code or code_of(error)
    headers = _headers_of(answer) | dict(getattr(error, "headers", {}))
    if answer.status >= 500:
        _log_failure(request, error, code)
    if not isinstance(error, ours.BatchmillError):
        headers["connection"] = "close"  # the server hangs up after a bug
    return error_response(
        request,
        answer,
        code=code,
        message=public_message(error, answer),
        param=getattr(error, "param", None),
        headers=headers,
    )


def on_http_error(request: Request, error: Exception) -> Response:
    """Answer what the router refuses: unknown path, wrong method."""
    assert isinstance(error, HTTPException), "registered for HTTPException alone"
    status = error.status_code
    kind = "not_found_error" if status == 404 else INVALID if status < 500 else SERVER
    code = HTTP_CODES.get(status, "http_error")
    message = f"{request.method} is not allowed here" if status == 405 else f"{error.detail}"
    headers = {"allow": _allowed(request)} if status == 405 else error.headers
    return error_response(request, Answer(status, kind), code=code, message=message, headers=headers)


def on_client_gone(request: Request, error: Exception) -> Response:
    """The client hung up before its request was read whole: nothing was stored, and nothing is wrong here."""
    return Response(status_code=CLIENT_GONE)


def on_invalid_parameter(request: Request, error: Exception) -> Response:
    """Answer a query parameter that FastAPI refused."""
    assert isinstance(error, RequestValidationError), "registered for RequestValidationError alone"
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:])
    message = f"{param}: {first['msg']}"
    return error_response(request, TABLE[ours.RequestError], code="invalid_value", message=message, param=param)


def public_message(error: Exception, answer: Answer) -> str:
    """The sentence for the client. Of our own troubles only the kind: a reason may name hosts and files."""
    if isinstance(error, JobFailed) or (isinstance(error, ours.BatchmillError) and answer.status < 500):
        return error.message
    if isinstance(error, ours.BatchmillError):
        return str(type(error).__doc__)
    return "Something went wrong on our side; the log has it under this request id."


def error_body(
    *, message: str, type: str, code: str | None, param: str | None = None
) -> dict[str, dict[str, str | None]]:
    """OpenAI's error envelope."""
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def error_response(
    request: Request,
    answer: Answer,
    *,
    code: str,
    message: str,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer with its body and request id. The outermost handler runs beyond the middleware that adds the id."""
    body = error_body(message=message, type=answer.type, code=code, param=param)
    known = {"x-request-id": request.scope.get("request_id", "req_none")}
    return Response(
        orjson.dumps(body), answer.status, headers=known | dict(headers or {}), media_type="application/json"
    )


def _allowed(request: Request) -> str:
    """The methods of every route of the path; the router names those of the first one alone."""
    return ", ".join(
        method for method in METHODS if _is_routed({**request.scope, "method": method}, request.app.routes)
    )


def _is_routed(scope: Scope, routes: Iterable[BaseRoute]) -> bool:
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


def _headers_of(answer: Answer) -> dict[str, str]:
    if answer.status in FIXED_HEADERS or answer.retry is None:
        return FIXED_HEADERS.get(answer.status, {})
    after = {"retry-after": str(RETRY_AFTER_SECONDS)} if answer.retry else {}
    return {"x-should-retry": str(answer.retry).lower()} | after


def _log_failure(request: Request, error: Exception, code: str) -> None:
    """Our own errors in one line with their reason, a bug with its traceback."""
    known = isinstance(error, ours.BatchmillError)
    extra = {"action": "request_failed", "code": code, "request_id": request.scope.get("request_id")}
    log.error("request failed: %s", error if known else code, extra=extra, exc_info=None if known else error)
