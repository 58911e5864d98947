"""From a checkpoint's config.json to a Spec: what each family of decoders writes there, and what it leaves out.

Where a key is absent, its value is what `transformers` takes by default for that family. What changes a decoder's
arithmetic and is not built here is refused by its name.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from worker.engine.folders import HUGGING_FACE_CONFIG, META_CONFIG, is_meta_folder
from worker.engine.meta_config import parse_params
from worker.engine.rope_config import rope_fields, scaling_to_config
from worker.engine.spec import Spec, check_spec, read_json
from worker.engine.types import EngineError

Config = Mapping[str, Any]
_DEFAULT_WINDOW = 4096
_OFF = (None, False)

# Keys that change the arithmetic, with the values that leave it as it is here.
_REFUSED: dict[str, tuple[object, ...]] = {
    "quantization_config": (None,),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "query_pre_attn_scalar": (None,),
    "attention_multiplier": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "scale_attn_weights": (None, True),
    "scale_attn_by_inverse_layer_idx": _OFF,
    "add_cross_attention": _OFF,
}


def load_spec(folder: Path) -> Spec:
    """Read config.json, and the stop tokens of generation_config.json where it names some; or Meta's params.json."""
    if is_meta_folder(folder):
        return parse_params(read_json(folder / META_CONFIG))
    config = read_json(folder / HUGGING_FACE_CONFIG)
    generation_path = folder / "generation_config.json"
    generation = read_json(generation_path) if generation_path.is_file() else {}
    eos = generation.get("eos_token_id")
    return parse_config(config if eos is None else {**config, "eos_token_id": eos})


def parse_config(config: Config) -> Spec:
    """Turn a Hugging Face config into a Spec. Raises EngineError for what is missing or not supported."""
    kind = config.get("model_type")
    if kind not in _FAMILIES:
        named = kind or ", ".join(config.get("architectures") or ["unnamed"])
        raise EngineError(f"architecture {named} is not supported; {', '.join(_FAMILIES)} are")
    _refuse(config, _REFUSED)
    try:
        spec = _FAMILIES[kind](config)
    except KeyError as error:
        raise EngineError(f"config.json lacks {error.args[0]}") from error
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise EngineError(f"config.json holds a value of the wrong kind: {error}") from error
    check_spec(spec, "config.json")
    return spec


def _refuse(config: Config, refused: Mapping[str, tuple[object, ...]]) -> None:
    for name, allowed in refused.items():
        if config.get(name) not in allowed:
            raise EngineError(f"config.json sets {name} to {config[name]!r}, which is not supported")


def _llama(config: Config) -> Spec:
    """Llama 2 to 3.2, TinyLlama, Yi, SmolLM 1 and 2, and what this project trains."""
    _refuse(config, {"sliding_window": (None,)})
    bias = bool(config.get("attention_bias"))
    return _rotary_decoder(
        config, qkv_bias=bias, output_bias=bias, mlp_bias=bool(config.get("mlp_bias")), windows=(), **_rope(config)
    )


def _mistral(config: Config) -> Spec:
    _refuse(config, {"layer_types": (None,)})
    windows = _windows(config, _layers(config, value=True), config.get("sliding_window", _DEFAULT_WINDOW))
    return _rotary_decoder(config, windows=windows, **_rope(config))


def _qwen2(config: Config) -> Spec:
    return _rotary_decoder(config, qkv_bias=True, windows=_qwen_windows(config), **_rope(config))


def _qwen3(config: Config) -> Spec:
    bias = bool(config.get("attention_bias"))
    config = {"head_dim": 128, **config}
    return _rotary_decoder(
        config, qkv_bias=bias, output_bias=bias, qk_norm=True, windows=_qwen_windows(config), **_rope(config)
    )


def _smollm3(config: Config) -> Spec:
    """Every fourth layer sees no positions, unless the config names others."""
    rotated = config.get("no_rope_layers")  # 1: this layer does rotate
    if rotated is None:
        interval = int(config.get("no_rope_layer_interval", 4))
        rotated = [(index + 1) % interval for index in range(int(config["num_hidden_layers"]))]
    rotated = tuple(bool(value) for value in rotated[: int(config["num_hidden_layers"])])
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    windows = _windows(config, _sliding_layers(config, tuple(not value for value in rotated)), window)
    bias = bool(config.get("attention_bias"))
    return _rotary_decoder(
        {"tie_word_embeddings": True, **config},
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bool(config.get("mlp_bias")),
        rotated=rotated,
        windows=windows,
        **_rope(config, default_theta=2e6),
    )


def _phi3(config: Config) -> Spec:
    rope = rope_fields(config, default_theta=10000.0, head_dim=_head_dim(config))
    if rope["rope_scaling"] is not None:  # transformers takes "su" and "yarn" for longrope here
        raise EngineError("phi3 with a rope scaling other than default is not supported")
    windows = _windows(config, _layers(config, value=True), config.get("sliding_window"))
    return _rotary_decoder({"rms_norm_eps": 1e-5, **config}, windows=windows, **rope)


def _gpt2(config: Config) -> Spec:
    """GPT-2: learned positions, LayerNorm, an MLP without gate, biases everywhere, tied embeddings."""
    _refuse(config, {"activation_function": (None, "gelu_new", "gelu_pytorch_tanh")})
    width, num_heads = int(config["n_embd"]), int(config["n_head"])
    if width % num_heads:
        raise EngineError("config.json: n_embd must be a multiple of n_head")
    return Spec(
        vocab_size=int(config["vocab_size"]),
        hidden_size=width,
        intermediate_size=int(config.get("n_inner") or 4 * width),
        num_layers=int(config["n_layer"]),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=width // num_heads,
        context_length=int(config["n_positions"]),
        family="gpt2",
        norm="layer",
        norm_eps=float(config.get("layer_norm_epsilon", 1e-5)),
        mlp="gelu",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        learned_positions=True,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", True)),
        dtype=_dtype(config),
        eos_token_ids=_token_ids(config.get("eos_token_id")),
    )


_FAMILIES: dict[str, Callable[[Config], Spec]] = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "smollm3": _smollm3,
    "phi3": _phi3,
    "gpt2": _gpt2,
}


def _rotary_decoder(config: Config, **special: Any) -> Spec:  # noqa: ANN401 (any field of Spec)
    """What all families but GPT-2 write alike, and what is special to one."""
    _refuse(config, {"hidden_act": (None, "silu", "swish")})
    num_heads = int(config["num_attention_heads"])
    return Spec(
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        intermediate_size=int(config["intermediate_size"]),
        num_layers=int(config["num_hidden_layers"]),
        num_heads=num_heads,
        num_kv_heads=int(config.get("num_key_value_heads") or num_heads),
        head_dim=_head_dim(config),
        context_length=int(config["max_position_embeddings"]),
        family=config["model_type"],
        norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        dtype=_dtype(config),
        eos_token_ids=_token_ids(config.get("eos_token_id")),
        **special,
    )


def _rope(config: Config, *, default_theta: float = 10000.0) -> dict[str, Any]:
    """Rotary settings as fields of Spec; only Phi-3 rotates a part of each head."""
    fields = rope_fields(config, default_theta=default_theta, head_dim=_head_dim(config))
    if fields["rotary_size"] != _head_dim(config):
        raise EngineError(f"config.json sets partial_rotary_factor, which is not supported for {config['model_type']}")
    return fields


def _head_dim(config: Config) -> int:
    return int(config.get("head_dim") or int(config["hidden_size"]) // int(config["num_attention_heads"]))


def _dtype(config: Config) -> str:
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def _token_ids(value: int | list[int] | None) -> tuple[int, ...]:
    """`eos_token_id` is absent, one id or a list of ids."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    return tuple(int(token_id) for token_id in values)


def _layers(config: Config, *, value: bool) -> tuple[bool, ...]:
    return (value,) * int(config["num_hidden_layers"])


def _qwen_windows(config: Config) -> tuple[int | None, ...]:
    """From layer `max_window_layers` on, unless `layer_types` says which; none without `use_sliding_window`."""
    first = int(config.get("max_window_layers", 28))
    default = tuple(index >= first for index in range(int(config["num_hidden_layers"])))
    window = config.get("sliding_window", _DEFAULT_WINDOW) if config.get("use_sliding_window") else None
    return _windows(config, _sliding_layers(config, default), window)


def _sliding_layers(config: Config, default: tuple[bool, ...]) -> tuple[bool, ...]:
    types = config.get("layer_types")
    if types is None:
        return default
    if other := set(types) - {"full_attention", "sliding_attention"}:
        raise EngineError(f"config.json: layer type {min(other)!r} is not supported")
    return tuple(kind == "sliding_attention" for kind in types)


def _windows(config: Config, sliding: tuple[bool, ...], window: int | None) -> tuple[int | None, ...]:
    """A window as long as the context hides nothing: None, so that attention need not look for it."""
    if window is None or int(window) >= int(config["max_position_embeddings"]):
        window = None
    return tuple(int(window) if slides and window is not None else None for slides in sliding)


def to_config(spec: Spec) -> dict[str, Any]:
    """Write a Spec of the Llama family as a config that both `rope_theta` readers and newer ones understand."""
    if spec.family != "llama":
        raise EngineError(f"only specs of the llama family can be written, not {spec.family}")
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "max_position_embeddings": spec.context_length,
        "rms_norm_eps": spec.norm_eps,
        "attention_bias": spec.qkv_bias,
        "mlp_bias": spec.mlp_bias,
        "rope_theta": spec.rope_theta,
        "rope_parameters": {"rope_theta": spec.rope_theta, **scaling_to_config(spec.rope_scaling)},
        "tie_word_embeddings": spec.tie_word_embeddings,
        "dtype": spec.dtype,
        "eos_token_id": list(spec.eos_token_ids) or None,
    }
