"""Many prompts that begin alike: the shared part computed once, against every prompt computed whole."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine.ours import Ours
from benchmarks.engine.timing import Result, measure
from benchmarks.engine.work import make_prefix_work, make_warm_up
from worker.engine import Engine
from worker.engine.spec import Spec

PREFIX_TOKENS, TAIL_TOKENS, NEW_TOKENS = 1000, 32, 16


@dataclass(frozen=True)
class PrefixGain:
    """Both runs of the same work."""

    shared: Result
    unshared: Result
    equal_answers: int  # jobs whose tokens and logprobs are the same bit for bit
    num_jobs: int

    @property
    def ratio(self) -> float:
        """How many times quicker sharing is, in CPU seconds."""
        return self.unshared.cpu_seconds / self.shared.cpu_seconds


def can_share() -> bool:
    """Whether the engine has the switch to compare with."""
    return "prefix_sharing" in inspect.signature(Engine.load).parameters


def measure_prefix(folder: Path, spec: Spec, dtype: str, num_jobs: int) -> PrefixGain:
    """Decode the same prefix work on two engines that differ in sharing alone."""
    results, answers = [], []
    work = make_prefix_work(spec, num_jobs, seed=2, prefix=PREFIX_TOKENS, tail=TAIL_TOKENS, num_new_tokens=NEW_TOKENS)
    switches: tuple[dict[str, Any], ...] = ({}, {"prefix_sharing": False})  # the second as a dict: it is new
    for switch in switches:
        engine = Engine.load(folder, device="cpu", dtype=dtype, **switch)
        ours = Ours(engine)
        ours(make_warm_up(spec))
        result, _ = measure("unshared" if switch else "shared", ours, work)
        results.append(result)
        answers.append([(output.token_ids, output.logprobs) for output in ours.outputs])
    return PrefixGain(
        shared=results[0],
        unshared=results[1],
        equal_answers=sum(a == b for a, b in zip(*answers, strict=True)),
        num_jobs=num_jobs,
    )
