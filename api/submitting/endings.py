"""What the end of a job means to the client that waited for it."""

from api.errors import JobCancelled, JobExpired, JobFailed, SyncTimeout
from api.rendering.bodies import error_of, job_public_id
from models.errors import RequestError
from models.faults import OUR_FAULTS
from models.records import JobRecord
from models.status import FINAL, Status


def completed(job: JobRecord) -> JobRecord:
    """The job, if it completed. Raises SyncTimeout, RequestError or one of the kind of JobFailed."""
    if job.status is Status.COMPLETED:
        return job
    if job.status not in FINAL:
        raise SyncTimeout(
            f"not finished yet; it goes on as job {job_public_id(job)}: GET /v1/jobs/{job_public_id(job)}"
        )
    error = error_of(job)
    if job.status is Status.FAILED and error.code not in OUR_FAULTS:
        raise RequestError(error.code, error.message)
    kinds = {Status.CANCELLED: JobCancelled, Status.EXPIRED: JobExpired}
    raise kinds.get(job.status, JobFailed)(error.code, error.message)
