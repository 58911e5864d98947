"""The models measured: published shapes with random weights, made on the device without a checkpoint."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worker.engine.families import parse_config
from worker.engine.layout import fused_shape, layer_shapes, top_fields
from worker.engine.linear import relay
from worker.engine.loader import PACKED, Model, name_linear
from worker.engine.spec import Spec
from worker.engine.weights import Layer, Weights, count_parameters, from_state_dict, to_state_dict

# A matrix's standard deviation times the root of its inner size: activations then keep their scale through the layers,
# and the likeliest tokens lie far enough apart that rounding decides few of them.
_GAIN = 1.2
_HEAD_GAIN = 4.0

# From each model's config.json on the Hugging Face hub: what of it decides the arithmetic.
_LLAMA = {"model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5}
CONFIGS: dict[str, dict[str, Any]] = {
    "0.6B": {  # Qwen/Qwen3-0.6B
        "model_type": "qwen3",
        "hidden_act": "silu",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "attention_bias": False,
        "tie_word_embeddings": True,
    },
    "1B": _LLAMA  # meta-llama/Llama-3.2-1B
    | {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rope_theta": 500000.0,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 32.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": True,
    },
    "8B": _LLAMA  # meta-llama/Meta-Llama-3-8B
    | {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
    "tiny": _LLAMA  # of no published model: for the check in float32, and to try the command without a GPU
    | {
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 512,
        "max_position_embeddings": 8192,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
}
PUBLISHED = ("0.6B", "1B", "8B")


def make_spec(shape: str) -> Spec:
    """Give the Spec of a named shape."""
    return parse_config(CONFIGS[shape])


def random_weights(spec: Spec, *, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Weights:
    """Draw weights in place, tensor by tensor: no second copy, and nothing crosses to the device. RMSNorm models only.

    The same seed gives the same weights on one kind of device only.
    """
    generator = torch.Generator(device).manual_seed(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = torch.empty(shape, dtype=dtype, device=device)
        if len(shape) == 1:
            return tensor.fill_(1.0)
        gain = _HEAD_GAIN if name in ("embedding", "head") else _GAIN
        return tensor.normal_(0.0, gain / shape[-1] ** 0.5, generator=generator)

    tops = {name: draw(name, fused_shape(parts)) for name, parts in top_fields(spec).items()}
    layers = tuple(
        Layer(**{name: draw(name, shape) for name, shape in layer_shapes(spec).items()}) for _ in range(spec.num_layers)
    )
    return Weights(layers=layers, **{"head": tops["embedding"], **tops})


def make_model(name: str, spec: Spec, weights: Weights, *, device: torch.device, dtype: torch.dtype) -> Model:
    """Put plain weights into a Model, as the loader would: as they are, or on a CPU re-laid, which copies them."""
    linear = name_linear(device, dtype)
    if linear == PACKED:
        weights = from_state_dict(spec, to_state_dict(spec, weights), relay=relay)
    return Model(
        name=name,
        folder=Path(name),  # there is none, and no part of the engine reads it once the weights are there
        spec=spec,
        weights=weights,
        device=device,
        dtype=dtype,
        num_parameters=count_parameters(spec),
        fingerprint=f"random-{name}",
        fast_paths={"linear": linear},
    )
