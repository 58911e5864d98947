"""The engine's benchmark on a model of a few thousand parameters: what it counts, compares and writes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.engine import timing
from benchmarks.engine.__main__ import main
from benchmarks.engine.figures import Figure
from benchmarks.engine.gemm import useful_flops
from benchmarks.engine.hugging_face import load_hugging_face
from benchmarks.engine.ours import Ours, Span, whole_run
from benchmarks.engine.peers import PEERS
from benchmarks.engine.work import SHAPES, make_prefix_work, make_work, save_model
from worker.engine import Engine
from worker.engine.spec import Spec

TINY = Spec(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    context_length=512,
    tie_word_embeddings=True,
)
ROWS = 4


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """The command sets it for the process; give back what the tests after these had."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_model(folder, TINY)
    return folder


@pytest.fixture(scope="module")
def ours(folder: Path) -> Ours:
    return Ours(Engine.load(folder, rows=ROWS, device="cpu", dtype="float32"))


def test_useful_flops_are_those_of_the_matrix_products(folder: Path) -> None:
    model = load_hugging_face(folder, "float32")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.arange(24)[None])

    counted = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    assert useful_flops(TINY, Span(cpu_seconds=1.0, layer_tokens=24, head_rows=24)) == counted


def test_whole_run_is_what_the_engine_counts(ours: Ours) -> None:
    work = make_work(TINY, 6, seed=1, prompt_tokens=(1, 20), output_tokens=(1, 12))
    ours(work)

    counted = sum(ours.counted(name) or 0 for name in ("prompt_tokens", "row_steps"))
    assert whole_run(work, 1.0).layer_tokens == counted


def test_full_queue_ends_where_nothing_waits(ours: Ours) -> None:
    work = make_work(TINY, 5 * ROWS, seed=1, prompt_tokens=(8, 8), output_tokens=(4, 12))
    ours(work)

    span, whole = ours.full_queue(), whole_run(work, 1.0)
    assert span is not None
    assert whole.head_rows / 2 < span.head_rows < whole.head_rows
    assert whole.layer_tokens / 2 < span.layer_tokens < whole.layer_tokens


def test_full_queue_needs_more_jobs_than_rows(ours: Ours) -> None:
    ours(make_work(TINY, ROWS, seed=1, prompt_tokens=(8, 8), output_tokens=(4, 12)))

    assert ours.full_queue() is None


@pytest.mark.parametrize("peer", ["hf-generate", "hf-generate-sorted", "hf-continuous"])
def test_peer_gives_our_tokens(peer: str, folder: Path, ours: Ours) -> None:
    work = make_work(TINY, 7, seed=1, prompt_tokens=(1, 40), output_tokens=(1, 12))

    assert PEERS[peer](folder, TINY, "float32")(work) == ours(work)


def test_prefix_work_differs_after_the_prefix() -> None:
    first, second = make_prefix_work(TINY, 2, seed=1, prefix=100, tail=8, num_new_tokens=4)

    assert first.prompt[:100] == second.prompt[:100]
    assert first.prompt[100:] != second.prompt[100:]
    assert len(first.prompt) == len(second.prompt) == 108


@pytest.mark.parametrize(("value", "met"), [(4.0, True), (3.9, False), (None, None)])
def test_target_is_met(value: float | None, met: bool | None) -> None:
    assert Figure("ratio", value, "times", at_least=4.0).met is met


def test_command_writes_table_json_and_chart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(SHAPES, "tiny", TINY)
    monkeypatch.setattr(timing, "BUDGET_SECONDS", 0.0)
    number = ["--jobs", "6", "--rows", "4", "--prefix-jobs", "0"]
    files = ["--json", str(tmp_path / "found.json"), "--chart", str(tmp_path / "found.png")]

    main(["--shapes", "tiny", "--dtypes", "float32", "--peers", "hf-generate", *number, *files])

    [case] = json.loads((tmp_path / "found.json").read_text())["cases"]
    assert [(result["name"], result["equal_answers"]) for result in case["results"]] == [
        ("batchmill", 6),
        ("hf-generate", 6),
    ]
    assert {figure["name"] for figure in case["figures"]} > {"over Hugging Face generate", "KV cache over its formula"}
    assert "hf-generate" in capsys.readouterr().out
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")
