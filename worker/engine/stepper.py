"""One step of the rows on the device: prompts of new rows, or a token more for each. Knows no queue and no results.

Each first computes, which changes no row that was live, and then records what was chosen. With a lag of one step the
device is given the next step before the host has looked at this one, and so never waits for the host: a row that ended
is decoded once more then, which changes nothing that anyone reads. What needs the host's word in every step, beams and
contexts that overflow, is waited for.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from worker.engine.beam_rows import beams_of
from worker.engine.faults import leaving_rows_alone
from worker.engine.group import Group
from worker.engine.info import Counters
from worker.engine.linear import ROW_MULTIPLE, round_up
from worker.engine.loader import Model
from worker.engine.observer import Launched, Observer
from worker.engine.prefill import Prefill
from worker.engine.readback import ReadBack
from worker.engine.rows import Rows, features_of, is_plain
from worker.engine.runner import Runner, Span, pad_rows
from worker.engine.sampling import MAX_TOP_LOGPROBS, Features, sample, top_logprobs
from worker.engine.scheduler import Scheduler
from worker.engine.sequence import Sequence
from worker.engine.transformer import logits
from worker.engine.types import Delta, RowError


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Next tokens of n rows, computed and not yet recorded."""

    scores: Tensor  # [N, V] float32, N >= n a multiple of 16
    tokens: Tensor  # [N] int64
    logprobs: Tensor  # [N] float32
    asking: tuple[int, ...]  # rows that want alternatives
    tops: tuple[Tensor, ...]  # theirs: ids [R, n] and logprobs [R, n]; nothing where none asks


class DeviceStep(Protocol):
    """A decode step of plain rows in one go, perhaps one that was captured: worker/engine/cuda/device_step.py."""

    def run(self, ends: list[int], features: Features) -> tuple[Tensor, Tensor, Tensor]:
        """Feed rows [0, n) their newest tokens, choose and record the next -> tokens, logprobs and done, each [n]."""


class Stepper:
    """Brings rows on. RowsIntact out of it means that no row that was live has changed; any other error, nothing."""

    def __init__(
        self,
        model: Model,
        runner: Runner,
        prefill: Prefill,
        rows: Rows,
        groups: Mapping[str, Group],
        counters: Counters,
        *,
        max_model_len: int,
        fail: Callable[[str, RowError], None],
        lag: int = 0,
        device_step: DeviceStep | None = None,
    ) -> None:
        """`lag`: steps that the device may be ahead of the host, 0 or 1."""
        self._device_step = device_step
        self._weights, self._spec, self._max_model_len = model.weights, model.spec, max_model_len
        self._runner, self._prefill, self._rows = runner, prefill, rows
        self._groups, self._counters, self._fail, self._lag = groups, counters, fail, lag
        self._observer = Observer(groups, counters, fail=fail)
        self._in_flight: deque[Launched] = deque()

    def take_deltas(self) -> list[Delta]:
        """Take what became certain of requests that stream, in order."""
        deltas, self._observer.deltas = self._observer.deltas, []
        return deltas

    @property
    def has_in_flight(self) -> bool:
        """Whether the host has not yet seen all that the device was told to do."""
        return bool(self._in_flight)

    def settle(self) -> None:
        """Wait for everything that the device was told to do."""
        self._catch_up(0)

    def discard(self) -> None:
        """Forget what the device was told to do: all its rows begin anew."""
        self._in_flight.clear()

    def _catch_up(self, lag: int) -> None:
        while len(self._in_flight) > lag:
            self._observer.take(self._in_flight.popleft())

    def begin(self, live: Items[Sequence], num_new: int) -> None:
        """Run the prompts of the last rows, just admitted, and choose each one's first token."""
        began = time.perf_counter()
        first, sequences = len(live) - num_new, live[-num_new:]
        longest = max(sequence.max_length for sequence in live)
        with leaving_rows_alone():
            # A row that ended, and the host knows it not yet, is fed the token that needs no place.
            self._runner.cache.reserve(first, len(live), longest + self._lag)
            self._rows.start(first, sequences, vocab_size=self._spec.vocab_size)
            hidden = self._prefill.run(first, sequences)
            chosen = self._choose(first, sequences, _padded(hidden))
        self._record(first, sequences, chosen, began=began, is_prompt=True)
        self._counters.prompt_tokens += sum(len(sequence.prompt_token_ids) for sequence in sequences)
        self._counters.shared_tokens, self._counters.prefix_hits = self._prefill.shared_tokens, self._prefill.num_hits

    def decode(self, scheduler: Scheduler) -> None:
        """Feed every live row its newest token and choose the next."""
        for a, b in scheduler.set_apart():
            self._rows.swap(a, b)
            self._runner.cache.swap(a, b, scheduler.live[a].length)
        live = scheduler.live
        plain = [sequence for sequence in live if not sequence.overflows]
        if plain:
            self._extend(plain)
        if len(plain) < len(live):
            self._recompute(len(plain), live[len(plain) :])
        self._counters.steps += 1
        self._counters.row_steps += len(live)

    def _extend(self, sequences: list[Sequence]) -> None:
        """Decode rows [0, n) over the cache."""
        began, num_rows = time.perf_counter(), len(sequences)
        # One that has all its tokens, and the host knows it not yet, writes where nobody reads.
        ends = [min(sequence.length + 1, sequence.max_length) for sequence in sequences]
        if self._device_step is not None and all(map(is_plain, sequences)):
            with leaving_rows_alone():
                results = self._device_step.run(ends, features_of(sequences))
            self._note(sequences, ReadBack(*results), began=began)
            return
        padded = round_up(num_rows, ROW_MULTIPLE)  # rows beyond the live ones compute nothing anyone reads
        with leaving_rows_alone():
            # A row that was cropped is past its end.
            positions = self._rows.position[:padded].clamp(max=self._max_model_len - 1)
            hidden = self._runner.decode(self._rows.token[:padded], positions, ends)
            chosen = self._choose(0, sequences, hidden)
        self._rows.position[:num_rows] += 1
        self._record(0, sequences, chosen, began=began)

    def _recompute(self, first: int, sequences: list[Sequence]) -> None:
        """Decode rows [first, first + n), each over the newest tokens of its context alone, at positions from 0."""
        self.settle()
        began, spans = time.perf_counter(), []
        with leaving_rows_alone():
            for row, sequence in enumerate(sequences, first):
                newest = [*sequence.prompt_token_ids, *sequence.token_ids][-(sequence.context_length or 0) :]
                spans.append(Span(row, 0, newest))
            chosen = self._choose(first, sequences, _padded(self._runner.prefill(spans)))
        self._record(first, sequences, chosen, began=began)

    def _choose(self, first: int, sequences: Items[Sequence], hidden: Tensor) -> _Chosen:
        """Choose a token for rows [first, first + n) from hidden [N, C], whose first n rows are theirs."""
        self._rows.reserve(first, sequences)
        scores = logits(self._weights, self._spec, hidden, self._runner.ops)
        began = time.perf_counter()
        index = pad_rows(torch.arange(first, first + len(sequences), device=hidden.device))
        tokens, logprobs = sample(
            scores, self._rows.sampling(index), features_of(sequences), self._runner.ops, self._runner.choose
        )
        asking = tuple(row for row, sequence in enumerate(sequences) if sequence.params.top_logprobs)
        tops: tuple[Tensor, ...] = ()
        if asking:
            values, ids = top_logprobs(scores, list(asking), MAX_TOP_LOGPROBS, self._runner.ops)
            tops = ids, values
        self._counters.sampling_seconds += time.perf_counter() - began
        return _Chosen(scores, tokens, logprobs, asking, tops)

    def _record(
        self, first: int, sequences: Items[Sequence], chosen: _Chosen, *, began: float, is_prompt: bool = False
    ) -> None:
        """Note the tokens of rows [first, first + n) on the device, and let the host look at those of a step before."""
        rows = slice(first, first + len(sequences))
        tokens, logprobs = chosen.tokens[: len(sequences)], chosen.logprobs[: len(sequences)]
        self._rows.record(rows, tokens, logprobs)
        results = ReadBack(tokens, logprobs, self._rows.done[rows], *chosen.tops)
        self._note(sequences, results, began=began, asking=chosen.asking, is_prompt=is_prompt)
        if not any(sequence.num_beams for sequence in sequences):
            return
        self.settle()
        for group, row_of in beams_of(sequences, self._groups):
            try:
                group.advance(row_of, first, chosen.scores, self._rows, self._runner.cache)
            except RowError as error:
                self._fail(group.request_id, error)

    def _note(
        self,
        sequences: Items[Sequence],
        results: ReadBack,
        *,
        began: float,
        asking: tuple[int, ...] = (),
        is_prompt: bool = False,
    ) -> None:
        """Note that the device was told of a step, and let the host look at the results of the one before."""
        for sequence in sequences:
            sequence.num_generated += 1
        answers = tuple(sequence.token_ids for sequence in sequences)
        self._in_flight.append(Launched(tuple(sequences), answers, results, asking, is_prompt, began))
        self._catch_up(self._lag)


def choose_lag(device: torch.device) -> int:
    """How many steps a device is ahead of the host: one where it works while the host does something else."""
    return 1 if device.type == "cuda" else 0


def _padded(hidden: Tensor) -> Tensor:
    """Repeat the first of hidden [B, C] until there are a multiple of 16."""
    return hidden[pad_rows(torch.arange(len(hidden), device=hidden.device))]
