"""One thread, and one tiny model for all tests of the engine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.unit.engine.models import tiny_llama, write_tiktoken
from worker.engine import Engine


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


@pytest.fixture(scope="module")
def text_engine(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The same model with a tokenizer and a chat template."""
    copy = tmp_path_factory.mktemp("text")
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    write_tiktoken(copy)
    return Engine.load(copy, rows=4)


@pytest.fixture(scope="module")
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a tokenizer whose context is soon outgrown."""
    folder = tmp_path_factory.mktemp("short")
    tiny_llama(folder, max_position_embeddings=80)
    write_tiktoken(folder)
    return folder
