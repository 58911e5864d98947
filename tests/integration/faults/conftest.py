"""The service, and servers to be broken under it."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from models.database import Database
from models.settings import Settings, load_settings
from tests.integration.faults.servers import PrivatePostgreSQL, PrivateRedis

NO_REDIS = "redis://127.0.0.1:1/0"  # refuses at once
JOB = {"model": "noop", "prompt": "a", "max_tokens": 2, "seed": 1, "background": True}


@pytest.fixture
def private_redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    """Running, and empty."""
    redis = PrivateRedis(tmp_path)
    yield redis
    redis.kill()


@pytest.fixture(scope="module")
def own_postgresql() -> Iterator[PrivatePostgreSQL]:
    """Running. Each test leaves it so."""
    with tempfile.TemporaryDirectory(prefix="batchmill-pg-", ignore_cleanup_errors=True) as folder:
        server = PrivatePostgreSQL(Path(folder))
        yield server
        server.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Of a service without Redis."""
    return load_settings(state_dir=tmp_path, redis_url=NO_REDIS, auth="open", model="noop")


@contextmanager
def service(settings: Settings, database: Database) -> Iterator[TestClient]:
    """The service on a database, for a block."""
    with TestClient(create_app(settings, database), raise_server_exceptions=False) as client:
        yield client
