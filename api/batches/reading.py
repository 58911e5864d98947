"""Batches as routes read them: the caller's own, with what their object tells beside their row. Queries are the
store's; how many there are does not depend on the batch."""

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

from api.rendering.batches import Surroundings, batch_body
from api.rendering.bodies import Json
from api.services import Services
from models.errors import NotFound, ResultExpired
from models.records import BatchMark, BatchRecord
from models.status import BatchStatus

WITH_ROWS = (BatchStatus.IN_PROGRESS, BatchStatus.FINALIZING, BatchStatus.CANCELLING)
WAITING = (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS)  # statuses in which a batch may lack a worker


def read_batch(services: Services, tenant: str, batch_id: UUID) -> BatchRecord:
    """The batch. Raises NotFound."""
    batch = services.batches.get(batch_id, tenant)
    if batch is None:
        raise NotFound
    return batch


def read_batch_with_rows(services: Services, tenant: str, batch_id: UUID) -> BatchRecord:
    """The batch, whose rows are still to be read. Raises NotFound, ResultExpired."""
    batch = read_batch(services, tenant, batch_id)
    if batch.results_expired_at is not None:
        raise ResultExpired
    return batch


def show_batch(services: Services, tenant: str, batch_id: UUID) -> Json:
    """The batch object. Raises NotFound."""
    batch = read_batch(services, tenant, batch_id)
    first_errors = services.batches.first_errors(batch_id) if batch.num_failed else []
    num_running = _num_running(services, batch)
    is_waiting = batch.status in WAITING and not num_running
    around = Surroundings(
        datetime.now(UTC),
        num_running=num_running,
        first_errors=first_errors,
        live_models=_live_models(services) if is_waiting else None,
        first_model=_first_model(services, batch) if is_waiting else None,
    )
    return batch_body(batch, around)


def show_batches(services: Services, batches: Sequence[BatchRecord]) -> list[Json]:
    """The objects of a list, which leaves first_errors to the single object: each of them would be a query."""
    now = datetime.now(UTC)
    live_models = _live_models(services) if any(batch.status in WAITING for batch in batches) else None
    return [
        batch_body(batch, Surroundings(now, num_running=_num_running(services, batch), live_models=live_models))
        for batch in batches
    ]


def mark_of(batch: BatchRecord) -> BatchMark:
    """How far the batch is, to be compared with how far it will be."""
    return BatchMark(
        batch.status, batch.num_total, batch.num_completed, batch.num_failed, batch.num_cancelled, batch.num_expired
    )


def _num_running(services: Services, batch: BatchRecord) -> int:
    return services.batches.num_running(batch.id) if batch.status in WITH_ROWS else 0


def _first_model(services: Services, batch: BatchRecord) -> str | None:
    """Not that of the first waiting row: finding that one would cost more the further the batch is."""
    rows = services.batches.results(batch.id, limit=1)
    return rows[0].model if rows else None


def _live_models(services: Services) -> frozenset[str]:
    return frozenset(worker.model for worker in services.store.workers())
