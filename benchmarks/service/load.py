"""A load generator: HTTP/1.1 over kept connections, written by hand, as a client library costs more than a service."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Load:
    """What a run of requests came to; latencies in seconds."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    failures: list[bytes] = field(default_factory=list)  # status lines other than 2xx

    @property
    def per_second(self) -> float:
        """Answered requests a second."""
        return len(self.latencies) / self.seconds

    def percentile(self, share: float) -> float:
        """The latency in seconds below which this share of the requests lies."""
        ordered = sorted(self.latencies)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


class Connection:
    """One kept connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """Send a request; its status line and body."""
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return head.partition(b"\r\n")[0], await self._reader.readexactly(int(length[15:]))

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def post(path: str, body: bytes) -> bytes:
    """A request as bytes."""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def get(path: str) -> bytes:
    """A request without a body as bytes."""
    return f"GET {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode()


def closed_loop(port: int, make: Callable[[int], bytes], *, connections: int, seconds: float) -> Load:
    """Each connection asks again as soon as it is answered: the most that goes through."""

    async def run() -> Load:
        load, ends = Load(), time.perf_counter() + seconds
        numbers = iter(range(1 << 62))

        async def ask() -> None:
            connection = await Connection.open(port)
            while time.perf_counter() < ends:
                await _timed(connection, make(next(numbers)), load)
            connection.close()

        began = time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(connections)))
        load.seconds = time.perf_counter() - began
        return load

    return asyncio.run(run())


def open_loop(port: int, make: Callable[[int], bytes], *, rate: float, seconds: float, connections: int) -> Load:
    """Requests at fixed moments, whatever becomes of the earlier ones; waiting for a connection counts."""

    async def run() -> Load:
        load = Load()
        free: asyncio.Queue[Connection] = asyncio.Queue()
        for _ in range(connections):
            free.put_nowait(await Connection.open(port))
        began = time.perf_counter()

        async def ask(number: int) -> None:
            due = began + number / rate
            await asyncio.sleep(due - time.perf_counter())
            connection = await free.get()
            await _timed(connection, make(number), load, due)
            free.put_nowait(connection)

        await asyncio.gather(*(ask(number) for number in range(int(rate * seconds))))
        load.seconds = time.perf_counter() - began
        return load

    return asyncio.run(run())


async def _timed(connection: Connection, request: bytes, load: Load, began: float | None = None) -> None:
    began = time.perf_counter() if began is None else began
    status, _ = await connection.ask(request)
    if b" 20" not in status:
        load.failures.append(status)
    load.latencies.append(time.perf_counter() - began)
