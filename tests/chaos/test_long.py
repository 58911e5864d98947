"""More seeds, and longer: `make chaos-long`."""

import pytest

from tests.chaos.run import run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.mark.parametrize("seed", range(3, 11))
def test_everything_breaks_for_minutes(seed: int) -> None:
    verdict = run("mixed", seed, seconds=150)
    print(verdict.logs)  # noqa: T201 (pytest shows it where the test fails)
    assert not verdict.violations, verdict.text()
