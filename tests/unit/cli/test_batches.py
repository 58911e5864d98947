"""What `batchmill batches` does beyond a request and its answer."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from cli import batches
from cli.client import Client, Unreachable
from tests.unit.cli.servers import Server
from tests.unit.cli.test_batch_progress import BATCH, OVER

AWAY = {"error": {"message": "down", "type": "server_error", "param": None, "code": "overloaded"}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "PACE_SECONDS", 0.0)


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_watch_outlives_a_service_that_is_away(server: Server, client: Client, console: Console) -> None:
    server.answer(200, BATCH)
    for _ in range(9):
        server.answer(503, AWAY)
    server.answer(200, OVER)

    assert batches.watch(client, "batch_1", console)["status"] == "completed"
    assert text_of(console) == "the service does not answer; watching goes on once it does\n"


def test_watch_gives_up_on_a_service_that_stays_away(
    server: Server, client: Client, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "OUTAGE_SECONDS", 0.0)
    server.answer(200, BATCH)
    for _ in range(4):
        server.answer(503, AWAY)

    with pytest.raises(Unreachable):
        batches.watch(client, "batch_1", console)


def test_download_that_breaks_off_leaves_no_half_file(
    server: Server, client: Client, console: Console, tmp_path: Path
) -> None:
    files = {"output_file_id": "file-1", "error_file_id": None, "partial_output_file_id": None}
    server.answer(200, OVER | files)
    server.answer(200, b"half", content_length="100")

    with pytest.raises(Unreachable):
        batches.save_results(client, "batch_1", str(tmp_path / "out.jsonl"), None, console)
    assert list(tmp_path.iterdir()) == []


def test_batch_without_output_leaves_an_empty_file(
    server: Server, client: Client, console: Console, tmp_path: Path
) -> None:
    files = {"output_file_id": None, "error_file_id": None, "partial_output_file_id": None}
    server.answer(200, OVER | files)

    batches.save_results(client, "batch_1", str(tmp_path / "out.jsonl"), None, console)

    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_list_reads_no_more_pages_than_it_needs(server: Server, client: Client) -> None:
    entries = [{"id": f"batch_{number}"} for number in range(150)]
    server.answer(200, {"data": entries[:100], "last_id": "batch_99", "has_more": True})
    server.answer(200, {"data": entries[100:120], "last_id": "batch_119", "has_more": True})

    assert batches.list_all(client, limit=120, status=None) == entries[:120]
    assert [path for _, path, _, _ in server.got] == ["/v1/batches?limit=100", "/v1/batches?limit=20&after=batch_99"]


@pytest.mark.parametrize(
    ("first", "endpoint"),
    [
        (b'{"url": "/v1/chat/completions"}\n', "/v1/chat/completions"),
        (b'{"prompt": "a"}\n', "/v1/completions"),
        (b"no JSON\n", "/v1/completions"),
        (b'{"url": 7}\n', "/v1/completions"),
        (b"", "/v1/completions"),
    ],
)
def test_endpoint_is_what_the_first_line_says(
    server: Server, client: Client, tmp_path: Path, first: bytes, endpoint: str
) -> None:
    (tmp_path / "in.jsonl").write_bytes(first)
    server.answer(200, {"id": "file-1"})
    server.answer(200, BATCH)

    batches.create(client, str(tmp_path / "in.jsonl"), {"priority": None}, endpoint=None)

    assert server.got[1][3] == b'{"input_file_id": "file-1", "endpoint": "%s"}' % endpoint.encode()
    assert first in server.got[0][3]


def test_uploaded_file_is_named_by_its_id(server: Server, client: Client) -> None:
    server.answer(200, BATCH)
    file_id = "file-018f0000000070008000000000000001"

    batches.create(client, file_id, {}, endpoint="/v1/responses")

    assert server.got[0][1] == "/v1/batches"
    assert file_id.encode() in server.got[0][3]
