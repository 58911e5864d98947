"""A million one-token jobs through the whole service with an engine that does nothing: does it slow down or grow?

    python -m benchmarks.soak [--jobs N] [--database postgresql|sqlite] [--json FILE] [--chart FILE]

The jobs come as batch files, by HTTP, a few files ahead of the worker. Ends with 1 where something does not hold.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.soak.chart import save_chart
from benchmarks.soak.samples import MIB, Sample, Tenth, Verdict, judge, judge_nothing_left, judge_open, tenths
from benchmarks.soak.scene import IDLE_SECONDS, LOOK_SECONDS, Scene, Watch

MAX_LINES = 50_000  # the service's limit for a file
FILES_PER_RUN = 40  # at least, so that every tenth has its share of reading files
FILES_AHEAD = 3
WATCHED = ("api", "worker", "redis")
NO_PROGRESS_SECONDS = 120.0


def soak(scene: Scene, num_jobs: int) -> tuple[list[Sample], list[Verdict]]:
    """Send all jobs, wait for the last, let things settle, end the processes."""
    lines = min(MAX_LINES, -(-num_jobs // FILES_PER_RUN))
    with Watch(scene) as watch:
        for first in range(0, num_jobs, lines):
            _wait_for(watch, first - FILES_AHEAD * lines)
            scene.submit(first, min(lines, num_jobs - first))
        _wait_for(watch, num_jobs)
        time.sleep(IDLE_SECONDS)
    samples = watch.samples
    early = [sample for sample in samples if sample.num_done <= num_jobs // 5]
    verdicts = [
        *judge(tenths(samples, num_jobs), WATCHED),
        *judge_open(early, samples[-1]),
        *judge_nothing_left(scene.left_over()),
        *judge_nothing_left(scene.left_after_stop()),
    ]
    return samples, verdicts


def _wait_for(watch: Watch, num_done: int) -> None:
    """Raises TimeoutError where nothing gets done for two minutes."""
    last, since = -1, time.monotonic()
    while watch.num_done < num_done:
        if watch.num_done > last:
            last, since = watch.num_done, time.monotonic()
        if time.monotonic() - since > NO_PROGRESS_SECONDS:
            raise TimeoutError(f"no job got done for {NO_PROGRESS_SECONDS:.0f} s after {last:,}; the logs say why")
        time.sleep(LOOK_SECONDS / 5)


def _show(parts: Sequence[Tenth], verdicts: Sequence[Verdict]) -> None:
    names = list(parts[0].memory)
    print(f"{'tenth':>5}{'seconds':>10}{'jobs/s':>10}" + "".join(f"{name + ' MiB':>17}" for name in names))
    for number, part in enumerate(parts, 1):
        sizes = "".join(f"{part.memory[name] / MIB:>17.1f}" for name in names)
        print(f"{number:>5}{part.seconds:>10.1f}{part.rate:>10,.0f}{sizes}")
    for verdict in verdicts:
        print(f"{'ok' if verdict.holds else 'BROKEN':>8}  {verdict.name}: {verdict.figures}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a table, write JSON and a picture where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="batchmill-soak-", ignore_cleanup_errors=True) as folder,
        Scene(Path(folder), options.database) as scene,
    ):
        samples, verdicts = soak(scene, options.jobs)
    parts = tenths(samples, options.jobs)
    _show(parts, verdicts)
    if options.json:
        written = {"jobs": options.jobs, "database": options.database}
        written |= {"tenths": [asdict(part) for part in parts], "verdicts": [asdict(verdict) for verdict in verdicts]}
        options.json.write_text(json.dumps(written, indent=2) + "\n")
    if options.chart:
        title = f"{options.jobs:,} one-token jobs by batch files, {options.database}, an engine that does nothing"
        save_chart(options.chart, samples, parts, title)
    return 0 if all(verdict.holds for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
