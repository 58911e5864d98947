"""Write a Llama folder as a GGUF file, the format of llama.cpp. Needs the `gguf` package."""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from worker.engine.spec import Spec

# https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, standardized tensor names
_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_TOP_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(folder: Path, spec: Spec, dtype: str) -> Path:
    """Write `model.gguf` into the folder, its matrices in float32 or bfloat16, without a vocabulary's texts."""
    gguf: Any = import_module("gguf")
    path = folder / "model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    _add_fields(writer, spec)
    for name, tensor in load_file(folder / "model.safetensors").items():
        tensor = _interleave(name, tensor, spec)
        if dtype == "bfloat16" and tensor.dim() > 1:  # llama.cpp takes norms in float32 only
            raw = tensor.bfloat16().view(torch.uint16).numpy()
            writer.add_tensor(_translate(name), raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
        else:
            writer.add_tensor(_translate(name), tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_fields(writer: Any, spec: Spec) -> None:  # noqa: ANN401 (a class of an optional package)
    writer.add_vocab_size(spec.vocab_size)
    writer.add_context_length(spec.context_length)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_block_count(spec.num_layers)
    writer.add_feed_forward_length(spec.intermediate_size)
    writer.add_head_count(spec.num_heads)
    writer.add_head_count_kv(spec.num_kv_heads)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_rope_freq_base(spec.rope_theta)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_tokenizer_model("no_vocab")  # token ids go in and come out


def _translate(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _TOP_NAMES:
        return f"{_TOP_NAMES[stem]}.weight"
    layer, _, part = stem.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_NAMES[part]}.weight"


def _interleave(name: str, tensor: Tensor, spec: Spec) -> Tensor:
    """Order query and key rows as llama.cpp rotates them: neighbours in pairs, not halves (its convert script)."""
    heads = {"q_proj": spec.num_heads, "k_proj": spec.num_kv_heads}.get(name.removesuffix(".weight").split(".")[-1])
    if heads is None:
        return tensor
    return tensor.view(heads, 2, spec.head_dim // 2, -1).transpose(1, 2).reshape(tensor.shape)
