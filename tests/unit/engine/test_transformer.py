"""The transformer's functions against Hugging Face's module."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.unit.engine.models import VOCAB_SIZE, tiny_llama
from worker.engine.checkpoint import find_weight_files, load_state_dict
from worker.engine.families import load_spec
from worker.engine.transformer import forward, logits
from worker.engine.weights import from_state_dict, init_weights

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def attend_causally(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One sequence that fills the whole of N."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    return out[0].transpose(0, 1).flatten(1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 6},
        {"head_dim": 12},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0}},
        {"rope_parameters": LLAMA3},
    ],
)
def test_logits_equal_hugging_face(tmp_path: Path, changes: dict[str, Any]) -> None:
    model = tiny_llama(tmp_path, **changes)
    spec = load_spec(tmp_path)
    weights = from_state_dict(spec, load_state_dict(find_weight_files(tmp_path)))
    tokens = torch.randint(0, VOCAB_SIZE, (70,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        scores = logits(weights, spec, forward(weights, spec, tokens, torch.arange(70), attend_causally))
        expected = model(tokens[None]).logits[0]
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)


def test_forward_trains_every_tensor(tmp_path: Path) -> None:
    tiny_llama(tmp_path, tie_word_embeddings=True)
    spec = load_spec(tmp_path)
    weights = init_weights(spec, torch.Generator().manual_seed(0))
    for tensor in weights.tensors():
        tensor.requires_grad_()
    tokens = torch.arange(12)
    scores = logits(weights, spec, forward(weights, spec, tokens, torch.arange(12), attend_causally))
    F.cross_entropy(scores[:-1], tokens[1:]).backward()  # type: ignore[no-untyped-call]
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in weights.tensors())
