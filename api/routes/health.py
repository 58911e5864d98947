"""Health for load balancers and people, numbers for Prometheus; no keys, nothing about a single job."""

import logging
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.responses import json_response
from api.services import Services, ServicesDep
from models import migrations
from models.errors import BatchmillError, ConfigurationError

log = logging.getLogger(__name__)
router = APIRouter()

MIGRATE = "run `batchmill db upgrade`"


@router.get("/health")
@router.get("/health/live")
async def live() -> Response:
    """The process answers; nothing else is asked."""
    return json_response({"status": "ok"})


@router.get("/health/ready")
def ready(services: ServicesDep) -> Response:
    """200 while jobs can be accepted: the database answers with the tables of this version.

    Without Redis or workers jobs are still accepted, and wait: that is said, and is no reason for a restart.
    """
    checks = _database(services)
    accepts = checks["database"] == checks["migrations"] == "ok"
    redis = "ok" if services.broker.answers() else "degraded"
    workers = len(services.store.workers()) if accepts else None
    warnings = _warnings(services, redis=redis, workers=workers)
    status = "ready" if accepts else "unavailable"
    body = {"status": status, **checks, "redis": redis, "workers": workers, "warnings": warnings}
    return json_response(body, 200 if accepts else 503)


@router.get("/metrics")
async def show_metrics(services: ServicesDep) -> Response:
    """What Prometheus scrapes. Without a database the service's own numbers are still told."""
    try:
        load = await services.load.get()
    except BatchmillError as error:
        log.warning("cannot read the load: %s", error, extra={"action": "load_failed"})
        load = None
    return Response(services.metrics.exposition(load), media_type=CONTENT_TYPE_LATEST)


@router.get("/version")
async def show_version() -> Response:
    """The version of this service."""
    return json_response({"version": version("batchmill")})


def _database(services: Services) -> dict[str, Any]:
    """Whether the database answers, and whether its schema is this version's."""
    try:
        current = migrations.is_current(services.database)
    except ConfigurationError:
        return {"database": "ok", "migrations": MIGRATE}
    except BatchmillError:
        return {"database": "unavailable", "migrations": "unknown"}
    return {"database": "ok", "migrations": "ok" if current else MIGRATE}


def _warnings(services: Services, *, redis: str, workers: int | None) -> list[str]:
    """What makes jobs wait though they are accepted."""
    found = ["no live worker: jobs wait" if workers == 0 else None]
    if redis == "ok":
        found.append(services.broker.eviction_warning())
    else:
        found.append("Redis is away: jobs start when a worker looks into the table")
    if services.disk.almost_full() is not None:
        found.append("the disk of the database or of the files is almost full: workers on it claim nothing")
    return [warning for warning in found if warning is not None]
