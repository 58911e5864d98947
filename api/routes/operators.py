"""What waits, what was spent, what is allowed: GET /v1/queue, /v1/usage and /v1/limits."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.concurrency import run_in_threadpool

from api.auth import CallerDep
from api.limits import limits_body
from api.responses import json_response
from api.services import ServicesDep
from models.errors import RequestError
from models.overview import Load, Waiting
from models.usage import Usage

router = APIRouter()

DAY_SECONDS = 24 * 3600
MAX_USAGE_SECONDS = 31 * DAY_SECONDS
LATEST = 253_402_300_799  # the last second that a datetime holds

Moment = Annotated[int | None, Query(ge=0, le=LATEST, description="Unix seconds.")]


@router.get("/v1/queue")
async def show_queue(caller: CallerDep, services: ServicesDep) -> Response:
    """How many jobs wait for each model, and how long: the caller's, or everyone's for an administrator."""
    load = await services.load.get()
    mine = [group for group in load.waiting if caller.is_admin or group.tenant == caller.tenant]
    models = sorted({group.model for group in mine} | {worker.model for worker in load.workers})
    body = {"object": "queue", **_depth(load, mine), "workers": len(load.workers)}
    return json_response(body | {"models": [_of_model(load, mine, model) for model in models]})


@router.get("/v1/usage")
async def show_usage(
    caller: CallerDep, services: ServicesDep, start_time: Moment = None, end_time: Moment = None
) -> Response:
    """What the caller's jobs accepted in [start_time, end_time) came to; the last day if no time is given.

    Rows of a batch count under the time when the batch was made. What was deleted is not counted any more.
    """
    now = int(datetime.now(UTC).timestamp())
    end = now + 1 if end_time is None else end_time
    start = end - DAY_SECONDS if start_time is None else start_time
    if not 0 < end - start <= MAX_USAGE_SECONDS:
        limit = f"start_time must lie before end_time, by at most {timedelta(seconds=MAX_USAGE_SECONDS).days} days"
        raise RequestError("invalid_value", limit, param="start_time")
    times = (datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC))
    usage = await run_in_threadpool(services.overview.usage, caller.tenant, *times)
    return json_response({"object": "usage", "start_time": start, "end_time": end, **_usage_body(usage)})


@router.get("/v1/limits")
async def show_limits(services: ServicesDep) -> Response:
    """Every limit that a request may meet."""
    return json_response(limits_body(services.settings))


def _of_model(load: Load, mine: list[Waiting], model: str) -> dict[str, Any]:
    workers = [worker for worker in load.workers if worker.model == model]
    depth = _depth(load, [group for group in mine if group.model == model])
    return {"model": model, **depth, "workers": len(workers), "rows": sum(worker.rows for worker in workers)}


def _depth(load: Load, waiting: list[Waiting]) -> dict[str, Any]:
    by_priority: Counter[int] = Counter()
    for group in waiting:
        by_priority[group.priority] += group.num_jobs
    return {
        "depth": by_priority.total(),
        "by_priority": {str(priority): by_priority[priority] for priority in sorted(by_priority, reverse=True)},
        "oldest_seconds": load.age_seconds(waiting),
    }


def _usage_body(usage: Usage) -> dict[str, Any]:
    by_status = {str(status): num for status, num in usage.by_status.items()}
    num_jobs = sum(by_status.values()) + usage.num_unfinished
    return {
        "jobs": {"total": num_jobs, **by_status, "unfinished": usage.num_unfinished},
        "batches": usage.num_batches,
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }
