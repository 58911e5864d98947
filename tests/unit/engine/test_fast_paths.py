"""What is promised of a device is there, or refused."""

from pathlib import Path

import pytest
import torch

from worker.engine.families import load_spec
from worker.engine.fast_paths import choose_fast_paths
from worker.engine.types import EngineError


def test_gpu_without_triton_is_not_reproducible_and_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.fast_paths.find_spec", lambda name: None)
    spec, cuda = load_spec(folder), torch.device("cuda")
    assert "Triton is not installed" in choose_fast_paths(spec, cuda, torch.bfloat16).names["attention"]
    with pytest.raises(EngineError, match="the reproducible mode needs Triton on a GPU"):
        choose_fast_paths(spec, cuda, torch.bfloat16, reproducible=True)
