"""Each rank's rows of a checkpoint, and a forward pass of all ranks with the bits of one."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, LlamaConfig, Phi3Config, PreTrainedConfig, Qwen2Config, Qwen3Config

from tests.unit.engine.parity import TINY, masked_attention, save_tiny
from tests.unit.engine.test_families import GPT2
from worker.engine import EngineError
from worker.engine.loader import Model, load_model
from worker.engine.parallel.sharding import WHOLE, Share, check_split
from worker.engine.transformer import by_heads, forward, run_layers

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**TINY),
    "biases": lambda: LlamaConfig(**TINY, attention_bias=True, mlp_bias=True),
    "qwen2": lambda: Qwen2Config(**TINY, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**TINY, head_dim=16, attention_bias=True),
    "phi3": lambda: Phi3Config(**TINY),
    "gpt2": lambda: GPT2Config(**GPT2),
}


@pytest.fixture(scope="module", params=list(CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    save_tiny(folder, CONFIGS[request.param]())
    return folder


def load(folder: Path, share: Share = WHOLE) -> Model:
    return load_model(folder, device="cpu", dtype="float32", share=share)


class Meeting:
    """Joins the columns of ranks that are threads."""

    def __init__(self, num_ranks: int) -> None:
        self._barrier = threading.Barrier(num_ranks, timeout=20)
        self._pieces: list[Tensor | None] = [None] * num_ranks

    def join(self, rank: int, x: Tensor) -> Tensor:
        self._pieces[rank] = x
        self._barrier.wait()
        joined = torch.cat([piece for piece in self._pieces if piece is not None], -1)
        self._barrier.wait()
        return joined


def test_all_ranks_together_have_the_bits_of_one(folder: Path) -> None:
    lengths = [5, 11]
    tokens = torch.arange(3, 19)
    positions = torch.cat([torch.arange(length) for length in lengths])
    models = [load(folder, Share(rank, 2)) for rank in range(2)]
    meeting = Meeting(2)

    def run(rank: int) -> Tensor:
        spec = models[rank].spec
        mix = by_heads(spec, positions, masked_attention(spec, lengths))
        with torch.inference_mode():
            join = lambda x: meeting.join(rank, x)  # noqa: E731
            return run_layers(models[rank].weights, spec, tokens, positions, mix, join=join)

    with ThreadPoolExecutor(2) as pool:
        split = list(pool.map(run, range(2)))

    whole = load(folder)
    with torch.inference_mode():
        attend = masked_attention(whole.spec, lengths)
        expected = forward(whole.weights, whole.spec, tokens, positions, attend)
    assert torch.equal(split[0], expected)
    assert torch.equal(split[1], expected)


def test_rank_holds_its_part_of_every_matrix_and_nothing_twice(folder: Path) -> None:
    whole, *ranks = (load(folder, share) for share in (WHOLE, Share(0, 2), Share(1, 2)))

    for layers in zip(*(model.weights.layers for model in (whole, *ranks)), strict=True):
        for field in ("wqkv", "wo", "w_gate_up", "w_down", "bqkv", "bo", "b_gate_up", "b_down"):
            full, *parts = (getattr(layer, field) for layer in layers)
            if full is not None:
                assert all(part.shape[0] * 2 == full.shape[0] for part in parts)
                rows = [tuple(row) for row in _rows(full)]
                assert sorted(chain(*([tuple(row) for row in _rows(part)] for part in parts))) == sorted(rows)


def _rows(tensor: Tensor) -> list[list[float]]:
    plain = tensor.to_dense() if tensor.is_mkldnn else tensor
    return plain.reshape(len(plain), -1).tolist()


def test_only_rank_0_reads_an_untied_head(tmp_path: Path) -> None:
    save_tiny(tmp_path, LlamaConfig(**TINY))
    first, second = (load(tmp_path, Share(rank, 2)).weights for rank in range(2))

    assert not torch.equal(first.head.to_dense(), first.embedding)
    assert torch.equal(second.head.to_dense(), second.embedding)


def test_fingerprint_of_a_cpu_tells_no_ranks(folder: Path) -> None:
    assert load(folder, Share(1, 2)).fingerprint == load(folder).fingerprint


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"num_kv_heads": 3}, "3 key/value heads"), ({"hidden_size": 49}, "49 hidden"), ({"intermediate_size": 81}, "81")],
)
def test_uneven_split_is_refused_by_its_numbers(folder: Path, changes: dict[str, int], named: str) -> None:
    with pytest.raises(EngineError, match=f"{named}.*2 ranks"):
        check_split(replace(load(folder).spec, **changes), 2)  # type: ignore[arg-type]


def test_no_rank_is_refused(folder: Path) -> None:
    with pytest.raises(EngineError, match="at least 1"):
        check_split(load(folder).spec, 0)
