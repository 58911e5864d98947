"""Beams in rows: the sequences of a beam request decode in lockstep, and each step decides which of them go on.

A beam that goes on keeps its row; one that forks is copied over a row whose beam died, the answer's part of the cache
alone, since the prompt's is the same in every row.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

from torch import Tensor

from worker.engine.beam import Beam, BeamSearch, Hypothesis
from worker.engine.cache import Cache, Need
from worker.engine.finish import finish, nonfinite_logits
from worker.engine.group import Group
from worker.engine.rows import Rows
from worker.engine.sampling import top_logprobs
from worker.engine.sequence import Sequence
from worker.engine.tokenizer import Tokenizer
from worker.engine.types import Completion, Output, RowError


@dataclass(slots=True, kw_only=True)
class BeamGroup(Group):
    """A beam request: its sequences are in rows all at once, or none is.

    Invariant: the row of sequence order[i] holds live beam i of the search. What the rows choose for themselves
    is overwritten, so their sequences have no stops and ask to see nothing.
    """

    asked: Sequence  # as it was prepared
    search: BeamSearch
    order: list[int]

    def advance(self, row_of: Mapping[int, int], first: int, scores: Tensor, rows: Rows, cache: Cache) -> None:
        """Choose every beam's next token from raw scores [N, V], of which row i belongs to row first + i.

        `row_of` gives each sequence's row of the scores.
        """
        index = [row_of[answer] for answer in self.order[: len(self.search.live)]]
        logprobs, ids = (found.tolist() for found in top_logprobs(scores, index, self.search.num_candidates))
        beams: list[Beam] = []
        if all(math.isfinite(likeliest) for likeliest, *_ in logprobs):
            beams = self.search.advance(ids, logprobs)
        places = {answer: first + row for answer, row in row_of.items()}
        if beams:
            self._place(beams, places, rows, cache)
        else:  # the search is done, or it fails
            for sequence in self.sequences:
                sequence.ended = True

    def _place(self, beams: Items[Beam], row_of: Mapping[int, int], rows: Rows, cache: Cache) -> None:
        """Give each beam a row that holds its past, and its newest token to feed."""
        sources = [self.order[beam.row] for beam in beams]
        free = [answer for answer in self.order if answer not in sources]
        length = self.sequences[0].length
        pasts = [sequence.token_ids[:-1] for sequence in self.sequences]
        order: list[int] = []
        for source, beam in zip(sources, beams, strict=True):
            answer = source
            if source in order:
                answer = free.pop()
                rows.move(row_of[answer], row_of[source])
                cache.share(row_of[answer], row_of[source], length, start=min(len(self.prompt_token_ids), length))
            order.append(answer)
            self.sequences[answer].token_ids = [*pasts[source], beam.token_id]
        self.order = order
        rows.replace_newest([row_of[answer] for answer in order], [beam.token_id for beam in beams])

    def end(
        self, sequence: Sequence, token_ids: list[int], logprobs: list[float], *, tokenizer: Tokenizer | None
    ) -> Output:
        """Give the best beams, whichever sequence is the first to end: all do in one step. Raises RowError."""
        if not self.search.done:
            raise nonfinite_logits()
        best = self.search.best(self.params.n)
        answers = tuple(_complete(self.asked, hypothesis, tokenizer) for hypothesis in best)
        return Output(self.request_id, self.prompt_token_ids, answers)


def form_beams(asked: Sequence) -> BeamGroup:
    """Make a group of as many sequences as a request asks for beams."""
    params = asked.params
    num_beams = params.num_answers
    plain = replace(params, temperature=0.0, min_tokens=0, top_logprobs=None)
    search = BeamSearch(
        num_beams=num_beams,
        max_new_tokens=asked.max_new_tokens,
        stop_token_ids=frozenset(asked.stop_token_ids),
        length_penalty=params.length_penalty,
        early_stopping=params.early_stopping,
        min_tokens=params.min_tokens,
        num_top=params.top_logprobs or 0,
        completes_stop=_StopWatch(asked) if asked.stop_search else None,
    )
    sequences = [
        replace(
            asked.begun_anew(), params=plain, answer=answer, num_beams=num_beams, stop_token_ids=(), stop_search=None
        )
        for answer in range(num_beams)
    ]
    return BeamGroup(asked.request_id, params, sequences, asked=asked, search=search, order=list(range(num_beams)))


def check_beams(asked: Sequence, *, max_rows: int, fits: Callable[[Items[Need]], bool]) -> None:
    """Refuse more beams than can ever be in rows at once. Raises RowError."""
    params = asked.params
    if params.num_answers > max_rows:
        raise RowError(
            "invalid_value",
            f"best_of is {params.num_answers} beams, but the engine has {max_rows} rows",
        )
    first = Need(asked.length, asked.max_length)
    if not fits([first, *[replace(first, shared=asked.length)] * (params.num_answers - 1)]):
        raise RowError(
            "invalid_value",
            f"{params.num_answers} beams of {asked.max_length} tokens exceed the engine's cache:"
            " lower best_of or max_tokens",
        )


def beams_of(sequences: Items[Sequence], groups: Mapping[str, Group]) -> Iterator[tuple[BeamGroup, dict[int, int]]]:
    """Find the beam requests among rows; with each the rows of its sequences."""
    rows: dict[str, dict[int, int]] = {}
    for row, sequence in enumerate(sequences):
        if sequence.num_beams:
            rows.setdefault(sequence.request_id, {})[sequence.answer] = row
    for request_id, row_of in rows.items():
        group = groups[request_id]
        if isinstance(group, BeamGroup):
            yield group, row_of


class _StopWatch:
    """Says whether tokens complete a stop string. Asked about every beam in turn, it reads each token once."""

    def __init__(self, asked: Sequence) -> None:
        self._length = 0
        self._before: dict[tuple[int, ...], Sequence] = {}  # beams one token shorter than
        self._read: dict[tuple[int, ...], Sequence] = {(): asked}  # those of this length

    def __call__(self, token_ids: list[int]) -> bool:
        if len(token_ids) > self._length:
            self._before, self._read, self._length = self._read, {}, len(token_ids)
        *past, newest = token_ids
        sequence = _fork(self._before[tuple(past)])
        self._read[tuple(token_ids)] = sequence
        return sequence.observe(newest)


def _fork(sequence: Sequence) -> Sequence:
    """A sequence that goes on from here by itself, as far as its text goes."""
    search = sequence.stop_search
    if search is not None:
        search = replace(search, stream=search.stream.fork(), offsets=[*search.offsets])
    return replace(sequence, stop_search=search)


def _complete(asked: Sequence, found: Hypothesis, tokenizer: Tokenizer | None) -> Completion:
    sequence = replace(_fork(asked), top=found.top)
    for token_id in found.token_ids:
        sequence.observe(token_id)
    completion = finish(sequence, found.token_ids, found.logprobs, tokenizer=tokenizer)
    return replace(completion, score=found.score)
