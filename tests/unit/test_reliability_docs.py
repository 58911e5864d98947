"""docs/reliability.md names every fault, tests that are there, and the mutants with the runs that they turn red."""

import re
from pathlib import Path

import pytest

from tests.chaos.profiles import PROFILES
from tests.chaos.test_mutants import RED_BY
from tests.faults.mutants import MUTANTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
NUM_FAULTS = 42
FAULTS = re.findall(r"^\| F(\d+) [^|]+\|[^|]+\|([^|]+)\|$", PAGE, flags=re.MULTILINE)
NAMED_TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")
REASON = "not here: "  # instead of a test: hardware, or a feature, that there is not


def test_every_fault_is_told_once() -> None:
    assert [int(number) for number, _ in FAULTS] == list(range(1, NUM_FAULTS + 1))


@pytest.mark.parametrize(("number", "shown_by"), FAULTS, ids=[f"F{number}" for number, _ in FAULTS])
def test_every_fault_names_its_tests_or_a_reason(number: str, shown_by: str) -> None:
    named = NAMED_TEST.findall(shown_by)

    assert named or shown_by.strip().startswith(REASON)
    for path, name in named:
        source = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^(async )?def {name}\(", source, flags=re.MULTILINE), f"{path} has no {name}"
    assert set(re.findall(r"\bruns? `(\w+)`", shown_by)) <= set(PROFILES)


def test_every_mutant_is_told_with_the_run_that_sees_it() -> None:
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| `(\w+)` \|", PAGE, flags=re.MULTILINE)

    assert dict(rows) == RED_BY
    assert set(RED_BY) == set(MUTANTS)
