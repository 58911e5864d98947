"""A rank's own part of a pass, and a pass as a message."""

from dataclasses import fields
from math import prod
from typing import Any

import torch
from torch import Tensor

from worker.engine.attention import Pass
from worker.engine.loader import Model
from worker.engine.parallel.link import Message
from worker.engine.parallel.ranks import RankLost, Ranks, pass_shapes
from worker.engine.runner import Runner
from worker.engine.transformer import run_layers


class RankRunner(Runner):
    """Runs a rank's share of the heads and columns. A pass that fails here fails without keeping others waiting."""

    def __init__(self, model: Model, ranks: Ranks, **sizes: Any) -> None:  # noqa: ANN401 (see Runner)
        super().__init__(model, **sizes)
        self._ranks, self._dtype = ranks, model.dtype
        self.has_device_step = False  # the other ranks have to be told of every pass

    def run_pass(self, tokens: Pass) -> Tensor:
        """Run a pass that rank 0 told of."""
        return self._forward(tokens)

    def _forward(self, tokens: Pass) -> Tensor:
        """Run one pass. Raises RankLost where the ranks can exchange nothing more, else what failed here."""
        self._ranks.num_joins = 0
        try:
            mix = self.attention.bind(self.cache, tokens)
            return run_layers(
                self._weights, self._spec, tokens.tokens, tokens.positions, mix, tokens.keep, self.ops, self._ranks.join
            )
        except RankLost:
            raise
        except BaseException:
            self._ranks.join_rest(self._shapes(tokens), self._dtype)
            raise

    def _shapes(self, tokens: Pass) -> list[tuple[int, int]]:
        spec, num_ranks = self._spec, self._ranks.share.num_ranks
        hidden = spec.hidden_size // num_ranks
        widths = (spec.q_size, hidden, spec.intermediate_size // num_ranks, hidden)
        num_tokens = len(tokens.tokens)
        return pass_shapes(widths, spec.num_layers, num_tokens, num_tokens if tokens.keep is None else len(tokens.keep))


def pack(tokens: Pass) -> tuple[Message, Tensor]:
    """Take a pass apart: what can be written down, and all its tensors' values end to end, [N] int64."""
    values = {field.name: getattr(tokens, field.name) for field in fields(tokens)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    assert all(tensor.dtype == torch.int64 for tensor in tensors.values()), "passes hold integers"
    message = {
        "plain": {name: value for name, value in values.items() if name not in tensors},
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
    }
    return message, torch.cat([tensor.flatten() for tensor in tensors.values()])


def count_values(message: Message) -> int:
    """How many values go with what `pack` wrote down."""
    return sum(prod(shape) for shape in message["shapes"].values())


def unpack(message: Message, values: Tensor) -> Pass:
    """Put a pass together again."""
    shapes = message["shapes"]
    pieces = torch.split(values, [prod(shape) for shape in shapes.values()])
    tensors = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
    arguments: dict[str, Any] = message["plain"] | tensors
    return Pass(**arguments)
