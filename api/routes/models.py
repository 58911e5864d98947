"""GET /v1/models: what live workers announce."""

from typing import Any

from fastapi import APIRouter, Response

from api.errors import ModelNotFound
from api.rendering import seconds
from api.responses import json_response
from api.services import ServicesDep
from models.records import WorkerRecord

router = APIRouter()


@router.get("/v1/models")
def list_models(services: ServicesDep) -> Response:
    """List the models that can be asked now."""
    return json_response({"object": "list", "data": list(_by_name(services.store.workers()).values())})


@router.get("/v1/models/{name}")
def get_model(name: str, services: ServicesDep) -> Response:
    """Read one of them."""
    model = _by_name(services.store.workers()).get(name)
    if model is None:
        raise ModelNotFound("model_not_found", "no worker serves a model of this name", param="model")
    return json_response(model)


def _by_name(workers: list[WorkerRecord]) -> dict[str, dict[str, Any]]:
    """One entry a model: what its first worker says of it, and how many workers it has."""
    found: dict[str, dict[str, Any]] = {}
    for worker in workers:
        entry = found.setdefault(
            worker.model,
            {
                "id": worker.model,
                "object": "model",
                "created": seconds(worker.started_at),
                "owned_by": "batchmill",
                "max_model_len": worker.max_model_len,
                "dtype": worker.dtype,
                "workers": 0,
            },
        )
        entry["workers"] += 1
    return found
