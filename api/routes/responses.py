"""POST /v1/responses."""

from fastapi import APIRouter, Request, Response

from api.auth import NEEDS_KEY
from api.submitting.generating import generate
from models.requests import RESPONSES

router = APIRouter()


@router.post(RESPONSES, openapi_extra=NEEDS_KEY)
async def create_response(request: Request) -> Response:
    """Answer an input: at once queued with `background`, else when it is done."""
    return await generate(request, RESPONSES)
