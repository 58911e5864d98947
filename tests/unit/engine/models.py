"""Tiny random models for the engine's tests: Hugging Face folders with and without a tokenizer."""

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

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
    model: LlamaForCausalLM = LlamaForCausalLM(LlamaConfig(**{**settings, **changes}))
    model.train(False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    model.generation_config.pad_token_id = 0
    model.save_pretrained(folder)
    return model
