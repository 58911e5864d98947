"""`batchmill jobs`: single jobs, read from the database the settings name."""

import time

import orjson

from api.rendering.jobs import job_body
from cli.console import write_out
from models.database import Database
from models.errors import NotFound
from models.ids import parse_job_id
from models.records import JobRecord
from models.settings import Settings
from models.status import FINAL
from models.store import Store

POLL_SECONDS = 0.2


def print_job(settings: Settings, job_id: str, *, wait_seconds: float) -> None:
    """Print a job as JSON, after waiting up to `wait_seconds` for its end. Raises NotFound."""
    ends = time.monotonic() + wait_seconds
    while True:
        job = find_job(settings, job_id)
        if job.status in FINAL or time.monotonic() >= ends:
            break
        time.sleep(POLL_SECONDS)
    write_out(orjson.dumps(job_body(job), option=orjson.OPT_INDENT_2).decode())


def find_job(settings: Settings, job_id: str) -> JobRecord:
    """Look in the service's database, then in those of `batchmill run`. Raises NotFound."""
    runs = sorted((settings.state_dir / "runs").glob("*/batchmill.db"))
    urls = [settings.database] if settings.database_url or (settings.state_dir / "batchmill.db").is_file() else []
    for url in [*urls, *(f"sqlite:///{path.resolve()}" for path in runs)]:
        database = Database(url, pool_size=1)
        try:
            job = Store(database).job(parse_job_id(job_id))
        finally:
            database.dispose()
        if job is not None:
            return job
    raise NotFound(f"no job {job_id[:64]!r} in the database or in {settings.state_dir}")
