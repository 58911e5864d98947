"""Random bits by the handful: the operating system is asked for many at once, as each call costs what a small query
does (on virtual machines up to 0.1 ms)."""

import os
import threading

POOL_BYTES = 4096


class _Pool:
    """Bytes of the operating system that nobody got yet. Emptied in a forked child, which must draw its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left = b""
        os.register_at_fork(after_in_child=self._start_anew)

    def take(self, num_bytes: int) -> bytes:
        """Give out bytes, once."""
        with self._lock:
            if len(self._left) < num_bytes:
                self._left = os.urandom(POOL_BYTES)
            taken, self._left = self._left[:num_bytes], self._left[num_bytes:]
        return taken

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._left = b""


_pool = _Pool()


def random_bits(num_bits: int) -> int:
    """An unpredictable integer of so many bits."""
    return int.from_bytes(_pool.take((num_bits + 7) // 8)) >> (-num_bits % 8)


def random_hex(num_bytes: int) -> str:
    """So many unpredictable bytes as hexadecimal text."""
    return _pool.take(num_bytes).hex()
