"""Where a run's services are, and our own part of them."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx

from benchmarks.service.processes import free_port, ours, running, wait_until
from benchmarks.services import postgresql_url
from cli.embedded import embedded_redis
from models import migrations
from models.database import Database

READ_SECONDS = 300.0


@dataclass(frozen=True)
class Place:
    """Where a run's services are."""

    folder: Path
    database_url: str
    redis_url: str
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """For our processes: one thread for the engine, as the machine is shared with all the rest."""
        return {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
            "BATCHMILL_STATE_DIR": str(self.folder / "state"),
            "BATCHMILL_THREADS": "1",
            "BATCHMILL_LOG_FORMAT": "json",
        }

    def client(self) -> httpx.Client:
        """A client of our service."""
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}/v1", timeout=READ_SECONDS)


def open_place(stack: ExitStack, folder: Path) -> Place:
    """A durable PostgreSQL with our tables, and a Redis, for as long as the stack lives."""
    database_url = stack.enter_context(postgresql_url(folder / "postgresql"))
    redis_url = stack.enter_context(embedded_redis(folder / "redis", keep=False))
    database = Database(database_url)
    migrations.upgrade(database)
    database.dispose()
    return Place(folder, database_url, redis_url, free_port())


def start_api(stack: ExitStack, place: Place) -> None:
    """Our HTTP service."""
    command = ours("api", "--port", str(place.port))
    stack.enter_context(running(command, place.environment, place.folder / "api.log"))
    wait_until(lambda: answers(f"http://127.0.0.1:{place.port}/health"), 60)


def start_worker(stack: ExitStack, place: Place, model: str, **environment: str) -> None:
    """One worker of ours, ready."""
    more = place.environment | {"BATCHMILL_MODEL": model, **environment}
    stack.enter_context(running(ours("worker", "--loglevel", "warning"), more, place.folder / "worker.log"))
    with place.client() as client:
        wait_until(lambda: any(entry["id"] == Path(model).name for entry in client.get("/models").json()["data"]), 120)


def answers(url: str) -> bool:
    """Whether a service is up."""
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False
