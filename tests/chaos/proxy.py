"""A TCP proxy that can misbehave, between a process of ours and a server it depends on."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 16
SLOW_SECONDS = 0.15  # each way, each piece
START_SECONDS = 10.0

Address = tuple[str, int] | Path  # of a server: host and port, or a Unix socket


class Mode(StrEnum):
    """What becomes of bytes."""

    PASS = "pass"
    BLACKHOLE = "blackhole"  # nothing arrives; what was sent arrives when it is over, as TCP would send it again
    DROP_REPLIES = "drop_replies"  # requests arrive, answers never do; the connections end with the fault
    SLOW = "slow"
    RESET = "reset"  # connections break, new ones too


class Loop:
    """One thread for all proxies."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="proxies", daemon=True)
        self._thread.start()
        self.servers: list[asyncio.Server] = []

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:  # noqa: ANN401 (whatever it returns)
        """Run on the loop's thread and wait."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(START_SECONDS)

    def close(self) -> None:
        """Listen no more, and end every connection."""
        self.run(self._cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(START_SECONDS)
        self.loop.close()

    async def _cancel_all(self) -> None:
        for server in self.servers:
            server.close()
        await asyncio.sleep(0)  # what was accepted a moment ago is a task from here on
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Proxy:
    """Listens on a port of its own of the loopback interface; `upstream` may change while it runs."""

    def __init__(self, loop: Loop, upstream: Address) -> None:
        self.upstream, self.mode = upstream, Mode.PASS
        self._loop = loop
        self._changed = asyncio.Event()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        server: asyncio.Server = loop.run(self._listen())
        loop.servers.append(server)
        self.port: int = server.sockets[0].getsockname()[1]

    def set(self, mode: Mode) -> None:
        """Misbehave in this way from now on, or no longer."""
        self._loop.run(self._set(mode))

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def _set(self, mode: Mode) -> None:
        breaks = mode is Mode.RESET or self.mode is Mode.DROP_REPLIES
        self.mode = mode
        self._changed.set()
        self._changed = asyncio.Event()
        if breaks:
            self._break_all()

    def _break_all(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)  # the loop alone holds it weakly
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError):
                await self._connect(reader, writer)
        finally:
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._hold()
        if self.mode is Mode.RESET:
            return
        if isinstance(self.upstream, Path):
            server_reader, server_writer = await asyncio.open_unix_connection(str(self.upstream))
        else:
            server_reader, server_writer = await asyncio.open_connection(*self.upstream)
        both = {writer, server_writer}
        self._open |= both
        there = asyncio.ensure_future(self._pump(reader, server_writer, is_reply=False))
        back = asyncio.ensure_future(self._pump(server_reader, writer, is_reply=True))
        try:
            await asyncio.wait((there, back), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((there, back), timeout=0.5)  # the other way may have something to say still
        finally:
            self._open -= both
            there.cancel()
            back.cancel()
            server_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self.mode is Mode.SLOW:
                    await asyncio.sleep(SLOW_SECONDS)
                await self._hold()
                if is_reply and self.mode is Mode.DROP_REPLIES:
                    continue
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()

    async def _hold(self) -> None:
        while self.mode is Mode.BLACKHOLE:
            await self._changed.wait()
