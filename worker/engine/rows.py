"""What the device knows of each row: a struct of arrays, one entry a slot, rows [0, B) live."""

from collections.abc import Sequence as Items
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from worker.engine.bans import Bans, asks_bans
from worker.engine.penalties import Penalties, asks_penalties
from worker.engine.sampling import Features, SamplingState
from worker.engine.sending import send
from worker.engine.sequence import Sequence


@dataclass(slots=True)
class Rows:
    """Row state of S slots. Invariant: every tensor's first axis is the slot, so `move` moves a row whole."""

    token: Tensor  # [S] int64, the newest token, not yet in the cache
    position: Tensor  # [S] int64, where that token goes
    generated: Tensor  # [S] int64
    max_new_tokens: Tensor  # [S] int64
    done: Tensor  # [S] bool
    stop_ids: Tensor  # [S, N] int64, -1 where unused
    temperature: Tensor  # [S] float32
    top_k: Tensor  # [S] int64
    top_p: Tensor  # [S] float32
    min_p: Tensor  # [S] float32
    seed: Tensor  # [S] int64
    min_tokens: Tensor  # [S] int64
    penalties: Penalties
    bans: Bans

    @classmethod
    def allocate(cls, num_slots: int, *, max_stop_ids: int, device: torch.device) -> "Rows":
        """Make S empty rows."""

        def integers() -> Tensor:
            return torch.zeros(num_slots, dtype=torch.int64, device=device)

        def floats() -> Tensor:
            return torch.zeros(num_slots, dtype=torch.float32, device=device)

        return cls(
            token=integers(),
            position=integers(),
            generated=integers(),
            max_new_tokens=integers(),
            done=torch.zeros(num_slots, dtype=torch.bool, device=device),
            stop_ids=torch.full((num_slots, max_stop_ids), -1, device=device),
            temperature=floats(),
            top_k=integers(),
            top_p=floats(),
            min_p=floats(),
            seed=integers(),
            min_tokens=integers(),
            penalties=Penalties.allocate(num_slots, device=device),
            bans=Bans.allocate(num_slots, device=device),
        )

    def move(self, dst: int, src: int) -> None:
        """Copy a whole row to another slot."""
        self.penalties.move(dst, src)
        self.bans.move(dst, src)
        for field in fields(self):
            if isinstance(tensor := getattr(self, field.name), Tensor):
                tensor[dst] = tensor[src]

    def swap(self, a: int, b: int) -> None:
        """Let two rows change places."""
        self.penalties.swap(a, b)
        self.bans.swap(a, b)
        for field in fields(self):
            if isinstance(tensor := getattr(self, field.name), Tensor):
                tensor[[a, b]] = tensor[[b, a]]

    def start(self, first: int, sequences: Items[Sequence], *, vocab_size: int) -> None:
        """Fill rows [first, first + n) for newly admitted sequences."""
        rows = slice(first, first + len(sequences))
        params = [sequence.params for sequence in sequences]
        width = self.stop_ids.shape[1]
        self._set("position", rows, [sequence.length for sequence in sequences])
        self._set("max_new_tokens", rows, [sequence.max_new_tokens for sequence in sequences])
        self._set("stop_ids", rows, [pad_ids(sequence.stop_token_ids, width) for sequence in sequences])
        self._set("temperature", rows, [param.temperature for param in params])
        self._set("top_k", rows, [max(param.top_k, 0) for param in params])
        self._set("top_p", rows, [param.top_p for param in params])
        self._set("min_p", rows, [param.min_p for param in params])
        self._set("seed", rows, [sequence.seed for sequence in sequences])
        self._set("min_tokens", rows, [param.min_tokens for param in params])
        self.generated[rows] = 0
        self.done[rows] = False
        self.penalties.start(first, sequences)
        self.bans.start(first, sequences, vocab_size=vocab_size)
        self.reserve(first, sequences)

    def _set(self, name: str, rows: slice, values: object) -> None:
        tensor: Tensor = getattr(self, name)
        tensor[rows] = send(values, tensor.dtype, tensor.device)

    def reserve(self, first: int, sequences: Items[Sequence]) -> None:
        """Make room for one more token of rows [first, first + n): as they grow, not for all that they may become."""
        self.penalties.reserve(first, sequences)

    def sampling(self, rows: slice | Tensor) -> SamplingState:
        """Take the settings of some rows, by range or by index [B]."""
        every = SamplingState(**{field.name: getattr(self, field.name) for field in fields(SamplingState)})
        return every.take(rows)

    def plain_sampling(self, rows: slice) -> SamplingState:
        """As `sampling`, of rows without penalties and bans; asks the host nothing."""
        names = (field.name for field in fields(SamplingState) if field.name not in ("penalties", "bans"))
        return SamplingState(**{name: getattr(self, name)[rows] for name in names})

    def record(self, rows: slice, tokens: Tensor, logprobs: Tensor) -> None:
        """Take tokens [B], of logprobs [B], as the newest of rows, and mark those that ended: a stop token, the last
        allowed, or a logprob that is no number, since what follows from such scores is none either.
        """
        self.generated[rows] += 1
        self.token[rows] = tokens
        self.penalties.record(rows, tokens)
        self.bans.record(rows, tokens)
        self.done[rows] = self._ends(rows, tokens, logprobs)

    def advance(self, tokens: Tensor, logprobs: Tensor, live: Tensor) -> None:
        """As `record` of rows [0, B), which move on by a position, where live [B] says so. Asks the host nothing.

        For rows without penalties and bans.
        """
        rows = slice(0, len(tokens))
        self.generated[rows] += live
        self.position[rows] += live
        self.token[rows] = tokens.where(live, self.token[rows])
        self.done[rows] = self._ends(rows, tokens, logprobs).where(live, self.done[rows])

    def _ends(self, rows: slice, tokens: Tensor, logprobs: Tensor) -> Tensor:
        stopped = (tokens[:, None] == self.stop_ids[rows]).any(-1)
        return stopped | (self.generated[rows] >= self.max_new_tokens[rows]) | ~logprobs.isfinite()

    def replace_newest(self, rows: Items[int], tokens: Items[int]) -> None:
        """Put other tokens in place of those recorded last."""
        index, new = (send(values, torch.int64, self.token.device) for values in (rows, tokens))
        self.token[index] = new


def pad_ids(ids: Items[int], width: int) -> list[int]:
    """Fill a list of ids up with -1, which no token equals."""
    return [*ids, *[-1] * (width - len(ids))]


def is_plain(sequence: Sequence) -> bool:
    """Whether a row asks for nothing beyond its features: what `Rows.advance` and `plain_sampling` are for."""
    params = sequence.params
    asks = asks_penalties(params) or params.logit_bias or params.top_logprobs or asks_bans(sequence)
    return not asks and not sequence.num_beams


def features_of(sequences: Items[Sequence]) -> Features:
    """Name what any of the sequences asks of the sampler."""
    sampled = [sequence.params for sequence in sequences if sequence.params.temperature > 0]
    return Features(
        sampled=bool(sampled),
        filtered=any(params.top_k > 0 or params.top_p < 1 or params.min_p > 0 for params in sampled),
        min_tokens=any(sequence.params.min_tokens > 0 for sequence in sequences),
    )
