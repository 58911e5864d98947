"""Every knob of a training run. The defaults are the recipe of the demo model that ships in examples/."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """The shape of the network, its vocabulary, and how long and how fast it learns."""

    vocab_size: int = 3072  # with the end token
    hidden_size: int = 256
    intermediate_size: int = 384
    num_layers: int = 4
    num_heads: int = 8
    num_kv_heads: int = 2
    head_dim: int = 32
    context_tokens: int = 256
    rope_theta: float = 10_000.0
    saved_dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of the shipped weights; training is in float32

    max_entries: int | None = None  # None: the whole corpus; tests take a slice
    validation_percent: int = 10  # of the methods
    num_steps: int = 1300
    batch_tokens: int = 2048  # upper limit, padding included
    learning_rate: float = 3e-3
    final_learning_rate_ratio: float = 0.05
    warmup_steps: int = 100
    weight_decay: float = 0.3
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    validation_interval_steps: int = 100
    seed: int = 1
    keep_checkpoints: bool = False  # a float32 state dict (.pt) at each validation, under checkpoints/
    num_threads: int = 1  # another number gives other last bits

    def __post_init__(self) -> None:
        """Refuse what cannot be trained, with the reason."""
        if self.vocab_size < 257:
            raise ValueError("vocab_size must be at least 257: the 256 bytes and the end token")
        if self.num_heads % self.num_kv_heads:
            raise ValueError("num_heads must be a multiple of num_kv_heads")
        if self.head_dim % 2:
            raise ValueError("head_dim must be even: rotary positions turn pairs")
        if self.num_steps <= 0 or self.batch_tokens < self.context_tokens:
            raise ValueError("num_steps must be positive and batch_tokens at least context_tokens")
