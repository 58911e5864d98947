"""Faults inside a batch: memory that runs out anywhere, scores that are no numbers, text that cannot be made."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from tests.unit.engine.models import EOS, VOCAB_SIZE, tiny_llama
from worker.engine import Engine, Output, Request, RowError, SamplingParams, runner
from worker.engine.attention import TorchAttention
from worker.engine.families import load_spec
from worker.engine.fast_paths import FastPaths
from worker.engine.faults import is_allocation_failure
from worker.engine.group import Group
from worker.engine.kv_cache import KVCache
from worker.engine.loader import load_model
from worker.engine.ops import TORCH_OPS
from worker.engine.prepare import Preparer
from worker.engine.rows import Rows
from worker.engine.tokenizer import TextStream, Tokenizer, load_tokenizer

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)


class Trouble(TorchFunctionMode):
    """Lets the operations of torch with these numbers, counted from 0, raise; notes how many there were."""

    def __init__(self, numbers: Sequence[int] = (), error: type[Exception] = torch.OutOfMemoryError) -> None:
        super().__init__()
        self.numbers, self.error = frozenset(numbers), error
        self.num_calls = 0

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        self.num_calls += 1
        if self.num_calls - 1 in self.numbers:
            raise self.error("out of luck")
        return func(*args, **(kwargs or {}))


def prompt(index: int, length: int) -> list[int]:
    rng = random.Random(index)
    return [rng.randrange(3, 128) for _ in range(length)]


def mixed_requests() -> list[Request]:
    """Everything that keeps state from step to step: stop strings, alternatives, penalties, several answers, beams,
    prompt scores, shared beginnings, a context outgrown."""
    base = SamplingParams(max_tokens=9, ignore_eos=True, seed=5)
    settings = [
        replace(base, stop=("ab", "z"), top_logprobs=2),
        replace(base, n=3, repetition_penalty=1.3, frequency_penalty=0.4),
        replace(base, use_beam_search=True, n=2, best_of=3, temperature=0.0, stop=("q",)),
        replace(base, prompt_logprobs=1, echo=True, top_logprobs=1),
        replace(base, context_overflow="crop", max_tokens=14),
        replace(base, temperature=0.0, min_tokens=3, logit_bias=((7, 3.0),)),
    ]
    lengths = [5, 9, 4, 7, 76, 3]
    requests = [Request(f"r{i}", prompt(i, lengths[i]), params=params) for i, params in enumerate(settings)]
    shared = prompt(99, 40)
    return requests + [Request(f"s{i}", [*shared, *prompt(i, 3)], params=base) for i in range(4)]


def run_all(engine: Engine, requests: Sequence[Request]) -> dict[str, Output]:
    return run_groups(engine, [engine.prepare(request) for request in requests])


def run_groups(engine: Engine, groups: Sequence[Group]) -> dict[str, Output]:
    for group in groups:
        engine.add(group)
    return drain(engine)


def drain(engine: Engine) -> dict[str, Output]:
    outputs: dict[str, Output] = {}
    while engine.has_work:
        outputs |= {output.request_id: output for output in engine.step()}
    return outputs


@pytest.fixture(scope="module")
def expected(short_folder: Path) -> dict[str, Output]:
    return run_all(Engine.load(short_folder, rows=7), mixed_requests())


@pytest.fixture
def engine(short_folder: Path) -> Engine:
    return Engine.load(short_folder, rows=7)


def test_memory_may_run_out_in_any_operation(short_folder: Path, expected: dict[str, Output]) -> None:
    model = load_model(short_folder, device="cpu", dtype="float32")
    preparer = Preparer(VOCAB_SIZE, 80, (EOS,), load_tokenizer(short_folder), None)

    def run(trouble: Trouble) -> Engine:
        engine = Engine(model, preparer, rows=7)
        groups = [engine.prepare(request) for request in mixed_requests()]
        with trouble:
            assert run_groups(engine, groups) == expected, trouble.numbers
        return engine

    counted = Trouble()
    run(counted)
    for number in random.Random(3).sample(range(counted.num_calls), 8):
        engine = run(Trouble([number]))
        assert engine.stats()["oom_splits"] == 1
        assert (engine.num_live, engine.num_waiting, engine.request_ids()) == (0, 0, [])


def test_memory_may_run_out_anywhere_in_a_decode_step(short_folder: Path) -> None:
    """Half way through recording what was chosen, too, when rows are neither at one token nor the next."""
    model = load_model(short_folder, device="cpu", dtype="float32")
    preparer = Preparer(VOCAB_SIZE, 80, (EOS,), None, None)
    base = SamplingParams(max_tokens=4, ignore_eos=True, seed=1)
    settings = [replace(base, frequency_penalty=1.0), replace(base, use_beam_search=True, best_of=2), base]
    requests = [Request(str(index), [5 + index, 6], params=params) for index, params in enumerate(settings)]

    def run(trouble: Trouble) -> dict[str, Output]:
        engine = Engine(model, preparer, rows=4)
        for request in requests:
            engine.add(engine.prepare(request))
        engine.step()
        with trouble:
            outputs = engine.step()
        return {output.request_id: output for output in outputs} | drain(engine)

    counted = Trouble()
    expected = run(counted)
    for number in range(0, counted.num_calls, 7):
        assert run(Trouble([number])) == expected, number


def test_memory_may_run_out_again_and_again(engine: Engine, expected: dict[str, Output]) -> None:
    """Under ever lower limits."""
    numbers = [100, 900, 4000, 10_000]
    with Trouble(numbers) as trouble:
        assert run_all(engine, mixed_requests()) == expected
    assert trouble.num_calls > numbers[-1]
    assert engine.stats()["oom_splits"] == len(numbers)


def test_rows_that_keep_what_they_hold_are_not_computed_again(short_folder: Path) -> None:
    """The older half of the rows goes on where it was when a step only computed."""
    engine = Engine.load(short_folder, rows=4)
    requests = [Request(str(i), prompt(i, 4), params=GREEDY) for i in range(4)]
    alone = engine.generate(requests)
    groups = [engine.prepare(request) for request in requests]
    for group in groups[:2]:
        engine.add(group)
    engine.step()
    for group in groups[2:]:
        engine.add(group)
    engine.step()
    with Trouble([5]):
        engine.step()
    assert [group.sequences[0].num_generated for group in groups] == [3, 3, 0, 0]
    assert (engine.stats()["row_limit"], engine.num_waiting) == (2, 2)
    outputs = drain(engine)
    assert [outputs[str(i)].logprobs for i in range(4)] == [output.logprobs for output in alone]


def test_the_limit_rises_again(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engine.recovery.PATIENCE_STEPS", 5)
    engine = Engine.load(short_folder, rows=4)
    for index in range(4):
        engine.add(engine.prepare(Request(str(index), [5, 6], params=replace(GREEDY, max_tokens=40))))
    with Trouble([5]):
        engine.step()
    limits = [engine.stats()["row_limit"]]
    while engine.has_work:
        engine.step()
        limits.append(engine.stats()["row_limit"])
    assert limits[:7] == [2, 2, 2, 2, 2, 4, 4]


def test_cache_grows_as_memory_allows_or_keeps_what_it_holds_or_nothing(engine: Engine) -> None:
    cache = KVCache(engine.spec, max_rows=8, budget_tokens=8192, dtype=torch.float32, device=torch.device("cpu"))
    cache.reserve(0, 2, 200)
    for tensor in (*cache.k, *cache.v):
        tensor[:] = torch.rand_like(tensor)
    held = [tensor.clone() for tensor in (*cache.k, *cache.v)]
    with Trouble([0, 1, 2]), pytest.raises(torch.OutOfMemoryError):  # 8, 4 and 3 rows
        cache.reserve(2, 3, 1000)
    assert all(tensor.equal(kept) for tensor, kept in zip((*cache.k, *cache.v), held, strict=True))
    cache.budget_tokens = 8192
    with Trouble([0]):
        cache.reserve(2, 3, 1000)
    assert (cache.num_slots, cache.width, cache.budget_tokens) == (4, 1024, 4096)
    assert all(tensor[:2, :, :256].equal(kept[:2]) for tensor, kept in zip((*cache.k, *cache.v), held, strict=True))
    with Trouble([9]), pytest.raises(torch.OutOfMemoryError):
        cache.reserve(2, 3, 2000)
    assert (cache.num_slots, cache.width, cache.num_bytes) == (0, 0, 0)


def test_buffers_of_rows_grow_together_or_not_at_all(engine: Engine) -> None:
    params = SamplingParams(max_tokens=600, presence_penalty=1.0, logit_bias=((7, 1.0),), allowed_token_ids=(8,))
    asked = [engine.prepare(Request("a", prompt(0, 9), params=replace(params, max_tokens=60))).sequences[0]]
    asked[0].max_new_tokens = 600
    with Trouble() as counted:
        Rows.allocate(16, max_stop_ids=8, device=torch.device("cpu")).start(0, asked, vocab_size=VOCAB_SIZE)
    num_failures = 0
    for number in range(counted.num_calls):
        rows = Rows.allocate(16, max_stop_ids=8, device=torch.device("cpu"))
        with Trouble([number]), suppress(torch.OutOfMemoryError):
            num_failures += 1
            rows.start(0, asked, vocab_size=VOCAB_SIZE)
        assert rows.penalties.seen_ids.shape == rows.penalties.counts.shape
        assert rows.penalties.bias_ids.shape == rows.penalties.biases.shape
        assert rows.bans.allowed.shape[1] in (0, VOCAB_SIZE)
    assert num_failures > 20


def test_a_request_that_does_not_fit_alone_fails(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.nn.functional.embedding

    def limited(tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if tokens.shape[0] > 48:
            raise torch.OutOfMemoryError("48 tokens at once are all there is")
        return real(tokens, weight)

    good = [Request(f"g{i}", prompt(i, 5), params=GREEDY) for i in range(6)]
    alone = [engine.generate([request])[0].token_ids for request in good]
    monkeypatch.setattr(torch.nn.functional, "embedding", limited)
    large = Request("large", prompt(1, 60), params=replace(GREEDY, n=2, temperature=1.0))
    outputs = run_all(engine, [*good[:3], large, *good[3:]])
    error = outputs["large"].error
    assert error is not None
    assert (error.code, "71 tokens" in error.message) == ("out_of_memory", True)
    assert [outputs[request.id].token_ids for request in good] == alone
    assert engine.request_ids() == []


_LIMITED = """
import json, resource, sys, torch
from worker.engine import Engine, Request, SamplingParams
torch.set_num_threads(1)
engine = Engine.load(sys.argv[1], rows=64)
engine.generate([Request("warm", [5, 6, 7], params=SamplingParams(max_tokens=3))])
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (int(sys.argv[2]) << 20), resource.RLIM_INFINITY))
work = enumerate(json.load(sys.stdin))
outputs = engine.generate([Request(str(i), ids, params=SamplingParams(**params)) for i, (ids, params) in work])
print(json.dumps([[one.error and one.error.code, one.token_ids, one.logprobs] for one in outputs]))
print(json.dumps(engine.stats()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's address space")
def test_a_process_out_of_memory_answers_the_same(tmp_path: Path) -> None:
    """Real failures of the allocator: each row's cache takes 32 MB of address space, and there are 300 MB."""
    tiny_llama(tmp_path, max_position_embeddings=1 << 21)
    stops = tuple(range(3, 11))
    params = {"max_tokens": 120_000, "temperature": 1.7, "stop_token_ids": stops}
    work = [(prompt(index, 3), params | {"seed": index}) for index in range(24)]
    hopeless = (prompt(1, 3), {"max_tokens": 2_000_000, "stop_token_ids": stops})
    requests = [
        Request(str(index), ids, params=SamplingParams(**settings))  # type: ignore[arg-type]
        for index, (ids, settings) in enumerate(work)
    ]
    plain = Engine.load(tmp_path, rows=64).generate(requests)
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path), "300"],
        input=json.dumps([*work, hopeless]),
        capture_output=True,
        text=True,
        check=True,
    )
    outputs, stats = map(json.loads, done.stdout.splitlines())
    assert outputs[:-1] == [[None, output.token_ids, output.logprobs] for output in plain]
    assert outputs[-1][0] == "out_of_memory"
    assert stats["oom_splits"] >= 3


def test_an_error_of_the_device_leaves_the_engine_coherent(engine: Engine, expected: dict[str, Output]) -> None:
    for request in mixed_requests():
        engine.add(engine.prepare(request))
    outputs: dict[str, Output] = {}
    with Trouble([150, 2500, 2600, 7000], error=ValueError):
        num_errors = 0
        while engine.has_work:
            held = set(engine.request_ids())
            try:
                outputs |= {output.request_id: output for output in engine.step()}
            except ValueError:
                num_errors += 1
                assert set(engine.request_ids()) == held
                assert engine.stats()["live"] == engine.num_live == 0
            assert set(engine.request_ids()) == expected.keys() - outputs.keys()
    assert (outputs, num_errors) == (expected, 4)


def run_one_step(engine: Engine, requests: Sequence[Request]) -> None:
    for request in reversed(requests):  # the longest first, as `generate` has it
        engine.add(engine.prepare(request))
    engine.step()
    for request in requests:
        engine.cancel(request.id)


def test_an_interrupted_generate_leaves_nothing_behind(engine: Engine, expected: dict[str, Output]) -> None:
    short = [Request(str(i), [5, 6], params=SamplingParams(max_tokens=i + 1, ignore_eos=True)) for i in range(4)]
    with Trouble() as first_step:
        run_one_step(engine, short)
    for number in range(first_step.num_calls, first_step.num_calls + 60, 3):  # as the second step retires two of them
        with Trouble([number], error=ValueError), pytest.raises(ValueError, match="out of luck"):
            engine.generate(short)
        assert (engine.has_work, engine.request_ids()) == (False, [])
    assert {output.request_id: output for output in engine.generate(mixed_requests())} == expected


def test_request_ids_are_those_without_an_output(engine: Engine) -> None:
    for name in "abc":
        engine.add(engine.prepare(Request(name, [5, 6], params=replace(GREEDY, max_tokens=4))))
    engine.step()
    engine.add(engine.prepare(Request("d", [5, 6], params=replace(GREEDY, max_tokens=9))))
    engine.cancel("b")
    assert sorted(engine.request_ids()) == ["a", "c", "d"]
    while len(engine.request_ids()) > 1:
        engine.step()
    assert engine.request_ids() == ["d"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_allocation_failures_are_told_from_others(error: Exception, expected: bool) -> None:
    assert is_allocation_failure(error) is expected


# Scores that are no numbers

BAD, HOPELESS = 50, 51  # tokens whose embedding bfloat16, and no dtype, can hold


@pytest.fixture(scope="module")
def broken_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("broken")
    model = tiny_llama(folder)
    with torch.no_grad():
        model.model.embed_tokens.weight[BAD] = torch.finfo(torch.float32).max
        model.model.embed_tokens.weight[HOPELESS] = torch.nan
    model.save_pretrained(folder)
    return folder


def test_numbers_that_break_fail_their_row_at_once(broken_folder: Path) -> None:
    engine = Engine.load(broken_folder, rows=4)
    good = [Request(f"g{i}", prompt(i, 5), params=GREEDY) for i in range(3)]
    alone = run_all(engine, good)
    engine.add(engine.prepare(Request("bad", [5, HOPELESS], params=replace(GREEDY, max_tokens=200))))
    for request in good:
        engine.add(engine.prepare(request))
    first = engine.step()
    assert [(output.request_id, output.error and output.error.code) for output in first] == [
        ("bad", "nonfinite_logits")
    ]
    assert drain(engine) == alone


def test_a_row_that_breaks_while_decoding_ends_there(broken_folder: Path) -> None:
    engine = Engine.load(broken_folder, rows=4)
    params = replace(GREEDY, logit_bias=((HOPELESS, 1e6),), max_tokens=200)
    engine.add(engine.prepare(Request("bad", [5, 6], params=params)))
    assert engine.step() == []
    (output,) = engine.step()
    assert output.error is not None
    assert engine.stats()["steps"] == 1  # the one that met the bad token


@pytest.fixture
def low_engine(broken_folder: Path) -> Engine:
    return Engine.load(broken_folder, rows=4, dtype="bfloat16")


def test_bfloat16_row_is_retried_in_float32(broken_folder: Path, low_engine: Engine) -> None:
    full = Engine.load(broken_folder, rows=4)
    settings = [GREEDY, SamplingParams(seed=3, n=2), replace(GREEDY, use_beam_search=True, n=2)]
    bad = [Request(f"b{i}", [7, BAD, 8 + i], params=params) for i, params in enumerate(settings)]
    good = [Request(f"g{i}", prompt(i, 5), params=GREEDY) for i in range(3)]
    alone = run_all(low_engine, good)
    outputs = run_all(low_engine, [*bad, *good])
    for request in bad:
        expected = replace(full.generate([request])[0], fingerprint=full.info.fingerprint)
        assert outputs[request.id] == expected
        assert expected.error is None
    assert {request.id: outputs[request.id] for request in good} == alone
    stats = low_engine.stats()
    assert (stats["float32_retries"], stats["float32_helped"]) == (3, 3)
    assert (low_engine.has_work, low_engine.request_ids()) == (False, [])


def test_retries_that_never_help_end(low_engine: Engine) -> None:
    requests = [Request(str(i), [HOPELESS, 5 + i], params=GREEDY) for i in range(6)]
    outputs = low_engine.generate(requests)
    assert {output.error.code for output in outputs if output.error} == {"nonfinite_logits"}
    assert len(outputs) == 6
    assert low_engine.generate([Request("late", [BAD], params=GREEDY)])[0].error is not None
    stats = low_engine.stats()
    assert (stats["float32_retries"], stats["float32_helped"]) == (3, 0)


def test_retries_can_be_cancelled_and_are_held(low_engine: Engine) -> None:
    for name in ("a", "b", "c"):
        low_engine.add(low_engine.prepare(Request(name, [BAD, 5], params=GREEDY)))
    low_engine.step()
    assert low_engine.request_ids() == ["a", "b", "c"]
    assert low_engine.cancel("a")
    assert low_engine.cancel("c")
    assert not low_engine.cancel("c")
    assert drain(low_engine).keys() == {"b"}


def test_without_memory_for_a_second_model_the_row_fails(low_engine: Engine, broken_folder: Path) -> None:
    for file in broken_folder.glob("*.safetensors"):
        file.rename(file.with_suffix(".away"))
    try:
        (output,) = low_engine.generate([Request("a", [BAD, 5], params=GREEDY)])
    finally:
        for file in broken_folder.glob("*.away"):
            file.rename(file.with_suffix(".safetensors"))
    assert output.error is not None
    assert output.error.code == "nonfinite_logits"


# Text that cannot be made

CURSED = ord("q")


class PanicException(BaseException):
    """As pyo3 makes one of a Rust panic."""


class BrittleStream:
    """A stream that one token breaks."""

    def __init__(self, stream: TextStream, error: BaseException) -> None:
        self._stream, self._error = stream, error

    @property
    def text(self) -> str:
        return self._stream.text

    def push(self, token_id: int) -> None:
        if token_id == CURSED:
            raise self._error
        self._stream.push(token_id)

    def fork(self) -> "BrittleStream":
        return BrittleStream(self._stream.fork(), self._error)


class BrittleTokenizer:
    """A tokenizer that one token breaks."""

    def __init__(self, tokenizer: Tokenizer, error: BaseException) -> None:
        self._tokenizer, self._error = tokenizer, error

    def __getattr__(self, name: str) -> object:
        return getattr(self._tokenizer, name)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        if CURSED in token_ids:
            raise self._error
        return self._tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def stream(self, *, skip_special_tokens: bool) -> BrittleStream:
        return BrittleStream(self._tokenizer.stream(skip_special_tokens=skip_special_tokens), self._error)


@pytest.mark.parametrize("error", [ValueError("secret"), PanicException("secret")])
@pytest.mark.parametrize(
    "changes",
    [{}, {"stop": ("zz",)}, {"use_beam_search": True, "n": 2, "stop": ("zz",)}, {"n": 2, "stop": ("zz",)}],
)
def test_a_token_the_tokenizer_cannot_take_fails_its_row(
    short_folder: Path, error: BaseException, changes: dict[str, Any]
) -> None:
    tokenizer = load_tokenizer(short_folder)
    assert tokenizer is not None
    model = load_model(short_folder, device="cpu", dtype="float32")
    preparer = Preparer(VOCAB_SIZE, 80, (), BrittleTokenizer(tokenizer, error), None)  # type: ignore[arg-type]
    engine = Engine(model, preparer, rows=6)
    mild = SamplingParams(max_tokens=8, temperature=0.0, logit_bias=((CURSED, -100.0),))
    good = [Request(f"g{i}", prompt(i, 5), params=mild) for i in range(3)]
    alone = run_all(engine, good)
    bias = () if changes.get("use_beam_search") else ((CURSED, 100.0),)
    params = replace(mild, logit_bias=bias, **changes)
    if not bias:  # beams take no bias: find a prompt whose beams come by the token
        params = replace(params, best_of=6, max_tokens=30)
    outputs = run_all(engine, [Request("bad", prompt(4, 4), params=params), *good])
    failure = outputs.pop("bad").error
    assert isinstance(failure, RowError)
    assert failure.code == "internal_row_error"
    assert "secret" not in failure.message
    assert outputs == alone
    assert engine.request_ids() == []


def test_a_cancelled_row_leaves_no_nan_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked attention multiplies what lies beyond a row by 0, which NaN survives."""
    masked = TorchAttention(load_spec(folder), TORCH_OPS, masked=True)
    monkeypatch.setattr(
        runner, "choose_fast_paths", lambda *_, **__: FastPaths(masked, TORCH_OPS, {"attention": "masked"})
    )
    engine = Engine.load(folder, rows=1)
    good = Request("good", [5, 6], params=GREEDY)
    bad = Request("bad", [7, 8, 9, 10, 11, 12], params=GREEDY)
    expected, other = engine.generate([good, bad])
    first = other.token_ids[0]
    assert first not in (*expected.token_ids, *bad.prompt)  # type: ignore[misc]
    with torch.no_grad():
        engine.weights.embedding[first] = torch.inf
    engine.add(engine.prepare(bad))
    engine.step()
    assert bool(engine._rows.done[0])
    assert engine.cancel("bad")
    assert [output.token_ids for output in engine.generate([good])] == [expected.token_ids]
