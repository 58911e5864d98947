"""The order in which rows begin once nothing more waits outside."""

from models.database import Database
from tests.integration.worker.workbench import Workbench
from worker.engine.types import Request
from worker.noop_engine import NoopEngine


class NotingEngine(NoopEngine):
    """Notes the prompts in the order in which they begin."""

    def __init__(self) -> None:
        super().__init__(rows=8)
        self.begun: list[object] = []

    def add(self, sequence: Request) -> None:
        self.begun.append(sequence.prompt)
        super().add(sequence)


def test_the_longest_rows_begin_first(database: Database) -> None:
    engine = NotingEngine()
    with Workbench(database, engine) as bench:
        ids = bench.submit(*({"prompt": f"{number}", "max_tokens": number} for number in (2, 5, 1, 4, 3)))
        for job_id in ids:
            bench.result(job_id)
    assert engine.begun == ["5", "4", "3", "2", "1"]
