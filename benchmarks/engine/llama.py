"""llama.cpp through llama-cpp-python's low-level calls: 32 sequences, each slot refilled as soon as it is free.

An optional peer, no dependency of this project: `pip install llama-cpp-python==0.3.36 gguf` beside it (it builds its
C++ from source, minutes on one core), or put the site-packages folder that holds both on PYTHONPATH.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np

from benchmarks.engine.gguf_file import write_gguf
from benchmarks.engine.work import OUTPUT_TOKENS, PROMPT_TOKENS, Work
from worker.engine.spec import Spec

NUM_SLOTS = 32
_SLOT_TOKENS = PROMPT_TOKENS[1] + OUTPUT_TOKENS[1]
_BATCH_TOKENS, _UBATCH_TOKENS = 2048, 512


def is_installed() -> bool:
    """Whether llama_cpp and gguf can be imported."""
    return find_spec("llama_cpp") is not None and find_spec("gguf") is not None


@cache
def _load_library() -> tuple[Any, object]:
    """The bindings, silenced. The callback that swallows the log is kept too: C holds no reference to it."""
    lib: Any = import_module("llama_cpp")
    swallow = lib.llama_log_callback(lambda level, text, data: None)
    lib.llama_log_set(swallow, None)
    return lib, swallow


@dataclass
class _Slot:
    """A job in a sequence of the context."""

    job: int
    position: int  # where the next token fed goes
    tokens: list[int] = field(default_factory=list)


class LlamaCpp:
    """A model and a context with 32 sequences, decoding greedily."""

    def __init__(self, folder: Path, spec: Spec, dtype: str, *, flash: bool) -> None:
        self._lib, _ = _load_library()
        self._vocab_size = spec.vocab_size
        path = bytes(write_gguf(folder, spec, dtype))
        self._model = self._lib.llama_model_load_from_file(path, self._lib.llama_model_default_params())
        self._context = self._lib.llama_init_from_model(self._model, self._settings(dtype, flash=flash))
        if not self._context:
            raise RuntimeError("llama.cpp could not load the model it was given")
        self._memory = self._lib.llama_get_memory(self._context)
        self._batch = self._lib.llama_batch_init(_BATCH_TOKENS, 0, 1)
        finalize(self, _free, self._lib, self._batch, self._context, self._model)

    def _settings(self, dtype: str, *, flash: bool) -> Any:  # noqa: ANN401 (a structure of an optional package)
        """One thread, and what was quickest of the ways tried; docs/decisions.md has the others."""
        settings = self._lib.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max = NUM_SLOTS * _SLOT_TOKENS, NUM_SLOTS
        settings.n_batch, settings.n_ubatch = _BATCH_TOKENS, _UBATCH_TOKENS
        settings.n_threads = settings.n_threads_batch = 1
        settings.flash_attn_type = int(flash)
        settings.kv_unified = flash and dtype == "float32"  # one buffer for all sequences
        if dtype == "float32":  # else llama.cpp's own choice, float16
            settings.type_k = settings.type_v = self._lib.GGML_TYPE_F32
        return settings

    def __call__(self, work: Sequence[Work]) -> list[list[int]]:
        """Decode the work. Raises RuntimeError where llama_decode refuses a batch."""
        waiting = deque(range(len(work)))
        slots: dict[int, _Slot] = {}
        answers: dict[int, list[int]] = {}
        while waiting or slots:
            rows = self._fill(work, waiting, slots)
            for sequence, token in zip(rows, self._step(len(rows)), strict=True):
                slot = slots[sequence]
                slot.tokens.append(token)
                if len(slot.tokens) == work[slot.job].num_new_tokens:
                    answers[slot.job] = slots.pop(sequence).tokens
                    self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        return [answers[job] for job in range(len(work))]

    def _fill(self, work: Sequence[Work], waiting: deque[int], slots: dict[int, _Slot]) -> list[int]:
        """Batch the newest token of each slot and the prompts that fit beside them; give the sequences in order."""
        self._batch.n_tokens = 0
        for sequence, slot in slots.items():
            self._put(sequence, slot, slot.tokens[-1:])
        for sequence in range(NUM_SLOTS):
            if sequence in slots or not waiting:
                continue
            prompt = work[waiting[0]].prompt
            if self._batch.n_tokens + len(prompt) > _BATCH_TOKENS:
                break
            slots[sequence] = _Slot(waiting.popleft(), 0)
            self._put(sequence, slots[sequence], prompt)
        return list(slots)

    def _put(self, sequence: int, slot: _Slot, tokens: list[int]) -> None:
        """Append tokens of a sequence to the batch and ask for the scores after the last one."""
        batch, first = self._batch, self._batch.n_tokens
        for index, token in enumerate(tokens, start=first):
            batch.token[index], batch.pos[index] = token, slot.position + index - first
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = index == first + len(tokens) - 1
        slot.position += len(tokens)
        batch.n_tokens = first + len(tokens)

    def _step(self, num_rows: int) -> list[int]:
        """Run the batch; the likeliest token of each row that asked, in the order they were put."""
        code = self._lib.llama_decode(self._context, self._batch)
        if code != 0:
            raise RuntimeError(f"llama_decode gave {code}")
        scores = np.ctypeslib.as_array(self._lib.llama_get_logits(self._context), (num_rows, self._vocab_size))
        tokens: list[int] = scores.argmax(axis=1).tolist()
        return tokens


def _free(lib: Any, batch: Any, context: Any, model: Any) -> None:  # noqa: ANN401 (an optional package)
    """Free what lies outside Python."""
    lib.llama_batch_free(batch)
    lib.llama_free(context)
    lib.llama_model_free(model)
