"""GET /v1/models: what live workers announce, under the model's name and its aliases."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from fastapi import APIRouter, Response

from api.errors import ModelNotFound
from api.rendering.bodies import seconds
from api.responses import json_response
from api.services import Services, ServicesDep
from models.records import WorkerRecord
from models.status import DRAINING, UNHEALTHY

router = APIRouter()


@router.get("/v1/models")
def list_models(services: ServicesDep) -> Response:
    """List the models that can be asked now, and their aliases."""
    return json_response({"object": "list", "data": list(_entries(services).values())})


@router.get("/v1/models/{name:path}")
def get_model(name: str, services: ServicesDep) -> Response:
    """Read one of them. A name is compared with those there are, and is never a path or an address."""
    model = _entries(services).get(name)
    if model is None:
        raise ModelNotFound("model_not_found", "no worker serves a model of this name", param="model")
    return json_response(model)


def _entries(services: Services) -> dict[str, dict[str, Any]]:
    """By id: the models, and the aliases of those that are there. An alias wins over a model of its name."""
    by_model: defaultdict[str, list[WorkerRecord]] = defaultdict(list)
    for worker in services.store.workers():
        by_model[worker.model].append(worker)
    roots = {model: model for model in by_model} | services.settings.model_aliases
    return {id: _entry(id, root, by_model[root]) for id, root in roots.items() if root in by_model}


def _entry(id: str, root: str, workers: Sequence[WorkerRecord]) -> dict[str, Any]:
    """What its workers have in common: a job may come to any of them."""
    return {
        "id": id,
        "object": "model",
        "created": min(filter(None, (seconds(worker.started_at) for worker in workers)), default=0),
        "owned_by": "batchmill",
        "root": root,
        "state": _state({worker.state for worker in workers}),
        "max_model_len": min(worker.max_model_len for worker in workers),
        "dtype": _all_of(worker.dtype for worker in workers),
        "device": _all_of(worker.device for worker in workers),
        "rows": sum(worker.rows for worker in workers),
        "workers": len(workers),
    }


def _state(states: set[str]) -> str:
    """Loaded as long as a worker of these states takes jobs."""
    if states - {UNHEALTHY, DRAINING}:
        return "loaded"
    return DRAINING if DRAINING in states else UNHEALTHY


def _all_of(values: Iterable[str]) -> str:
    """One value, or those there are."""
    return ", ".join(sorted(set(values)))
