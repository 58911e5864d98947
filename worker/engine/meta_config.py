"""From the params.json of a Meta folder to a Spec. It says less than a config.json: the rest is known of the series."""

from collections.abc import Mapping
from typing import Any

from worker.engine.spec import Llama3Rope, Spec, check_spec
from worker.engine.types import EngineError

_LLAMA2_VOCAB, _LLAMA3_VOCAB = 32000, 128256
_LLAMA2_CONTEXT, _LLAMA3_CONTEXT, _LONG_CONTEXT = 4096, 8192, 131072
# What ends a Llama 3 text and a turn of its chats: end_of_text, eom_id, eot_id. Llama 2 ends with </s>.
_EOS = {_LLAMA2_VOCAB: (2,), _LLAMA3_VOCAB: (128001, 128008, 128009)}
# 3.2's two small models were trained with a factor of 32, all others with 8; params.json does not tell them apart
# (https://github.com/meta-llama/llama-models/issues/241).
_SMALL_WIDTH, _SMALL_FACTOR, _FACTOR = 4096, 32.0, 8.0
_KNOWN = {
    "dim",
    "n_layers",
    "n_heads",
    "n_kv_heads",
    "vocab_size",
    "multiple_of",
    "ffn_dim_multiplier",
    "norm_eps",
    "rope_theta",
    "use_scaled_rope",
    "rope_scaling_factor",
    "rope_high_freq_factor",
    "max_batch_size",  # these two say how Meta's own program is to be run
    "max_seq_len",
}


def parse_params(params: Mapping[str, Any]) -> Spec:
    """Turn a params.json into a Spec. Raises EngineError for what is missing or not supported.

    Its vocab_size, tie_word_embeddings and dtype are provisional: the weights know better, see `meta.merge_shards`.
    """
    if unknown := sorted(params.keys() - _KNOWN):
        raise EngineError(f"params.json sets {', '.join(unknown)}, which is not supported")
    try:
        spec = _parse(params)
    except KeyError as error:
        raise EngineError(f"params.json lacks {error.args[0]}") from error
    except (TypeError, ValueError, ArithmeticError) as error:
        raise EngineError(f"params.json holds a value of the wrong kind: {error}") from error
    check_spec(spec, "params.json")
    return spec


def _parse(params: Mapping[str, Any]) -> Spec:
    width, num_heads = int(params["dim"]), int(params["n_heads"])
    vocab_size = int(params["vocab_size"])
    vocab_size = _LLAMA2_VOCAB if vocab_size == -1 else vocab_size  # "as many as the tokenizer has"
    return Spec(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=_intermediate_size(params),
        num_layers=int(params["n_layers"]),
        num_heads=num_heads,
        num_kv_heads=int(params.get("n_kv_heads") or num_heads),
        head_dim=width // num_heads,
        context_length=_context_length(params, vocab_size),
        norm_eps=float(params["norm_eps"]),
        rope_theta=float(params.get("rope_theta") or 10000.0),
        rope_scaling=_rope_scaling(params),
        dtype="bfloat16",
        eos_token_ids=_EOS.get(vocab_size, ()),
    )


def _intermediate_size(params: Mapping[str, Any]) -> int:
    """Two thirds of 4 dim, times a multiplier, rounded up to a multiple (source: Meta's FeedForward)."""
    size = int(8 * int(params["dim"]) / 3)
    size = int((params.get("ffn_dim_multiplier") or 1) * size)
    multiple = int(params["multiple_of"])
    return -(-size // multiple) * multiple


def _context_length(params: Mapping[str, Any], vocab_size: int) -> int:
    if params.get("use_scaled_rope"):
        return _LONG_CONTEXT
    is_llama2 = params.get("rope_theta") is None or vocab_size == _LLAMA2_VOCAB
    return _LLAMA2_CONTEXT if is_llama2 else _LLAMA3_CONTEXT


def _rope_scaling(params: Mapping[str, Any]) -> Llama3Rope | None:
    if not params.get("use_scaled_rope"):
        return None
    factor = _SMALL_FACTOR if int(params["dim"]) < _SMALL_WIDTH else _FACTOR
    return Llama3Rope(
        factor=float(params.get("rope_scaling_factor") or factor),
        low_freq_factor=1.0,
        high_freq_factor=float(params.get("rope_high_freq_factor") or 4.0),
        original_context_length=_LLAMA3_CONTEXT,
    )
