"""batchmill batches, against a running service: what is printed, written and returned, and a watch on a terminal."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.acceptance.conftest import Desk, Json, heed_interrupts
from tests.acceptance.test_serve import Service
from tests.freezing import freeze
from tests.waiting import wait_until

NUM_LINES = 300


def line(number: int, **body: object) -> Json:
    full = {"model": "noop", "prompt": f"hello {number}", "max_tokens": 4, **body}
    return {"custom_id": f"r-{number}", "method": "POST", "url": "/v1/completions", "body": full}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    desk = Desk(tmp_path_factory.mktemp("service"))
    service = Service(desk, "noop")
    desk.environment["BATCHMILL_URL"] = f"{service.http.base_url}/v1"
    yield service
    service.close()
    desk.close()


@pytest.fixture
def desk(service: Service) -> Desk:
    service.desk.write("in.jsonl", [line(number) for number in range(NUM_LINES)])
    return service.desk


@pytest.fixture
def paused(service: Service) -> Iterator[Callable[[], None]]:
    """The worker stands still until this is called."""
    worker = service.desk.children(service.process)["worker"]
    processes = [worker, *worker.children(recursive=True)]
    freeze(f"sqlite:///{service.desk.folder / '.batchmill' / 'batchmill.db'}", *(process.pid for process in processes))

    def go_on() -> None:
        for process in processes:
            process.resume()

    yield go_on
    go_on()


def created(desk: Desk, *arguments: str) -> str:
    """The id of a batch created on the command line."""
    done = desk.run("batches", "create", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class Terminal:
    """A command that believes to write to a terminal."""

    def __init__(self, desk: Desk, *arguments: str) -> None:
        self._reading, writing = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=desk.folder,
            env=desk.environment | {"TERM": "xterm", "COLUMNS": "120"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=writing,
            preexec_fn=heed_interrupts,
        )
        os.close(writing)
        self.seen = ""

    def read_until(self, text: str) -> None:
        """Read what is shown until it holds a text."""
        give_up_at = time.monotonic() + 60
        while text not in self.seen:
            assert time.monotonic() < give_up_at, self.seen
            if select.select([self._reading], [], [], 0.2)[0] and not self._read():
                break
        assert text in self.seen, self.seen

    def finish(self) -> int:
        """Read to the end; the exit status."""
        while self._read():
            pass
        os.close(self._reading)
        self.process.communicate(timeout=60)
        return self.process.returncode

    def _read(self) -> bool:
        try:
            self.seen += os.read(self._reading, 65536).decode(errors="replace")
        except OSError:  # how Linux tells that the other side is closed
            return False
        return True


def test_batch_is_created_watched_and_its_results_written(desk: Desk) -> None:
    batch_id = created(desk, "in.jsonl", "--metadata", "team=search", "--priority", "7", "--completion-window", "90m")
    watched = desk.run("batches", "watch", batch_id)
    saved = desk.run("batches", "results", batch_id, "-o", "out.jsonl")
    shown = json.loads(desk.run("batches", "get", batch_id, "-o", "json").stdout)

    assert (watched.returncode, watched.stdout) == (0, "")
    assert f"{NUM_LINES} of {NUM_LINES} rows completed" in watched.stderr
    assert saved.returncode == 0
    assert [entry["custom_id"] for entry in desk.read("out.jsonl")] == [f"r-{number}" for number in range(NUM_LINES)]
    assert not (desk.folder / "out.errors.jsonl").exists()
    assert (shown["metadata"], shown["priority"], shown["completion_window"]) == ({"team": "search"}, 7, "90m")
    assert shown["progress"]["fraction"] == 1.0


def test_failed_rows_go_to_a_file_of_their_own(desk: Desk) -> None:
    desk.write("in.jsonl", [line(0), line(1, max_tokens=-1), line(2)])
    batch_id = created(desk, "in.jsonl")
    watched = desk.run("batches", "watch", batch_id, "-o", "json")
    saved = desk.run("batches", "results", batch_id, "-o", "out.jsonl", "--errors", "bad.jsonl")

    assert (watched.returncode, saved.returncode) == (3, 3)
    assert json.loads(watched.stdout)["request_counts"] == {"total": 3, "completed": 2, "failed": 1}
    assert "1 x invalid_value" in watched.stderr
    assert [entry["custom_id"] for entry in desk.read("out.jsonl")] == ["r-0", "r-2"]
    assert [entry["custom_id"] for entry in desk.read("bad.jsonl")] == ["r-1"]


def test_bad_file_fails_with_its_line(desk: Desk) -> None:
    desk.write("in.jsonl", [line(0), line(0)])
    watched = desk.run("batches", "watch", created(desk, "in.jsonl"))

    assert watched.returncode == 1
    assert "line 2" in watched.stderr
    assert "duplicate_custom_id" in watched.stderr


def test_requests_come_from_standard_input_and_results_go_to_standard_output(desk: Desk) -> None:
    made = desk.run("batches", "create", "-", stdin=json.dumps(line(7)) + "\n")
    desk.run("batches", "watch", made.stdout.strip())
    saved = desk.run("batches", "results", made.stdout.strip(), "-o", "-")

    assert [json.loads(entry)["custom_id"] for entry in saved.stdout.splitlines()] == ["r-7"]


def test_lists_are_newest_first(desk: Desk) -> None:
    ids = [created(desk, "in.jsonl") for _ in range(2)]

    assert [row.split()[0] for row in desk.run("batches", "list").stdout.splitlines()[:2]] == ids[::-1]
    assert [row["id"] for row in json.loads(desk.run("batches", "list", "--limit", "1", "-o", "json").stdout)] == ids[
        1:
    ]


def test_watch_on_a_terminal_shows_a_live_bar(desk: Desk, paused: Callable[[], None]) -> None:
    terminal = Terminal(desk, "batches", "watch", created(desk, "in.jsonl"))
    terminal.read_until("validating")
    paused()
    terminal.read_until(f"{NUM_LINES} of {NUM_LINES} rows completed")

    assert terminal.finish() == 0
    assert "━" in terminal.seen


def test_interrupted_watch_leaves_the_batch_running(desk: Desk, paused: Callable[[], None]) -> None:
    batch_id = created(desk, "in.jsonl")
    terminal = Terminal(desk, "batches", "watch", batch_id)
    terminal.read_until("validating")
    terminal.process.send_signal(signal.SIGINT)
    status = terminal.finish()
    paused()

    assert status == 130
    assert f"batchmill batches watch {batch_id}" in terminal.seen
    assert "Traceback" not in terminal.seen
    assert desk.run("batches", "watch", batch_id).returncode == 0


def test_cancelled_batch_keeps_nothing_running(desk: Desk, paused: Callable[[], None]) -> None:
    batch_id = created(desk, "in.jsonl")
    cancelled = desk.run("batches", "cancel", batch_id)
    again = desk.run("batches", "watch", batch_id)

    assert cancelled.stdout.strip() == f"{batch_id} cancelled"
    assert again.returncode == 3


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["get", "batch_018f0000000070008000000000000001"], 1, "not_found"),
        (["create", "nowhere.jsonl"], 1, "cannot read nowhere.jsonl"),
        (["create", "in.jsonl", "--completion-window", "1y"], 1, "invalid_completion_window"),
        (["create", "in.jsonl", "--metadata", "k"], 2, "k=v"),
        (["list", "--url", "http://127.0.0.1:1/v1"], 1, "batchmill serve"),
        (["list", "--status", "done"], 1, "invalid_value"),
    ],
)
def test_mistake_is_one_sentence(desk: Desk, arguments: list[str], status: int, words: str) -> None:
    done = desk.run("batches", *arguments)

    assert (done.returncode, done.stdout) == (status, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_worker_that_dies_in_the_middle_loses_and_repeats_nothing(desk: Desk, service: Service) -> None:
    desk.write("in.jsonl", [line(number) for number in range(20_000)])
    batch_id = created(desk, "in.jsonl")

    def has_begun() -> bool:
        return bool(service.http.get(f"/v1/batches/{batch_id}").json()["request_counts"]["completed"])

    wait_until(has_begun, 30)
    desk.children(service.process)["worker"].kill()
    watched = desk.run("batches", "watch", batch_id)
    desk.run("batches", "results", batch_id, "-o", "out.jsonl")

    assert watched.returncode == 0, watched.stderr
    assert [entry["custom_id"] for entry in desk.read("out.jsonl")] == [f"r-{number}" for number in range(20_000)]
