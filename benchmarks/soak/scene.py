"""The service under the soak: PostgreSQL or SQLite, Redis, one api and one worker with the engine that does nothing."""

import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import orjson
import psutil
from redis import Redis
from sqlalchemy import func, select, text

from benchmarks.service.place import Place, answers
from benchmarks.service.processes import free_port, ours, running, wait_until
from benchmarks.services import postgresql_url
from benchmarks.soak.samples import Sample
from cli.embedded import embedded_redis
from models import migrations
from models.database import Database
from models.status import UNFINISHED
from models.tables import batches, jobs, workers

ENDPOINT = "/v1/completions"
MODEL = "noop"
LOOK_SECONDS = 0.5
HALF_WRITTEN = (".part", ".tmp", ".spill")  # names of files that are only there for a while
IDLE_SECONDS = 3.0  # after the last job: pools and threads settle


class Scene:
    """The processes, and what can be seen of them."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder, self._stack, self._kind = folder, ExitStack(), database

    def __enter__(self) -> "Scene":
        with ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _open(self, stack: ExitStack) -> None:
        url = f"sqlite:///{self.folder / 'soak.db'}"
        if self._kind == "postgresql":
            url = stack.enter_context(postgresql_url(self.folder / "postgresql"))
        redis_url = stack.enter_context(embedded_redis(self.folder / "redis", keep=False))
        self.place = Place(self.folder, url, redis_url, free_port())
        self.redis = stack.enter_context(Redis.from_url(redis_url))
        self.database = Database(url, pool_size=1)
        stack.callback(self.database.dispose)
        migrations.upgrade(self.database)
        environment = self.place.environment | {"BATCHMILL_MODEL": MODEL}
        self._ends = ExitStack()
        stack.enter_context(self._ends)
        self.processes: dict[str, psutil.Process] = {}
        for name, command in {"api": ("api", "--port", str(self.place.port)), "worker": ("worker",)}.items():
            process = self._ends.enter_context(running(ours(*command), environment, self.folder / f"{name}.log"))
            self.processes[name] = psutil.Process(process.pid)
        self.client = stack.enter_context(self.place.client())
        wait_until(lambda: answers(f"http://127.0.0.1:{self.place.port}/health"), 60)
        wait_until(lambda: any(entry["id"] == MODEL for entry in self.client.get("/models").json()["data"]), 60)
        self.processes["redis"] = psutil.Process(int(self.redis.info("server")["process_id"]))

    # -- jobs -----------------------------------------------------------------------------------------------------

    def submit(self, first: int, number: int) -> None:
        """Upload a file of one-token jobs and make a batch of it."""
        body = b"".join(_line(index) for index in range(first, first + number))
        files = {"file": ("soak.jsonl", body)}
        file = self.client.post("/files", files=files, data={"purpose": "batch"}).raise_for_status().json()
        wanted = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
        self.client.post("/batches", json=wanted).raise_for_status()

    def num_done(self) -> int:
        """Jobs completed."""
        with self.database.read() as connection:
            return int(connection.scalars(select(func.coalesce(func.sum(batches.c.num_completed), 0))).one())

    # -- what can be seen -----------------------------------------------------------------------------------------

    def look(self, began: float) -> Sample:
        """One sample."""
        memory = {name: process.memory_info().rss for name, process in self.processes.items()}
        if self._kind == "postgresql":
            memory["postgresql"] = _private_memory(self._server())
        ours = {name: self.processes[name] for name in ("api", "worker")}
        return Sample(
            time.perf_counter() - began,
            self.num_done(),
            memory,
            {name: process.num_fds() for name, process in ours.items()},
            {name: process.num_threads() for name, process in ours.items()},
            self._num_connections(),
        )

    def _server(self) -> psutil.Process:
        pid = (self.folder / "postgresql" / "data" / "postmaster.pid").read_text().split()[0]
        return psutil.Process(int(pid))

    def _num_connections(self) -> int:
        """Of our processes to PostgreSQL, this one's not among them."""
        if self._kind != "postgresql":
            return 0
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        with self.database.read() as connection:
            return int(connection.execute(text(query)).scalar_one())

    def left_over(self) -> Mapping[str, int]:
        """What must be gone once every job is done, the processes still running."""
        with self.database.read() as connection:
            count = select(func.count()).select_from(jobs)
            return {
                "unfinished rows": connection.scalars(count.where(jobs.c.status.in_(sorted(UNFINISHED)))).one(),
                "rows with an owner": connection.scalars(count.where(jobs.c.owner.is_not(None))).one(),
                "messages": sum(self.redis.llen(key) for key in self.redis.scan_iter("*generate*", _type="list")),
                "unacknowledged messages": sum(self.redis.hlen(key) for key in self.redis.scan_iter("*unacked")),
            }

    def left_after_stop(self) -> Mapping[str, int]:
        """End our processes as an operator does; then count what they should have taken with them."""
        self._ends.close()
        with self.database.read() as connection:
            num_workers = connection.scalars(select(func.count()).select_from(workers)).one()
        half_written = [
            path for path in (self.folder / "state").rglob("*") if path.suffix in (".part", ".tmp", ".spill")
        ]
        return {
            "leases": num_workers,
            "connections of ended processes": self._num_connections(),
            "half-written files": len(half_written),
        }


class Watch:
    """Looks at a scene twice a second, in a thread of its own."""

    def __init__(self, scene: Scene) -> None:
        self.samples: list[Sample] = []
        self._scene, self._stopping = scene, threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopping.set()
        self._thread.join()

    def _work(self) -> None:
        began = time.perf_counter()
        while not self._stopping.is_set():
            self.samples.append(self._scene.look(began))
            self._stopping.wait(LOOK_SECONDS)

    @property
    def num_done(self) -> int:
        """Jobs completed when it last looked."""
        return self.samples[-1].num_done if self.samples else 0


def _line(index: int) -> bytes:
    body = {"model": MODEL, "prompt": f"prompt {index}", "max_tokens": 1, "seed": 1}
    line = {"custom_id": f"request-{index}", "method": "POST", "url": ENDPOINT, "body": body}
    return orjson.dumps(line) + b"\n"


def _private_memory(server: psutil.Process) -> int:
    """Of a PostgreSQL: what its processes do not share. Their common buffers fill up, as they should."""
    total = 0
    for process in (server, *server.children()):
        try:
            memory = process.memory_info()
        except psutil.NoSuchProcess:  # a connection that closed as we looked
            continue
        total += memory.rss - memory.shared
    return total
