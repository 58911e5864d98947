"""The bodies of the job routes: one job or many, a change of one, a poll of many."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from models.batch_requests import MAX_KEY_CHARS, MAX_PAIRS, MAX_VALUE_CHARS, METADATA_ERROR
from models.errors import RequestError
from models.generation import MAX_LIFE_SECONDS
from models.refusals import first_error
from models.requests import ENDPOINTS, parse_body
from models.rules import AnyRequest

MAX_JOBS = 1000  # of one request, to submit or to poll
# What may stand beside a job's body as well as in it.
BESIDE_BODY = (
    *("priority", "service_tier", "ttl", "deadline_at", "metadata"),
    *("max_attempts", "idempotency_key", "webhook"),
)


def _small(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > MAX_PAIRS or any(
        len(key) > MAX_KEY_CHARS or len(value) > MAX_VALUE_CHARS for key, value in metadata.items()
    ):
        raise ValueError(METADATA_ERROR)
    return metadata


Metadata = Annotated[dict[str, str], AfterValidator(_small)]
Ids = Annotated[list[str], Field(min_length=1, max_length=MAX_JOBS)]
_Schema = TypeVar("_Schema", bound=BaseModel)


class JobPatch(BaseModel):
    """The body of PATCH /v1/jobs/{id}: what shall be different. A `ttl` counts from now."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    priority: Annotated[int, Field(ge=0, le=9)] | None = None
    ttl: Annotated[int, Field(ge=1, le=MAX_LIFE_SECONDS)] | None = None
    metadata: Metadata | None = None


class MetadataUpdate(BaseModel):
    """The body of POST /v1/chat/completions/{id}."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    metadata: Metadata


class PollRequest(BaseModel):
    """The body of POST /v1/jobs/poll."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    ids: Ids
    wait: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    until: Literal["terminal", "change"] = "change"
    include: list[Literal["request", "result"]] = []


def read_fields(schema: type[_Schema], body: object) -> _Schema:
    """Check a decoded JSON body; null counts as absent. Raises RequestError, which never echoes a value."""
    given = {name: value for name, value in _object(body).items() if value is not None}
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        raise first_error(error) from None


def parse_jobs(body: object) -> list[object] | None:
    """The entries of a submission of many jobs; None: it is one job. Raises RequestError."""
    jobs = _object(body).get("jobs")
    if jobs is None:
        return None
    if len(_object(body)) > 1:
        raise RequestError("unknown_parameter", "beside jobs nothing else is known", param="jobs")
    if not isinstance(jobs, list) or not 1 <= len(jobs) <= MAX_JOBS:
        raise RequestError("invalid_value", f"jobs must be a list of 1 to {MAX_JOBS} jobs", param="jobs")
    return jobs


def parse_job(entry: object, known: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]) -> tuple[str, AnyRequest]:
    """One job: its endpoint and its request. `known` drops what a lenient service does not know of a body.

    Raises RequestError, whose param is a path into the entry.
    """
    given = {name: value for name, value in _object(entry).items() if value is not None}
    for name in given.keys() - {"endpoint", "body", *BESIDE_BODY}:
        raise RequestError("unknown_parameter", f"{name[:64]} is not a known parameter", param=name[:64])
    endpoint = given.get("endpoint")
    if endpoint not in ENDPOINTS:
        raise RequestError("invalid_endpoint", f"endpoint must be one of {', '.join(ENDPOINTS)}", param="endpoint")
    body = given.get("body")
    if not isinstance(body, Mapping):
        raise RequestError("missing_required_parameter", "body must be the endpoint's request object", param="body")
    beside = {name: given[name] for name in BESIDE_BODY if name in given}
    for name in beside.keys() & body.keys():
        raise RequestError("invalid_value", f"{name} stands beside the body and in it: give it once", param=name)
    try:
        return endpoint, parse_body(endpoint, {**known(endpoint, body), **beside, "background": True})
    except RequestError as error:
        raise _at(error, None if (error.param or "").split(".")[0] in beside else "body") from None


def placed(error: RequestError, index: int) -> RequestError:
    """An error of one entry of many, with its place."""
    return _at(error, f"jobs.{index}")


def _at(error: RequestError, where: str | None) -> RequestError:
    param = ".".join(part for part in (where, error.param) if part)
    return RequestError(error.error_code, error.message, param=param or None)


def _object(body: object) -> Mapping[str, Any]:
    if not isinstance(body, Mapping):
        raise RequestError("invalid_json", "the request body must be a JSON object")
    return body
