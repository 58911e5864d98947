"""Hugging Face transformers, three ways: padded batches in order of arrival or of length, and continuous batching."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.work import Work

_transformers: Any = import_module("transformers")  # half of its functions are typed

BATCH_ROWS = 32
# Continuous batching sizes its cache for GPUs; on a CPU it must be told. What was quickest of five ways tried.
_PAGE_TOKENS = 64
_STEP_TOKENS = 256
_RESULT_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True)
class Padded:
    """`generate` on batches padded on the left, each as long as its longest row.

    How long an answer will be is not known beforehand where stop tokens decide, so it never orders the batches.
    """

    model: Any
    by_length: bool

    @torch.inference_mode()
    def __call__(self, work: Sequence[Work]) -> list[list[int]]:
        """Decode the work."""
        order = sorted(range(len(work)), key=lambda i: len(work[i].prompt)) if self.by_length else range(len(work))
        tokens: dict[int, list[int]] = {}
        for start in range(0, len(order), BATCH_ROWS):
            batch = order[start : start + BATCH_ROWS]
            tokens |= zip(batch, self._decode([work[i] for i in batch]), strict=True)
        return [tokens[i] for i in range(len(work))]

    def _decode(self, batch: list[Work]) -> list[list[int]]:
        width = max(len(item.prompt) for item in batch)
        pads = [width - len(item.prompt) for item in batch]
        ids = torch.tensor([[0] * pad + item.prompt for pad, item in zip(pads, batch, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
        longest = max(item.num_new_tokens for item in batch)
        out = self.model.generate(
            ids, attention_mask=mask, max_new_tokens=longest, min_new_tokens=longest, do_sample=False
        )
        return [out[row, width : width + item.num_new_tokens].tolist() for row, item in enumerate(batch)]


@dataclass(frozen=True)
class Continuous:
    """transformers' ContinuousBatchingManager: paged cache, a thread of its own, rows refilled as they end."""

    model: Any

    def __call__(self, work: Sequence[Work]) -> list[list[int]]:
        """Decode the work. Raises RuntimeError where the manager's thread dies."""
        with self._manager() as manager:
            ids = [manager.add_request(item.prompt, max_new_tokens=item.num_new_tokens) for item in work]
            tokens: dict[str, list[int]] = {}
            while len(tokens) < len(work):
                result = manager.get_result(timeout=_RESULT_TIMEOUT_SECONDS)
                if result is None and not manager.is_running():
                    raise RuntimeError("transformers' continuous batching stopped before its work was done")
                if result is not None and result.is_finished():
                    tokens[result.request_id] = list(result.generated_tokens)
        return [tokens[request_id] for request_id in ids]

    @contextmanager
    def _manager(self) -> Iterator[Any]:
        longest = self.model.config.max_position_embeddings
        config = _transformers.ContinuousBatchingConfig(
            page_size=_PAGE_TOKENS,
            num_blocks=BATCH_ROWS * 512 // _PAGE_TOKENS,
            max_batch_tokens=_STEP_TOKENS,
            max_requests_per_batch=BATCH_ROWS,
        )
        greedy = _transformers.GenerationConfig(
            max_new_tokens=longest, do_sample=False, eos_token_id=-1, pad_token_id=0
        )
        with self.model.continuous_batching_context_manager(
            generation_config=greedy, continuous_batching_config=config, warmup=False
        ) as manager:
            yield manager


def load_hugging_face(folder: Path, dtype: str) -> Any:  # noqa: ANN401 (see above)
    """Load a model folder for the classes above."""
    _transformers.utils.logging.disable_progress_bar()
    return _transformers.LlamaForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
