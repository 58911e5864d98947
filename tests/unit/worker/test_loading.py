"""The line in which a worker says what it runs."""

import pytest

from models.settings import load_settings
from worker.loading import describe_device, describe_engine, load_engine


def test_paths_of_one_reason_share_it() -> None:
    settings = load_settings(threads=1)
    paths = {"linear": "packed", "attention": "compiled", "operations": "compiled"}
    text = describe_device(settings, "float32", "cpu", paths)
    assert text == "float32 on cpu, 1 thread; linear: packed; attention and operations: compiled"


def test_threads_of_the_host_say_nothing_of_a_gpu() -> None:
    settings = load_settings(threads=2)
    assert describe_device(settings, "float32", "cpu", {}) == "float32 on cpu, 2 threads"
    assert describe_device(settings, "bfloat16", "cuda", {"linear": "plain"}) == "bfloat16 on cuda; linear: plain"


@pytest.mark.parametrize(
    ("name", "device", "says"), [("cuda:3", "cuda", "cuda:3"), ("cpu:1", "cpu", "cpu:1, 2 threads")]
)
def test_device_goes_by_the_name_it_was_given(name: str, device: str, says: str) -> None:
    settings = load_settings(threads=2, device_name=name)
    assert describe_device(settings, "float32", device, {}) == f"float32 on {says}"


def test_fraction_of_the_gpu_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr("worker.engine.engine.Engine.load", lambda folder, **given: asked.update(given))
    load_engine(load_settings(gpu_memory_fraction=0.75))
    assert (asked["rows"], asked["gpu_memory_fraction"]) == (None, 0.75)


def test_number_of_ranks_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr("worker.engine.engine.Engine.load", lambda folder, **given: asked.update(given))
    monkeypatch.setenv("BATCHMILL_TENSOR_PARALLEL", "4")
    load_engine(load_settings())
    assert asked["tensor_parallel"] == 4


def test_dtype_of_the_cache_and_the_reproducible_mode_reach_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}
    monkeypatch.setattr("worker.engine.engine.Engine.load", lambda folder, **given: asked.update(given))
    load_engine(load_settings())
    assert (asked["kv_dtype"], asked["reproducible"]) == ("auto", False)
    monkeypatch.setenv("BATCHMILL_KV_DTYPE", "fp8")
    monkeypatch.setenv("BATCHMILL_REPRODUCIBLE", "1")
    load_engine(load_settings())
    assert (asked["kv_dtype"], asked["reproducible"]) == ("fp8", True)


def test_engine_without_a_model_describes_itself_too() -> None:
    settings = load_settings(model="noop", rows=7)
    assert describe_engine(settings, load_engine(settings).info) == "model noop, 7 rows, none on none"
