"""One request on its way: its answers are sequences of their own, which share the prompt and nothing else."""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace

from worker.engine.randomness import derive_seed
from worker.engine.sequence import Sequence, StopSearch
from worker.engine.tokenizer import Tokenizer
from worker.engine.types import Completion, Output, SamplingParams


@dataclass(slots=True)
class Group:
    """A request's sequences, and the answers of those that have ended."""

    request_id: str
    params: SamplingParams
    sequences: list[Sequence]
    answers: dict[int, Completion] = field(default_factory=dict)

    @property
    def prompt_token_ids(self) -> list[int]:
        """Tokens of the prompt."""
        return self.sequences[0].prompt_token_ids

    def add(self, answer: int, completion: Completion) -> Output | None:
        """Take the answer of one sequence; give the output once all are there."""
        self.answers[answer] = completion
        if len(self.answers) < len(self.sequences):
            return None
        completions = [self.answers[index] for index in range(len(self.sequences))]
        return Output(self.request_id, self.prompt_token_ids, choose(completions, self.params.n))


def fan_out(first: Sequence, tokenizer: Tokenizer | None) -> Group:
    """Make a group of a request's first sequence and as many more as it asks for, each with a seed of its own."""
    sequences = [first]
    for answer in range(1, first.params.num_answers):
        search = first.stop_search
        if search is not None and tokenizer is not None:
            stream = tokenizer.stream(skip_special_tokens=first.params.skip_special_tokens)
            search = StopSearch(stream, search.stops, include_stop=search.include_stop)
        seed = derive_seed(first.params.seed, answer)
        sequences.append(replace(first, answer=answer, seed=seed, stop_search=search, top=[]))
    return Group(first.request_id, first.params, sequences)


def choose(completions: Items[Completion], num: int) -> tuple[Completion, ...]:
    """Pick the `num` answers of the highest logprob per token, best first; all of them stay in their order."""
    if len(completions) == num:
        return tuple(completions)
    return tuple(sorted(completions, key=_mean_logprob, reverse=True)[:num])


def _mean_logprob(completion: Completion) -> float:
    return sum(completion.logprobs) / max(len(completion.logprobs), 1)
