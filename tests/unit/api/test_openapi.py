"""The API document: every route with words, a body's schema, its errors; and a page that loads nothing."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from api.app import create_app
from api.openapi.page import POLICY, render
from models.database import Database
from models.requests import SCHEMAS, parse_body
from models.settings import load_settings

BODILESS = re.compile(r"/(cancel|drain|replay|retry)$")  # POSTs that take nothing


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return create_app(load_settings(), Database("sqlite:///nothing-is-read-of-it.db")).openapi()


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, one) for path, methods in document["paths"].items() for method, one in methods.items()]


def test_every_route_is_described(document: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in document["tags"]}

    for method, path, one in operations(document):
        assert one["summary"], (method, path)
        assert one["description"], (method, path)
        assert set(one["tags"]) <= tags, (method, path)
        takes_body = method in ("post", "patch") and not BODILESS.search(path)
        assert ("requestBody" in one) == takes_body, (method, path)


def test_every_route_tells_its_errors(document: dict[str, Any]) -> None:
    for method, path, one in operations(document):
        told = set(one["responses"])
        assert {"500", "503"} <= told, (method, path)
        assert ("401" in told) == path.startswith("/v1/"), (method, path)
        assert "422" not in told or "requestBody" in one or path.endswith("/retry"), (method, path)
        if "requestBody" in one:
            assert {"400", "413", "415"} <= told, (method, path)


def test_every_schema_that_is_named_is_there(document: dict[str, Any]) -> None:
    named = set(re.findall(r"#/components/schemas/(\w+)", str(document)))

    assert named <= document["components"]["schemas"].keys()
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("endpoint", SCHEMAS)
def test_examples_are_good_requests(document: dict[str, Any], endpoint: str) -> None:
    content = document["paths"][endpoint]["post"]["requestBody"]["content"]["application/json"]

    parse_body(endpoint, content["example"])
    schema = {**content["schema"], "components": document["components"]}
    Draft202012Validator(schema).validate(content["example"])
    Draft202012Validator(schema).validate(
        content["example"] | {"stop": "x", "temperature": None, "metadata": {"a": "b"}}
    )
    assert not Draft202012Validator(schema).is_valid(content["example"] | {"stop": [""]})


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.add(tag)
        self.links += [value for name in ("href", "src") if (value := found.get(name))]
        self.ids |= {found["id"] or ""} if "id" in found else set()


def test_page_shows_every_route_and_loads_nothing(document: dict[str, Any]) -> None:
    page = Page()
    html = render(document)
    page.feed(html)

    assert all(path in html for path in document["paths"])
    assert page.tags.isdisjoint({"script", "link", "img", "iframe"})
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json"}
    assert {link[1:] for link in page.links if link.startswith("#")} <= page.ids
    assert "script-src" not in POLICY
    assert POLICY.startswith("default-src 'none'")


def test_page_shows_text_as_text() -> None:
    nasty = "<script>alert(1)</script>"
    document = {
        "info": {"title": nasty, "version": "1", "description": nasty},
        "tags": [{"name": "t", "description": nasty}],
        "paths": {"/x": {"get": {"tags": ["t"], "summary": nasty, "description": nasty, "responses": {}}}},
        "components": {"schemas": {"A": {"description": nasty, "properties": {"b": {"description": nasty}}}}},
    }

    assert "<script" not in render(document)
