"""One step of the rows on the device: prompts of new rows, or a token more for each. Knows no queue and no results.

Each first computes, which changes no row that was live, and then records what was chosen.
"""

import time
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.engine.beam_rows import beams_of
from worker.engine.faults import blaming_the_row, leaving_rows_alone
from worker.engine.group import Group
from worker.engine.info import Counters
from worker.engine.linear import ROW_MULTIPLE, round_up
from worker.engine.loader import Model
from worker.engine.prefill import Prefill
from worker.engine.rows import Rows, features_of
from worker.engine.runner import Runner, Span, pad_rows
from worker.engine.sampling import MAX_TOP_LOGPROBS, sample, top_logprobs
from worker.engine.scheduler import Scheduler
from worker.engine.sequence import Sequence
from worker.engine.transformer import logits
from worker.engine.types import Delta, RowError

Alternatives = tuple[tuple[int, float], ...]  # (token id, logprob), likeliest first


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Next tokens of n rows, computed and not yet recorded."""

    scores: Tensor  # [N, V] float32, N >= n a multiple of 16
    tokens: Tensor  # [N] int64
    logprobs: Tensor  # [N] float32
    tops: dict[int, Alternatives]  # by row, of those that asked


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
    ) -> None:
        self._weights, self._spec, self._max_model_len = model.weights, model.spec, max_model_len
        self._runner, self._prefill, self._rows = runner, prefill, rows
        self._groups, self._counters, self._fail = groups, counters, fail
        self.deltas: list[Delta] = []  # not taken yet

    def begin(self, live: Items[Sequence], num_new: int) -> None:
        """Run the prompts of the last rows, just admitted, and choose each one's first token."""
        began = time.perf_counter()
        first, sequences = len(live) - num_new, live[-num_new:]
        longest = max(sequence.max_length for sequence in live)
        with leaving_rows_alone():
            self._runner.cache.reserve(first, len(live), longest)
            self._rows.start(first, sequences, vocab_size=self._spec.vocab_size)
            hidden = self._prefill.run(first, sequences)
            chosen = self._choose(first, sequences, _padded(hidden))
        now = time.perf_counter()
        for sequence in sequences:
            if sequence.answer == 0:
                self._groups[sequence.request_id].begun = (began, now)
        self._record(first, sequences, chosen)
        self._counters.prompt_tokens += sum(len(sequence.prompt_token_ids) for sequence in sequences)
        self._counters.shared_tokens, self._counters.prefix_hits = self._prefill.shared_tokens, self._prefill.num_hits
        self._counters.prefill_seconds += time.perf_counter() - began

    def decode(self, scheduler: Scheduler) -> None:
        """Feed every live row its newest token and choose the next."""
        began = time.perf_counter()
        for a, b in scheduler.set_apart():
            self._rows.swap(a, b)
            self._runner.cache.copy(a, b, scheduler.live[a].length)
        live = scheduler.live
        plain = [sequence for sequence in live if not sequence.overflows]
        if plain:
            self._extend(plain)
        if len(plain) < len(live):
            self._recompute(len(plain), live[len(plain) :])
        self._counters.steps += 1
        self._counters.row_steps += len(live)
        self._counters.decode_seconds += time.perf_counter() - began

    def _extend(self, sequences: list[Sequence]) -> None:
        """Decode rows [0, n) over the cache."""
        num_rows = len(sequences)
        padded = round_up(num_rows, ROW_MULTIPLE)  # rows beyond the live ones compute nothing anyone reads
        ends = [sequence.length + 1 for sequence in sequences]
        with leaving_rows_alone():
            # A row that was cropped is past its end.
            positions = self._rows.position[:padded].clamp(max=self._max_model_len - 1)
            hidden = self._runner.decode(self._rows.token[:padded], positions, ends)
            chosen = self._choose(0, sequences, hidden)
        self._rows.position[:num_rows] += 1
        self._record(0, sequences, chosen)

    def _recompute(self, first: int, sequences: list[Sequence]) -> None:
        """Decode rows [first, first + n), each over the newest tokens of its context alone, at positions from 0."""
        spans = []
        with leaving_rows_alone():
            for row, sequence in enumerate(sequences, first):
                generated, _ = self._rows.output(row, sequence.num_generated)
                newest = [*sequence.prompt_token_ids, *generated][-(sequence.context_length or 0) :]
                spans.append(Span(row, 0, newest))
            chosen = self._choose(first, sequences, _padded(self._runner.prefill(spans)))
        self._record(first, sequences, chosen)

    def _choose(self, first: int, sequences: Items[Sequence], hidden: Tensor) -> _Chosen:
        """Choose a token for rows [first, first + n) from hidden [N, C], whose first n rows are theirs."""
        self._rows.reserve(first, sequences)
        scores = logits(self._weights, self._spec, hidden, self._runner.ops)
        began = time.perf_counter()
        index = pad_rows(torch.arange(first, first + len(sequences), device=hidden.device))
        tokens, logprobs = sample(scores, self._rows.sampling(index), features_of(sequences), self._runner.ops)
        chosen = _Chosen(scores, tokens, logprobs, self._collect_top(sequences, scores))
        self._counters.sampling_seconds += time.perf_counter() - began
        return chosen

    def _collect_top(self, sequences: Items[Sequence], scores: Tensor) -> dict[int, Alternatives]:
        asking = [row for row, sequence in enumerate(sequences) if sequence.params.top_logprobs]
        if not asking:
            return {}
        values, ids = top_logprobs(scores, asking, MAX_TOP_LOGPROBS, self._runner.ops)
        tops = {}
        for row, some_ids, some_values in zip(asking, ids.tolist(), values.tolist(), strict=True):
            num = sequences[row].params.top_logprobs
            tops[row] = tuple(zip(some_ids[:num], some_values[:num], strict=True))
        return tops

    def _record(self, first: int, sequences: Items[Sequence], chosen: _Chosen) -> None:
        """Note the tokens of rows [first, first + n), and let the host see those it must look at."""
        began = time.perf_counter()
        count = len(sequences)
        self._rows.record(slice(first, first + count), chosen.tokens[:count], chosen.logprobs[:count])
        for row, sequence in enumerate(sequences):
            sequence.num_generated += 1
            if row in chosen.tops:
                sequence.top.append(chosen.tops[row])
            if sequence.stop_search is not None:
                self._observe(first + row, sequence, int(chosen.tokens[row]))
        if streaming := [row for row, sequence in enumerate(sequences) if sequence.streams]:
            self._show(sequences, chosen, streaming)
        for group, row_of in beams_of(sequences, self._groups):
            try:
                group.advance(row_of, first, chosen.scores, self._rows, self._runner.cache)
            except RowError as error:
                self._fail(group.request_id, error)
        self._counters.sampling_seconds += time.perf_counter() - began

    def _observe(self, row: int, sequence: Sequence, token_id: int) -> None:
        """Look for a stop string; the request whose text cannot be made fails at once."""
        if sequence.cancelled:  # another answer of the request failed in this step
            return
        try:
            with blaming_the_row():
                ended = sequence.observe(token_id)
        except RowError as error:
            self._fail(sequence.request_id, error)
        else:
            if ended:
                self._rows.done[row] = True

    def _show(self, sequences: Items[Sequence], chosen: _Chosen, rows: list[int]) -> None:
        """Give out what is new of the answers in some rows."""
        tokens, logprobs = chosen.tokens[rows].tolist(), chosen.logprobs[rows].tolist()
        for row, token_id, logprob in zip(rows, tokens, logprobs, strict=True):
            sequence = sequences[row]
            if sequence.cancelled:  # another answer of the request failed in this step
                continue
            try:
                with blaming_the_row():
                    self.deltas += self._groups[sequence.request_id].show(sequence, token_id, logprob)
            except RowError as error:
                self._fail(sequence.request_id, error)


def _padded(hidden: Tensor) -> Tensor:
    """Repeat the first of hidden [B, C] until there are a multiple of 16."""
    return hidden[pad_rows(torch.arange(len(hidden), device=hidden.device))]
