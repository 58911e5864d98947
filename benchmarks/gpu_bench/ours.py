"""This project's engine as one of those measured."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.engine.ours import greedy
from benchmarks.engine.work import Work
from benchmarks.gpu_bench.workloads import Workload
from worker.engine import Engine, Output, Request
from worker.engine.loader import Model
from worker.engine.prepare import Preparer

OURS = "batchmill"


@dataclass
class Ours:
    """Decodes with an engine and keeps the outputs of its latest run."""

    engine: Engine
    outputs: list[Output] = field(default_factory=list)
    refills: bool = True

    def __call__(self, requests: Sequence[Work]) -> list[list[int]]:
        """Decode. Raises what a request failed for."""
        self.outputs = self.engine.generate(
            [Request(str(index), item.prompt, params=greedy(item)) for index, item in enumerate(requests)]
        )
        for output in self.outputs:
            if output.error is not None:
                raise output.error
        return [output.token_ids for output in self.outputs]

    @property
    def remark(self) -> str:
        """What it runs on."""
        return ", ".join(f"{part} {name}" for part, name in self.engine.info.fast_paths.items())


@contextmanager
def open_ours(model: Model, workload: Workload) -> Iterator[Ours]:
    """Make an engine for a workload's rows and lengths."""
    preparer = Preparer(
        vocab_size=model.spec.vocab_size,
        max_model_len=workload.longest,
        eos_token_ids=(),
        tokenizer=None,
        chat_template=None,
    )
    yield Ours(Engine(model, preparer, rows=workload.rows))
