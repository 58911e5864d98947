"""The API document as one page of HTML: no script, nothing loaded from anywhere."""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from typing import Any

Json = Mapping[str, Any]

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
summary { cursor: pointer; padding: .35rem 0; }
code { font: .9em/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid #8886; border-radius: .3rem; }
details > div { margin: 0 0 1rem 1.5rem; }
table { border-collapse: collapse; } td, th { text-align: left; vertical-align: top; padding: .1rem 1rem .1rem 0; }
.method { display: inline-block; min-width: 4.5rem; font-weight: 700; text-transform: uppercase; }
"""
# The browser itself makes sure of what the first line of this module says.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'"


def render(document: Json) -> str:
    """The page: routes by tag, then the schemas."""
    info = document["info"]
    return "".join(
        (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(info['title'])} API</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info['description'])}</p>",
            '<p>The whole document for tools: <a href="openapi.json">openapi.json</a></p>',
            *(part for tag in document["tags"] for part in _tag(document, tag)),
            "<h2>Schemas</h2>",
            *(_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())),
            "</body></html>",
        )
    )


def _tag(document: Json, tag: Json) -> Iterator[str]:
    yield f"<h2>{escape(tag['name'].capitalize())}</h2><p>{escape(tag['description'])}</p>"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag["name"] in operation["tags"]:
                yield _operation(path, method, operation)


def _operation(path: str, method: str, operation: Json) -> str:
    summary = (
        f'<summary><span class="method">{method}</span> <code>{escape(path)}</code> {escape(operation["summary"])}'
    )
    parts = [_text(operation.get("description", ""))]
    parts += [_table("Parameters", ((one["name"], _about(one)) for one in operation.get("parameters", ())))]
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        parts.append(f"<p>Takes {escape(media)}: {_kind(content['schema'])}</p>")
    answers = ((status, f"{escape(one['description'])} {_contents(one)}") for status, one in _sorted_answers(operation))
    return f"<details>{summary}</summary><div>{''.join(parts)}{_table('Answers', answers)}</div></details>"


def _sorted_answers(operation: Json) -> list[tuple[str, Json]]:
    return sorted(operation["responses"].items())


def _contents(answer: Json) -> str:
    return "; ".join(f"{escape(media)}: {_kind(one['schema'])}" for media, one in answer.get("content", {}).items())


def _about(parameter: Json) -> str:
    words = escape(parameter.get("description") or parameter["schema"].get("description", ""))
    return f"{_kind(parameter['schema'])} {'required' if parameter.get('required') else ''} {words}"


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", ())
    rows = (
        (field, f"{_kind(one)} {'required' if field in required else ''} {escape(one.get('description', ''))}")
        for field, one in schema.get("properties", {}).items()
    )
    inside = _text(schema.get("description", "")) + (_table("", rows) if "properties" in schema else _kind(schema))
    return f'<details id="{escape(name)}"><summary><code>{escape(name)}</code></summary><div>{inside}</div></details>'


def _kind(schema: Json) -> str:
    """A schema in a few words, others by a link."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    for combined in ("anyOf", "oneOf"):
        if combined in schema:
            return " or ".join(map(_kind, schema[combined]))
    if "const" in schema or "enum" in schema:
        return " | ".join(f"<code>{escape(str(value))}</code>" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}"
    kinds = schema.get("type", "any")
    return escape(kinds if isinstance(kinds, str) else " or ".join(kinds))


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    body = "".join(f"<tr><td><code>{escape(name)}</code></td><td>{about}</td></tr>" for name, about in rows)
    return f"<table>{f'<tr><th colspan=2>{title}</th></tr>' if title else ''}{body}</table>" if body else ""


def _text(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""
