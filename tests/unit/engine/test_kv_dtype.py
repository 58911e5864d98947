"""Where keys and values may be kept in 8 bits, and what is said where not."""

from pathlib import Path

import pytest
import torch

from tests.unit.engine.parallel.threads import start_thread
from worker.engine import Engine
from worker.engine.kv_dtype import FP8, check_kv_dtype, choose_kv_dtype
from worker.engine.parallel import launch
from worker.engine.types import EngineError

CUDA = torch.device("cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_auto_is_the_models_dtype(dtype: torch.dtype) -> None:
    assert choose_kv_dtype("auto", dtype) == dtype
    assert choose_kv_dtype("fp8", dtype) == FP8


def test_unknown_name_is_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="kv_dtype 'int4' is not known; auto and fp8 are"):
        Engine.load(tmp_path, kv_dtype="int4")


@pytest.mark.parametrize(
    ("capability", "has_kernels", "is_refused"),
    [((8, 9), True, False), ((9, 0), True, False), ((8, 6), True, True), ((9, 0), False, True)],
)
def test_fp8_needs_a_gpu_that_converts_it(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], has_kernels: bool, is_refused: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    check_kv_dtype("auto", CUDA, has_kernels=has_kernels)
    if is_refused:
        with pytest.raises(EngineError, match=r"kv_dtype fp8 needs a CUDA device of compute capability 8\.9 or newer"):
            check_kv_dtype("fp8", CUDA, has_kernels=has_kernels)
    else:
        check_kv_dtype("fp8", CUDA, has_kernels=has_kernels)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_fp8_on_a_cpu_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch, num_ranks: int) -> None:
    monkeypatch.setattr(launch, "_start", start_thread)
    with pytest.raises(EngineError, match=r"^kv_dtype fp8 needs a CUDA device"):
        Engine.load(folder, kv_dtype="fp8", tensor_parallel=num_ranks)


def test_second_try_in_float32_keeps_float32(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def note(kv_dtype: str, dtype: torch.dtype) -> torch.dtype:
        asked.append(kv_dtype)
        return dtype

    monkeypatch.setattr("worker.engine.runner.choose_kv_dtype", note)
    monkeypatch.setattr("worker.engine.fast_paths.check_kv_dtype", lambda *_, **__: None)
    load_float32 = Engine.load(folder, dtype="bfloat16", kv_dtype="fp8")._retry._load
    assert load_float32 is not None
    load_float32()
    assert asked == ["fp8", "auto"]
