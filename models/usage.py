"""What a tenant's jobs came to over a time: how many, and their tokens.

Batches carry their sums. Single jobs are summed up from their completions, which is work for each of them: less than a
second for 10^5. A ledger would save it, and put one more write, to one row of each tenant, into every commit.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, case, func, select

from models.columns import is_one_of
from models.errors import RequestError
from models.ids import JOB_ENDPOINTS
from models.packing import load_json
from models.status import FINAL, Status
from models.tables import NUM_FINISHED, batches, completions, jobs, payloads

MAX_SINGLE_JOBS = 100_000  # whose completions one call reads
CHUNK = 1000  # bodies in memory at a time


@dataclass(frozen=True, slots=True)
class Usage:
    """Jobs by final status, those without one, and the tokens of the completed ones. Each prompt counts once."""

    by_status: dict[Status, int]
    num_unfinished: int
    num_batches: int
    prompt_tokens: int
    output_tokens: int


def of_tenant(connection: Connection, tenant: str, start: datetime, end: datetime) -> Usage:
    """Sum up single jobs accepted in [start, end) and the rows of batches made then.

    Raises RequestError where more than MAX_SINGLE_JOBS single ones were completed.
    """
    single = _single_jobs(tenant, start, end)
    by_status = select(jobs.c.status, func.count()).where(*single).group_by(jobs.c.status)
    counts: dict[str, int] = {status: num for status, num in connection.execute(by_status)}
    if counts.get(Status.COMPLETED, 0) > MAX_SINGLE_JOBS:
        message = f"more than {MAX_SINGLE_JOBS} jobs outside batches were completed in this time: ask for a shorter one"
        raise RequestError("invalid_value", message, param="start_time")
    completed = [*single, jobs.c.status == Status.COMPLETED]
    prompt_tokens, output_tokens = _tokens(connection, completed)
    batch = _batches(connection, tenant, start, end)
    return Usage(
        by_status={status: counts.get(status, 0) + batch[f"num_{status}"] for status in FINAL},
        num_unfinished=sum(num for status, num in counts.items() if status not in FINAL) + batch["num_unfinished"],
        num_batches=batch["num_batches"],
        prompt_tokens=prompt_tokens + _tokens_of_lists(connection, completed) + batch["prompt_tokens"],
        output_tokens=output_tokens + batch["output_tokens"],
    )


def _single_jobs(tenant: str, start: datetime, end: datetime) -> list[ColumnElement[bool]]:
    """Endpoint and status come before the time in their index: named here, one range of it is read for each."""
    return [
        jobs.c.tenant == tenant,
        jobs.c.batch_id.is_(None),
        jobs.c.endpoint.in_(JOB_ENDPOINTS),
        jobs.c.status.in_(list(Status)),
        jobs.c.created_at >= start,
        jobs.c.created_at < end,
    ]


def _tokens(connection: Connection, these: list[ColumnElement[bool]]) -> tuple[int, int]:
    """Prompt tokens of the first prompt of each job, and output tokens of all choices."""
    first = case((completions.c.choice_index == 0, completions.c.prompt_tokens), else_=0)
    sums = select(func.coalesce(func.sum(first), 0), func.coalesce(func.sum(completions.c.output_tokens), 0))
    row = connection.execute(sums.join(jobs, jobs.c.id == completions.c.job_id).where(*these)).one()
    return int(row[0]), int(row[1])


def _tokens_of_lists(connection: Connection, these: list[ColumnElement[bool]]) -> int:
    """Prompt tokens of the further prompts of jobs that have a list of them: only its body tells which choice is whose.

    Few jobs have more than one choice, and only their bodies are read.
    """
    query = (
        select(jobs.c.id, payloads.c.body)
        .join(completions, (completions.c.job_id == jobs.c.id) & (completions.c.choice_index == 1))
        .join(payloads, payloads.c.job_id == jobs.c.id)
        .where(*these)
    )
    found = connection.execute(query, execution_options={"yield_per": CHUNK})
    return sum(_of_chunk(connection, {row.id: load_json(row.body) for row in rows}) for rows in found.partitions())


def _of_chunk(connection: Connection, bodies: dict[UUID, Any]) -> int:
    num_answers = {id: body.get("n", 1) for id, body in bodies.items() if _is_list(body.get("prompt"))}
    wanted = (completions.c.job_id, completions.c.choice_index, completions.c.prompt_tokens)
    query = select(*wanted).where(is_one_of(connection, completions.c.job_id, list(num_answers)))
    rows = connection.execute(query.where(completions.c.choice_index > 0))
    return sum(row.prompt_tokens for row in rows if row.choice_index % num_answers[row.job_id] == 0)


def _is_list(prompt: object) -> bool:
    """Whether these are several prompts; token ids are one."""
    return isinstance(prompt, list) and not isinstance(prompt[0], int)


def _batches(connection: Connection, tenant: str, start: datetime, end: datetime) -> dict[str, int]:
    names = (*(f"num_{status}" for status in FINAL), "prompt_tokens", "output_tokens")
    sums = [func.coalesce(func.sum(batches.c[name]), 0).label(name) for name in names]
    unfinished = func.coalesce(func.sum(batches.c.num_total - NUM_FINISHED), 0).label("num_unfinished")
    these = (batches.c.tenant == tenant, batches.c.created_at >= start, batches.c.created_at < end)
    row = connection.execute(select(func.count().label("num_batches"), unfinished, *sums).where(*these)).one()
    return {name: int(value) for name, value in row._mapping.items()}
