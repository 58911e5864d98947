"""Jobs with a list of prompts: one job, a request to the engine a prompt, one outcome."""

import threading
from collections.abc import Mapping
from typing import Any
from uuid import UUID

import pytest

from models.database import Database
from models.records import JobRecord
from models.status import Status
from tests.integration.worker.workbench import Workbench
from tests.unit.engine.models import tiny_llama, write_tiktoken
from tests.waiting import wait_until
from worker.deliveries import Delivery
from worker.engine import Engine
from worker.engine.types import Output, Request, RowError
from worker.noop_engine import NoopEngine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """Three rows, so that no list below fits at once."""
    folder = tmp_path_factory.mktemp("lists")
    tiny_llama(folder)
    write_tiktoken(folder)
    return Engine.load(folder, rows=3)


@pytest.fixture
def sqlite(sqlite_url: str) -> Database:
    return Database(sqlite_url)


class GatedEngine(NoopEngine):
    """Answers one request a step, and only while the gate is open; fails those whose prompt says so."""

    def __init__(self) -> None:
        super().__init__(rows=2)
        self.gate, self.added = threading.Event(), list[str]()

    def add(self, sequence: Request) -> None:
        self.added.append(sequence.id)
        super().add(sequence)

    def step(self) -> list[Output]:
        if not self.gate.is_set() or not self._waiting:
            return []
        kept, self._waiting = self._waiting, type(self._waiting)([self._waiting.popleft()])
        [output] = super().step()
        self._waiting = kept
        if output.text == "bad":
            return [Output(output.request_id, error=RowError("nonfinite_logits", "no numbers"))]
        return [output]


def facts(job: JobRecord) -> list[tuple[object, ...]]:
    return [
        (entry.text, list(entry.token_ids), list(entry.logprobs or ()), entry.prompt_tokens, _said(entry.details))
        for entry in job.completions
    ]


def _said(details: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: value for name, value in (details or {}).items() if name != "timings"}


def test_each_prompt_is_answered_as_if_sent_alone(sqlite: Database, engine: Engine) -> None:
    prompts = ["first", "second one", "first", "a", "the fifth prompt"]
    asked: dict[str, object] = {"max_tokens": 7, "seed": 5, "n": 2, "logprobs": 1, "prompt_logprobs": 0}
    with Workbench(sqlite, engine) as bench:
        whole, *alone = bench.submit({"prompt": prompts, **asked}, *({"prompt": one, **asked} for one in prompts))
        job = bench.result(whole)
        expected = [fact for job_id in alone for fact in facts(bench.result(job_id))]
    assert (job.status, [entry.choice_index for entry in job.completions]) == (Status.COMPLETED, [*range(10)])
    assert facts(job) == expected
    assert job.completions[0].text != job.completions[1].text


def test_long_list_passes_through_few_rows_beside_others(sqlite: Database) -> None:
    """2,048 prompts neither wait for as many rows nor keep a job behind them from its turn."""
    with Workbench(sqlite, NoopEngine(rows=2)) as bench:
        ids = bench.submit(
            {"prompt": [f"{number}" for number in range(2048)]}, {"prompt": [[7, 8], [9]]}, {"prompt": "last"}
        )
        jobs = [bench.result(job_id) for job_id in ids]
    assert [entry.text for entry in jobs[0].completions] == [f"{number}" for number in range(2048)]
    assert [entry.token_ids for entry in jobs[1].completions] == [(7, 8), (9,)]
    assert jobs[2].completions[0].text == "last"


def test_only_the_requests_of_the_first_lists_are_staged(sqlite: Database) -> None:
    engine = GatedEngine()
    with Workbench(sqlite, engine) as bench:
        ids = bench.submit(*({"prompt": ["x"] * 100} for _ in range(10)))
        wait_until(lambda: len(engine.added) == 2)
        assert len(bench.staging) <= 100
        engine.gate.set()
        assert {bench.result(job_id).status for job_id in ids} == {Status.COMPLETED}


def test_prompt_that_cannot_be_prepared_fails_the_job_and_is_named(sqlite: Database) -> None:
    with Workbench(sqlite, NoopEngine(rows=2)) as bench:
        failed, fine = bench.submit({"prompt": ["a", "b", "c", ""]}, {"prompt": ["a"]})
        job = bench.result(failed)
        assert job.error is not None
        assert (job.error.code, job.error.message) == ("empty_prompt", "prompt 3: prompt must not be empty")
        assert bench.result(fine).status is Status.COMPLETED


def test_prompt_that_fails_in_the_engine_ends_all_of_its_job(sqlite: Database) -> None:
    engine = GatedEngine()
    with Workbench(sqlite, engine) as bench:
        failed, fine = bench.submit({"prompt": ["a", "bad", "b", "c", "d"]}, {"prompt": ["a", "b"]})
        engine.gate.set()
        job, other = bench.result(failed), bench.result(fine)
        wait_until(lambda: not engine.has_work)
    assert job.error is not None
    assert (job.error.code, job.error.message) == ("nonfinite_logits", "prompt 1: no numbers")
    assert other.status is Status.COMPLETED
    assert not {f"{failed}/{index}" for index in (3, 4)} & set(engine.added)  # they were staged behind


@pytest.mark.parametrize("number", [1, 5])
def test_cancelled_job_leaves_nothing_behind(sqlite: Database, number: int) -> None:
    engine = GatedEngine()
    with Workbench(sqlite, engine) as bench:
        [job_id] = bench.submit({"prompt": ["a"] * number})
        wait_until(lambda: engine.num_live == min(number, 2))
        bench.store.cancel(job_id)
        assert bench.result(job_id).status is Status.CANCELLED
        assert (engine.num_live, len(bench.staging)) == (0, 0)
        engine.gate.set()
        [after] = bench.submit({"prompt": ["b", "c"]})
        assert bench.result(after).status is Status.COMPLETED


def test_list_claimed_again_is_answered_once(sqlite: Database) -> None:
    """The lease is lost while half of a list is answered; another incarnation decodes it anew."""
    engine = GatedEngine()
    with Workbench(sqlite, engine) as bench:
        [job_id] = bench.submit({"prompt": ["a", "b", "c"]})
        wait_until(lambda: engine.num_live == 2)
        _lose_lease(bench, job_id)
        engine.gate.set()
        bench.feeder.deliver(Delivery([job_id]))
        job = bench.result(job_id)
    assert (job.attempt, [entry.text for entry in job.completions]) == (2, ["a", "b", "c"])


@pytest.mark.parametrize("prompts", [["a"], ["a", "b", "c"]])
def test_job_claimed_again_while_its_former_claim_is_decoded(sqlite: Database, prompts: list[str]) -> None:
    """Rows claimed just as the lease was lost are entered after the keeper has dropped all it knew of."""
    engine = GatedEngine()
    with Workbench(sqlite, engine) as bench:
        [job_id] = bench.submit({"prompt": prompts})
        wait_until(lambda: engine.num_live == min(len(prompts), 2))
        bench.claims.release(bench.lease.worker_id)
        bench.lease.begin_again()
        bench.feeder.deliver(Delivery([job_id]))
        wait_until(lambda: bench.store.statuses([job_id])[job_id] is Status.IN_PROGRESS)
        engine.gate.set()
        job = bench.result(job_id)
        wait_until(lambda: not engine.has_work and not len(bench.ledger))
    assert (job.attempt, [entry.text for entry in job.completions]) == (2, prompts)


def _lose_lease(bench: Workbench, job_id: UUID) -> None:
    bench.decoder.drop({job_id})
    bench.ledger.let_go([job_id])
    bench.claims.release(bench.lease.worker_id)
    bench.lease.begin_again()
