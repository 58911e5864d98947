"""Every promise is kept while everything breaks: two seeds of everything, and a run about each safety rule."""

import pytest

from tests.chaos.profiles import PROFILES
from tests.chaos.run import run

SEEDS = (1, 2)
FOCUSED = sorted(set(PROFILES) - {"mixed"})

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def check(name: str, seed: int) -> None:
    """Run it; a failure shows the verdict, and that what every process logged."""
    verdict = run(name, seed)
    print(verdict.logs)  # noqa: T201 (pytest shows it where the test fails)
    assert not verdict.violations, verdict.text()


@pytest.mark.parametrize("seed", SEEDS)
def test_everything_breaks_and_no_promise_does(seed: int) -> None:
    check("mixed", seed)


@pytest.mark.parametrize("name", FOCUSED)
def test_each_safety_rule_holds(name: str) -> None:
    check(name, seed=1)
