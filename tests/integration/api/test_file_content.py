"""Downloads: uploads and ranges of them, batches' outputs while they run and after."""

import gzip
import json
import os
import zlib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.files import batch_files
from api.files.batch_files import BatchFile
from api.services import Services
from models.errors import NotFound
from models.ids import public_id
from models.records import JobRecord, Outcome
from models.status import Status
from tests.integration.api.fakes import Worker
from tests.integration.api.test_completions import error_of
from tests.integration.api.test_files import send
from tests.integration.store.making import lines, new_batch

DATA = bytes(range(256)) * 3000  # more than one chunk
PLAIN = {"accept-encoding": "identity"}
PARTIAL = "x-batchmill-partial"


@pytest.fixture
def services(app: FastAPI) -> Services:
    services: Services = app.state.services
    return services


class Batch:
    """A batch whose rows the test ends as it likes."""

    def __init__(self, services: Services, worker: Worker, num_rows: int, *, is_whole: bool = True) -> None:
        self._services, self._worker = services, worker
        self.id = new_batch(services.batches)
        rows = lines(num_rows, body={"prompt": "hello", "seed": 1})
        services.batches.append(self.id, rows, num_lines=num_rows, num_bytes=0)
        if is_whole:
            services.batches.end_intake(self.id)
        record = services.batches.get(self.id)
        assert record is not None
        assert record.output_file_id is not None
        assert record.error_file_id is not None
        self.output, self.errors = (public_id("file", id) for id in (record.output_file_id, record.error_file_id))

    def rows(self) -> Sequence[JobRecord]:
        return self._services.batches.results(self.id)

    def complete(self, *numbers: int, text: str = "done") -> None:
        """End rows well."""
        rows = self.rows()
        for number in numbers:
            self._worker.complete(self._worker.claim(rows[number].id), f"{text} {number}")

    def fail(self, *numbers: int) -> None:
        rows = self.rows()
        for number in numbers:
            self._worker.fail(self._worker.claim(rows[number].id), "context_length_exceeded")

    def cancel(self) -> None:
        self._services.batches.cancel(self.id)


def parsed(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def custom_ids(text: str) -> list[str]:
    return [line["custom_id"] for line in parsed(text)]


def url(file_id: str) -> str:
    return f"/v1/files/{file_id}/content"


def test_upload_is_answered_as_it_came(client: TestClient) -> None:
    answer = client.get(url(send(client, DATA)["id"]), headers={"accept": "application/binary"})

    assert answer.content == DATA
    assert answer.headers["content-length"] == str(len(DATA))
    assert answer.headers["content-type"] == "application/jsonl"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-disposition"].startswith("attachment; ")
    assert answer.headers["accept-ranges"] == "bytes"


def test_empty_upload_is_answered(client: TestClient) -> None:
    answer = client.get(url(send(client, b"")["id"]))

    assert (answer.status_code, answer.content) == (200, b"")


def test_page_is_never_shown_as_one(client: TestClient) -> None:
    id = send(client, b"<script>", purpose="user_data", filename="page.html")["id"]

    assert client.get(url(id), headers={"accept": "text/html"}).headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("range", "start", "stop"),
    [("bytes=0-0", 0, 1), ("bytes=300000-", 300_000, None), ("bytes=-5", len(DATA) - 5, None), ("bytes=7-9", 7, 10)],
)
def test_range_of_an_upload(client: TestClient, range: str, start: int, stop: int | None) -> None:
    answer = client.get(url(send(client, DATA)["id"]), headers={"range": range})

    part = DATA[start:stop]
    assert (answer.status_code, answer.content) == (206, part)
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(part) - 1}/{len(DATA)}"
    assert answer.headers["content-length"] == str(len(part))


def test_range_beyond_the_end(client: TestClient) -> None:
    answer = client.get(url(send(client, b"abc")["id"]), headers={"range": "bytes=3-"})

    assert error_of(answer)[:2] == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == "bytes */3"


@pytest.mark.parametrize("range", ["bytes=0-0,2-2", "bytes=9-1", "lines=0-1", "nonsense"])
def test_other_ranges_mean_the_whole(client: TestClient, range: str) -> None:
    answer = client.get(url(send(client, b"abc")["id"]), headers={"range": range})

    assert (answer.status_code, answer.content) == (200, b"abc")


def test_outputs_are_in_input_order(client: TestClient, services: Services, worker: Worker) -> None:
    """Whatever the order in which the rows end; every one is in one of the two files, once."""
    batch = Batch(services, worker, 6)
    batch.complete(5, 0, 3)
    batch.fail(4, 1)
    batch.cancel()

    output, errors = client.get(url(batch.output)).text, client.get(url(batch.errors)).text

    assert custom_ids(output) == ["request-0", "request-3", "request-5"]
    assert custom_ids(errors) == ["request-1", "request-2", "request-4"]
    first = parsed(output)[0]
    assert (first["response"]["status_code"], first["error"]) == (200, None)
    assert first["response"]["body"]["choices"][0]["text"] == "done 0"
    assert PARTIAL not in client.get(url(batch.output)).headers


def test_running_batch_shows_what_it_has(client: TestClient, services: Services, worker: Worker) -> None:
    """The ids are those of later; no range, as the bytes still change."""
    batch = Batch(services, worker, 3)

    before = client.get(url(batch.output), headers={"range": "bytes=0-3"})
    batch.complete(2)
    batch.fail(0)
    during = client.get(url(batch.output), headers={"range": "bytes=0-3"})

    assert (before.status_code, before.content, before.headers[PARTIAL]) == (200, b"", "true")
    assert custom_ids(during.text) == ["request-2"]
    assert "accept-ranges" not in during.headers
    assert custom_ids(client.get(url(batch.errors)).text) == ["request-0"]
    assert client.get(f"/v1/files/{batch.output}").json()["status"] == "uploaded"
    batch.complete(1)
    after = client.get(url(batch.output))
    assert (custom_ids(after.text), PARTIAL in after.headers) == (["request-1", "request-2"], False)
    assert client.get(f"/v1/files/{batch.output}").json()["status"] == "processed"


def test_batch_that_is_still_read_shows_what_it_has(client: TestClient, services: Services, worker: Worker) -> None:
    batch = Batch(services, worker, 2, is_whole=False)
    batch.complete(0, 1)

    answer = client.get(url(batch.output))

    assert (custom_ids(answer.text), answer.headers[PARTIAL]) == (["request-0", "request-1"], "true")


def test_file_without_lines_is_not_there(client: TestClient, services: Services, worker: Worker) -> None:
    batch = Batch(services, worker, 1)
    batch.complete(0)

    assert error_of(client.get(url(batch.errors)))[:2] == (404, "not_found")


def test_final_output_is_the_same_each_time(
    client: TestClient, services: Services, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, as ranges joined, and unpacked; whatever the size of the pages."""
    batch = Batch(services, worker, 40)
    batch.complete(*range(40))
    whole = client.get(url(batch.output), headers=PLAIN).content
    monkeypatch.setattr(batch_files, "FIRST_PAGE", 3)
    monkeypatch.setattr(batch_files, "PAGE_BYTES", 1000)
    monkeypatch.setattr(batch_files, "CHUNK_BYTES", 100)

    assert client.get(url(batch.output), headers=PLAIN).content == whole
    parts = [
        client.get(url(batch.output), headers={"range": f"bytes={start}-{start + 999}"})
        for start in range(0, len(whole), 1000)
    ]
    assert {part.status_code for part in parts} == {206}
    assert b"".join(part.content for part in parts) == whole
    assert parts[1].headers["content-range"] == f"bytes 1000-1999/{len(whole)}"


def test_range_of_an_output_nobody_measured(client: TestClient, services: Services, worker: Worker) -> None:
    batch = Batch(services, worker, 2)
    batch.complete(0, 1)

    tail = client.get(url(batch.output), headers={"range": "bytes=-20"})

    assert (tail.status_code, tail.content) == (206, client.get(url(batch.output)).content[-20:])
    beyond = client.get(url(batch.output), headers={"range": "bytes=1000000-"})
    assert error_of(beyond)[:2] == (416, "range_not_satisfiable")


def test_output_is_compressed_for_who_takes_it(client: TestClient, services: Services, worker: Worker) -> None:
    batch = Batch(services, worker, 30)
    batch.complete(*range(30))
    plain = client.get(url(batch.output), headers=PLAIN)

    with client.stream("GET", url(batch.output), headers={"accept-encoding": "br, gzip;q=0.5"}) as answer:
        packed = b"".join(answer.iter_raw())

    assert (answer.headers["content-encoding"], answer.headers["vary"]) == ("gzip", "accept-encoding")
    assert len(packed) < len(plain.content) / 2
    assert gzip.decompress(packed) == plain.content
    assert "content-encoding" not in plain.headers
    refused = client.get(url(batch.output), headers={"accept-encoding": "gzip;q=0"})
    assert "content-encoding" not in refused.headers


def test_compressed_output_comes_as_it_is_made() -> None:
    """Not all at the end."""
    chunks = iter([os.urandom(300_000) for _ in range(20)])
    packed = batch_files.gzipped(chunks)
    first = next(packed) + next(packed)

    assert len(zlib.decompressobj(31).decompress(first)) > 0
    assert len(list(chunks)) > 10


def test_length_of_a_small_output_is_told(client: TestClient, services: Services, worker: Worker) -> None:
    batch = Batch(services, worker, 2)
    batch.complete(0, 1)

    told = client.get(f"/v1/files/{batch.output}").json()["bytes"]

    assert told == len(client.get(url(batch.output), headers=PLAIN).content)
    assert client.get("/v1/files").json()["data"][0]["bytes"] == told


@pytest.mark.parametrize("headers", [PLAIN, {"accept-encoding": "gzip"}])
def test_length_of_a_large_output_is_told_once_it_was_read(
    client: TestClient,
    services: Services,
    worker: Worker,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
) -> None:
    monkeypatch.setattr("api.routes.files.MAX_LINES_MEASURED", 1)
    batch = Batch(services, worker, 2)
    batch.complete(0, 1)

    before = client.get(f"/v1/files/{batch.output}").json()["bytes"]
    read = client.get(url(batch.output), headers=headers).content

    assert before is None
    assert client.get(f"/v1/files/{batch.output}").json()["bytes"] == len(read)


def test_wrong_length_is_put_right(client: TestClient, services: Services, worker: Worker) -> None:
    """One measured by another version, which rendered otherwise, breaks no download."""
    batch = Batch(services, worker, 2)
    batch.complete(0, 1)
    record = services.batches.get(batch.id)
    assert record is not None
    assert record.output_file_id is not None
    services.files.set_measured(record.output_file_id, 3)

    read = client.get(url(batch.output), headers=PLAIN).content

    assert custom_ids(read.decode()) == ["request-0", "request-1"]
    assert client.get(f"/v1/files/{batch.output}").json()["bytes"] == len(read)


def test_deleted_output_is_gone_for_good(client: TestClient, services: Services, worker: Worker) -> None:
    batch = Batch(services, worker, 1)
    running = client.delete(f"/v1/files/{batch.output}")
    batch.complete(0)

    assert error_of(running)[:2] == (409, "file_in_use")
    assert client.delete(f"/v1/files/{batch.output}").json()["deleted"] is True
    assert error_of(client.get(url(batch.output)))[:2] == (404, "not_found")


def test_rows_that_expired_are_in_the_error_file(client: TestClient, services: Services, worker: Worker) -> None:
    batch = Batch(services, worker, 2)
    batch.complete(0)
    job = worker.claim(batch.rows()[1].id)
    worker.claims.commit(worker.id, [Outcome(job.id, job.attempt, Status.EXPIRED)])

    [line] = parsed(client.get(url(batch.errors)).text)

    assert (line["custom_id"], line["error"]["code"]) == ("request-1", "batch_expired")


def test_pages_shrink_where_rows_are_heavy(
    client: TestClient, services: Services, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is a page, so a page is sized by what the rows before it weighed."""
    batch = Batch(services, worker, 12)
    batch.complete(*range(12), text="x" * 1000)
    monkeypatch.setattr(batch_files, "FIRST_PAGE", 4)
    monkeypatch.setattr(batch_files, "PAGE_BYTES", 3000)
    limits: list[int] = []
    results = services.batches.results

    def noted(*args: Any, **given: Any) -> Sequence[JobRecord]:  # noqa: ANN401
        limits.append(given["limit"])
        return results(*args, **given)

    monkeypatch.setattr(type(services.batches), "results", lambda _, *args, **given: noted(*args, **given))

    assert len(custom_ids(client.get(url(batch.output)).text)) == 12
    assert limits[0] == 4
    assert max(limits[1:]) <= 2


@pytest.mark.parametrize("is_packed", [False, True])
def test_download_of_a_batch_that_is_deleted_meanwhile_breaks_off(
    client: TestClient, services: Services, worker: Worker, monkeypatch: pytest.MonkeyPatch, is_packed: bool
) -> None:
    """It must not look whole."""
    batch = Batch(services, worker, 12)
    batch.complete(*range(12))
    monkeypatch.setattr(batch_files, "FIRST_PAGE", 4)
    monkeypatch.setattr(batch_files, "CHUNK_BYTES", 1)
    record = services.batches.get(batch.id)
    assert record is not None
    assert record.output_file_id is not None
    chunks = BatchFile.of(services.batches, record, record.output_file_id).chunks()
    download = batch_files.gzipped(chunks) if is_packed else chunks
    next(download)

    assert client.delete(f"/v1/batches/{public_id('batch', batch.id)}").status_code == 200

    with pytest.raises(NotFound):
        list(download)


def test_bytes_that_are_gone_are_not_found(client: TestClient, services: Services) -> None:
    """The row was read just before somebody deleted the file."""
    id = send(client)["id"]
    services.blobs.delete(UUID(id.removeprefix("file-")))

    assert error_of(client.get(url(id)))[:2] == (404, "not_found")
