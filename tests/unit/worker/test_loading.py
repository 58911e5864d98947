"""The line in which a worker says what it runs."""

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


def test_engine_without_a_model_describes_itself_too() -> None:
    settings = load_settings(model="noop", rows=7)
    assert describe_engine(settings, load_engine(settings).info) == "model noop, 7 rows, none on none"
