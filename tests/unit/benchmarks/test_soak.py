"""What the soak makes of its samples."""

from collections.abc import Sequence

import pytest

from benchmarks.soak.samples import MIB, Sample, Tenth, Verdict, judge, judge_nothing_left, judge_open, tenths


def sample(seconds: float, num_done: int, *, mib: float = 100.0, files: int = 20, connections: int = 4) -> Sample:
    return Sample(seconds, num_done, {"worker": int(mib * MIB)}, {"worker": files}, {"worker": 9}, connections)


def broken(verdicts: Sequence[Verdict]) -> list[str]:
    return [verdict.name for verdict in verdicts if not verdict.holds]


def test_tenths_have_the_same_number_of_jobs_each() -> None:
    looks = [sample(second, min(100 * second, 1000)) for second in range(21)]
    parts = tenths(looks, 1000)
    assert [round(part.rate) for part in parts] == [100] * 10
    assert sum(part.seconds for part in parts) == pytest.approx(9.0)  # from the first job seen done


def test_a_run_that_slows_down_is_seen() -> None:
    looks = [sample(second, min(100 * second, 500 + 40 * (second - 5) if second > 5 else 1000)) for second in range(20)]
    parts = tenths(looks, 1000)
    assert broken(judge(parts, ["worker"])) == ["throughput is flat"]
    assert parts[-1].rate == pytest.approx(40, rel=0.01)


@pytest.mark.parametrize(("grown", "is_seen"), [(9.0, False), (11.0, True)])
def test_memory_that_grows_is_seen(grown: float, is_seen: bool) -> None:
    parts = [Tenth(1.0, 100.0, {"worker": 100 * MIB}) for _ in range(9)]
    last = Tenth(1.0, 100.0, {"worker": (100 + grown) * MIB})
    assert broken(judge([*parts, last], ["worker"])) == (["memory of worker is flat"] if is_seen else [])


def test_files_and_connections_that_stay_open_are_seen() -> None:
    early = [sample(0, 0, files=20), sample(1, 10, files=22)]
    assert broken(judge_open(early, sample(9, 100, files=22))) == []
    late = sample(9, 100, files=23, connections=5)
    assert broken(judge_open(early, late)) == ["files of worker", "database connections"]


def test_what_is_left_is_named() -> None:
    assert broken(judge_nothing_left({"leases": 0, "messages": 2})) == ["no messages left"]
