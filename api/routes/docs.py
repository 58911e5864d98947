"""GET /docs: the API document for people."""

from fastapi import APIRouter, Request, Response

from api.openapi.page import POLICY, render

router = APIRouter()


@router.get("/docs", include_in_schema=False)
def show_docs(request: Request) -> Response:
    """Show every route, what it takes and what it answers."""
    headers = {"content-security-policy": POLICY}
    return Response(render(request.app.openapi()), media_type="text/html", headers=headers)
