"""Beam search over plain numbers: which beams live on, which are finished, when to give up. No tensors, cache or model.

The algorithm, its stopping rules included, is that of `_beam_search` in transformers/generation/utils.py (5.x).
"""

import math
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Literal

EarlyStopping = bool | Literal["never"]
Alternatives = tuple[tuple[int, float], ...]  # (token id, logprob), likeliest first


@dataclass(frozen=True, slots=True, eq=False)
class Beam:
    """A path of tokens, kept as its newest one and what came before: beams that fork share their past."""

    parent: "Beam | None" = None  # None: the prompt, before any token
    row: int = 0  # of the parent, among the live beams of its step
    token_id: int = -1
    logprob: float = 0.0
    total: float = 0.0  # sum of logprobs
    length: int = 0  # tokens, the stop token included
    top: Alternatives = ()

    def path(self) -> list["Beam"]:
        """The beam after each of its tokens, oldest first."""
        nodes, node = [], self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A finished beam: its tokens end with the stop token, where one ended it."""

    token_ids: list[int]
    logprobs: list[float]
    top: list[Alternatives]
    score: float


@dataclass(slots=True)
class BeamSearch:
    """The search of one prompt. Invariant: until `done`, live beam i is row i of the next scores, best first.

    The scores' first step has the prompt's row alone. Score of a beam: sum of logprobs / length ** length_penalty.
    `completes_stop` says whether some tokens' text completes a stop string; such a beam is finished. It is asked about
    every beam that goes on, so that it may remember them.
    """

    num_beams: int
    max_new_tokens: int
    stop_token_ids: frozenset[int]
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    min_tokens: int = 0  # stop tokens are forbidden before
    num_top: int = 0  # alternatives kept of each token
    completes_stop: Callable[[list[int]], bool] | None = None
    live: list[Beam] = field(default_factory=lambda: [Beam()])
    finished: list[tuple[float, Beam]] = field(default_factory=list)  # (score, beam), at most num_beams, best first
    done: bool = False

    @property
    def num_continuations(self) -> int:
        """Continuations ranked a step: enough that num_beams stay when each beam's every stop token is among them."""
        return max(2, 1 + len(self.stop_token_ids)) * self.num_beams

    @property
    def num_candidates(self) -> int:
        """How many of each beam's likeliest tokens `advance` has to see, the forbidden ones included."""
        return max(self.num_continuations + len(self.stop_token_ids), self.num_top)

    def advance(self, ids: Items[Items[int]], logprobs: Items[Items[float]]) -> list[Beam]:
        """Go one token further, from each live beam's `num_candidates` likeliest tokens, likeliest first.

        Logprobs must be finite. Gives the num_beams beams to decode next, of which `row` and `token_id` say what to
        copy and feed; where fewer are left, the first stands in for the missing. None when the search is done.
        """
        live: list[Beam] = []
        for rank, beam in enumerate(self._rank(ids, logprobs)):
            if not self._ends(beam):
                live.append(beam)
            elif rank < self.num_beams:  # the others are there in case so many of the best end
                self._finish(beam)
            if len(live) == self.num_beams:
                break
        self.live = live
        self.done = not self.live or not self._may_improve()
        return [] if self.done else self.live + self.live[:1] * (self.num_beams - len(self.live))

    def best(self, num: int) -> list[Hypothesis]:
        """The best finished beams of a search that is done, best first."""
        return [self._hypothesis(score, beam) for score, beam in self.finished[:num]]

    def _rank(self, ids: Items[Items[int]], logprobs: Items[Items[float]]) -> list[Beam]:
        """Continue every live beam by every candidate and keep the likeliest; of equals the earlier beam, lower id."""
        forbidden = self.stop_token_ids if self.live[0].length < self.min_tokens else frozenset()
        ranked = sorted(
            (-(beam.total + logprob), row, token_id, logprob)
            for row, beam in enumerate(self.live)
            for token_id, logprob in zip(ids[row], logprobs[row], strict=True)
            if token_id not in forbidden
        )
        tops = [tuple(zip(ids[row][: self.num_top], logprobs[row], strict=False)) for row in range(len(self.live))]
        return [
            Beam(self.live[row], row, token_id, logprob, -total, self.live[row].length + 1, tops[row])
            for total, row, token_id, logprob in ranked[: self.num_continuations]
        ]

    def _ends(self, beam: Beam) -> bool:
        if beam.length >= self.max_new_tokens or beam.token_id in self.stop_token_ids:
            return True
        return self.completes_stop is not None and self.completes_stop([node.token_id for node in beam.path()])

    def _finish(self, beam: Beam) -> None:
        self.finished.append((self._score(beam.total, beam.length), beam))
        self.finished.sort(key=lambda entry: -entry[0])  # stable: of equals the earlier one stays
        del self.finished[self.num_beams :]

    def _score(self, total: float, length: int) -> float:
        return total / math.pow(length, self.length_penalty)

    def _may_improve(self) -> bool:
        """Whether the best live beam could still beat the worst finished one, as early_stopping judges it."""
        if len(self.finished) < self.num_beams:
            return True
        if self.early_stopping is True:
            return False
        longest = self.early_stopping == "never" and self.length_penalty > 0
        best = self.live[0]
        return self._score(best.total, self.max_new_tokens if longest else best.length) > self.finished[-1][0]

    def _hypothesis(self, score: float, beam: Beam) -> Hypothesis:
        path = beam.path()
        return Hypothesis(
            token_ids=[node.token_id for node in path],
            logprobs=[node.logprob for node in path],
            top=[node.top for node in path],
            score=score,
        )
