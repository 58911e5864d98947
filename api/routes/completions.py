"""POST /v1/completions and /v1/chat/completions."""

from fastapi import APIRouter, Request, Response

from api.auth import NEEDS_KEY
from api.submitting.generating import generate
from models.requests import CHAT, COMPLETIONS

router = APIRouter()


@router.post(COMPLETIONS, openapi_extra=NEEDS_KEY)
async def create_completion(request: Request) -> Response:
    """Complete a prompt, or each of several: at once queued with `background`, else when it is done."""
    return await generate(request, COMPLETIONS)


@router.post(CHAT, openapi_extra=NEEDS_KEY)
async def create_chat_completion(request: Request) -> Response:
    """Answer a chat: at once queued with `background`, else when it is done."""
    return await generate(request, CHAT)
