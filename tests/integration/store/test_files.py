"""Rows of files, on both databases: what is seen, in which order, and when a file may go."""

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import update

from models import batches as batch_rows
from models.batch_store import BatchStore
from models.claims import Claims
from models.database import Database
from models.errors import FileInUse, NotFound, RequestError
from models.file_store import FileStore
from models.ids import uuid7
from models.records import FileRecord, NewBatch, NewFile
from models.status import BatchStatus
from models.tables import files as table
from tests.integration.store.making import ENDPOINT, completed, failed, lines, new_batch, new_worker, whole_batch

TENANT = "acme"
HOUR = 3600


@pytest.fixture
def files(database: Database) -> FileStore:
    return FileStore(database)


def stored(files: FileStore, *, tenant: str = TENANT, purpose: str = "batch", seconds: int | None = None) -> FileRecord:
    """The row of an upload."""
    return files.create(NewFile(uuid7(), tenant, purpose, "in.jsonl", 7, seconds))


def expire(files: FileStore, *ids: UUID) -> None:
    """Let the time of files be over."""
    with files.database.transaction() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(update(table).where(table.c.id.in_(ids)).values(expires_at=past))


def names(page: Sequence[FileRecord]) -> list[UUID]:
    return [file.id for file in page]


def output_id(batches: BatchStore, batch_id: UUID, *, errors: bool = False) -> UUID:
    batch = batches.get(batch_id)
    assert batch is not None
    id = batch.error_file_id if errors else batch.output_file_id
    assert id is not None
    return id


def test_file_reads_back_as_it_came(files: FileStore) -> None:
    file = stored(files, seconds=HOUR)

    assert files.get(file.id, TENANT) == file
    assert (file.bytes, file.filename, file.purpose, file.status) == (7, "in.jsonl", "batch", "processed")
    assert file.expires_at == file.created_at + timedelta(seconds=HOUR)
    assert file.created_at.tzinfo is UTC


def test_name_that_a_database_refuses_is_stored(files: FileStore) -> None:
    file = files.create(NewFile(uuid7(), TENANT, "batch", "a\0b\ud800", 1))

    assert files.get(file.id, TENANT) == file


def test_foreign_file_is_not_there(files: FileStore) -> None:
    file = stored(files)

    assert files.get(file.id, "other") is None
    with pytest.raises(NotFound):
        files.delete(file.id, "other")
    assert names(files.list("other", limit=10)) == []
    with pytest.raises(RequestError):
        files.list("other", after=file.id, limit=10)
    assert files.get(file.id, TENANT) == file


def test_list_is_newest_first_page_by_page(files: FileStore) -> None:
    made = [stored(files).id for _ in range(7)]
    stored(files, tenant="other")
    found: list[UUID] = []
    while page := files.list(TENANT, limit=3, after=found[-1] if found else None):
        found += names(page)

    assert found == made[::-1]
    assert names(files.list(TENANT, limit=10, newest_first=False)) == made
    assert names(files.list(TENANT, limit=2, newest_first=False, after=made[4])) == made[5:]


def test_files_of_one_moment_are_listed_once_each(files: FileStore) -> None:
    """Where times are equal the ids decide."""
    made = sorted(stored(files).id for _ in range(5))
    with files.database.transaction() as connection:
        connection.execute(update(table).values(created_at=datetime(2026, 1, 1, tzinfo=UTC)))

    assert names(files.list(TENANT, limit=2, after=made[3])) == [made[2], made[1]]
    assert names(files.list(TENANT, limit=9, after=made[1], newest_first=False)) == made[2:]


def test_list_of_a_purpose(files: FileStore) -> None:
    wanted = stored(files, purpose="evals").id
    stored(files)

    assert names(files.list(TENANT, purpose="evals", limit=10)) == [wanted]


def test_unknown_cursor_is_refused(files: FileStore) -> None:
    with pytest.raises(RequestError) as refused:
        files.list(TENANT, after=uuid7(), limit=10)

    assert (refused.value.error_code, refused.value.param) == ("invalid_cursor", "after")


def test_expired_file_is_not_there(files: FileStore) -> None:
    file, kept = stored(files, seconds=HOUR), stored(files)
    expire(files, file.id)

    assert files.get(file.id, TENANT) is None
    assert names(files.list(TENANT, limit=10)) == [kept.id]
    with pytest.raises(NotFound):
        files.delete(file.id, TENANT)


def test_expired_rows_go_the_oldest_first(files: FileStore) -> None:
    made = [stored(files, seconds=HOUR).id for _ in range(3)]
    expire(files, made[1])
    time.sleep(0.002)
    expire(files, made[0])

    assert names(files.expire(1)) == [made[1]]
    files.forget([made[1]])
    assert names(files.expire(10)) == [made[0]]
    files.forget([made[0]])
    assert names(files.expire(10)) == []
    assert files.get(made[2], TENANT) is not None


def test_expired_file_is_found_until_it_is_forgotten(files: FileStore, batches: BatchStore) -> None:
    """A process that dies between the bytes and the row leaves a row that the next one finds, and nobody reads."""
    file = stored(files, seconds=HOUR)
    expire(files, file.id)

    assert names(files.expire(10)) == names(files.expire(10)) == [file.id]
    assert files.get(file.id, TENANT) is None
    with pytest.raises(NotFound):
        new_batch(batches, tenant=TENANT, input_file_id=file.id)


def test_input_of_a_live_batch_stays(files: FileStore, batches: BatchStore) -> None:
    file = stored(files)
    batch_id = new_batch(batches, tenant=TENANT, input_file_id=file.id)

    with pytest.raises(FileInUse):
        files.delete(file.id, TENANT)
    expire(files, file.id)
    assert files.expire(10) == []

    batches.cancel(batch_id)
    assert names(files.expire(10)) == [file.id]


@pytest.mark.parametrize("ending", ["cancel", "fail"])
def test_input_of_a_final_batch_may_go(files: FileStore, batches: BatchStore, ending: str) -> None:
    file = stored(files)
    batch_id = new_batch(batches, tenant=TENANT, input_file_id=file.id)
    if ending == "cancel":
        batches.cancel(batch_id)
    else:
        batches.fail(batch_id, [])

    assert files.delete(file.id, TENANT) == file
    assert files.get(file.id, TENANT) is None


def test_file_cannot_go_while_a_batch_of_it_is_being_made(files: FileStore) -> None:
    """The maker locks the row first, so that the deleter waits and then sees the batch."""
    file = stored(files)
    outcomes: list[object] = []

    def delete() -> None:
        try:
            outcomes.append(files.delete(file.id, TENANT))
        except FileInUse as error:
            outcomes.append(type(error))

    deleter = threading.Thread(target=delete)
    with files.database.transaction() as connection:
        batch_rows.create(connection, NewBatch(uuid7(), ENDPOINT, tenant=TENANT, input_file_id=file.id))
        deleter.start()
        time.sleep(0.2)  # it has looked by now, were there nothing to wait for
    deleter.join()

    assert outcomes == [FileInUse]


def test_batch_cannot_be_made_of_a_file_that_is_going(files: FileStore, batches: BatchStore) -> None:
    file = stored(files)
    files.delete(file.id, TENANT)

    with pytest.raises(NotFound):
        batches.create(NewBatch(uuid7(), ENDPOINT, tenant=TENANT, input_file_id=file.id))


def test_running_batch_has_its_outputs_in_part(files: FileStore, batches: BatchStore) -> None:
    batch_id = new_batch(batches, tenant=TENANT)
    id = output_id(batches, batch_id)

    file = files.get(id, TENANT)

    assert file is not None
    assert (file.status, file.bytes, file.batch_id, file.purpose) == ("uploaded", None, batch_id, "batch_output")
    assert files.get(id, "other") is None
    assert names(files.list(TENANT, limit=10)) == []
    with pytest.raises(FileInUse):
        files.delete(id, TENANT)
    with pytest.raises(NotFound):
        files.delete(id, "other")


def test_final_batch_gets_the_files_that_have_lines(files: FileStore, batches: BatchStore, claims: Claims) -> None:
    batch_id = whole_batch(batches, lines(3), tenant=TENANT, output_expires_after_seconds=HOUR)
    worker_id = new_worker(claims)
    rows = claims.claim(worker_id, [job.id for job in batches.results(batch_id)])
    claims.commit(worker_id, [completed(job) for job in rows])

    file = files.get(output_id(batches, batch_id), TENANT)

    assert file is not None
    assert (file.status, file.bytes, file.batch_id) == ("processed", None, batch_id)
    assert file.filename == f"batch_{batch_id.hex}_output.jsonl"
    assert file.expires_at == file.created_at + timedelta(seconds=HOUR)
    assert files.get(output_id(batches, batch_id, errors=True), TENANT) is None
    assert names(files.list(TENANT, purpose="batch_output", limit=10)) == [file.id]


def test_batch_whose_rows_all_failed_has_an_error_file_alone(
    files: FileStore, batches: BatchStore, claims: Claims
) -> None:
    batch_id = whole_batch(batches, lines(2), tenant=TENANT)
    worker_id = new_worker(claims)
    rows = claims.claim(worker_id, [job.id for job in batches.results(batch_id)])
    claims.commit(worker_id, [failed(job) for job in rows])

    assert files.get(output_id(batches, batch_id), TENANT) is None
    file = files.get(output_id(batches, batch_id, errors=True), TENANT)
    assert file is not None
    assert file.expires_at is None


def test_cancelled_batch_has_an_error_file(files: FileStore, batches: BatchStore) -> None:
    batch_id = whole_batch(batches, lines(2), tenant=TENANT)
    batches.cancel(batch_id)

    found = batches.get(batch_id)
    assert found is not None
    assert found.status is BatchStatus.CANCELLED
    assert files.get(output_id(batches, batch_id, errors=True), TENANT) is not None


def test_batch_that_was_never_valid_has_no_files(files: FileStore, batches: BatchStore) -> None:
    batch_id = new_batch(batches, tenant=TENANT)
    batches.fail(batch_id, [{"code": "empty_file", "message": "", "param": None, "line": None}])

    assert files.get(output_id(batches, batch_id), TENANT) is None
    assert files.get(output_id(batches, batch_id, errors=True), TENANT) is None


def test_deleted_output_stays_deleted(files: FileStore, batches: BatchStore) -> None:
    batch_id = whole_batch(batches, lines(1), tenant=TENANT)
    batches.cancel(batch_id)
    id = output_id(batches, batch_id, errors=True)

    files.delete(id, TENANT)

    assert files.get(id, TENANT) is None
    with pytest.raises(NotFound):
        files.delete(id, TENANT)


def test_length_is_noted(files: FileStore, batches: BatchStore) -> None:
    batch_id = whole_batch(batches, lines(1), tenant=TENANT)
    batches.cancel(batch_id)
    id = output_id(batches, batch_id, errors=True)

    files.set_measured(id, 123)

    file = files.get(id, TENANT)
    assert file is not None
    assert file.bytes == 123
