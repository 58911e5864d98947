"""Prompts that begin alike: the common part is computed once, and no bit of any answer changes."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import MistralConfig

from tests.unit.engine.models import VOCAB_SIZE
from tests.unit.engine.parity import save_tiny
from worker.engine import Engine, Output, Request, SamplingParams
from worker.engine.prefix import hash_blocks


def prompt_of(rng: random.Random, num_tokens: int) -> list[int]:
    return [rng.randrange(3, VOCAB_SIZE) for _ in range(num_tokens)]


def families(owner: str = "") -> list[Request]:
    """Three instructions of different lengths, tails of 1 to 40 tokens, one pair of equal prompts, one stranger."""
    rng = random.Random(5)
    requests = []
    for family, length in enumerate((100, 33, 64)):
        instruction = prompt_of(rng, length)
        for index in range(6):
            prompt = instruction + prompt_of(rng, rng.randint(1, 40))
            params = SamplingParams(max_tokens=12, temperature=rng.choice([0.0, 1.0]), seed=index)
            requests.append(Request(f"{family}-{index}", prompt, params=params, owner=owner))
    requests.append(replace(requests[0], id="twin"))
    requests.append(Request("stranger", prompt_of(rng, 70), params=SamplingParams(max_tokens=12, temperature=0.0)))
    return requests


def decode(folder: Path, requests: list[Request], **settings: object) -> tuple[list[Output], Engine]:
    engine = Engine.load(folder, **settings)  # type: ignore[arg-type]
    return engine.generate(requests), engine


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rows", [1, 4, 32])
def test_sharing_changes_no_bit(folder: Path, rows: int, dtype: str) -> None:
    requests = families()
    expected, plain = decode(folder, requests, rows=rows, dtype=dtype, prefix_sharing=False)
    outputs, engine = decode(folder, requests, rows=rows, dtype=dtype)
    assert outputs == expected
    assert plain.stats()["prefix_hits"] == 0
    stats = engine.stats()
    assert stats["prefix_hits"] == 3 * 5 + 1
    assert stats["shared_tokens"] >= 6 * 96 + 5 * 32 + 5 * 64
    assert stats["prompt_tokens"] == plain.stats()["prompt_tokens"]


def test_sharing_with_sliding_windows(tmp_path: Path) -> None:
    config = MistralConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=24,
        max_position_embeddings=256,
    )
    save_tiny(tmp_path, config)
    requests = families()
    expected, _ = decode(tmp_path, requests, rows=7, prefix_sharing=False)
    outputs, engine = decode(tmp_path, requests, rows=7)
    assert outputs == expected
    assert engine.stats()["prefix_hits"] == 16


def test_owners_share_nothing(folder: Path) -> None:
    engine = Engine.load(folder, rows=8)
    rng = random.Random(1)
    prompt = prompt_of(rng, 80)
    params = SamplingParams(max_tokens=3, temperature=0.0)
    engine.generate([Request(owner, prompt, params=params, owner=owner) for owner in ("a", "b", "c")])
    assert engine.stats()["prefix_hits"] == 0
    engine.generate([Request("again", prompt, params=params, owner="a")])
    assert engine.stats()["prefix_hits"] == 0  # worth keeping from now on
    engine.generate([Request("more", prompt, params=params, owner="a")])
    assert engine.stats()["prefix_hits"] == 1


def test_the_last_prompt_token_is_never_shared() -> None:
    assert hash_blocks("", range(32), 32) == []
    assert len(hash_blocks("", range(33), 32)) == 1
    assert hash_blocks("", range(100), 32)[:2] == hash_blocks("", range(70), 32)


def test_equal_hashes_of_other_tokens_are_not_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hash is 64 bits of no cryptographic strength: a collision must cost time, not a wrong answer."""
    requests = families()
    expected, _ = decode(folder, requests, rows=4, prefix_sharing=False)
    monkeypatch.setattr("worker.engine.prefix.hash_blocks", lambda owner, ids, block: [7] * ((len(ids) - 1) // block))
    assert decode(folder, requests, rows=4)[0] == expected


def test_the_least_used_goes_first_and_the_budget_holds(folder: Path) -> None:
    engine = Engine.load(folder, rows=4)
    store = engine._prefill._prefixes
    store._budget_tokens = 96
    rng = random.Random(2)
    params = SamplingParams(max_tokens=1, temperature=0.0)
    for index in range(8):
        instruction = prompt_of(rng, 64)
        for tail in range(3):
            engine.generate([Request(f"{index}-{tail}", [*instruction, tail + 3], params=params)])
        assert store.num_tokens == 64
    engine.generate([Request(f"long-{tail}", [*([9] * 128), tail], params=params) for tail in range(3)])
    assert store.num_tokens == 64
    assert engine.stats()["prefix_hits"] == 8
