"""One request on its way: its answers are sequences of their own, which share the prompt and nothing else."""

import math
import time
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace

from worker.engine.deltas import DeltaMaker, follow
from worker.engine.finish import finish
from worker.engine.randomness import derive_seed
from worker.engine.sequence import Sequence, StopSearch
from worker.engine.tokenizer import Tokenizer
from worker.engine.types import Completion, Delta, Output, RowError, SamplingParams, Timings


@dataclass(slots=True)
class Group:
    """A request's sequences, and the answers of those that have ended."""

    request_id: str
    params: SamplingParams
    sequences: list[Sequence]
    answers: dict[int, Completion] = field(default_factory=dict)
    makers: dict[int, DeltaMaker] = field(default_factory=dict)  # by answer, where the request streams
    added_at: float = 0.0  # by the performance counter, as below
    begun: tuple[float, float] | None = None  # when the first answer's prompt began to run, and had its first token

    @property
    def prompt_token_ids(self) -> list[int]:
        """Tokens of the prompt."""
        return self.sequences[0].prompt_token_ids

    def show(self, sequence: Sequence, token_id: int, logprob: float) -> list[Delta]:
        """Give out what is new with a sequence's newest token. Raises RowError."""
        maker, deltas = self.makers[sequence.answer], []
        if not math.isfinite(logprob):  # the request fails, or begins anew elsewhere
            return []
        if self.params.echo and not maker.is_echoed:
            deltas.append(maker.echo(sequence, self.sequences[0]))
        if not sequence.has_ended_with(token_id) and (delta := maker.push(sequence, token_id, logprob)):
            deltas.append(delta)
        return deltas

    def timings(self) -> Timings | None:
        """How long the request took, asked when it ends."""
        if self.begun is None:
            return None
        began, first_token = self.begun
        spans = first_token - began, time.perf_counter() - first_token, first_token - self.added_at
        return Timings(*(round(1000 * seconds, 3) for seconds in spans))

    def end(
        self, sequence: Sequence, token_ids: list[int], logprobs: list[float], *, tokenizer: Tokenizer | None
    ) -> Output | None:
        """Take what one sequence generated; give the output once all are there. Raises RowError."""
        maker = self.makers.get(sequence.answer)
        stream = maker.stream if maker else None
        self.answers[sequence.answer] = finish(sequence, token_ids, logprobs, tokenizer=tokenizer, stream=stream)
        if len(self.answers) < len(self.sequences):
            return None
        completions = [self.answers[index] for index in range(len(self.sequences))]
        return Output(self.request_id, self.prompt_token_ids, choose(completions, self.params.n))


def follow_all(group: Group, tokenizer: Tokenizer | None) -> None:
    """Have a new group's answers given out by pieces. Raises RowError where it is known at the end only which ones are
    given."""
    if group.params.use_beam_search or group.params.num_answers > group.params.n:
        raise RowError("unsupported_parameter", "stream is not supported with use_beam_search, or best_of above n")
    for sequence in group.sequences:
        sequence.streams = True
        group.makers[sequence.answer] = follow(sequence, tokenizer)


def fan_out(first: Sequence, tokenizer: Tokenizer | None) -> Group:
    """Make a group of a request's first sequence and as many more as it asks for, each with a seed of its own."""
    sequences = [first]
    for answer in range(1, first.params.num_answers):
        seed = derive_seed(first.params.seed, answer)
        sequences.append(
            replace(first.begun_anew(), answer=answer, seed=seed, stop_search=new_search(first, tokenizer))
        )
    return Group(first.request_id, first.params, sequences)


def new_search(sequence: Sequence, tokenizer: Tokenizer | None) -> StopSearch | None:
    """Make a search of a sequence's stop strings that has seen no text."""
    search = sequence.stop_search
    if search is None or tokenizer is None:
        return None
    stream = tokenizer.stream(skip_special_tokens=sequence.params.skip_special_tokens)
    return StopSearch(stream, search.stops, include_stop=search.include_stop)


def choose(completions: Items[Completion], num: int) -> tuple[Completion, ...]:
    """Pick the `num` answers of the highest logprob per token, best first; all of them stay in their order."""
    if len(completions) == num:
        return tuple(completions)
    return tuple(sorted(completions, key=_mean_logprob, reverse=True)[:num])


def _mean_logprob(completion: Completion) -> float:
    return sum(completion.logprobs) / max(len(completion.logprobs), 1)
