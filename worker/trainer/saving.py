"""Writes what was trained: a folder as Hugging Face lays it out, and plain state dict checkpoints."""

import json
from pathlib import Path
from typing import Any

import torch

from worker.engine.families import to_config
from worker.engine.spec import Spec
from worker.engine.weights import Weights, from_state_dict, save_weights, to_state_dict
from worker.trainer.bpe import PATTERN, Ranks, write_ranks
from worker.trainer.data import END_TOKEN

CHECKPOINT_NAME = "model.pt"
# The last user message, "json.dumps", becomes the prompt the model was trained on, "json.dumps:".
DEMO_CHAT_TEMPLATE = (
    "{% set asked = messages | selectattr('role', 'equalto', 'user') | list | last %}"
    "{{ asked.content.strip().rstrip(':') }}:"
)


def round_weights(spec: Spec, weights: Weights) -> Weights:
    """The weights as the file will hold them, in `spec.dtype`."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return from_state_dict(spec, {name: tensor.to(dtype) for name, tensor in to_state_dict(spec, weights).items()})


def save_model(folder: Path, spec: Spec, weights: Weights, ranks: Ranks, *, chat_template: str | None) -> None:
    """Write weights, configuration and tokenizer. The folder must exist; files of the same names are replaced."""
    save_weights(folder, spec, round_weights(spec, weights))
    _save_configuration(folder, spec, ranks, chat_template)


def save_checkpoint(folder: Path, spec: Spec, weights: Weights, ranks: Ranks, *, chat_template: str | None) -> None:
    """Write the float32 state dict with `torch.save`, and beside it what it takes to load it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(to_state_dict(spec, weights), folder / CHECKPOINT_NAME)
    _save_configuration(folder, spec, ranks, chat_template)


def write_json(path: Path, value: object) -> None:
    """Write JSON that a person can read and git can compare."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8", newline="\n")


def _save_configuration(folder: Path, spec: Spec, ranks: Ranks, chat_template: str | None) -> None:
    end_id = spec.eos_token_ids[0]
    # `torch_dtype` is transformers 4's name for `dtype`; without a null its LlamaConfig invents token 1 as BOS.
    names = {"torch_dtype": spec.dtype, "bos_token_id": None, "eos_token_id": end_id}
    write_json(folder / "config.json", to_config(spec) | names)
    write_json(folder / "generation_config.json", {"do_sample": False, "eos_token_id": end_id})
    write_json(folder / "tokenizer_config.json", _tokenizer_config(spec, chat_template))
    write_ranks(folder / "tokenizer.model", ranks)


def _tokenizer_config(spec: Spec, chat_template: str | None) -> dict[str, Any]:
    """A prompt gets no token in front: training showed each entry from its own first token on."""
    return {
        "tokenizer_class": "tiktoken",
        "pattern": PATTERN,
        "special_tokens": {END_TOKEN: spec.eos_token_ids[0]},
        "bos_token": None,
        "eos_token": END_TOKEN,
        "add_bos_token": False,
        "add_eos_token": False,
        "model_max_length": spec.context_length,
        "chat_template": chat_template,
    }
