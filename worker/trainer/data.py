"""From entries to padded batches: token ids, targets, and a loss only where there is text."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import tiktoken
import torch

from worker.trainer.bpe import PATTERN, Ranks, train_ranks
from worker.trainer.corpus import Entry, in_validation
from worker.trainer.settings import TrainSettings

END_TOKEN = "<|end|>"
IGNORED = -100  # the target of padding, as torch's cross_entropy has it
_POOL_SIZE = 1024  # samples of a pool are batched by length: little padding, and still well mixed


@dataclass(frozen=True, slots=True)
class Sample:
    """One entry as token ids, the end token last."""

    token_ids: list[int]
    num_prompt_tokens: int

    def __len__(self) -> int:
        """Tokens with the end token."""
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded samples. A row is one whole entry from its first token on: exactly what inference will see."""

    tokens: torch.Tensor  # [B, S] int64
    targets: torch.Tensor  # [B, S] int64: the next token; IGNORED in the padding
    prompt_lengths: torch.Tensor  # [B] int64


@dataclass(frozen=True, slots=True)
class Dataset:
    """The vocabulary and the two splits."""

    ranks: Ranks
    train: Sequence[Sample]
    validation: Sequence[Sample]

    @property
    def end_id(self) -> int:
        """The id of the end token: the last of the vocabulary."""
        return len(self.ranks)


def build_dataset(entries: Sequence[Entry], settings: TrainSettings) -> Dataset:
    """Hold out the validation split, learn the vocabulary from the rest, encode both."""
    held_out = [entry for entry in entries if in_validation(entry, percent=settings.validation_percent)]
    rest = [entry for entry in entries if not in_validation(entry, percent=settings.validation_percent)]
    ranks = train_ranks((entry.line for entry in rest), num_ranks=settings.vocab_size - 1)
    encoding = make_encoding(ranks)
    limit = settings.context_tokens
    return Dataset(ranks, encode(rest, encoding, limit), encode(held_out, encoding, limit))


def make_encoding(ranks: Ranks) -> tiktoken.Encoding:
    """The tokenizer of a vocabulary: its ranks, then the end token."""
    return tiktoken.Encoding(
        "batchmill-demo", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END_TOKEN: len(ranks)}
    )


def encode(entries: Sequence[Entry], encoding: tiktoken.Encoding, max_tokens: int) -> list[Sample]:
    """Tokenise entries; those beyond `max_tokens` are left out."""
    end_id = encoding.n_vocab - 1
    samples = [
        Sample([*encoding.encode_ordinary(entry.line), end_id], len(encoding.encode_ordinary(entry.prompt)))
        for entry in entries
    ]
    return [sample for sample in samples if len(sample) <= max_tokens]


def endless_batches(samples: Sequence[Sample], *, batch_tokens: int, seed: int) -> Iterator[Batch]:
    """Epoch after epoch, each in an order of its own that seed and epoch alone decide."""
    if not samples:
        raise ValueError("the training split is empty")
    epoch = 0
    while True:
        yield from _shuffled_epoch(samples, batch_tokens, random.Random(f"{seed}/{epoch}"))
        epoch += 1


def ordered_batches(samples: Sequence[Sample], *, batch_tokens: int) -> Iterator[Batch]:
    """Every sample once, shortest first."""
    return (_pad(group) for group in _group(sorted(samples, key=len), batch_tokens))


def _shuffled_epoch(samples: Sequence[Sample], batch_tokens: int, shuffler: random.Random) -> Iterator[Batch]:
    order = list(samples)
    shuffler.shuffle(order)
    pools = [sorted(order[start : start + _POOL_SIZE], key=len) for start in range(0, len(order), _POOL_SIZE)]
    groups = [group for pool in pools for group in _group(pool, batch_tokens)]
    shuffler.shuffle(groups)
    return map(_pad, groups)


def _group(by_length: Sequence[Sample], batch_tokens: int) -> Iterator[list[Sample]]:
    """Cut a list sorted by length into groups whose padded size stays within `batch_tokens`."""
    group: list[Sample] = []
    for sample in by_length:
        if group and len(sample) * (len(group) + 1) > batch_tokens:
            yield group
            group = []
        group.append(sample)
    if group:
        yield group


def _pad(group: list[Sample]) -> Batch:
    """The last token of a sample is only ever a target, hence S = longest - 1."""
    width = max(map(len, group)) - 1
    tokens = [[*sample.token_ids[:-1], *[0] * (width + 1 - len(sample))] for sample in group]
    targets = [[*sample.token_ids[1:], *[IGNORED] * (width + 1 - len(sample))] for sample in group]
    prompt_lengths = [sample.num_prompt_tokens for sample in group]
    return Batch(torch.tensor(tokens), torch.tensor(targets), torch.tensor(prompt_lengths))
