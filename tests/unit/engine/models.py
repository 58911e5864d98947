"""Tiny random models for the engine's tests: Hugging Face folders with and without a tokenizer."""

import base64
import json
import random
from pathlib import Path
from typing import Any

import tokenizers
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from worker.engine import Engine, Request, SamplingParams
from worker.engine.kv_cache import KVCache

EOS = 2
VOCAB_SIZE = 199


def tiny_llama(folder: Path, *, scale: float = 4.0, **changes: object) -> LlamaForCausalLM:
    """Save a random two-layer Llama and return Hugging Face's own model of it, float32.

    Weights are scaled up: near-equal logits would let rounding decide a greedy tie.
    """
    settings: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": EOS,
        "attention_dropout": 0.0,
    }
    torch.manual_seed(7)
    model: LlamaForCausalLM = LlamaForCausalLM(LlamaConfig(**(settings | changes)))
    model.train(False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    return model


def slots_of(engine: Engine) -> KVCache:
    """The cache of an engine on a CPU."""
    cache = engine._runner.cache
    assert isinstance(cache, KVCache)
    return cache


def ragged_requests(num: int, *, max_prompt: int = 90, max_tokens: int = 40, sampled: bool = False) -> list[Request]:
    """Random prompts and limits; with `sampled`, every row its own mix of settings."""
    rng = random.Random(num)
    requests = []
    for index in range(num):
        prompt = [rng.randrange(3, VOCAB_SIZE) for _ in range(rng.randint(1, max_prompt))]
        params = SamplingParams(
            max_tokens=rng.randint(1, max_tokens),
            temperature=rng.choice([0.0, 0.5, 1.0, 1.7]) if sampled else 0.0,
            top_k=rng.choice([0, 0, 1, 20]),
            top_p=rng.choice([1.0, 0.9, 0.4]),
            min_p=rng.choice([0.0, 0.02]),
            seed=rng.getrandbits(63),
            min_tokens=rng.choice([0, 0, 5]) if sampled else 0,
            top_logprobs=rng.choice([None, 0, 3]),
        )
        requests.append(Request(f"r{index}", prompt, params=params))
    return requests


CHAT_TEMPLATE = """\
{%- for message in messages %}<|{{ message.role }}|>{{ message.content | trim }}<|end|>{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}"""
SPECIAL_TOKENS = {"<|end|>": 190, "<|user|>": 191, "<|assistant|>": 192, "<|start|>": 193}


def byte_pieces() -> list[bytes]:
    """Single bytes: all of ASCII, then those of an accented letter and a smiley."""
    smiley = "\N{GRINNING FACE}\N{LATIN SMALL LETTER E WITH ACUTE}".encode()
    return [bytes([value]) for value in range(128)] + [bytes([value]) for value in sorted(set(smiley))]


def write_tiktoken(folder: Path, **changes: object) -> None:
    """Write a byte-level rank file and its config into a model folder."""
    ranks = [f"{base64.b64encode(piece).decode()} {rank}" for rank, piece in enumerate(byte_pieces())]
    (folder / "tokenizer.model").write_text("\n".join(ranks) + "\n")
    config: dict[str, object] = {
        "tokenizer_class": "tiktoken",
        "pattern": r"\S+|\s+",
        "special_tokens": SPECIAL_TOKENS,
        "eos_token": "<|end|>",
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config | changes))


def write_tokenizer_json(folder: Path) -> tokenizers.Tokenizer:
    """Write a byte-level BPE without merges, with the same special tokens and a start token set before each text."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    model = tokenizers.models.BPE(vocab={piece: index for index, piece in enumerate(alphabet)}, merges=[])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    start = tokenizer.token_to_id("<|start|>")
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", start)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    return tokenizer
