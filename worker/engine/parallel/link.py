"""Messages between rank 0 and a process that follows it: JSON objects over a pair of sockets, lengths first.

Only these two hold the pair, so nobody else can speak; and it ends with either of them.
"""

import json
import socket
from typing import Any

from worker.engine.parallel.ranks import RankLost

Message = dict[str, Any]
_LENGTH_BYTES = 4


class Link:
    """One end of the pair."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def send(self, message: Message) -> None:
        """Send a message. Raises RankLost where the other end is closed."""
        data = json.dumps(message).encode()
        try:
            self._end.sendall(len(data).to_bytes(_LENGTH_BYTES, "big") + data)
        except OSError as error:
            raise RankLost("the other process has ended") from error

    def receive(self, timeout_seconds: float | None = None) -> Message:
        """Wait for a message. Raises RankLost where the other end is closed, or silent for so long."""
        try:
            self._end.settimeout(timeout_seconds)
            size = int.from_bytes(self._read(_LENGTH_BYTES), "big")
            message: Message = json.loads(self._read(size))
        except TimeoutError as error:
            raise RankLost(f"the other process has not answered for {timeout_seconds:g} s") from error
        except OSError as error:
            raise RankLost("the other process has ended") from error
        return message

    def close(self) -> None:
        """Hang up."""
        self._end.close()

    def _read(self, num_bytes: int) -> bytes:
        data = b""
        while len(data) < num_bytes:
            piece = self._end.recv(num_bytes - len(data))
            if not piece:
                raise RankLost("the other process has ended")
            data += piece
        return data
