"""What goes wrong, and when. Every fault is a method: it happens, lasts, and is noted in the timeline."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from tests.chaos.cluster import Cluster, Node
from tests.chaos.journal import Journal
from tests.chaos.proxy import Mode, Proxy
from tests.chaos.repeater import Repeater
from tests.chaos.timeline import Timeline

RESTART_SECONDS = 1.0  # a supervisor's
FLOW_SECONDS = 60.0
BUSY_ROWS = 4
LOOK_SECONDS = 0.05


class Over(Exception):
    """The run's time is up."""


class Nemesis:
    """A seed says what it does; what comes of it, the machine."""

    def __init__(
        self, cluster: Cluster, journal: Journal, timeline: Timeline, seed: str, *, lease_seconds: float
    ) -> None:
        self.cluster, self.journal, self.timeline = cluster, journal, timeline
        self.random = random.Random(seed)
        self.lease_seconds = lease_seconds
        self.over = threading.Event()

    def wait(self, seconds: float) -> None:
        """Let time pass. Raises Over."""
        if self.over.wait(seconds):
            raise Over

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Let time pass until something is so; that it never is breaks a promise. Raises Over."""
        ends = time.monotonic() + FLOW_SECONDS
        while not condition():
            if time.monotonic() > ends:
                self.journal.violated(f"{what}: not within {FLOW_SECONDS:.0f} s")
                raise Over
            self.wait(LOOK_SECONDS)

    def wait_for_flow(self) -> None:
        """Until every worker has something to lose."""
        num_workers = len(self.cluster.workers)

        def flows() -> bool:
            return sum(rows >= BUSY_ROWS for rows in self.journal.rows_by_worker().values()) >= num_workers

        self.wait_for(flows, "every worker holds rows")

    @contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """For the length of the block there is this fault."""
        began = self.timeline.now()
        self.journal.count(f"fault: {what}")
        try:
            yield
        finally:
            self.timeline.mark(what, began)

    def worker(self) -> Node:
        """One of the workers."""
        return self.random.choice(self.cluster.workers)

    # Processes

    def kill_worker(self) -> None:
        """kill -9; a supervisor starts it again in its place."""
        node = self.worker()
        with self.noted("worker kill -9"):
            node.kill()
            self.wait(RESTART_SECONDS)
        node.start()

    def lose_node(self) -> None:
        """kill -9, and another machine comes instead: nobody knows how the worker ended."""
        node = self.worker()
        with self.noted("worker's machine lost"):
            node.lose()
            self.wait(RESTART_SECONDS)
        node.start()

    def freeze_worker(self, seconds: float | None = None) -> None:
        """SIGSTOP until its lease is over and others have its rows, then SIGCONT. It is never killed in between:
        only a process that goes on can write late."""
        node = self.worker()
        if not node.runs:
            return
        with self.noted("worker SIGSTOP"):
            node.freeze(self.cluster.database.direct_url)
            try:
                self.wait(seconds or self.lease_seconds + 2)
            finally:
                node.thaw()

    def drain_worker(self) -> None:
        """SIGTERM, the end, and a new start. One that is only starting has no say in how it ends."""
        node = self.worker()
        if not node.is_ready:
            return
        with self.noted("worker SIGTERM"):
            status = node.drain()
            if status != 0:
                self.journal.violated(f"{node.name} ended with status {status} when it was told to stop")
        node.start()

    def hang_worker(self) -> None:
        """Its engine's next step never ends; the worker has to notice by itself."""
        node = self.worker()
        process = node.process
        with self.noted("worker's engine hangs"):
            node.hang_file.touch()
            self.wait_for(lambda: not node.hang_file.exists() or node.process is not process, "the worker hangs")

    def kill_api(self) -> None:
        """kill -9 and a new start."""
        with self.noted("api kill -9"):
            self.cluster.api.kill()
            self.wait(RESTART_SECONDS / 2)
            self.cluster.api.start()
            self.wait_for(self.cluster.serves, "the api serves")

    # Redis

    def flush_redis(self) -> None:
        """Every hint is lost at once."""
        with self.noted("Redis FLUSHALL"):
            self.cluster.redis.flush()

    def repeat_hints(self, seconds: float) -> None:
        """The api does not reach Redis; its jobs are announced from here, and at once to every worker that waits."""
        repeater = Repeater(self.cluster.database.direct_url, self.cluster.redis.port)
        ends = time.monotonic() + seconds
        with self.noted("hints repeated"), closing(repeater):
            self.cluster.api.redis.set(Mode.RESET)
            try:
                while time.monotonic() < ends:
                    self.wait(LOOK_SECONDS)
                    repeater.announce(len(self.cluster.workers))
            finally:
                self.cluster.api.redis.set(Mode.PASS)

    def restart_redis(self) -> None:
        """kill -9; it comes back empty."""
        with self.noted("Redis kill -9"):
            self.cluster.redis.kill()
            try:
                self.wait(self.random.uniform(1, 3))
            finally:
                self.cluster.redis.start()

    # PostgreSQL

    def drop_connections(self) -> None:
        """Every connection breaks, whatever it was in the middle of."""
        if self.cluster.postgresql is not None:
            with self.noted("PostgreSQL connections ended"):
                self.cluster.postgresql.drop_connections()

    def restart_postgresql(self) -> None:
        """It crashes, and recovers from its log."""
        if self.cluster.postgresql is not None:
            with self.noted("PostgreSQL crash"):
                self.cluster.postgresql.crash()
                try:
                    self.wait(self.random.uniform(0.5, 2))
                finally:
                    self.cluster.postgresql.recover()

    # The network

    def network(self) -> None:
        """Something is wrong with one way between two processes."""
        ways: list[tuple[str, Proxy]] = [("client-api", self.cluster.front)]
        for node in self.cluster.nodes:
            ways += [(f"{node.name}-{kind}", proxy) for kind, proxy in zip(("redis", "db"), node.links, strict=False)]
        name, proxy = self.random.choice(ways)
        mode = self.random.choice([Mode.BLACKHOLE, Mode.DROP_REPLIES, Mode.SLOW, Mode.RESET])
        self.disturb(name, [proxy], mode, self.random.uniform(0.5, self.lease_seconds + 2))

    def disturb(self, name: str, proxies: list[Proxy], mode: Mode, seconds: float) -> None:
        """Let these ways misbehave for a while."""
        with self.noted(f"{name} {mode}"):
            for proxy in proxies:
                proxy.set(mode)
            try:
                self.wait(seconds)
            finally:
                for proxy in proxies:
                    proxy.set(Mode.PASS)

    def partition_worker(self) -> None:
        """A worker does not reach the database until its lease is over; then what it sent arrives, late."""
        node = self.worker()
        if node.database is not None:
            self.disturb(f"{node.name}-db", [node.database], Mode.BLACKHOLE, self.lease_seconds + 2)

    def end(self) -> None:
        """Stop at the next wait."""
        self.over.set()
