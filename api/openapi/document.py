"""The API document: FastAPI knows paths and parameters, operations.py what is taken and answered."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from api.openapi.operations import ERRORS, EVENTS, EVERYWHERE, OPERATIONS, TAGS, Operation, Shape
from api.openapi.schemas.base import Error
from models.batch_requests import MAX_KEY_CHARS, MAX_PAIRS, MAX_VALUE_CHARS
from models.generation import MAX_BIAS, MAX_BIASES, MAX_STOP_CHARS, MAX_STOPS, ChatRequest, CompletionRequest
from models.job_requests import BESIDE_BODY, MAX_JOBS
from models.requests import ENDPOINTS
from models.response_request import ResponseRequest

Json = dict[str, Any]

REF = "#/components/schemas/{model}"
THEIR_ERRORS = ("HTTPValidationError", "ValidationError")  # which FastAPI would answer with, and we do not
GENERATED = (CompletionRequest, ChatRequest, ResponseRequest)
DESCRIPTION = (
    "Batched generation for language models. OpenAI's API, so its clients work unchanged, and jobs that can be polled."
)
_STOP: Json = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARS}
# What validators check and pydantic cannot say of them.
FIELDS: dict[str, Json] = {
    "stop": {"anyOf": [_STOP, {"type": "array", "items": _STOP, "maxItems": MAX_STOPS}]},
    "metadata": {
        "type": "object",
        "maxProperties": MAX_PAIRS,
        "propertyNames": {"maxLength": MAX_KEY_CHARS},
        "additionalProperties": {"type": "string", "maxLength": MAX_VALUE_CHARS},
    },
    "logit_bias": {
        "type": "object",
        "maxProperties": MAX_BIASES,
        "propertyNames": {"pattern": "^(0|[1-9][0-9]{0,9})$"},
        "additionalProperties": {"type": "number", "minimum": -MAX_BIAS, "maximum": MAX_BIAS},
    },
}


class DocumentedAPI(FastAPI):
    """An application whose document says what its routes do not."""

    def openapi(self) -> Json:
        """The document, made when it is first asked for."""
        if self.openapi_schema is None:
            self.openapi_schema = _document(self)
        return self.openapi_schema


def _document(app: FastAPI) -> Json:
    tags = [{"name": name, "description": text} for name, text in TAGS.items()]
    document: Json = get_openapi(
        title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=tags
    )
    of_parameters = {name: one for name, one in document["components"]["schemas"].items() if name not in THEIR_ERRORS}
    document["components"]["schemas"] = of_parameters | _schemas()
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            _complete(described, OPERATIONS[method, path])
    return document


def _complete(described: Json, operation: Operation) -> None:
    """Put what operations.py says in the place of what FastAPI guessed."""
    described["tags"] = [operation.tag]
    if operation.body is not None:
        name = operation.body if isinstance(operation.body, str) else operation.body.__name__
        content: Json = {"schema": _ref(name), "example": operation.example}
        described["requestBody"] = {
            "required": not operation.is_optional,
            "content": {"application/json": content},
        }
    described["responses"] = dict(_answers(operation, is_guarded="security" in described))


def _answers(operation: Operation, *, is_guarded: bool) -> Iterator[tuple[str, Json]]:
    """The answers by status."""
    statuses = {operation.status: (), **operation.more}
    for status, media in statuses.items():
        # An event is JSON whose form its type says: what reads events one by one would hold each against this.
        content: Json = {name: {"schema": {} if name == EVENTS else {"type": "string"}} for name in media}
        if status == operation.status and (operation.shape or operation.page):
            content["application/json"] = {"schema": _shape(operation)}
        yield str(status), {"description": "Done.", **({"content": content} if content else {})}
    errors = {*operation.errors, *EVERYWHERE, *((401,) if is_guarded else ())}
    for status in sorted(errors):
        yield str(status), {"description": ERRORS[status], "content": {"application/json": {"schema": _ref("Error")}}}


def _shape(operation: Operation) -> Json:
    if operation.page is not None:
        return {
            "type": "object",
            "required": ["object", "data", "first_id", "last_id", "has_more"],
            "properties": {
                "object": {"const": "list"},
                "data": {"type": "array", "items": _ref(operation.page.__name__)},
                "first_id": {"type": ["string", "null"]},
                "last_id": {"type": ["string", "null"]},
                "has_more": {"type": "boolean"},
            },
        }
    shapes = operation.shape if isinstance(operation.shape, tuple) else (operation.shape,)
    refs = [_ref(shape.__name__) for shape in shapes if shape is not None]
    return refs[0] if len(refs) == 1 else {"anyOf": refs}


def _schemas() -> Json:
    """Every schema by its name."""
    bodies: set[Shape] = {*GENERATED, *(entry.body for entry in OPERATIONS.values() if isinstance(entry.body, type))}
    schemas = _of({*_shapes(OPERATIONS.values()), Error}) | _of(bodies)
    for body in bodies:
        schemas[body.__name__] = _as_taken(schemas[body.__name__])
    for body in GENERATED:
        schema = schemas[body.__name__]
        schema["properties"]["model"] = {"type": "string", "minLength": 1, "maxLength": 255}
        schema["required"] = ["model", *schema["required"]]
    return schemas | _job_submission(schemas["CompletionRequest"]["properties"])


def _of(models: Iterable[Shape]) -> Json:
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema([(model, "validation") for model in ordered], ref_template=REF)
    return dict(definitions["$defs"])


def _shapes(operations: Iterable[Operation]) -> Iterator[Shape]:
    for operation in operations:
        shapes = operation.shape if isinstance(operation.shape, tuple) else (operation.shape,)
        yield from (shape for shape in (*shapes, operation.page) if shape is not None)


def _as_taken(schema: Json) -> Json:
    """A request's schema as requests are read: null counts as absent, and validators have their say."""
    required = schema.get("required", [])
    properties = {name: FIELDS.get(name, field) for name, field in schema["properties"].items()}
    taken = {name: field if name in required else _or_null(field) for name, field in properties.items()}
    return schema | {"properties": taken}


def _or_null(field: Json) -> Json:
    choices = field.get("anyOf", ())
    if {"type": "null"} in choices:
        return field
    about = {name: field[name] for name in ("title", "default", "description") if name in field}
    return about | {"anyOf": [{name: value for name, value in field.items() if name not in about}, {"type": "null"}]}


def _job_submission(fields: Mapping[str, Any]) -> Json:
    """The body of POST /v1/jobs: a job, or many."""
    beside = {name: fields[name] for name in BESIDE_BODY if name in fields}
    job: Json = {
        "type": "object",
        "required": ["endpoint", "body"],
        "additionalProperties": False,
        "properties": {
            "endpoint": {"type": "string", "enum": list(ENDPOINTS)},
            "body": {"anyOf": [_ref(body.__name__) for body in GENERATED]},
            **beside,
        },
    }
    many: Json = {
        "type": "object",
        "required": ["jobs"],
        "additionalProperties": False,
        "properties": {"jobs": {"type": "array", "items": _ref("NewJob"), "minItems": 1, "maxItems": MAX_JOBS}},
    }
    return {"NewJob": job, "NewJobs": many, "JobSubmission": {"anyOf": [_ref("NewJob"), _ref("NewJobs")]}}


def _ref(name: str) -> Json:
    return {"$ref": REF.format(model=name)}
