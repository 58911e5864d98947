"""Every moment at which a process may die, fail or stand still, with every way to do so: nothing lost, nothing twice.

Each on one database in `make test`, and on the other in the slow run: what is done about it knows no database.
"""

import itertools
import signal

import httpx
import pytest
from _pytest.mark import ParameterSet

from models.file_store import FileStore
from models.records import JobRecord
from models.status import Status
from tests.faults.failpoints import FAILPOINTS
from tests.integration.faults.processes.stage import PATIENCE_SECONDS, SHORT_LEASE, Stage
from tests.waiting import wait_until

NUM_LINES = 5
WORKER_POINTS = ("after_claim", "in_step", "before_commit", "after_commit", "before_ack", "mid_ingest")
SERVICE_POINTS = ("mid_upload", "before_file_row", "after_submit")
ENDS = ("kill9", "raise", "lost")
SENSELESS = {("in_step", "lost"), ("before_ack", "lost")}  # nothing is asked of the database there


def cases(points: tuple[str, ...], actions: tuple[str, ...]) -> list[ParameterSet]:
    """Each point with each action on both databases, one of them marked slow."""
    found = []
    pairs = [pair for pair in itertools.product(points, actions) if pair not in SENSELESS]
    for number, (point, action) in enumerate(pairs):
        for turn, database in enumerate(("postgresql", "sqlite")):
            marks = [pytest.mark.slow] if (number + turn) % 2 else []
            found.append(pytest.param(database, point, action, id=f"{point}-{action}-{database}", marks=marks))
    return found


@pytest.fixture
def database_url(request: pytest.FixtureRequest, database_name: str) -> str:
    """The database that the case names."""
    return str(request.getfixturevalue(f"{database_name}_url"))


def test_every_point_has_its_cases() -> None:
    assert {*WORKER_POINTS, *SERVICE_POINTS} == FAILPOINTS.keys()


@pytest.mark.parametrize(("database_name", "point", "action"), cases(WORKER_POINTS, ENDS))
def test_worker_that_dies_or_fails_loses_nothing(stage: Stage, point: str, action: str) -> None:
    """The worker ends, or goes on; in either case a second one is started in its place."""
    stage.start_faulty(f"{point}={action}", **SHORT_LEASE)
    batch_id = stage.submit_lines(NUM_LINES)
    wait_until(lambda: stage.say(f"failpoint {point} reached"), PATIENCE_SECONDS)

    stage.start_faulty(**SHORT_LEASE)

    rows = stage.all_once(batch_id, NUM_LINES)
    assert {row.attempt for row in rows} <= {1, 2}


@pytest.mark.parametrize(("database_name", "point", "action"), cases(WORKER_POINTS, ("hold",)))
def test_worker_that_sleeps_past_its_lease_changes_nothing_any_more(stage: Stage, point: str, action: str) -> None:
    """It stands still in the point until another worker has done all of its work; then it goes on, and is refused."""
    held = stage.folder / "held"
    sleeper = stage.start_faulty(f"{point}={action}:{held}", **SHORT_LEASE)
    batch_id = stage.submit_lines(NUM_LINES)
    wait_until(held.exists, PATIENCE_SECONDS)
    stage.freeze(sleeper)
    stage.start_faulty(**SHORT_LEASE)
    before = [what_is_final(row) for row in stage.all_once(batch_id, NUM_LINES)]

    sleeper.send_signal(signal.SIGCONT)
    held.unlink()

    wait_until(lambda: stage.say(f"failpoint {point} left"), PATIENCE_SECONDS)
    wait_until(lambda: len(stage.store.workers()) == 2, PATIENCE_SECONDS)  # it is back, as a new incarnation
    assert [what_is_final(row) for row in stage.all_once(batch_id, NUM_LINES)] == before
    assert sleeper.poll() is None


def what_is_final(row: JobRecord) -> tuple[object, ...]:
    return row.id, row.status, row.attempt, row.suspicion, row.finished_at, row.completions


CONTENT = b'{"a": 1}\n' * 20_000
FORM: dict[str, tuple[str | None, str | bytes]] = {"purpose": (None, "batch"), "file": ("in.jsonl", CONTENT)}


@pytest.mark.parametrize(
    ("database_name", "point", "action"), cases(("mid_upload", "before_file_row"), ("kill9", "raise", "hold"))
)
def test_upload_that_is_cut_short_is_not_there(stage: Stage, point: str, action: str) -> None:
    held = stage.folder / "held"
    nth = 2 if point == "mid_upload" else 1
    service, client = stage.start_service(f"{point}={action}:{held}@{nth}")
    if action == "hold":
        client.timeout = httpx.Timeout(1)
    try:
        answer = client.post("/v1/files", files=FORM)
    except httpx.TransportError:
        assert action in ("kill9", "hold")
    else:
        assert (action, answer.status_code, answer.headers["connection"]) == ("raise", 500, "close")
    assert FileStore(stage.database).list("default", limit=10) == []

    held.unlink(missing_ok=True)  # one that was held goes on, for a client that is gone
    if action == "kill9":
        service.wait(PATIENCE_SECONDS)
        client = stage.start_service()[1]
    client.timeout = httpx.Timeout(30)
    made = client.post("/v1/files", files=FORM).json()

    listed = [file["id"] for file in client.get("/v1/files").json()["data"]]
    assert made["id"] in listed
    assert client.get(f"/v1/files/{made['id']}/content").content == CONTENT


@pytest.mark.parametrize(("database_name", "point", "action"), cases(("after_submit",), ("kill9", "raise", "lost")))
def test_accepted_job_whose_answer_was_lost_is_found_by_its_key(stage: Stage, point: str, action: str) -> None:
    """F24: the same key gives the same job, and says so."""
    stage.start_faulty(**SHORT_LEASE)
    service, client = stage.start_service(f"{point}={action}")
    body, key = {"model": "noop", "prompt": "hello", "background": True}, {"idempotency-key": "a key"}
    try:
        with httpx.Client(base_url=client.base_url, timeout=30) as fresh:  # a kept connection may be closed by now
            answer = fresh.post("/v1/completions", json=body, headers=key)
    except httpx.TransportError:
        assert action == "kill9"
        service.wait(PATIENCE_SECONDS)
        client = stage.start_service()[1]
    else:
        assert answer.status_code in (200, 202, 500, 503)

    again = client.post("/v1/completions", json=body, headers=key)

    assert again.headers["idempotent-replayed"] == "true"
    [job] = client.get("/v1/jobs").json()["data"]
    assert again.json()["id"].endswith(job["id"].rpartition("-")[2])
    wait_until(lambda: client.get("/v1/jobs").json()["data"][0]["status"] == Status.COMPLETED, PATIENCE_SECONDS)
