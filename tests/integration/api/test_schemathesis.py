"""Requests made up from the API document: no 5xx, and every answer as the document says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.app import create_app
from api.openapi.operations import OPERATIONS
from models.database import Database
from models.settings import load_settings
from tests.integration.api.conftest import NO_REDIS, serving

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
SILENCED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
FEW = hypothesis_settings(
    max_examples=20,
    derandomize=True,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=SILENCED,
)
MANY = hypothesis_settings(FEW, max_examples=200, derandomize=False)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Iterator[Any]:
    """The document of a service that waits for nobody, with nothing behind it but a database."""
    folder = tmp_path_factory.mktemp("schemathesis")
    path = folder / "batchmill.db"
    path.write_bytes(sqlite_template.read_bytes())
    settings = load_settings(state_dir=folder, redis_url=NO_REDIS, auth="open", sync_timeout_seconds=0.02, model="demo")
    app: FastAPI = create_app(settings, Database(f"sqlite:///{path}"))
    with serving(app) as url:
        yield schemathesis.openapi.from_url(f"{url}/openapi.json")


def hold_to_the_document(operation: Any, settings: hypothesis_settings) -> None:  # noqa: ANN401 (it ships no types)
    @settings
    @given(case=operation.as_strategy() | operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case: Any) -> None:  # noqa: ANN401 (likewise)
        ask_a_model_that_is_there(case.body)
        case.call_and_validate(checks=CHECKS)

    check()


def ask_a_model_that_is_there(body: object) -> None:
    """Else every generation ends at the first check."""
    if isinstance(body, dict):
        for request in (body, body.get("body")):
            if isinstance(request, dict) and "model" in request:
                request["model"] = "demo"


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_as_the_document_says(made_up: Any, method: str, path: str) -> None:  # noqa: ANN401 (likewise)
    hold_to_the_document(made_up[path][method], FEW)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_many_answers_are_as_the_document_says(made_up: Any, method: str, path: str) -> None:  # noqa: ANN401 (likewise)
    hold_to_the_document(made_up[path][method], MANY)
