"""The HTTP service: an application built from settings and a database. Importing this module reads no setting."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import Depends, FastAPI

from api import errors
from api.auth import caller
from api.housekeeping import Housekeeper
from api.metrics import RequestMetrics
from api.openapi.document import DocumentedAPI
from api.request_id import RequestIds
from api.routes import (
    admin,
    batch_rows,
    batches,
    completions,
    dead_letters,
    docs,
    events,
    files,
    health,
    jobs,
    models,
    operators,
    responses,
    stored,
    stored_chats,
)
from api.services import Services
from models.database import REQUEST_STATEMENT_SECONDS, Database
from models.retention import Keep, Retention
from models.settings import Settings, load_settings


def create_app(settings: Settings, database: Database) -> FastAPI:
    """Build the service."""
    app = DocumentedAPI(
        title="Batchmill",
        version=version("batchmill"),
        lifespan=_lifespan,
        docs_url=None,  # both pages load scripts from elsewhere; ours does not
        redoc_url=None,
        redirect_slashes=False,  # a redirected POST loses its body or its key
    )
    app.state.services = Services.build(settings, database)
    app.add_middleware(RequestIds)
    app.add_middleware(RequestMetrics, metrics=app.state.services.metrics)
    errors.install(app)
    for module in (completions, responses):  # first: routes are tried in turn. Each of them asks who calls
        app.include_router(module.router)
    app.include_router(docs.router)
    app.include_router(health.router)
    for module in (
        *(admin, batch_rows, batches, dead_letters, events, files, jobs),
        *(models, operators, stored, stored_chats),
    ):
        app.include_router(module.router, dependencies=[Depends(caller)])
    return app


def app_from_environment() -> FastAPI:
    """For a server that builds the application itself: uvicorn --factory api.app:app_from_environment."""
    settings = load_settings()
    app = create_app(settings, Database(settings.database, statement_timeout_seconds=REQUEST_STATEMENT_SECONDS))
    app.state.services.blobs.prepare()
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Publisher and housekeeper run while the service does; the database is the caller's or ends with the process."""
    services: Services = app.state.services
    retention = Retention(services.database, services.blobs, Keep.of(services.settings))
    housekeeper = Housekeeper(retention, services.blobs)
    services.database.log_warnings()
    services.broker.start()
    housekeeper.start()
    yield
    housekeeper.stop()
    await services.feed.close()
    services.broker.stop()
