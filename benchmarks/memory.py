"""Resident memory of `batchmill run`, command and worker apart: after 5,000 of 20,000 one-token jobs, and at the end.

python -m benchmarks.memory [--jobs N] [--model MODEL] [--json FILE]
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

FIRST = 5_000
MAX_GROWTH = 0.15
TICK_SECONDS = 0.1


def write_prompts(path: Path, number: int) -> None:
    """Distinct one-token jobs."""
    with path.open("w") as file:
        for index in range(number):
            file.write(json.dumps({"prompt": f"module.name_{index}:", "max_tokens": 1, "temperature": 0}) + "\n")


def rows_done(folder: Path) -> int:
    """Completed rows of the one run in this folder."""
    import sqlite3

    for path in folder.glob(".batchmill/runs/*/batchmill.db"):
        with suppress(sqlite3.Error):
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            row = connection.execute("SELECT num_completed FROM batches").fetchone()
            connection.close()
            return int(row[0]) if row else 0
    return 0


def resident(process: psutil.Process) -> dict[str, int]:
    """Bytes by part: the command itself and its worker."""
    sizes = {"command": process.memory_info().rss}
    for child in process.children(recursive=True):
        if "worker" in child.cmdline():
            sizes["worker"] = child.memory_info().rss
    return sizes


def measure(folder: Path, num_jobs: int, model: str) -> dict[str, dict[str, int]]:
    """Run the jobs; sizes at the first mark and the largest seen after it."""
    write_prompts(folder / "in.jsonl", num_jobs)
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    command = [sys.executable, "-m", "cli.main", "run", "in.jsonl", "-o", "out.jsonl", "--model", model]
    marks: dict[str, dict[str, int]] = {}
    with subprocess.Popen(command, cwd=folder, env=environment | {"BATCHMILL_THREADS": "1"}) as running:
        process = psutil.Process(running.pid)
        while running.poll() is None:
            time.sleep(TICK_SECONDS)
            done = rows_done(folder)
            with suppress(psutil.Error):
                sizes = resident(process)
                if done >= FIRST and "worker" in sizes:
                    marks.setdefault("first", sizes)
                    last = marks.setdefault("largest", sizes)
                    marks["largest"] = {part: max(size, last.get(part, 0)) for part, size in sizes.items()}
    return marks


def main() -> None:
    """Measure and print the growth of each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as folder:
        marks = measure(Path(folder), options.jobs, options.model)
    figures = {}
    for part, first in marks["first"].items():
        growth = marks["largest"].get(part, first) / first - 1
        figures[part] = {"first_bytes": first, "growth": growth}
        print(f"{part:8} {first >> 20:6,} MiB after {FIRST:,}   grew {growth:6.1%}   target < {MAX_GROWTH:.0%}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
