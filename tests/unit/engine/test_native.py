"""The compiled attention kernel: the plain formula's numbers, in bits that the query's own keys alone decide."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor

from worker.engine.native import KEY_BLOCK, Kernel, NativeError, Shape, build, load_kernel, load_ops
from worker.engine.native.attention import agrees
from worker.engine.native.ops import agree
from worker.engine.ops import TORCH_OPS

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


def changed_sources(folder: Path, file: str, old: str, new: str) -> Path:
    """Copy the sources, with a fault in one of them."""
    copy = folder / "sources"
    shutil.copytree(build.SOURCES, copy, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    source = (copy / file).read_text()
    (copy / file).write_text(source.replace(old, new))
    assert (copy / file).read_text() != source
    return copy


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("attention.cpp", "/ sums[g]", "/ sums[g] * 1.001f"),
        ("ops.cpp", "* scale *", "* scale * 1.001f *"),
        ("ops.cpp", "(small + 1.0f)", "(small + 1.001f)"),
        ("ops.cpp", "low * read(c, count) + high", "low * read(c, count) - high"),
        ("ops.cpp", "+ highest;", "+ 0.999f * highest;"),
    ],
)
def test_wrong_code_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, old: str, new: str) -> None:
    monkeypatch.setattr(build, "SOURCES", changed_sources(tmp_path, file, old, new))
    with pytest.raises(NativeError, match="something else"):
        load_both(tmp_path / "made")


def load_both(folder: Path) -> None:
    load_kernel(Shape(8, 2, 1, torch.float32), folder)
    load_ops(torch.float32, folder)


def test_reasons_for_having_no_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(8, 2, 1, torch.float32)
    with pytest.raises(NativeError, match="float16"):
        load_kernel(Shape(8, 2, 1, torch.float16), tmp_path)
    with pytest.raises(NativeError, match="float16"):
        load_ops(torch.float16, tmp_path)
    open_folder = tmp_path / "open"
    open_folder.mkdir()
    os.chmod(open_folder, 0o777)
    with pytest.raises(NativeError, match="others may write"):
        load_kernel(shape, open_folder)
    with monkeypatch.context() as patch:
        patch.setattr(build, "SOURCES", changed_sources(tmp_path, "attention.cpp", "namespace", "namespca"))
        with pytest.raises(NativeError, match="does not compile"):
            load_kernel(shape, tmp_path / "fresh")
    monkeypatch.setattr(build, "COMPILERS", ("no-such-compiler",))
    with pytest.raises(NativeError, match="no C\\+\\+ compiler"):
        load_kernel(shape, tmp_path / "fresh")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operations_agree_with_torch_and_keep_to_their_rows(compiled: Path, dtype: torch.dtype) -> None:
    ops = load_ops(dtype, compiled)
    assert agree(ops, dtype)
    generator = torch.Generator().manual_seed(4)
    gate_up, scores = torch.randn(37, 2 * 53, generator=generator).to(dtype), torch.randn(37, 1001, generator=generator)
    weight = torch.randn(106, generator=generator).to(dtype)
    for row in (0, 17, 36):
        one = slice(row, row + 1)
        assert ops.swiglu(gate_up)[one].equal(ops.swiglu(gate_up[one].clone()))
        assert ops.rms_norm(gate_up, weight, 1e-6)[one].equal(ops.rms_norm(gate_up[one].clone(), weight, 1e-6))
        assert ops.log_norm(scores)[one].equal(ops.log_norm(scores[one].clone()))


def test_operations_at_the_ends_of_their_range(compiled: Path) -> None:
    ops = load_ops(torch.float32, compiled)
    gate = torch.tensor([[-1e30, -200.0, -88.0, -1e-30, 0.0, 88.0, 200.0, 1e30]])
    gate_up = torch.cat([gate, torch.ones_like(gate)], -1)
    torch.testing.assert_close(ops.swiglu(gate_up), TORCH_OPS.swiglu(gate_up))
    scores = torch.tensor([[1e4, -1e4, 0.0], [torch.nan, 0.0, 1.0], [-torch.inf, 2.0, 3.0]])
    torch.testing.assert_close(ops.log_norm(scores), scores.logsumexp(-1), equal_nan=True)


def test_the_library_is_kept_for_the_next_start(compiled: Path) -> None:
    shape = Shape(8, 2, 1, torch.float32)
    load_kernel(shape, compiled)
    before = {file: file.stat().st_mtime_ns for file in compiled.iterdir()}
    load_kernel(shape, compiled)
    assert {file: file.stat().st_mtime_ns for file in compiled.iterdir()} == before


def test_without_a_home_the_library_is_made_for_this_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    shape = Shape(8, 2, 1, torch.float32)
    assert agrees(load_kernel(shape), shape)
