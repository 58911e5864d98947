"""Which rows of each fused tensor are a rank's: whole heads, whole (gate, up) columns, rows of the other products."""

from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from itertools import accumulate

from worker.engine.layout import Pick
from worker.engine.spec import Spec
from worker.engine.types import EngineError


@dataclass(frozen=True, slots=True)
class Share:
    """One of `num_ranks` equal parts of a model. Rank 0 leads."""

    rank: int = 0
    num_ranks: int = 1

    def of(self, stretch: range) -> range:
        """This rank's part of some rows."""
        size = len(stretch) // self.num_ranks
        return stretch[self.rank * size : (self.rank + 1) * size]


WHOLE = Share()


def check_split(spec: Spec, num_ranks: int) -> None:
    """Refuse a number of ranks that a model cannot be split among. Raises EngineError naming the numbers."""
    if num_ranks < 1:
        raise EngineError(f"tensor_parallel must be at least 1, not {num_ranks}")
    sizes = {
        "key/value heads": spec.num_kv_heads,
        "hidden dimensions": spec.hidden_size,
        "inner dimensions of the MLP": spec.intermediate_size,
    }
    for name, size in sizes.items():
        if size % num_ranks:
            raise EngineError(f"the model's {size} {name} cannot be split evenly among {num_ranks} ranks")


def local_spec(spec: Spec, share: Share) -> Spec:
    """Describe what one rank computes of a model: its heads. Widths of the hidden states stay whole."""
    num_ranks = share.num_ranks
    return replace(spec, num_heads=spec.num_heads // num_ranks, num_kv_heads=spec.num_kv_heads // num_ranks)


def stored_spec(spec: Spec, share: Share) -> Spec:
    """Describe what one rank reads of a checkpoint: only rank 0 makes logits, the others leave an untied head out."""
    return spec if share.rank == 0 else replace(spec, tie_word_embeddings=True)


def pick_share(spec: Spec, share: Share) -> Pick:
    """Choose a rank's rows of the layers' matrices and their biases; embedding, head and norms are everyone's."""
    heads = (spec.q_size, spec.kv_size, spec.kv_size)
    inner = (spec.intermediate_size,) * (1 if spec.mlp == "gelu" else 2)
    hidden = (spec.hidden_size,)
    # The stacks that a field consists of along its first axis, each of them split alike.
    stacks = {"wqkv": heads, "bqkv": heads, "w_gate_up": inner, "b_gate_up": inner}
    stacks |= dict.fromkeys(("wo", "bo", "w_down", "b_down"), hidden)

    def pick(field: str, height: int) -> Items[range]:
        sizes = stacks.get(field)
        if sizes is None:
            return [range(height)]
        ends = accumulate(sizes)
        return [share.of(range(end - size, end)) for size, end in zip(sizes, ends, strict=True)]

    return pick
