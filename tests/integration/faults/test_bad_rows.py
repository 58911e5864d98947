"""F37: a row on which our own code stumbles fails alone."""

import pytest

from models.database import Database
from models.status import Status
from tests.integration.worker.workbench import Workbench
from worker.engine.types import Request
from worker.noop_engine import NoopEngine


class StumblingEngine(NoopEngine):
    """Its tokenizer has a bug that one prompt meets."""

    def prepare(self, request: Request) -> Request:
        """As the no-op engine's."""
        if request.prompt == "bad":
            raise ZeroDivisionError("secret")
        return super().prepare(request)


@pytest.mark.parametrize("prompt", ["bad", ["fine", "bad"]])
def test_tokenizer_that_raises_fails_the_row_alone(database: Database, prompt: object) -> None:
    with Workbench(database, StumblingEngine(rows=4)) as bench:
        good, bad, other = bench.submit({"prompt": "a"}, {"prompt": prompt}, {"prompt": "b"})
        failed = bench.result(bad)

        assert (bench.result(good).status, bench.result(other).status) == (Status.COMPLETED, Status.COMPLETED)
        assert failed.status is Status.FAILED
        assert failed.error is not None
        assert failed.error.code == "internal_row_error"
        assert "secret" not in failed.error.message
