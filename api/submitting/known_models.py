"""Which models can be asked now, remembered for a moment, so that a submission costs no query."""

import asyncio
import time

from fastapi.concurrency import run_in_threadpool

from api.errors import ModelNotFound
from models.aliases import resolve_model
from models.settings import Settings
from models.store import Store

FRESH_SECONDS = 1.0


class KnownModels:
    """The models of live workers, and the one that this service was started for."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._aliases = settings.model_aliases
        self._own = settings.model_name
        self._store = store
        self._names: frozenset[str] = frozenset()
        self._fresh_until = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def resolve(self, name: str) -> str:
        """The model that a name or an alias means. Raises ModelNotFound.

        A name that is not known is asked for at once: its worker may have come a moment ago.
        """
        model = resolve_model(name, self._aliases)
        if model == self._own or (model in self._names and time.monotonic() < self._fresh_until):
            return model
        await self._ask()
        if model not in self._names:
            raise ModelNotFound(
                "model_not_found", "the model does not exist; GET /v1/models lists what does", param="model"
            )
        return model

    async def _ask(self) -> None:
        """One query for all who ask meanwhile."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._read())
        await asyncio.shield(self._asking)

    async def _read(self) -> None:
        workers = await run_in_threadpool(self._store.workers)
        self._names = frozenset(worker.model for worker in workers)
        self._fresh_until = time.monotonic() + FRESH_SECONDS
