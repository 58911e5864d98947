"""Changes to the scores before temperature: penalties on tokens seen, and logit_bias.

A row's tokens are kept as a list of distinct ids with counts, not as a table over the vocabulary: the list is a few
hundred entries where the table is 128 rows of 128k, and its cost follows the text's length alone.
"""

from collections.abc import Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.engine.linear import round_up
from worker.engine.sequence import Sequence
from worker.engine.types import SamplingParams

_STEP = 256  # lists grow in these steps


@dataclass(slots=True)
class Penalties:
    """Penalties and biases of S rows. A row asks for penalties if it has seen tokens: they are noted for no other.

    Invariant: every tensor's first axis is the row. Lists are filled from the left; -1 marks what is unused.
    """

    repetition: Tensor  # [S] float32
    frequency: Tensor  # [S] float32
    presence: Tensor  # [S] float32
    num_seen: Tensor  # [S] int64, distinct tokens of prompt and answer
    seen_ids: Tensor  # [S, H] int64
    counts: Tensor  # [S, H] float32, how often the answer holds the token; 0 where only the prompt does
    bias_ids: Tensor  # [S, K] int64
    biases: Tensor  # [S, K] float32

    @classmethod
    def allocate(cls, num_slots: int, *, device: torch.device) -> "Penalties":
        """Make S rows that ask for nothing; the lists come with the first that does."""

        def floats(*shape: int) -> Tensor:
            return torch.zeros(num_slots, *shape, dtype=torch.float32, device=device)

        def integers(*shape: int) -> Tensor:
            return torch.zeros(num_slots, *shape, dtype=torch.int64, device=device)

        return cls(
            repetition=floats(),
            frequency=floats(),
            presence=floats(),
            num_seen=integers(),
            seen_ids=integers(0),
            counts=floats(0),
            bias_ids=integers(0),
            biases=floats(0),
        )

    def move(self, dst: int, src: int) -> None:
        """Copy a whole row to another slot."""
        for field in fields(self):
            tensor = getattr(self, field.name)
            tensor[dst] = tensor[src]

    def swap(self, a: int, b: int) -> None:
        """Let two rows change places."""
        for field in fields(self):
            tensor = getattr(self, field.name)
            tensor[[a, b]] = tensor[[b, a]]

    def start(self, first: int, sequences: Items[Sequence]) -> None:
        """Fill rows [first, first + n) for newly admitted sequences; clear those that ask for nothing."""
        rows = slice(first, first + len(sequences))
        asking = {row: item for row, item in enumerate(sequences, first) if asks_penalties(item.params)}
        prompts = {row: list(dict.fromkeys(item.prompt_token_ids)) for row, item in asking.items()}
        if self.seen_ids.shape[1] and not asking and not bool(self.num_seen[:first].any()):
            # No live row asks: the lists are as wide as the longest text that ever did.
            self.seen_ids, self.counts = self.seen_ids[:, :0].clone(), self.counts[:, :0].clone()
        self._reserve_seen(len(ids) + 1 for ids in prompts.values())
        self._reserve_biases(len(item.params.logit_bias) for item in sequences)
        self.num_seen[rows], self.seen_ids[rows], self.counts[rows], self.bias_ids[rows] = 0, -1, 0.0, -1
        for row, sequence in asking.items():
            self.repetition[row] = sequence.params.repetition_penalty
            self.frequency[row] = sequence.params.frequency_penalty
            self.presence[row] = sequence.params.presence_penalty
            self.num_seen[row] = len(prompts[row])
            self.seen_ids[row, : len(prompts[row])] = torch.tensor(prompts[row]).to(self.seen_ids.device)
        for row, sequence in enumerate(sequences, first):
            if pairs := sequence.params.logit_bias:
                self.bias_ids[row, : len(pairs)] = torch.tensor([pair[0] for pair in pairs]).to(self.bias_ids.device)
                self.biases[row, : len(pairs)] = torch.tensor([float(pair[1]) for pair in pairs]).to(self.biases.device)

    def reserve(self, first: int, sequences: Items[Sequence]) -> None:
        """Make room for one more token of rows [first, first + n)."""
        self._reserve_seen(
            len(item.prompt_token_ids) + item.num_generated + 1 for item in sequences if asks_penalties(item.params)
        )

    def _reserve_seen(self, lengths: Iterable[int]) -> None:
        more = round_up(max(lengths, default=0), _STEP) - self.seen_ids.shape[1]
        if more > 0:
            # Both or, where memory ends, neither.
            self.seen_ids, self.counts = F.pad(self.seen_ids, (0, more), value=-1), F.pad(self.counts, (0, more))

    def _reserve_biases(self, lengths: Iterable[int]) -> None:
        more = max(lengths, default=0) - self.bias_ids.shape[1]
        if more > 0:
            self.bias_ids, self.biases = F.pad(self.bias_ids, (0, more), value=-1), F.pad(self.biases, (0, more))

    def take(self, rows: slice | Tensor) -> "Penalties | None":
        """The penalties of some rows, by range or by index [B], lists cut to the longest; None if no row asks."""
        num_seen, num_biases = 0, 0
        if self.seen_ids.shape[1]:
            num_seen = int(self.num_seen[rows].max())
        if self.bias_ids.shape[1]:
            num_biases = int((self.bias_ids[rows] >= 0).sum(-1).max())
        if not num_seen and not num_biases:
            return None
        return Penalties(
            repetition=self.repetition[rows],
            frequency=self.frequency[rows],
            presence=self.presence[rows],
            num_seen=self.num_seen[rows],
            seen_ids=self.seen_ids[rows, :num_seen],
            counts=self.counts[rows, :num_seen],
            bias_ids=self.bias_ids[rows, :num_biases],
            biases=self.biases[rows, :num_biases],
        )

    def record(self, rows: slice, tokens: Tensor) -> None:
        """Note one new token [B] of each row that asks: count it, or add it to the list."""
        if not self.seen_ids.shape[1]:
            return
        num_seen, seen_ids, counts = self.num_seen[rows], self.seen_ids[rows], self.counts[rows]  # views
        asks = num_seen > 0
        known = seen_ids == tokens[:, None]
        new = asks & ~known.any(-1)
        # A row that ended may be recorded once more; its list is full then, and nobody reads it.
        column = known.byte().argmax(-1).where(~new, num_seen).clamp(max=seen_ids.shape[1] - 1)[:, None]
        seen_ids.scatter_(1, column, tokens[:, None].where(asks[:, None], seen_ids.gather(1, column)))
        counts.scatter_add_(1, column, asks[:, None].float())
        num_seen += new

    def apply(self, scores: Tensor) -> Tensor:
        """Change a copy of raw scores [B, V]: repetition, frequency, presence, then bias.

        Repetition as Hugging Face's and vLLM's, over prompt and answer: a positive score is divided by it, another
        multiplied. Frequency and presence as OpenAI's, over the answer alone. So a bias means what it says, penalties
        or not. Scores of rows that ask for nothing keep their bits.
        """
        changed = scores.clone()
        if self.seen_ids.shape[1]:
            columns = columns_of(self.seen_ids)
            old, repetition = changed.gather(1, columns), self.repetition[:, None]
            new = (old / repetition).where(old > 0, old * repetition)
            new -= self.frequency[:, None] * self.counts + self.presence[:, None] * (self.counts > 0)
            replace_scores(changed, self.seen_ids, new)
        if self.bias_ids.shape[1]:
            replace_scores(changed, self.bias_ids, changed.gather(1, columns_of(self.bias_ids)) + self.biases)
        return changed


def asks_penalties(params: SamplingParams) -> bool:
    """Whether a request's tokens must be noted."""
    return params.repetition_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0


def columns_of(ids: Tensor) -> Tensor:
    """Columns of lists of ids [B, N]: an unused entry repeats the row's first, or column 0 where all are unused."""
    return ids.where(ids >= 0, ids[:, :1]).clamp(min=0)


def replace_scores(scores: Tensor, ids: Tensor, new: Tensor) -> None:
    """Write new [B, N] over the scores [B, V] of lists of distinct ids [B, N], in place.

    Unused entries write what their column gets anyway, so that the order of writes does not matter.
    """
    columns = columns_of(ids)
    new = new.where(ids >= 0, new[:, :1]).where(ids[:, :1] >= 0, scores.gather(1, columns))
    scores.scatter_(1, columns, new)
