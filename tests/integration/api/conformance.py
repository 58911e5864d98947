"""Every answer of these tests held against the API document: its status, its media type, its body."""

from typing import Any

import orjson
from jsonschema import Draft202012Validator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CLIENT_GONE = 499  # nobody reads it


class Conformance:
    """Middleware around the whole application that notes what the document does not say."""

    def __init__(self, app: ASGIApp, document: Any, violations: list[str]) -> None:  # noqa: ANN401 (JSON)
        """`document` is a closed one."""
        self._app, self._document, self._violations = app, document, violations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent: list[Message] = []

        async def note(message: Message) -> None:
            sent.append(message)
            await send(message)

        await self._app(scope, receive, note)
        if sent and not sent[-1].get("more_body", False) and sent[-1]["type"] == "http.response.body":
            self._check(scope, sent[0], b"".join(message.get("body", b"") for message in sent[1:]))

    def _check(self, scope: Scope, start: Message, body: bytes) -> None:
        headers = {name.decode().lower(): value.decode("latin-1") for name, value in start["headers"]}
        wrong = violation(
            self._document,
            method=scope["method"].lower(),
            path=getattr(scope.get("route"), "path_format", None),
            status=start["status"],
            media=headers.get("content-type", "").split(";")[0],
            body=body,
        )
        if wrong:
            self._violations.append(f"{scope['method']} {scope['path']} {start['status']}: {wrong}")


def violation(document: Any, *, method: str, path: str | None, status: int, media: str, body: bytes) -> str | None:  # noqa: ANN401 (JSON)
    """What is wrong with an answer; None when nothing is."""
    if status == CLIENT_GONE or path in ("/openapi.json", "/docs"):
        return None
    operation = document["paths"].get(path, {}).get(method)
    if operation is None or status == 405:  # no route: an error all the same
        return None if status < 400 else invalid(document, {"$ref": "#/components/schemas/Error"}, body)
    answer = operation["responses"].get(str(status))
    if answer is None:
        return "the status is not documented"
    content = answer.get("content", {})
    if not content:
        return "there should be no body" if body else None
    if media not in content:
        return f"{media or 'no media type'} is not documented"
    return invalid(document, content[media]["schema"], body) if media == "application/json" else None


def invalid(document: Any, schema: Any, body: bytes) -> str | None:  # noqa: ANN401 (JSON)
    """Why a body is not as its schema says."""
    whole = {**schema, "components": document["components"]}
    error = next(Draft202012Validator(whole).iter_errors(orjson.loads(body)), None)
    return None if error is None else f"{error.json_path}: {error.message[:500]}"


def closed(schema: Any) -> Any:  # noqa: ANN401 (JSON)
    """A schema that takes no field beyond those it names."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    shut = {name: closed(one) for name, one in schema.items()}
    is_object = isinstance(schema.get("properties"), dict) and schema.get("type") == "object"
    return {"additionalProperties": False, **shut} if is_object else shut
