"""Dead letters as they are listed, and their replays: what a row says, and never what was asked. An administrator
reads them of every tenant."""

from api.rendering.bodies import Json
from api.rendering.jobs import RETRY_OF, job_entry, metadata_of
from models.records import JobRecord


def dead_letter_body(job: JobRecord) -> Json:
    """A dead letter."""
    return job_entry(job) | {"tenant": job.tenant}


def replay_body(job: JobRecord) -> Json:
    """The job that does its work over again."""
    return job_entry(job) | {RETRY_OF: metadata_of(job).get(RETRY_OF)}
