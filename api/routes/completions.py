"""POST /v1/completions and /v1/chat/completions."""

from fastapi import APIRouter, Request, Response

from api.auth import CallerDep
from api.generating import generate
from api.services import ServicesDep
from models.requests import CHAT, COMPLETIONS

router = APIRouter()


@router.post(COMPLETIONS)
async def create_completion(request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Complete a prompt, or each of several: at once queued with `background`, else when it is done."""
    return await generate(request, services, caller, COMPLETIONS)


@router.post(CHAT)
async def create_chat_completion(request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Answer a chat: at once queued with `background`, else when it is done."""
    return await generate(request, services, caller, CHAT)
