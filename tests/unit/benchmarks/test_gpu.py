"""The GPU's benchmark without a GPU: its limits, what it gives each engine to do, what it says of them, its files."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.engine.work import Work
from benchmarks.gpu_bench import ceilings, sample
from benchmarks.gpu_bench.case import NO_TIME, Bench, Place
from benchmarks.gpu_bench.ceilings import SMALL, Ceilings, Product, Sizes, measure_ceilings
from benchmarks.gpu_bench.check import check_model, check_shape, judge
from benchmarks.gpu_bench.decoders import Decoder, Timed, run_timed
from benchmarks.gpu_bench.hugging_face import Padded, build_model
from benchmarks.gpu_bench.limits import Limit, Peaks, occupancy
from benchmarks.gpu_bench.ours import OURS
from benchmarks.gpu_bench.picture import save_picture, spread
from benchmarks.gpu_bench.records import Case, Check, Phase, Report, Run, read_report, write_report
from benchmarks.gpu_bench.sample import Budget, Pace, choose_sample, find_pace
from benchmarks.gpu_bench.session import Session
from benchmarks.gpu_bench.shapes import CONFIGS, PUBLISHED, make_model, make_spec, random_weights
from benchmarks.gpu_bench.table import as_text, case_rows
from benchmarks.gpu_bench.targets import judge_targets
from benchmarks.gpu_bench.workloads import WORKLOADS, Workload, cut, make_requests, make_warm_up, shrunk, with_rows
from worker.engine.weights import count_parameters

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
H200 = Peaks(bytes_per_second=4.3e12, flops_per_second=790e12)  # measured on one, as the design page says
LLAMA_8B = Limit(make_spec("8B"), 2, H200)
WORK = Workload("some", (8, 8), (20, 20), rows=4, num_requests=8)


def prompts(num: int, *, prompt: int = 8, new: int = 20) -> list[Work]:
    return [Work([1] * prompt, new)] * num


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The command sets it for the process on a CPU; give back what the tests after these had."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure ceilings in no time: what they are does not matter here."""
    monkeypatch.setattr(ceilings, "_SECONDS_EACH", 0.0)
    monkeypatch.setattr(gpu, "SMALL", Sizes(copy_bytes=1 << 20, square=64, tokens=(4,)))


# Limits


@pytest.mark.parametrize(("rows", "expected"), [(1, 285), (32, 8_000), (128, 23_300), (256, 28_900), (512, 28_900)])
def test_limit_is_that_of_the_design_page(rows: int, expected: float) -> None:
    assert rows / LLAMA_8B.decode_step(rows, 512).seconds == pytest.approx(expected, rel=0.004)


def test_limit_of_prompts_and_answers_is_that_of_the_design_page() -> None:
    work = prompts(256, prompt=341, new=342)  # 512 keys on average

    seconds = (LLAMA_8B.prefill(work, 256) + LLAMA_8B.decode(work, 256)).seconds

    assert 256 * 342 / seconds == pytest.approx(19_000, rel=0.01)


def test_decode_is_the_sum_of_its_steps() -> None:
    steps = [LLAMA_8B.decode_step(4, 8 + number).seconds for number in range(1, 20)]

    assert LLAMA_8B.decode(prompts(4), 4).seconds == pytest.approx(sum(steps))


def test_two_rounds_of_rows_take_twice_as_long() -> None:
    once, twice = LLAMA_8B.decode(prompts(4), 4), LLAMA_8B.decode(prompts(8), 4)

    assert twice.seconds == pytest.approx(2 * once.seconds)


@pytest.mark.parametrize(
    ("work", "shared", "num_tokens", "num_pairs"),
    [
        (prompts(1, prompt=1000), 0, 1000, sum(range(1, 1001))),
        (prompts(10, prompt=100), 0, 1000, 10 * sum(range(1, 101))),
        (prompts(10, prompt=100), 90, 90 + 10 * 10, sum(range(1, 91)) + 10 * sum(range(91, 101))),
    ],
    ids=["one", "ten", "ten that share their beginning"],
)
def test_prompts_cost_each_token_and_each_pair_of_tokens(
    work: list[Work], shared: int, num_tokens: int, num_pairs: int
) -> None:
    spec = LLAMA_8B.spec
    head = spec.vocab_size * spec.hidden_size
    matrices = count_parameters(spec) - 2 * head - (2 * spec.num_layers + 1) * spec.hidden_size

    flops = LLAMA_8B.prefill(work, 10, shared_tokens=shared).flops

    pairs = 4 * spec.num_layers * spec.q_size * num_pairs
    assert flops == 2 * matrices * num_tokens + 2 * head * len(work) + pairs


def test_short_prompt_alone_is_bound_by_the_weights() -> None:
    cost = LLAMA_8B.prefill([Work([1] * 8, 2)], 1)

    assert cost.seconds == pytest.approx(cost.num_bytes / H200.bytes_per_second, rel=0.01)


def test_occupancy_is_that_of_a_simulation() -> None:
    rng = random.Random(5)
    lengths = [rng.randint(0, 30) for _ in range(40)]
    waiting, live, expected = sorted(lengths), [0] * 0, dict[int, int]()
    while waiting or live:
        while waiting and len(live) < 7:
            live += [waiting.pop()]
        live = [left for left in live if left]
        if len(live) == 7 or not waiting:
            expected[len(live)] = expected.get(len(live), 0) + bool(live)
            live = [left - 1 for left in live if left > 1]

    assert dict(occupancy(lengths, 7)) == {rows: steps for rows, steps in expected.items() if rows}


# Shapes, workloads, samples


@pytest.mark.parametrize(("shape", "millions"), [("0.6B", 596), ("1B", 1236), ("8B", 8030)])
def test_shapes_have_the_published_size(shape: str, millions: int) -> None:
    assert round(count_parameters(make_spec(shape)) / 1e6) == millions


def test_requests_have_the_same_lengths_and_other_tokens_for_each_seed() -> None:
    first, second = (make_requests(WORKLOADS["ragged"], 100, seed=seed)[:20] for seed in (1, 2))

    assert [(len(a.prompt), a.num_new_tokens) for a in first] == [(len(b.prompt), b.num_new_tokens) for b in second]
    assert all(a.prompt != b.prompt for a, b in zip(first, second, strict=True))


def test_requests_share_what_the_workload_says() -> None:
    work = make_requests(WORKLOADS["shared-prefix"], 1000, seed=1)

    assert {len(item.prompt) for item in work} == {1152}
    assert len({tuple(item.prompt[:1024]) for item in work}) == 1
    assert len({tuple(item.prompt[1024:]) for item in work}) == len(work)


def test_rows_change_the_work_with_them_but_not_alone() -> None:
    ragged = with_rows(WORKLOADS["ragged"], 32)

    assert (ragged.rows, ragged.num_requests) == (32, 64)
    assert with_rows(WORKLOADS["batch-1"], 32) == WORKLOADS["batch-1"]


def test_warm_up_leaves_rows_one_after_the_other() -> None:
    lengths = [item.num_new_tokens for item in make_warm_up(prompts(300), 256, longest=100)]
    live = {sum(length > step for length in lengths) for step in range(max(lengths))}

    assert {256, 16, 8, 4, 2, 1} <= live
    assert all(any(top - 32 < count <= top for count in live) for top in range(32, 257, 32))


def test_warm_up_is_no_longer_than_allowed() -> None:
    assert max(item.num_new_tokens for item in make_warm_up(prompts(4), 4, longest=12)) == 4


def test_outputs_are_cut_to_a_share_and_to_a_bound() -> None:
    assert [item.num_new_tokens for item in cut(prompts(2), outputs=0.5)] == [10, 10]
    assert cut(prompts(1), most=1)[0].num_new_tokens == 1
    assert len(cut(prompts(1), prompt=3)[0].prompt) == 3


def test_budget_is_shared_among_what_is_left() -> None:
    times = iter([100.0, 100.0, 150.0])
    budget = Budget(60.0, clock=lambda: next(times))

    assert budget.share(3) == 20.0
    assert budget.share(2) == 5.0


def test_part_of_a_budget_ends_by_itself() -> None:
    times = iter([0.0, 0.0, 0.0, 15.0])
    part = Budget(60.0, clock=lambda: next(times)).part(3)

    assert part.share(1) == 5.0


def test_pace_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_decoder: Decoder, requests: Sequence[Work], _device: torch.device) -> Timed:
        seconds = 0.5 * len(requests) + 0.1 * (max(item.num_new_tokens for item in requests) - 1)
        return Timed([], seconds)

    monkeypatch.setattr(sample, "run_timed", run)

    pace = find_pace(Fake(), WORK, prompts(8), device=CPU, allowance=1000.0)

    assert pace.prompt_seconds == pytest.approx(0.5)
    assert pace.step_seconds == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("allowance", "num_requests", "scale"), [(100.0, 8, 1.0), (3.0, 4, 1.0), (1.5, 4, 0.5), (0.0, 4, 1 / 16)]
)
def test_sample_fits_its_time(allowance: float, num_requests: int, scale: float) -> None:
    pace = Pace(prompt_seconds=0.0, step_seconds=0.1)

    found = choose_sample(pace, prompts(8), 4, refills=True, num_prefills=1, allowance=allowance)

    assert (len(found.requests), found.output_scale) == (num_requests, scale)
    assert found.requests[0].num_new_tokens == max(round(20 * scale), 2)


def test_sample_fills_the_rows() -> None:
    found = choose_sample(Pace(0.0, 0.1), prompts(6), 4, refills=True, num_prefills=1, allowance=2.5)

    assert len(found.requests) == 4


def test_batches_that_are_not_refilled_take_longer() -> None:
    work = [Work([1] * index, 10 if index % 2 else 1) for index in range(8)]
    pace = Pace(prompt_seconds=0.0, step_seconds=1.0)

    assert pace.seconds(work, 2, refills=False, num_prefills=1) == 40
    assert pace.seconds(work, 2, refills=True, num_prefills=1) == 22


# Engines and their check


class Fake:
    """An engine that repeats one token."""

    refills, remark = True, "a fake"

    def __init__(self, fault: Exception | None = None) -> None:
        self.fault = fault

    def __call__(self, requests: Sequence[Work]) -> list[list[int]]:
        if self.fault:
            raise self.fault
        return [[7] * item.num_new_tokens for item in requests]


def opened(decoder: Decoder) -> AbstractContextManager[Decoder]:
    return nullcontext(decoder)


def run_fakes(fault: Exception | None = None, *, seconds: float = 1e6) -> Case:
    place = Place("8B", LLAMA_8B, CPU, Budget(seconds))
    bench = Bench(place, WORK)
    bench.measure(OURS, lambda _: opened(Fake(fault)), runs_left=2)
    bench.measure("peer", lambda _: opened(Fake()), runs_left=1)
    return bench.as_case()


def test_case_compares_engines_and_times_prompts_of_ours_alone() -> None:
    case = run_fakes()

    ours, peer = case.runs
    assert (ours.engine, ours.num_requests, ours.output_tokens) == (OURS, 8, 160)
    assert ours.whole.cost.seconds == pytest.approx(
        (LLAMA_8B.prefill(prompts(8), 4) + LLAMA_8B.decode(prompts(8), 4)).seconds
    )
    assert ours.prefill is not None
    assert (peer.prefill, peer.decode, peer.equal_answers, peer.remark) == (None, None, 8, "a fake")


def test_engine_that_fails_is_named_and_the_others_go_on() -> None:
    case = run_fakes(RuntimeError("it broke\nhere and there"))

    assert case.skipped == {OURS: "RuntimeError: it broke"}
    assert [(run.engine, run.equal_answers) for run in case.runs] == [("peer", None)]
    assert gpu.has_failed(replace(REPORT, cases=(case,)))


def test_nothing_begins_after_the_time_is_over() -> None:
    case = run_fakes(seconds=-1.0)

    assert case.skipped == {OURS: NO_TIME, "peer": NO_TIME}
    assert not gpu.has_failed(replace(REPORT, cases=(case,)))


def test_check_that_breaks_off_is_a_wrong_engine(tmp_path: Path) -> None:
    running = Session(gpu.choose(gpu.parse(["--device", "cpu", "--quick"])), tmp_path / "gpu.json")

    def break_off() -> Check:
        raise RuntimeError("no such kernel")

    running._check("8B", torch.bfloat16, break_off)

    [check] = running.checks
    assert gpu.has_failed(replace(REPORT, checks=(check,)))
    assert check.fault == "RuntimeError: no such kernel"


def test_equal_answers_are_counted_as_far_as_both_go() -> None:
    place, answers = Place("8B", LLAMA_8B, CPU, Budget(1e6)), iter([7, 8])

    class Constant(Fake):
        def __init__(self) -> None:
            super().__init__()
            self.token = next(answers)

        def __call__(self, requests: Sequence[Work]) -> list[list[int]]:
            return [[7] * (item.num_new_tokens - 1) + [self.token] for item in requests]

    bench = Bench(place, WORK)
    for name in (OURS, "peer"):
        bench.measure(name, lambda _: opened(Constant()), runs_left=1)

    assert [run.equal_answers for run in bench.runs] == [8, 0]


def test_answers_shorter_than_asked_for_are_no_result() -> None:
    class Lazy(Fake):
        def __call__(self, requests: Sequence[Work]) -> list[list[int]]:
            return [[7]] * len(requests)

    with pytest.raises(RuntimeError, match="as many tokens"):
        run_timed(Lazy(), prompts(2), CPU)


def test_batches_are_halved_as_memory_runs_out() -> None:
    class Small:
        device = CPU

        def generate(self, ids: torch.Tensor, *, attention_mask: torch.Tensor, max_new_tokens: int) -> torch.Tensor:
            if len(ids) > 3:
                raise torch.OutOfMemoryError("too much")
            last = ids[:, -1:]  # real tokens stand at the end
            return torch.cat([ids, last.expand(-1, max_new_tokens)], dim=1)

    padded = Padded(Small(), rows=8)
    work = [Work([index] * (index + 1), 1 + index % 2) for index in range(10)]

    assert padded(work) == [[index] * (1 + index % 2) for index in range(10)]
    assert padded.remark == "batches of 2, as memory ran out"


def test_hugging_face_model_has_the_very_same_tensors() -> None:
    spec = make_spec("tiny")
    weights = random_weights(spec, device=CPU, dtype=torch.float32)

    model = build_model(CONFIGS["tiny"], spec, weights)

    ours = {tensor.untyped_storage().data_ptr() for tensor in weights.tensors()}
    assert {tensor.untyped_storage().data_ptr() for tensor in model.parameters()} == ours


@pytest.mark.parametrize("shape", PUBLISHED)
def test_hugging_face_knows_every_tensor_of_a_published_shape(shape: str) -> None:
    """A shape's first layers, narrowed: the names, the head, the rotary tables."""
    small = {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 96, "vocab_size": 128}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    config = CONFIGS[shape] | small | heads
    CONFIGS["narrow"] = config
    try:
        check = check_shape("narrow", device=CPU, dtype=torch.float32)
    finally:
        del CONFIGS["narrow"]

    assert check.passed, check


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_check_passes_the_engine_and_sees_a_wrong_one(dtype: torch.dtype) -> None:
    spec = make_spec("tiny")
    weights = random_weights(spec, device=CPU, dtype=dtype)
    peer = build_model(CONFIGS["tiny"], spec, weights)
    right = make_model("tiny", spec, weights, device=CPU, dtype=dtype)
    turned = make_model("tiny", replace(spec, rope_theta=10000.0), weights, device=CPU, dtype=dtype)

    assert check_model(right, peer).passed
    assert not check_model(turned, peer).passed


@pytest.mark.parametrize(
    ("dtype", "difference", "same", "passed"),
    [
        ("float32", 1e-6, True, True),
        ("float32", 1e-6, False, False),
        ("float32", 1e-2, True, False),
        ("bfloat16", 0.05, False, True),
        ("bfloat16", 0.5, True, False),
        ("bfloat16", float("nan"), True, False),
    ],
)
def test_check_is_judged_by_its_dtype(dtype: str, difference: float, same: bool, passed: bool) -> None:
    found = judge("tiny", dtype, torch.full((10,), difference), torch.tensor([same] + [True] * 9))

    assert found.passed == passed


@pytest.mark.usefixtures("hasty")
def test_ceilings_measure_each_product_once() -> None:
    sizes = Sizes(copy_bytes=1 << 16, square=64, tokens=(4, 16))
    spec = make_spec("tiny")

    found = measure_ceilings([spec, spec], sizes, device=CPU, dtype=torch.float32)

    assert len(found.products) == 1 + 5 * 2
    assert found.peaks.flops_per_second == max(product.flops_per_second for product in found.products) > 0
    assert found.launch_seconds > 0
    assert SMALL.square > sizes.square


# What is said of it


def make_run(name: str, workload: Workload, shape: str, share: float) -> Run:
    """A run at a share of the limit."""
    limit = Limit(make_spec(shape), 2, H200)
    work = make_requests(workload, 1000, seed=1)
    steps = limit.decode(work, workload.rows)
    prefill = limit.prefill(work, workload.rows, shared_tokens=workload.shared_tokens)
    seconds = (steps.seconds + prefill.seconds) / share
    return Run(
        engine=name,
        num_requests=len(work),
        output_scale=1.0 if name == OURS else 0.5,
        output_tokens=sum(item.num_new_tokens for item in work),
        warm_up_seconds=1.5,
        whole=Phase(seconds, steps + prefill),
        prefill=Phase(prefill.seconds / share, prefill) if name == OURS else None,
        decode=Phase(steps.seconds / share, steps) if name == OURS else None,
        peak_bytes=20_000_000_000,
        equal_answers=len(work) if name == OURS else 1,
        remark="attention paged" if name == OURS else "",
    )


def make_report(shapes: Sequence[str] = ("tiny",)) -> Report:
    """A report as a GPU might give it."""
    rng = random.Random(1)
    cases = [
        Case(
            *(shape, work.name, work.rows, work.num_requests),
            (make_run(OURS, work, shape, rng.uniform(0.5, 0.95)), make_run("hf-continuous", work, shape, 0.2)),
            {"hf-generate": "OutOfMemoryError: too much"},
        )
        for shape in shapes
        for work in (shrunk(each, tokens_by=1, rows=min(each.rows, 64)) for each in WORKLOADS.values())
    ]
    return Report(
        machine={"device": "NVIDIA H200", "torch": "2.11"},
        dtype="bfloat16",
        ceilings=Ceilings(4.3e12, 2e-6, (Product(8192, 8192, 8192, 790e12), Product(256, 96, 64, 500e12))),
        checks=(Check("tiny", "float32", 100, 1e-6, 1e-5, 1.0, passed=True),),
        cases=tuple(cases),
        absent={"vllm": "vllm is not installed"},
    )


REPORT = make_report()


def test_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_report(tmp_path / "gpu.json", REPORT)

    assert read_report(tmp_path / "gpu.json") == REPORT


def test_table_says_what_was_measured_and_what_was_not() -> None:
    case = replace(REPORT.cases[0], runs=tuple(make_run(name, WORK, "tiny", 0.5) for name in (OURS, "peer")))
    ours, peer, left_out = case_rows(case, 790e12)

    assert {"50.0%", "8 of 8", "20.0", "1.5"} <= set(ours) | {f"{case.runs[0].num_requests} of 8"}
    assert peer[4] == "1.00x"
    assert peer[-1] == "outputs cut to 50%; 1 answers as ours"
    assert left_out[-1] == "not run: OutOfMemoryError: too much"
    lines = as_text("a title", [ours, peer, left_out]).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["decode-bound"] * 3


def test_targets_are_judged_by_their_cases() -> None:
    shares = {"decode-bound": 0.9, "prefill-bound": 0.7, "ragged": 0.5}
    cases = [
        Case("8B", name, 64, 64, (make_run(OURS, work, "8B", share), make_run("hf-continuous", work, "8B", 0.2)), {})
        for name, share in shares.items()
        for work in [with_rows(WORKLOADS[name], 64)]
    ]
    decode, utilisation, over_8b, over_small = judge_targets(replace(REPORT, cases=tuple(cases)))

    measured = [verdict.value for verdict in (decode, utilisation, over_8b)]
    assert measured == pytest.approx([0.9, 0.7, 2.5], rel=0.01)
    assert [verdict.met for verdict in (decode, utilisation, over_8b, over_small)] == [True, False, True, None]


def test_labels_stand_apart_and_inside() -> None:
    found = spread([0.1, 0.11, 0.5, 0.97, 0.98, 0.99], 0.05)

    assert all(b - a >= 0.05 - 1e-9 for a, b in pairwise(found))
    assert found[0] == 0.1
    assert max(found) <= 1.0


def test_picture_needs_a_run_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no run"):
        save_picture(tmp_path / "gpu.png", replace(REPORT, cases=()))


def test_command_draws_what_was_measured_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_report(tmp_path / "gpu.json", make_report(["0.6B", "8B"]))

    assert gpu.main(["--draw", str(tmp_path / "gpu.json")]) == 0

    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert "copy 4,300 GB/s" in shown
    assert "right: tiny float32" in shown
    assert "vllm was not run" in shown
    assert shown.count("  hf-continuous  ") == 10
    assert "least over hf-continuous >= 2.0" in shown


@pytest.mark.usefixtures("hasty")
def test_command_measures_and_agrees_with_hugging_face(tmp_path: Path) -> None:
    peers = ["--peers", "hf-generate", "hf-continuous", "--workloads", "ragged", "batch-1"]

    status = gpu.main(["--shapes", "tiny", "--device", "cpu", "--quick", *peers, "-o", str(tmp_path)])

    assert status == 0
    cases = json.loads((tmp_path / "gpu.json").read_text())["cases"]
    assert [(run["engine"], run["equal_answers"]) for run in cases[0]["runs"]] == [
        (OURS, 16),
        ("hf-generate", 16),
        ("hf-continuous", 16),
    ]
    assert [case["workload"] for case in cases] == ["ragged", "batch-1"]
    assert (tmp_path / "gpu.png").exists()


def test_wrong_engine_ends_with_a_status() -> None:
    wrong = replace(REPORT.checks[0], passed=False)

    assert not gpu.has_failed(REPORT)
    assert gpu.has_failed(replace(REPORT, checks=(wrong,)))


def test_command_needs_none_of_the_service_and_no_matplotlib() -> None:
    """A machine with a GPU may have torch and transformers alone."""
    absent = (
        "celery",
        "kombu",
        "redis",
        "sqlalchemy",
        "psycopg",
        "orjson",
        "pydantic",
        "fastapi",
        "matplotlib",
        "rich",
    )
    code = f"import sys; sys.modules |= dict.fromkeys({absent!r}); import benchmarks.gpu as gpu; gpu.parse([])"

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=100, check=False
    )

    assert done.returncode == 0, done.stderr
