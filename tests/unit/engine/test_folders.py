"""Where a model is found: folders, files in them, and ids that a hub of our own on this machine serves."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.hub import QUIET, Hub, serve_hub
from worker.engine.folders import find_folder
from worker.engine.types import EngineError

FILES = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"[]",
    "pytorch_model.bin": b"the same weights again",
    "original/consolidated.00.pth": b"and again",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub(FILES) as hub:
        yield hub


def find_in_process(model: str, cache: Path, **environment: str) -> str:
    """What a fresh process finds, or the error it names; the library reads its environment once."""
    code = (
        "import sys, pathlib\n"
        "from worker.engine.folders import find_folder\n"
        "from worker.engine.types import EngineError\n"
        "try: print(find_folder(pathlib.Path(sys.argv[1])))\n"
        "except EngineError as error: print('refused:', error)\n"
        "assert 'torch' not in sys.modules"
    )
    environment |= QUIET | {"HF_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", code, model], capture_output=True, text=True, env=os.environ | environment, check=True
    )
    return done.stdout.strip()


def test_hub_id_is_downloaded_once_and_only_what_is_needed(hub: Hub, tmp_path: Path) -> None:
    folder = Path(find_in_process("tiny/llama", tmp_path, **hub.environment))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == {
        name: FILES[name] for name in ("config.json", "model.safetensors", "tokenizer.json")
    }
    hub.served.clear()
    assert find_in_process("tiny/llama", tmp_path, HF_HUB_OFFLINE="1") == str(folder)
    assert hub.served == []
    refused = find_in_process("tiny/other", tmp_path, **hub.environment)
    assert refused.startswith("refused: tiny/other is no folder here, and the Hugging Face hub does not give a model")


def test_hub_id_offline_with_nothing_cached_is_one_sentence(tmp_path: Path) -> None:
    refused = find_in_process("tiny/llama", tmp_path, HF_HUB_OFFLINE="1")
    assert refused.startswith("refused: tiny/llama is no folder here, and the Hugging Face hub does not give")
    assert "\n" not in refused


def test_file_names_its_folder(folder: Path) -> None:
    assert find_folder(folder / "model.safetensors") == find_folder(folder) == folder


@pytest.mark.parametrize("path", ["/nowhere", "nowhere", "a/b/c", "../b"])
def test_what_is_no_id_is_not_looked_up(path: str) -> None:
    with pytest.raises(EngineError, match="there is no model folder at"):
        find_folder(Path(path))
