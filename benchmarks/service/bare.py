"""The engine alone, in a process of its own: prints its tokens a second.

python -m benchmarks.service.bare MODEL WORK.json ROWS
"""

import json
import sys
import time
from pathlib import Path

import torch

from benchmarks.engine.ours import Ours
from benchmarks.engine.work import Work, make_work
from worker.engine import Engine
from worker.engine.families import load_spec


def main() -> None:
    """Warm up, decode, print."""
    torch.set_num_threads(1)
    model, work_file, rows = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    work = [Work(prompt, number) for prompt, number in json.loads(work_file.read_text())]
    engine = Ours(Engine.load(model, dtype="float32", rows=rows))
    engine(make_work(load_spec(model), 40, seed=98))
    began = time.perf_counter()
    engine(work)
    print(sum(item.num_new_tokens for item in work) / (time.perf_counter() - began))


if __name__ == "__main__":
    main()
