"""The host's half of a step: it looks at what the device chose, finds stop strings, and gives out what is new."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from worker.engine.faults import blaming_the_row
from worker.engine.group import Group
from worker.engine.info import Counters
from worker.engine.readback import ReadBack
from worker.engine.sequence import Sequence
from worker.engine.types import Delta, RowError

Alternatives = tuple[tuple[int, float], ...]  # (token id, logprob), likeliest first


@dataclass(frozen=True, slots=True)
class Launched:
    """A step the device was told to do, for some rows."""

    sequences: tuple[Sequence, ...]  # by row, as the rows were then
    answers: tuple[list[int], ...]  # their lists of tokens: one that began anew meanwhile has another
    results: ReadBack  # token [B], logprob [B], done [B], and of those that asked alternatives [R, n] and logprobs
    asking: tuple[int, ...]  # rows whose alternatives are there
    is_prompt: bool
    began: float  # by the performance counter


class Observer:
    """Takes the results of steps in their order."""

    def __init__(
        self, groups: Mapping[str, Group], counters: Counters, *, fail: Callable[[str, RowError], None]
    ) -> None:
        self._groups, self._counters, self._fail = groups, counters, fail
        self._last = 0.0  # when the results of the step before were there
        self.deltas: list[Delta] = []  # not taken yet

    def take(self, launched: Launched) -> None:
        """Wait for a step's results and note them.

        A row that was found to have ended meanwhile was decoded once too often, and one that began anew has another
        answer now: that token is nobody's.
        """
        tokens, logprobs, done, *tops = (copy.tolist() for copy in launched.results.wait())
        now = time.perf_counter()
        seconds, self._last = now - max(launched.began, self._last), now
        if launched.is_prompt:
            self._counters.prefill_seconds += seconds
        else:
            self._counters.decode_seconds += seconds
        alternatives = _alternatives(launched, *tops) if tops else {}
        for row, sequence in enumerate(launched.sequences):
            if sequence.ended or sequence.cancelled or sequence.token_ids is not launched.answers[row]:
                continue
            if launched.is_prompt and sequence.answer == 0:
                self._groups[sequence.request_id].begun = (launched.began, now)
            sequence.note(tokens[row], logprobs[row], alternatives.get(row))
            sequence.ended = done[row]
            if sequence.stop_search is not None or sequence.streams:
                self._look(sequence, tokens[row], logprobs[row])

    def _look(self, sequence: Sequence, token_id: int, logprob: float) -> None:
        """Look for a stop string and give out what is new; the request whose text cannot be made fails at once."""
        try:
            with blaming_the_row():
                sequence.ended |= sequence.observe(token_id)
                if sequence.streams:
                    self.deltas += self._groups[sequence.request_id].show(sequence, token_id, logprob)
        except RowError as error:
            self._fail(sequence.request_id, error)


def _alternatives(launched: Launched, ids: list[list[int]], logprobs: list[list[float]]) -> dict[int, Alternatives]:
    """The alternatives by row, as many as each asked for."""
    found = {}
    for row, some_ids, some_logprobs in zip(launched.asking, ids, logprobs, strict=True):
        num = launched.sequences[row].params.top_logprobs
        found[row] = tuple(zip(some_ids[:num], some_logprobs[:num], strict=True))
    return found
