"""The service on a SQLite database, without Redis unless a test asks for it, and a worker that is told what to do."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.app import create_app
from api.http_protocol import LimitedHead
from models.database import Database
from models.settings import Settings, load_settings
from tests.integration.api.conformance import Conformance, closed
from tests.integration.api.fakes import Worker

NO_REDIS = "redis://127.0.0.1:1/0"  # refuses at once


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(state_dir=tmp_path, redis_url=NO_REDIS, auth="auto", sync_timeout_seconds=5, model="demo")


@pytest.fixture
def database(sqlite_url: str) -> Iterator[Database]:
    database = Database(sqlite_url)
    yield database
    database.dispose()


@pytest.fixture(scope="session")
def document() -> dict[str, Any]:
    """The API document, in which schemas take no field beyond those that they name."""
    database = Database("sqlite:///nothing-is-read-of-it.db")
    shut: dict[str, Any] = closed(create_app(load_settings(), database).openapi())
    return shut


@pytest.fixture
def app(settings: Settings, database: Database, document: dict[str, Any]) -> Iterator[FastAPI]:
    """The service; whatever it answers in a test must be as its document says."""
    violations: list[str] = []
    app = create_app(settings, database)
    app.add_middleware(Conformance, document=document, violations=violations)
    yield app
    assert violations == []


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def worker(database: Database) -> Iterator[Worker]:
    worker = Worker.registered(database, model="demo")
    yield worker
    worker.stop()


@pytest.fixture
def server(app: FastAPI) -> Iterator[httpx.Client]:
    """A real server on a free port, for what a test client cannot show: hanging up, slow bodies."""
    with serving(app) as url, httpx.Client(base_url=url, timeout=10) as client:
        yield client


@contextmanager
def serving(app: FastAPI) -> Iterator[str]:
    """Serve an application while the block lasts; the URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=LimitedHead, log_config=None, timeout_graceful_shutdown=1)
        service = uvicorn.Server(config)
        thread = threading.Thread(target=service.run, kwargs={"sockets": [listener]})
        thread.start()
        while not service.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            service.should_exit = True
            thread.join()
