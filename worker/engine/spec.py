"""The shape of a decoder, as plain numbers. Knows no tensors, no files and no family's own way of writing it down."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from worker.engine.types import EngineError

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class LinearRope:
    """All rotations `factor` times slower."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Rope:
    """Llama 3.1's stretching of slow rotations (`rope_type: llama3`)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_length: int


@dataclass(frozen=True, slots=True)
class YarnRope:
    """YaRN (https://arxiv.org/abs/2309.00071): slow rotations stretched by `factor`, cos and sin scaled."""

    factor: float
    original_context_length: int
    attention_factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # whether the ramp begins and ends at whole pairs


RopeScaling = LinearRope | Llama3Rope | YarnRope


@dataclass(frozen=True, slots=True)
class Spec:
    """One decoder: pre-norm blocks of grouped-query attention and an MLP. Hashable: tables are cached by it.

    The defaults are Llama's: RMSNorm, rotary positions in every layer, SwiGLU, no biases, full attention. Scores are
    always scaled by 1 / sqrt(head_dim). Checked against each other only by the parsers; `windows` and `rotated` left
    empty mean the same for all layers.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    family: str = "llama"  # model_type of config.json: how the checkpoint names and lays out its tensors
    norm: Literal["rms", "layer"] = "rms"  # layer: LayerNorm, with biases
    norm_eps: float = 1e-5
    mlp: Literal["swiglu", "gelu"] = "swiglu"  # gelu: no gate, the tanh approximation (GPT-2's gelu_new)
    qkv_bias: bool = False
    output_bias: bool = False  # of the attention's output projection
    mlp_bias: bool = False
    qk_norm: bool = False  # RMSNorm over each query and key head, before they are rotated
    learned_positions: bool = False  # a table added to the embedding, in place of rotations
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    rotary_size: int = 0  # rotated dimensions of a head, the first ones; 0: all of head_dim
    rotated: tuple[bool, ...] = ()  # per layer: whether queries and keys are rotated
    # Per layer: None for full attention, else the sliding window W. As in Hugging Face, a query at position p sees the
    # keys at p - W + 1 ... p: itself and the W - 1 before it. Windows no shorter than the context are written as None.
    windows: tuple[int | None, ...] = ()
    tie_word_embeddings: bool = False
    dtype: str = "float32"  # the checkpoint's own
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Fill in what was left to follow from the rest."""
        fill = object.__setattr__  # frozen
        fill(self, "rotary_size", self.rotary_size or self.head_dim)
        fill(self, "rotated", self.rotated or (not self.learned_positions,) * self.num_layers)
        fill(self, "windows", self.windows or (None,) * self.num_layers)

    @property
    def q_size(self) -> int:
        """Width of all query heads together."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of all key heads together, and of all value heads."""
        return self.num_kv_heads * self.head_dim

    @property
    def qkv_size(self) -> int:
        """Width of the fused projection: H query heads, then Hkv key heads, then Hkv value heads."""
        return self.q_size + 2 * self.kv_size


def check_spec(spec: Spec, source: str) -> None:
    """Refuse shapes no tensor could have, before a reshape fails on them without a name. Raises EngineError."""
    if fault := _find_fault(spec) or _find_layer_fault(spec):
        raise EngineError(f"{source}: {fault}")
    if spec.dtype not in DTYPES:
        raise EngineError(f"{source}: dtype {spec.dtype} is not supported; {', '.join(DTYPES)} are")


def _find_fault(spec: Spec) -> str | None:
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "head_dim")
    for name in (*sizes, "context_length"):
        if getattr(spec, name) < 1:
            return f"{name} must be at least 1, not {getattr(spec, name)}"
    if spec.num_heads % spec.num_kv_heads:
        return "num_attention_heads must be a multiple of num_key_value_heads"
    return None


def _find_layer_fault(spec: Spec) -> str | None:
    if any(spec.rotated) and (spec.rotary_size % 2 or not 0 < spec.rotary_size <= spec.head_dim):
        return "head_dim, or partial_rotary_factor's share of it, must be even for rotary positions"
    if len(spec.rotated) != spec.num_layers or len(spec.windows) != spec.num_layers:
        return f"layer_types and no_rope_layers must have one entry for each of {spec.num_layers} layers"
    if any(window is not None and window < 1 for window in spec.windows):
        return "sliding_window must be at least 1"
    return None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises EngineError with one sentence."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise EngineError(f"{path} does not hold a JSON object")
    return value
