"""POST /v1/responses."""

from fastapi import APIRouter, Request, Response

from api.auth import CallerDep
from api.generating import generate
from api.services import ServicesDep
from models.requests import RESPONSES

router = APIRouter()


@router.post(RESPONSES)
async def create_response(request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Answer an input: at once queued with `background`, else when it is done."""
    return await generate(request, services, caller, RESPONSES)
