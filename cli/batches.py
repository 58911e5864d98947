"""`batchmill batches`: batches of a running service, over HTTP, so that it works from another machine as well."""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console

from cli.batch_progress import FINAL, BatchProgress, done, summary
from cli.client import Client, Json, Unreachable, path_to
from cli.output import STDOUT, default_errors_path
from models.errors import ConfigurationError, NotFound
from models.ids import parse_file_id
from models.requests import ENDPOINTS

EXIT_INTERRUPTED = 130  # as shells report ctrl-C
WAIT_SECONDS = 5  # of a long poll; so often the rates are shown anew while nothing changes
PACE_SECONDS = 0.25  # between two looks at a batch that changes all the time
OUTAGE_SECONDS = 300.0  # how long a watch outlives a service that restarts
PAGE = 100
PEEK_BYTES = 1 << 20


def create(client: Client, file: str, options: Mapping[str, object], *, endpoint: str | None) -> Json:
    """Upload a file of requests, unless it is the id of an uploaded one, and create a batch of it."""
    input_file_id, endpoint = _input_of(client, file, endpoint)
    body = {"input_file_id": input_file_id, "endpoint": endpoint, **options}
    return client.post("/batches", {name: value for name, value in body.items() if value is not None})


def list_all(client: Client, *, limit: int, status: str | None) -> list[Json]:
    """The newest batches, page after page."""
    found: list[Json] = []
    after: str | None = None
    while len(found) < limit:
        page = client.get("/batches", limit=min(PAGE, limit - len(found)), after=after, status=status)
        found += page["data"]
        after = page["last_id"]
        if not page["has_more"]:
            break
    return found


def watch(client: Client, batch_id: str, console: Console) -> Json:
    """Show a batch until it is over; returns it. Ctrl-C ends the watch, not the batch."""
    with BatchProgress(console) as progress:
        try:
            batch = client.get(path_to("batches", batch_id))
            while batch["status"] not in FINAL:
                progress.update(batch)
                time.sleep(PACE_SECONDS)
                batch = _next_look(client, batch, console)
        except KeyboardInterrupt:
            again = f"batchmill batches watch {batch_id}"
            console.print(f"detached; the batch goes on. To watch it again: {again}", highlight=False, soft_wrap=True)
            raise SystemExit(EXIT_INTERRUPTED) from None
    return batch


def save_results(client: Client, batch_id: str, output: str, errors: Path | None, console: Console) -> Json:
    """Write a batch's results, and its failed rows if it has some; those so far where it still runs. Returns it."""
    batch = client.get(path_to("batches", batch_id))
    file_id = batch["output_file_id"] or batch["partial_output_file_id"]
    if batch["status"] not in FINAL:
        console.print(f"{batch['status']}: these are the {done(batch)} rows done so far", highlight=False)
    _save(client, file_id, output)
    if batch["error_file_id"] is not None or errors is not None:
        path = errors or default_errors_path(STDOUT, output)
        _save(client, batch["error_file_id"], str(path))
        console.print(f"failed rows are in {path}", highlight=False, markup=False, soft_wrap=True)
    return batch


def say(batch: Json, console: Console) -> None:
    """What became of a batch, for a person."""
    for line in summary(batch):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def describe(batch: Json) -> str:
    """A batch as lines of names and values; what is not there is left out."""
    shown = {
        "id": batch["id"],
        "status": batch["status"],
        "reason": batch["status_reason"],
        "endpoint": batch["endpoint"],
        "priority": batch["priority"],
        "rows": ", ".join(f"{number} {name}" for name, number in batch["counts"].items() if number),
        "tokens": f"{batch['usage']['input_tokens']} in, {batch['usage']['output_tokens']} out",
        "created": _moment(batch["created_at"]),
        "expires": _moment(batch["expires_at"]),
        "input file": batch["input_file_id"],
        "output file": batch["output_file_id"],
        "error file": batch["error_file_id"],
        "partial output": batch["partial_output_file_id"],
        "metadata": ", ".join(f"{key}={value}" for key, value in batch["metadata"].items()),
    }
    return "\n".join(f"{name:<16}{value}" for name, value in shown.items() if value not in (None, ""))


def list_line(batch: Json) -> str:
    """A batch in one line of a list."""
    counts = batch["request_counts"]
    rows = f"{counts['completed']}/{counts['total']}" + (f" ({counts['failed']} failed)" if counts["failed"] else "")
    return f"{batch['id']}  {batch['status']:<11}  {_moment(batch['created_at'])}  {rows}"


def as_json(value: Json | list[Json]) -> str:
    """For machines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def _next_look(client: Client, batch: Json, console: Console) -> Json:
    """The batch once it changed, or a while later. A service that is away is waited for: the batch outlives it."""
    ends, told = time.monotonic() + OUTAGE_SECONDS, False
    while True:
        try:
            return client.get(path_to("batches", batch["id"]), wait=WAIT_SECONDS, until="change")
        except Unreachable:
            if time.monotonic() > ends:
                raise
            if not told:
                console.print("the service does not answer; watching goes on once it does", highlight=False)
            told = True


def _input_of(client: Client, file: str, endpoint: str | None) -> tuple[str, str]:
    """The id of the input, and its endpoint: as given, or as the first line says."""
    if file != STDOUT and not Path(file).exists() and _is_file_id(file):
        return file, endpoint or ENDPOINTS[0]
    with _opened(file) as stream:
        endpoint = endpoint or _endpoint_of(stream.readline(PEEK_BYTES))
        return client.upload(stream, "stdin.jsonl" if file == STDOUT else Path(file).name)["id"], endpoint


@contextmanager
def _opened(file: str) -> Iterator[IO[bytes]]:
    """A file, or standard input, on disk meanwhile as an upload tells its length before its bytes."""
    try:
        with tempfile.TemporaryFile() if file == STDOUT else Path(file).open("rb") as stream:
            if file == STDOUT:
                shutil.copyfileobj(sys.stdin.buffer, stream)
                stream.seek(0)
            yield stream
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror or error}") from error


def _is_file_id(text: str) -> bool:
    try:
        parse_file_id(text)
    except NotFound:
        return False
    return True


def _endpoint_of(line: bytes) -> str:
    """The url that a line names; the service finds out what else may be wrong with it."""
    try:
        url = json.loads(line)["url"]
    except (ValueError, KeyError, TypeError):
        return ENDPOINTS[0]
    return url if isinstance(url, str) else ENDPOINTS[0]


def _save(client: Client, file_id: str | None, name: str) -> None:
    """Write a file under its name once it is whole; without an id an empty one."""
    blocks = () if file_id is None else client.download(file_id)
    if name == STDOUT:
        for block in blocks:
            sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
        return
    path = Path(name)
    partial = path.with_name(f"{path.name}.partial")
    try:
        with partial.open("wb") as file:
            for block in blocks:
                file.write(block)
        partial.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
