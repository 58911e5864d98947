"""The engines that ours is measured against, by the names of `--peers`."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.engine import llama
from benchmarks.engine.hugging_face import Continuous, Padded, load_hugging_face
from benchmarks.engine.work import Decode
from worker.engine.spec import Spec

GENERATE = "hf-generate"  # what a user writes

# Each loads a model folder in a dtype and gives what decodes with it.
PEERS: dict[str, Callable[[Path, Spec, str], Decode]] = {
    GENERATE: lambda folder, spec, dtype: Padded(load_hugging_face(folder, dtype), by_length=False),
    "hf-generate-sorted": lambda folder, spec, dtype: Padded(load_hugging_face(folder, dtype), by_length=True),
    "hf-continuous": lambda folder, spec, dtype: Continuous(load_hugging_face(folder, dtype)),
    "llama.cpp": lambda folder, spec, dtype: llama.LlamaCpp(folder, spec, dtype, flash=False),
    "llama.cpp-flash": lambda folder, spec, dtype: llama.LlamaCpp(folder, spec, dtype, flash=True),
}


def why_not(name: str) -> str | None:
    """What keeps a peer from running here, or None."""
    if name.startswith("llama") and not llama.is_installed():
        return "llama_cpp and gguf are not installed; benchmarks/engine/llama.py says how"
    return None
