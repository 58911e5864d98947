"""The compiled attention kernel: the plain formula's numbers, in bits that the query's own keys alone decide."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worker.engine import native
from worker.engine.native import KEY_BLOCK, Kernel, NativeError, Shape, agrees, load_kernel

SHAPES = [(64, 6, 2), (64, 4, 4), (8, 6, 2), (20, 5, 1), (80, 7, 1), (128, 8, 1), (96, 4, 2)]
WIDTH = 96


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


def fill(kernel: Kernel, shape: Shape, num_slots: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random keys and values in every position of every slot -> k, v [S, T, Hkv, D] and the cache that holds them."""
    generator = torch.Generator().manual_seed(1)
    size = (num_slots, WIDTH, shape.num_kv_heads, shape.head_dim)
    k, v = (torch.randn(size, generator=generator).to(shape.dtype) for _ in range(2))
    cache_k = k.new_zeros(num_slots, shape.num_kv_heads, WIDTH // KEY_BLOCK, shape.head_dim, KEY_BLOCK)
    cache_v = k.new_zeros(num_slots, shape.num_kv_heads, WIDTH, shape.head_dim)
    slots = torch.arange(num_slots).repeat_interleave(WIDTH)
    positions = torch.arange(WIDTH).repeat(num_slots)
    kernel.store(k.flatten(0, 1), v.flatten(0, 1), cache_k, cache_v, slots=slots, positions=positions)
    return k, v, cache_k, cache_v


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", SHAPES)
def test_every_shape_agrees_with_the_plain_formula(
    compiled: Path, sizes: tuple[int, int, int], dtype: torch.dtype
) -> None:
    shape = Shape(*sizes, dtype)
    assert agrees(load_kernel(shape, compiled), shape)


@pytest.mark.parametrize("window", [0, 7])
def test_a_query_has_the_same_bits_alone_and_among_others(compiled: Path, window: int) -> None:
    shape = Shape(64, 6, 2, torch.float32)
    kernel = load_kernel(shape, compiled)
    _, _, cache_k, cache_v = fill(kernel, shape, 3)
    slots = torch.tensor([2, 0, 1, 2, 2])
    positions = torch.tensor([95, 0, 33, 16, 15])
    q = torch.randn(5, 6, 64, generator=torch.Generator().manual_seed(2))
    together = torch.empty(5, 6 * 64)
    kernel.attend(q, cache_k, cache_v, together, slots=slots, positions=positions, window=window)
    for row in range(5):
        one = slice(row, row + 1)
        alone = torch.empty(1, 6 * 64)
        kernel.attend(
            q[one].clone(), cache_k, cache_v, alone, slots=slots[one], positions=positions[one], window=window
        )
        assert alone[0].equal(together[row])


def test_threads_change_no_bit(compiled: Path) -> None:
    shape = Shape(8, 6, 2, torch.float32)
    kernel = load_kernel(shape, compiled)
    _, _, cache_k, cache_v = fill(kernel, shape, 4)
    places = {"slots": torch.arange(40) % 4, "positions": torch.arange(40) * 2}
    q = torch.randn(40, 6, 8, generator=torch.Generator().manual_seed(3))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(torch.empty(40, 48))
            kernel.attend(q, cache_k, cache_v, results[-1], window=0, **places)
    finally:
        torch.set_num_threads(before)
    assert results[0].equal(results[1])


def test_nan_in_a_key_stays_in_its_row(compiled: Path) -> None:
    shape = Shape(8, 2, 1, torch.float32)
    kernel = load_kernel(shape, compiled)
    _, _, cache_k, cache_v = fill(kernel, shape, 2)
    cache_k[1, 0, 0, 3, 5] = torch.nan
    out = torch.empty(3, 16)
    places = {"slots": torch.tensor([0, 1, 1]), "positions": torch.tensor([20, 20, 4])}
    kernel.attend(torch.ones(3, 2, 8), cache_k, cache_v, out, window=0, **places)
    assert out.isnan().all(-1).tolist() == [False, True, False]
    assert out[[0, 2]].isfinite().all()


def test_a_wrong_kernel_is_not_used(compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(8, 2, 1, torch.float32)
    wrong = tmp_path / "attention.cpp"
    source = native._SOURCE.read_text()
    wrong.write_text(source.replace("mixed[g][d] / sums[g]", "mixed[g][d] / sums[g] * 1.001f"))
    assert wrong.read_text() != source
    monkeypatch.setattr(native, "_SOURCE", wrong)
    with pytest.raises(NativeError, match="something else"):
        load_kernel(shape, compiled)


def test_reasons_for_having_no_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(8, 2, 1, torch.float32)
    with pytest.raises(NativeError, match="float16"):
        load_kernel(Shape(8, 2, 1, torch.float16), tmp_path)
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    os.chmod(open_folder, 0o777)
    with pytest.raises(NativeError, match="others may write"):
        load_kernel(shape, open_folder)
    broken = tmp_path / "attention.cpp"
    broken.write_text("this is not C++")
    with monkeypatch.context() as patch:
        patch.setattr(native, "_SOURCE", broken)
        with pytest.raises(NativeError, match="does not compile"):
            load_kernel(shape, tmp_path / "fresh")
    monkeypatch.setattr(native, "COMPILERS", ("no-such-compiler",))
    with pytest.raises(NativeError, match="no C\\+\\+ compiler"):
        load_kernel(shape, tmp_path / "fresh")


def test_the_library_is_kept_for_the_next_start(compiled: Path) -> None:
    shape = Shape(8, 2, 1, torch.float32)
    load_kernel(shape, compiled)
    before = {file: file.stat().st_mtime_ns for file in compiled.iterdir()}
    load_kernel(shape, compiled)
    assert {file: file.stat().st_mtime_ns for file in compiled.iterdir()} == before
