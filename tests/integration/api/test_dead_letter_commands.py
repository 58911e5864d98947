"""`batchmill dead-letters` and `jobs show` against a running service."""

import json
from typing import Any

import httpx
import pytest
from sqlalchemy import update
from typer.testing import CliRunner, Result

from cli import dead_letters
from cli.job_view import NEXT
from cli.main import app as commands
from models.database import Database
from models.ids import parse_job_id
from models.key_store import KeyStore
from models.store import Store
from models.suspects import Level
from models.tables import payloads
from tests.integration.api.fakes import Worker
from tests.integration.api.test_completions import BACKGROUND

CODE = "worker_crashed"


@pytest.fixture
def url(server: httpx.Client) -> str:
    return f"{server.base_url}/v1"


def run(url: str, *arguments: str, group: str = "dead-letters") -> Result:
    return CliRunner().invoke(commands, [group, *arguments, "--url", url])


def out(url: str, *arguments: str) -> Any:  # noqa: ANN401 (JSON)
    result = run(url, *arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def dead(server: httpx.Client, worker: Worker, code: str = CODE, **changes: object) -> str:
    """The id of a dead letter."""
    id = str(server.post("/v1/completions", json=BACKGROUND | changes).json()["id"])
    worker.fail(worker.claim(parse_job_id(id)), code)
    return id


def test_dead_letters_are_listed(url: str, server: httpx.Client, worker: Worker) -> None:
    assert run(url, "list").stdout == ""
    first, second = dead(server, worker), dead(server, worker, code="out_of_memory")

    assert [letter["id"] for letter in out(url, "list")] == [second, first]
    assert [letter["id"] for letter in out(url, "list", "--limit", "1")] == [second]
    assert [letter["id"] for letter in out(url, "list", "--reason", CODE, "--model", "demo")] == [first]
    assert out(url, "list", "--replayed") == []
    assert len(out(url, "list", "--no-replayed")) == 2
    head, *lines = run(url, "list").stdout.splitlines()
    assert head.split()[:3] == ["ID", "FAILED", "REASON"]
    assert [(line.split()[0], line.split()[3]) for line in lines] == [(second, "out_of_memory"), (first, CODE)]


def test_list_reads_page_after_page(
    url: str, server: httpx.Client, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [dead(server, worker) for _ in range(5)]
    monkeypatch.setattr(dead_letters, "PAGE", 2)

    assert [letter["id"] for letter in out(url, "list")] == ids[::-1]
    assert [letter["id"] for letter in out(url, "list", "--limit", "3")] == ids[:1:-1]


def test_shown_dead_letter_says_what_it_went_through(
    url: str, server: httpx.Client, worker: Worker, database: Database
) -> None:
    id = dead(server, worker, prompt="secret")
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE jobs SET suspicion = 4, solo_crashes = 2")

    text = run(url, "show", id).stdout

    shown = dict(line.split(maxsplit=1) for line in text.splitlines())
    assert (shown["id"], shown["status"]) == (id, f"failed ({CODE})")
    assert (shown["error"], shown["attempts"]) == (f"it was {CODE}", "1")
    assert shown["crashes"] == "4 of workers that ran it, 2 of them alone"
    assert "secret" not in text
    assert out(url, "show", id)["solo_crashes"] == 2
    assert "not_found" in str(run(url, "show", "cmpl-" + "0" * 32).exception)


def test_named_ones_are_replayed_once(url: str, server: httpx.Client, worker: Worker, store: Store) -> None:
    ids = [dead(server, worker) for _ in range(2)]

    first = run(url, "replay", *ids).stdout.split()
    again = [job["id"] for job in out(url, "replay", *ids)]

    assert first == again
    assert store.queue_depth() == {"demo": 2}
    assert [letter["replayed_as"] for letter in out(url, "list")] == first[::-1]


def test_all_are_replayed_page_by_page_and_counted(
    url: str, server: httpx.Client, worker: Worker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        dead(server, worker)
    dead(server, worker, code="out_of_memory")
    monkeypatch.setattr(dead_letters, "PAGE", 2)

    some = run(url, "replay", "--all", "--reason", CODE)
    rest = run(url, "replay", "--all", "-o", "json")
    none = run(url, "replay", "--all")

    assert (some.exit_code, some.stdout) == (0, "")
    assert some.stderr.splitlines()[-1] == "5 dead letters replayed"
    assert json.loads(rest.stdout) == {"replayed": 1, "refused": 0}
    assert none.stderr.splitlines()[-1] == "0 dead letters replayed"
    assert store.queue_depth() == {"demo": 6}


def test_one_that_cannot_be_replayed_does_not_hold_the_others_up(
    url: str, server: httpx.Client, worker: Worker, store: Store, database: Database
) -> None:
    ids = [dead(server, worker) for _ in range(3)]
    with database.transaction() as connection:
        connection.execute(update(payloads).where(payloads.c.job_id == parse_job_id(ids[1])).values(input_expired=True))

    result = run(url, "replay", "--all")

    assert result.exit_code == 1
    told, summary = result.stderr.splitlines()[-2:]
    assert (told.startswith("refused: "), told.endswith("(input_expired)")) == (True, True)
    assert summary == "2 dead letters replayed, 1 refused"
    assert store.queue_depth() == {"demo": 2}
    assert [letter["id"] for letter in out(url, "list", "--no-replayed")] == [ids[1]]


@pytest.mark.parametrize(
    "arguments", [["replay"], ["replay", "--all", "cmpl-1"], ["replay", "cmpl-1", "--reason", CODE]]
)
def test_what_to_replay_must_be_said_one_way(url: str, arguments: list[str]) -> None:
    assert run(url, *arguments).exit_code == 2


def test_administrator_sees_and_replays_those_of_everyone(
    url: str, server: httpx.Client, worker: Worker, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = KeyStore(database)
    mine, boss = keys.create("a")[0], keys.create("boss", is_admin=True)[0]
    server.headers["authorization"] = f"Bearer {mine}"
    id = dead(server, worker)

    monkeypatch.setenv("BATCHMILL_API_KEY", boss)
    assert [(letter["id"], letter["tenant"]) for letter in out(url, "list")] == [(id, "a")]
    [replay] = out(url, "replay", id)

    assert server.get(f"/v1/jobs/{replay['id']}").json()["retry_of"] == id


def test_shown_job_says_that_its_workers_crashed(
    url: str, server: httpx.Client, worker: Worker, database: Database
) -> None:
    """What somebody reads while a prompt that crashes workers is being isolated."""
    id = server.post("/v1/completions", json=BACKGROUND | {"prompt": "secret", "max_attempts": 9}).json()["id"]
    told = []
    for level in (Level.NONE, Level.FEW, Level.ALONE):
        told.append(run(url, "show", id, group="jobs").stdout)
        doomed = Worker.registered(database, model="demo")
        assert doomed.claims.claim(doomed.id, [parse_job_id(id)], level=level)
        worker.claims.confirm_crash("host/test/0", successor=worker.id)
    told.append(run(url, "show", id, group="jobs").stdout)

    shown = [dict(line.split(maxsplit=1) for line in text.splitlines()) for text in told]
    assert [job["status"] for job in shown] == ["queued", *["queued (worker_crashed)"] * 3]
    assert [job["attempts"] for job in shown] == [f"{number} of at most 9" for number in range(4)]
    assert [job.get("crashes") for job in shown] == [
        None,
        f"1 of workers that ran it; {NEXT}",
        f"2 of workers that ran it; {NEXT}",
        f"3 of workers that ran it, 1 of them alone; {NEXT}",
    ]
    assert "secret" not in told[-1]
    assert json.loads(run(url, "show", id, "-o", "json", group="jobs").stdout)["suspicion"] == 3


def test_replay_tells_whose_crashes_it_begins_with(
    url: str, server: httpx.Client, worker: Worker, database: Database
) -> None:
    id = dead(server, worker)
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE jobs SET suspicion = 4")
    [replay] = run(url, "replay", id).stdout.split()

    text = run(url, "show", replay, group="jobs").stdout

    assert f"4 of workers that ran it, what it repeats included; {NEXT}" in text
