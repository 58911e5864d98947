"""Hugging Face transformers on the very tensors of our engine: padded batches, and continuous batching."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

import torch

from benchmarks.engine.work import Work
from benchmarks.gpu_bench.workloads import Workload
from worker.engine.spec import Spec
from worker.engine.weights import Weights, to_state_dict

_RESULT_TIMEOUT_SECONDS = 1.0
_CPU_PAGE_TOKENS, _CPU_STEP_TOKENS = 64, 256  # on a CPU continuous batching must be told what it finds out on a GPU

HuggingFaceModel = Any  # transformers is half typed


def build_model(config: dict[str, Any], spec: Spec, weights: Weights) -> HuggingFaceModel:
    """Make the model of a config around plain weights, as views of them. Raises RuntimeError if any has none."""
    transformers: Any = import_module("transformers")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    head = weights.head
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(**config), dtype=head.dtype, attn_implementation="sdpa"
        )
    missing, unexpected = model.load_state_dict(to_state_dict(spec, weights), assign=True, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise RuntimeError(f"transformers has other tensors: {missing} missing, {unexpected} unexpected")
    model.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
    with head.device:  # its tables are computed, not loaded
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    if left := [name for name, tensor in model.state_dict().items() if tensor.is_meta]:
        raise RuntimeError(f"no weights for transformers' {left}")
    model.generation_config = transformers.GenerationConfig(do_sample=False, eos_token_id=None, pad_token_id=0)
    return model.eval().requires_grad_(False)


@dataclass
class Padded:
    """`generate` on batches of prompts of like length, padded on the left; each batch as long as its longest answer."""

    model: HuggingFaceModel
    rows: int
    remark: str = ""
    refills: bool = False

    @torch.inference_mode()
    def __call__(self, requests: Sequence[Work]) -> list[list[int]]:
        """Decode. Where memory runs out, batches are halved from then on."""
        order = sorted(range(len(requests)), key=lambda index: len(requests[index].prompt))
        tokens: dict[int, list[int]] = {}
        while order:
            batch = order[: self.rows]
            try:
                found = self._decode([requests[index] for index in batch])
            except torch.OutOfMemoryError:
                if len(batch) == 1:
                    raise
                self.rows = len(batch) // 2
                self.remark = f"batches of {self.rows}, as memory ran out"
                found = None
            if found is None:  # outside of the handler, whose exception holds the tensors
                torch.cuda.empty_cache()
                continue
            tokens |= zip(batch, found, strict=True)
            order = order[len(batch) :]
        return [tokens[index] for index in range(len(requests))]

    def _decode(self, batch: list[Work]) -> list[list[int]]:
        width = max(len(item.prompt) for item in batch)
        pads = [width - len(item.prompt) for item in batch]
        ids = torch.tensor([[0] * pad + item.prompt for pad, item in zip(pads, batch, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
        longest = max(item.num_new_tokens for item in batch)
        device = self.model.device
        out = self.model.generate(ids.to(device), attention_mask=mask.to(device), max_new_tokens=longest)
        answers: list[list[int]] = out[:, width:].tolist()
        return [ids[: item.num_new_tokens] for ids, item in zip(answers, batch, strict=True)]


@dataclass
class Continuous:
    """transformers' ContinuousBatchingManager: paged cache, a thread of its own, rows refilled as they end."""

    manager: Any
    remark: str
    refills: bool = True

    def __call__(self, requests: Sequence[Work]) -> list[list[int]]:
        """Decode. Raises RuntimeError where a request fails or the manager's thread dies."""
        ids = [self.manager.add_request(item.prompt, max_new_tokens=item.num_new_tokens) for item in requests]
        tokens: dict[str, list[int]] = {}
        while len(tokens) < len(requests):
            result = self.manager.get_result(timeout=_RESULT_TIMEOUT_SECONDS)
            if result is None:
                if not self.manager.is_running():
                    raise RuntimeError("transformers' continuous batching stopped before its work was done")
            elif result.error:
                raise RuntimeError(f"transformers' continuous batching failed a request: {result.error}")
            elif result.is_finished():
                tokens[result.request_id] = list(result.generated_tokens)
        return [tokens[request_id] for request_id in ids]


@contextmanager
def open_padded(model: HuggingFaceModel, workload: Workload) -> Iterator[Padded]:
    """Batches as large as our engine's."""
    yield Padded(model, workload.rows)


@contextmanager
def open_continuous(model: HuggingFaceModel, workload: Workload) -> Iterator[Continuous]:
    """Start a manager, told as much of the work as `generate_batch` would tell it; its graphs are captured here."""
    transformers: Any = import_module("transformers")
    utils: Any = import_module("transformers.generation.continuous_batching.utils")
    hints = utils.WorkloadHints(workload.prompt_tokens[1], workload.output_tokens[1], workload.num_requests)
    greedy = transformers.GenerationConfig(
        max_new_tokens=workload.output_tokens[1], do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    on_cpu = model.device.type == "cpu"
    with model.continuous_batching_context_manager(
        generation_config=greedy,
        continuous_batching_config=_config(transformers.ContinuousBatchingConfig, workload, on_cpu=on_cpu),
        warmup=not on_cpu,
        workload_hints=hints,
    ) as manager:
        yield Continuous(manager, f"attention {model.config._attn_implementation}")


def _config(config_type: Any, workload: Workload, *, on_cpu: bool) -> Any:  # noqa: ANN401 (see above)
    """Rows as ours; all else as it comes, except on a CPU. Pages are called blocks before transformers 5.18."""
    rows: dict[str, int] = {"max_requests_per_batch": workload.rows}
    if on_cpu:
        names = {field.name for field in fields(config_type)}
        rows["page_size" if "page_size" in names else "block_size"] = _CPU_PAGE_TOKENS
        rows["num_blocks"] = workload.rows * (workload.longest // _CPU_PAGE_TOKENS + 2)
        rows["max_batch_tokens"] = _CPU_STEP_TOKENS
    return config_type(**rows)
