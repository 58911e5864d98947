"""Each safety rule broken on purpose: the run that is about it must see that, or it proves nothing when it is green."""

import pytest

from tests.chaos.run import run
from tests.faults.mutants import MUTANTS

RED_BY = {  # the mutant, and the profile that it turns red
    "no_fence": "fence",
    "ack_before_commit": "accept",
    "reaper_ignores_expiry": "reap",
    "reaper_sleeps": "reap",
    "claim_without_lock": "claim",
    "blame_on_expiry": "blame",
    "cancel_not_in_where": "cancel",
    "heartbeat_without_progress": "hang",
    "hint_loss_unrepaired": "hints",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_every_mutant_has_a_run_that_must_see_it() -> None:
    assert set(RED_BY) == set(MUTANTS)


@pytest.mark.parametrize(("mutant", "profile"), RED_BY.items())
def test_a_broken_rule_is_seen(mutant: str, profile: str) -> None:
    verdict = run(profile, seed=1, mutants=[mutant])
    assert verdict.violations, verdict.text()
