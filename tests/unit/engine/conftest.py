"""One thread, and one tiny model for all tests of the engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.unit.engine.models import tiny_llama


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    """A model folder without tokenizer, and Hugging Face's model of it."""
    folder = tmp_path_factory.mktemp("llama")
    return folder, tiny_llama(folder)


@pytest.fixture(scope="session")
def folder(llama: tuple[Path, LlamaForCausalLM]) -> Path:
    return llama[0]
