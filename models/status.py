"""The statuses of jobs and batches and the arrows between them, as data. Knows nothing of how they are stored."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """Where a job stands. Nothing leaves a final status."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class BatchStatus(StrEnum):
    """Where a batch stands, in OpenAI's words."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


# States of a worker, beside "ready". Neither claims anything more.
UNHEALTHY = "unhealthy"  # its device crashes whatever it runs
DRAINING = "draining"  # it was told to finish what it holds and to end

FINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED, Status.EXPIRED})
UNFINISHED = frozenset(Status) - FINAL
FINAL_BATCH = frozenset({BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.CANCELLED, BatchStatus.EXPIRED})


@dataclass(frozen=True, slots=True)
class Arrow:
    """One allowed change of a job's status. `start` is None where the row is new."""

    start: Status | None
    end: Status
    by: str
    when: str


ARROWS = (
    Arrow(None, Status.QUEUED, "api, intake, worker", "accepted: committed before the answer"),
    Arrow(None, Status.FAILED, "intake, worker", "a bad line or message: stored refused, never queued"),
    Arrow(Status.QUEUED, Status.IN_PROGRESS, "worker", "claim: attempt + 1, owner = incarnation"),
    Arrow(Status.IN_PROGRESS, Status.COMPLETED, "owner", "its own outcome, fenced"),
    Arrow(Status.IN_PROGRESS, Status.FAILED, "owner", "its own outcome, fenced"),
    Arrow(Status.IN_PROGRESS, Status.QUEUED, "owner", "drain: no blame"),
    Arrow(Status.IN_PROGRESS, Status.QUEUED, "keeper", "the owner's lease ran out: no blame"),
    Arrow(Status.IN_PROGRESS, Status.QUEUED, "successor", "confirmed crash: suspicion + 1"),
    Arrow(Status.IN_PROGRESS, Status.FAILED, "successor", "worker_crashed: crashed twice while decoding alone"),
    Arrow(Status.IN_PROGRESS, Status.FAILED, "keeper", "attempts_exhausted: too many lost leases"),
    Arrow(Status.QUEUED, Status.CANCELLED, "api", "at once"),
    Arrow(Status.IN_PROGRESS, Status.CANCELLED, "owner", "at the next decode step"),
    Arrow(Status.IN_PROGRESS, Status.CANCELLED, "keeper", "its owner died before it could obey"),
    Arrow(Status.QUEUED, Status.EXPIRED, "keeper", "deadline passed"),
    Arrow(Status.IN_PROGRESS, Status.EXPIRED, "owner", "deadline passed"),
    Arrow(Status.IN_PROGRESS, Status.EXPIRED, "keeper", "deadline passed and the owner's lease ran out"),
)  # fmt: skip


def is_allowed(start: Status | None, end: Status) -> bool:
    """Whether some arrow leads from `start` to `end`."""
    return any((arrow.start, arrow.end) == (start, end) for arrow in ARROWS)


def starts_of(end: Status) -> frozenset[Status]:
    """The statuses from which a stored row may go to `end`: the guard of each write."""
    return frozenset(arrow.start for arrow in ARROWS if arrow.end is end and arrow.start is not None)
