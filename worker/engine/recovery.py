"""What an engine does when memory runs out: fewer rows at a time, and the others begin anew later. Computes nothing.

A row that begins anew gives the same answer: its random numbers are counted, and no neighbour changes a bit of it.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch

from worker.engine.beam_rows import BeamGroup, form_beams
from worker.engine.deltas import follow
from worker.engine.group import Group, new_search
from worker.engine.prefill import Prefill
from worker.engine.runner import Runner
from worker.engine.scheduler import Scheduler
from worker.engine.sequence import Sequence
from worker.engine.tokenizer import Tokenizer

log = logging.getLogger(__name__)

# Steps without a failure after which a lowered limit is doubled. A failure after that doubles this number, so that a
# lasting lack of memory costs ever less, and rows get the time to end.
PATIENCE_STEPS = 256

Unit = list[Sequence]  # what is in rows together or not at all: one sequence, or all beams of a request


class Recovery:
    """Takes rows back to the queue, and learns how many of them memory holds."""

    def __init__(
        self,
        scheduler: Scheduler,
        runner: Runner,
        prefill: Prefill,
        groups: Mapping[str, Group],
        tokenizer: Tokenizer | None,
    ) -> None:
        self._scheduler, self._cache, self._prefill = scheduler, runner.cache, prefill
        self._groups, self._tokenizer = groups, tokenizer
        self._budget_tokens = self._cache.budget_tokens
        self._patience, self._num_clean, self._has_raised = PATIENCE_STEPS, 0, False
        self._alone: tuple[Sequence, int] | None = None  # what failed alone last, and with how many tokens
        self._num_shortages = 0  # of the cache, seen so far
        self.num_splits = self.num_preemptions = 0

    def begin_anew(self) -> None:
        """Take every row back to the queue: what a failed step left in them is not to be trusted."""
        units = self._units()
        self._empty_rows()
        self._requeue(units)

    def split(self, *, intact: bool) -> Sequence | None:
        """Make room after memory ran out: stored beginnings of prompts go, and the rows that have come least far, half
        of them or more; so many are the limit from now on.

        Where only the cache is full, the youngest row goes. `intact`: the rows that had begun hold what they held.
        Gives a sequence that ran alone and never will, if any.
        """
        if self._cache.num_shortages > self._num_shortages:
            self._num_shortages = self._cache.num_shortages
            if intact:
                return self._preempt()
        self.num_splits += 1
        self._num_clean = 0
        self._prefill.forget()
        units = self._units()
        intact = intact and self._cache.holds_rows
        kept = [unit for unit in units if unit[0].num_generated] if intact else []
        hopeless = None
        if len(units) > 1:
            kept = self._lower(units, kept)
        elif units:
            hopeless = self._release_for(units[0])
            kept = []
        self._take_back([unit for unit in units if unit not in kept], all_rows=not kept)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        log.warning("out of memory: at most %d rows now", self._scheduler.limit, extra={"action": "out_of_memory"})
        return hopeless

    def _preempt(self) -> Sequence | None:
        """Take the row back that has come least far: rows were let in that need not all fit to their ends.

        The one that has come farthest is never taken back, and from here on until a row ends only rows are let in that
        fit to theirs. So between two ends no more rows are taken back than were live, and every request ends. Nothing
        is taken back where a row has ended or is wanted no more: its room is enough, or this is called again.
        """
        units = self._units()
        if not units or any(sequence.ended for unit in units for sequence in unit):
            return None
        self._scheduler.reserving = True
        going = [unit for unit in units if not unit[0].num_generated]  # their first token was not recorded
        if going and len(units) > 1:  # let in with less room than was thought: fewer at a time, or it happens again
            self._scheduler.limit = max(_num_rows(units) - _num_rows(going), _num_rows(units) // 2)
        if len(units) == 1:
            if self._is_hopeless(units[0]):
                return units[0][0]
            self._prefill.forget()
            going = units
        elif not going:
            going = [min(reversed(units), key=lambda unit: unit[0].num_generated)]
        self._take_back(going, all_rows=len(going) == len(units))
        self.num_preemptions += _num_rows(going)
        log.info("the cache is full: %d rows begin anew", _num_rows(going), extra={"action": "preempted"})
        return None

    def note_clean_step(self) -> None:
        """Try more rows again after some time without a failure."""
        cache, scheduler = self._cache, self._scheduler
        if scheduler.limit >= scheduler.max_rows and cache.budget_tokens >= self._budget_tokens:
            return
        self._num_clean += 1
        if self._num_clean >= self._patience:
            scheduler.limit = min(2 * scheduler.limit, scheduler.max_rows)
            cache.budget_tokens = min(2 * cache.budget_tokens, self._budget_tokens)
            self._num_clean, self._has_raised = 0, True

    def _units(self) -> list[Unit]:
        """What is live and still wanted, by what must stay together."""
        beams: dict[str, Unit] = {}
        units: list[Unit] = []
        for sequence in self._scheduler.live:
            group = self._groups.get(sequence.request_id)
            if sequence.cancelled or group is None or sequence.answer in group.answers:
                continue
            if sequence.num_beams and sequence.request_id in beams:
                beams[sequence.request_id].append(sequence)
                continue
            units.append([sequence])
            beams[sequence.request_id] = units[-1]
        return units

    def _lower(self, units: list[Unit], kept: list[Unit]) -> list[Unit]:
        """Lower the limit of rows; gives the units that may stay, those with most tokens where all have some."""
        half = _num_rows(units) // 2
        if len(kept) == len(units):
            kept = sorted(kept, key=lambda unit: -unit[0].num_generated)
            while len(kept) > 1 and _num_rows(kept) > half:
                kept.pop()
        self._scheduler.limit = max(_num_rows(kept), half)
        if self._has_raised:
            self._patience, self._has_raised = 2 * self._patience, False
        return kept

    def _release_for(self, unit: Unit) -> Sequence | None:
        """Give the whole cache back for a unit that ran alone; gives its first sequence where that did not help."""
        if self._is_hopeless(unit):
            return unit[0]
        self._cache.release()
        self._scheduler.limit = len(unit)
        return None

    def _is_hopeless(self, unit: Unit) -> bool:
        """Whether a unit that failed alone had done so before, and has come no further since."""
        sequence = unit[0]
        before, self._alone = self._alone, (sequence, sequence.num_generated)
        return before is not None and before[0] is sequence and sequence.num_generated <= before[1]

    def _empty_rows(self) -> None:
        self._scheduler.live.clear()
        self._cache.keep_first(0)

    def _take_back(self, units: list[Unit], *, all_rows: bool) -> None:
        """Move units from their rows to the queue; where others stay, the next step closes the holes."""
        if all_rows:
            self._empty_rows()
        else:
            taken = {id(sequence) for unit in units for sequence in unit}
            self._scheduler.live[:] = [
                replace(sequence, cancelled=True) if id(sequence) in taken else sequence
                for sequence in self._scheduler.live
            ]
        self._requeue(units)

    def _requeue(self, units: list[Unit]) -> None:
        for unit in units:
            rewind(self._groups[unit[0].request_id], unit, self._tokenizer)
        self._scheduler.requeue([sequence for unit in units for sequence in unit])


def rewind(group: Group, sequences: Iterable[Sequence], tokenizer: Tokenizer | None) -> None:
    """Set sequences of a group, all of them where they are beams, to where they began."""
    for sequence in sequences:
        sequence.num_generated, sequence.ended = 0, False
        sequence.token_ids, sequence.logprobs, sequence.top = [], [], []
        sequence.stop_search = new_search(sequence, tokenizer)
        if sequence.answer in group.makers:
            group.makers[sequence.answer] = follow(sequence, tokenizer, past=group.makers[sequence.answer])
    if isinstance(group, BeamGroup):
        fresh = form_beams(group.asked)
        group.search, group.order = fresh.search, fresh.order


def rewound(group: Group, tokenizer: Tokenizer | None) -> Group:
    """Copy a group as it was before it began; its own sequences stay as they are.

    The copy does not stream: another number format may answer otherwise than what was given out.
    """
    fresh = [replace(sequence, cancelled=False, streams=False) for sequence in group.sequences]
    copy = replace(group, sequences=fresh, answers={}, makers={})
    rewind(copy, copy.sequences, tokenizer)
    return copy


def _num_rows(units: list[Unit]) -> int:
    return sum(map(len, units))
