"""vLLM and SGLang, where they happen to be installed: the same shapes with random weights of their own.

Written from their documentation; neither is part of this project's environment.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.engine.work import Work
from benchmarks.gpu_bench.workloads import Workload

_MEMORY_SHARE = 0.6  # of the whole GPU: our weights and Hugging Face's, which are the same, lie beside theirs


@dataclass
class Called:
    """An engine that a function calls."""

    generate: Callable[[Sequence[Work]], list[list[int]]]
    remark: str = "random weights of its own"
    refills: bool = True

    def __call__(self, requests: Sequence[Work]) -> list[list[int]]:
        """Decode."""
        return self.generate(requests)


@contextmanager
def open_vllm(config: dict[str, Any], dtype: str, workload: Workload) -> Iterator[Called]:
    """Load vLLM's own way of random weights: `load_format="dummy"`."""
    vllm: Any = import_module("vllm")
    with _folder(config, dtype) as folder:
        llm = vllm.LLM(
            model=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype=dtype,
            max_model_len=workload.longest,
            max_num_seqs=workload.rows,
            gpu_memory_utilization=_MEMORY_SHARE,
        )

    def generate(requests: Sequence[Work]) -> list[list[int]]:
        prompts = [{"prompt_token_ids": item.prompt} for item in requests]
        params = [
            vllm.SamplingParams(temperature=0.0, max_tokens=item.num_new_tokens, ignore_eos=True, detokenize=False)
            for item in requests
        ]
        return [list(found.outputs[0].token_ids) for found in llm.generate(prompts, params, use_tqdm=False)]

    yield Called(generate)


@contextmanager
def open_sglang(config: dict[str, Any], dtype: str, workload: Workload) -> Iterator[Called]:
    """Load SGLang the same way."""
    sglang: Any = import_module("sglang")
    with _folder(config, dtype) as folder:
        engine = sglang.Engine(
            model_path=folder,
            load_format="dummy",
            skip_tokenizer_init=True,
            dtype=dtype,
            context_length=workload.longest + 1,
            max_running_requests=workload.rows,
            mem_fraction_static=_MEMORY_SHARE,
        )

    def generate(requests: Sequence[Work]) -> list[list[int]]:
        params = [{"temperature": 0.0, "max_new_tokens": item.num_new_tokens, "ignore_eos": True} for item in requests]
        found = engine.generate(input_ids=[item.prompt for item in requests], sampling_params=params)
        return [list(answer["output_ids"]) for answer in found]

    try:
        yield Called(generate)
    finally:
        engine.shutdown()


@contextmanager
def _folder(config: dict[str, Any], dtype: str) -> Iterator[str]:
    """A model folder with nothing but a config.json."""
    transformers: Any = import_module("transformers")
    with tempfile.TemporaryDirectory(prefix="batchmill-bench-") as name:
        architecture = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[config["model_type"]]
        whole = transformers.AutoConfig.for_model(**config).to_dict()
        whole |= {"architectures": [architecture], "torch_dtype": dtype}
        (Path(name) / "config.json").write_text(json.dumps(whole))
        yield name
