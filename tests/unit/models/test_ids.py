"""Ids: their order, their form outside, and what is not one."""

import threading
import uuid

import pytest

from models import ids
from models.errors import NotFound


def test_uuid7_has_the_bits_of_rfc_9562() -> None:
    made = ids.uuid7()

    assert made.version == 7
    assert made.variant == uuid.RFC_4122


def test_uuid7_holds_the_time_in_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids, "_next_ticks", lambda: (1_700_000_000_123 << 12) | 0xABC)

    made = ids.uuid7()

    assert made.int >> 80 == 1_700_000_000_123
    assert made.int >> 64 & 0xFFF == 0xABC


def test_uuid7_increases_within_a_process() -> None:
    made = [ids.uuid7() for _ in range(10_000)]

    assert made == sorted(set(made))


def test_a_clock_set_back_does_not_lead_ids_back() -> None:
    readings = iter([5, 9, 3, 3, 20])
    read = ids._rising(lambda: next(readings))

    assert [read() for _ in range(5)] == [5, 9, 10, 11, 20]


def test_threads_never_draw_the_same_place_in_the_queue() -> None:
    drawn: list[int] = []
    threads = [threading.Thread(target=lambda: drawn.extend(ids.next_seq() for _ in range(2000))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(drawn)) == 8000


@pytest.mark.parametrize("kind", ["/v1/completions", "/v1/chat/completions", "batch_req"])
def test_every_form_of_a_job_id_is_read_back(kind: str) -> None:
    id = ids.uuid7()

    assert ids.parse_job_id(ids.public_id(kind, id)) == id
    assert ids.parse_job_id(str(id)) == id
    assert ids.parse_job_id(id.hex.upper()) == id


def test_ids_of_batches_and_files_are_read_back() -> None:
    id = ids.uuid7()

    assert ids.parse_batch_id(ids.public_id("batch", id)) == id
    assert ids.parse_file_id(ids.public_id("file", id)) == id


@pytest.mark.parametrize(
    "text",
    ["", "cmpl-", "../x", "%00", "\0", "cmpl-" + "g" * 32, "x" * 10_000, "0" * 32 + "\n", "file-" + "0" * 32],
)
def test_what_is_no_job_id_is_not_found(text: str) -> None:
    with pytest.raises(NotFound):
        ids.parse_job_id(text)


def test_the_id_of_another_kind_is_not_found() -> None:
    id = ids.uuid7()

    with pytest.raises(NotFound):
        ids.parse_file_id(ids.public_id("batch", id))
    with pytest.raises(NotFound):
        ids.parse_batch_id(ids.public_id("batch_req", id))


def test_a_task_id_of_ours_names_itself() -> None:
    id = ids.uuid7()

    assert ids.job_id_of_task(str(id)) == id
    assert ids.job_id_of_task(ids.public_id("/v1/completions", id)) == id


def test_a_free_task_id_always_names_the_same_job() -> None:
    assert ids.job_id_of_task("nightly/2026-11-21") == ids.job_id_of_task("nightly/2026-11-21")
    assert ids.job_id_of_task("nightly/2026-11-21") != ids.job_id_of_task("nightly/2026-11-22")
    assert ids.job_id_of_task("nightly/2026-11-21").version == 5
