"""The engine's law on a tiny random model: Hugging Face's tokens, whatever the batch."""

import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.unit.engine.models import EOS, ragged_requests, tiny_llama, write_tiktoken
from worker.engine import Engine, EngineError, Output, Request, SamplingParams, runner
from worker.engine.attention import TorchAttention
from worker.engine.families import load_spec
from worker.engine.fast_paths import FastPaths
from worker.engine.ops import TORCH_OPS
from worker.engine.reference import generate as generate_plainly

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return Engine.load(folder, rows=6)


def run(engine: Engine, request: Request) -> Output:
    return engine.generate([request])[0]


@torch.inference_mode()
def hugging_face(model: LlamaForCausalLM, request: Request) -> tuple[list[int], list[float]]:
    """Greedy tokens and logprobs of one prompt alone, the end token cut."""
    prompt = torch.tensor([list(request.prompt or [])])
    untyped: Any = model
    out = untyped.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=request.params.max_tokens,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    tokens = out.sequences[0, prompt.shape[1] :].tolist()
    scores = torch.cat(out.logits).log_softmax(-1)
    logprobs = [scores[index, token].item() for index, token in enumerate(tokens)]
    num = tokens.index(EOS) if EOS in tokens else len(tokens)
    return tokens[:num], logprobs[:num]


@pytest.mark.parametrize("seed", [1, 2])
def test_greedy_equals_hugging_face_in_any_order(
    engine: Engine, llama: tuple[Path, LlamaForCausalLM], seed: int
) -> None:
    requests = ragged_requests(20)
    random.Random(seed).shuffle(requests)
    outputs = engine.generate(requests)
    for request, output in zip(requests, outputs, strict=True):
        tokens, logprobs = hugging_face(llama[1], request)
        assert (output.request_id, output.token_ids) == (request.id, tokens)
        assert output.logprobs == pytest.approx(logprobs, abs=1e-4)


@pytest.mark.parametrize("sampled", [False, True])
def test_engine_equals_reference(engine: Engine, sampled: bool) -> None:
    requests = ragged_requests(14, max_prompt=40, max_tokens=20, sampled=sampled)
    sequences = [engine.prepare(request).sequences[0] for request in requests]
    with torch.no_grad():
        expected = generate_plainly(engine.weights, engine.spec, sequences)
    for output, (tokens, logprobs) in zip(engine.generate(requests), expected, strict=True):
        assert output.token_ids == tokens
        assert output.logprobs == pytest.approx(logprobs, abs=1e-4)


def test_stop_on_first_last_and_never(engine: Engine) -> None:
    request = Request("a", [5, 6, 7], params=GREEDY)
    tokens = run(engine, request).token_ids
    first = run(engine, replace(request, params=replace(GREEDY, stop_token_ids=(tokens[0],))))
    assert (first.token_ids, first.logprobs, first.finish_reason) == ([], [], "stop")
    index = next(i for i in range(11, 0, -1) if tokens[i] not in tokens[:i])
    later = run(engine, replace(request, params=replace(GREEDY, stop_token_ids=(tokens[index],))))
    assert (later.token_ids, later.finish_reason) == (tokens[:index], "stop")
    unseen = next(token for token in range(199) if token not in tokens)
    never = run(engine, replace(request, params=replace(GREEDY, stop_token_ids=(unseen,))))
    assert (never.token_ids, never.finish_reason) == (tokens, "length")


def test_min_tokens_holds_stops_back(engine: Engine) -> None:
    tokens = run(engine, Request("a", [5, 6, 7], params=GREEDY)).token_ids
    params = replace(GREEDY, stop_token_ids=(tokens[0],), min_tokens=4)
    output = run(engine, Request("a", [5, 6, 7], params=params))
    assert len(output.token_ids) >= 4
    assert tokens[0] not in output.token_ids[:4]


def test_one_token_and_prompt_at_the_limit(engine: Engine) -> None:
    params = replace(GREEDY, max_tokens=1)
    outputs = engine.generate([Request("a", [5] * 255, params=params), Request("b", [5], params=params)])
    assert [len(output.token_ids) for output in outputs] == [1, 1]
    open_end = run(engine, Request("c", [5] * 250, params=replace(GREEDY, max_tokens=None)))
    assert len(open_end.token_ids) == 6


def test_seed_repeats_and_differs(engine: Engine) -> None:
    params = SamplingParams(max_tokens=30, temperature=1.5, seed=11, ignore_eos=True)
    same, again, other = (run(engine, Request("a", [9, 8], params=replace(params, seed=seed))) for seed in (11, 11, 12))
    assert same == again
    assert same.token_ids != other.token_ids


def test_refused_rows_leave_neighbours_alone(engine: Engine) -> None:
    good = Request("good", [5, 6, 7], params=GREEDY)
    outputs = engine.generate([Request("bad", [999], params=GREEDY), good, Request("text", "no tokenizer")])
    assert [output.error and output.error.code for output in outputs] == [
        "invalid_token_id",
        None,
        "unsupported_parameter",
    ]
    assert outputs[1] == run(engine, good)


def test_cancel_drops_waiting_and_live(folder: Path) -> None:
    engine = Engine.load(folder, rows=2)
    for index in range(4):
        engine.add(engine.prepare(Request(str(index), [5, 6 + index], params=GREEDY)))
    engine.step()
    assert (engine.num_live, engine.num_waiting, engine.num_free) == (2, 2, 0)
    assert engine.cancel("0")
    assert engine.cancel("3")
    assert not engine.cancel("0")
    finished = []
    while engine.has_work:
        finished += engine.step()
    assert sorted(output.request_id for output in finished) == ["1", "2"]
    alone = run(engine, Request("2", [5, 8], params=GREEDY))
    assert next(output for output in finished if output.request_id == "2") == alone


def test_long_row_joins_short_ones(engine: Engine) -> None:
    """The cache grows under live rows without touching what they hold."""
    short = Request("short", [5, 6, 7], params=GREEDY)
    alone = run(engine, short)
    engine.add(engine.prepare(short))
    engine.step()
    engine.add(engine.prepare(Request("long", list(range(3, 150)), params=replace(GREEDY, max_tokens=100))))
    finished = []
    while engine.has_work:
        finished += engine.step()
    assert finished[0] == alone


def test_masked_attention_decodes_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs, on a CPU."""
    requests = ragged_requests(9)
    expected = Engine.load(folder, rows=6).generate(requests)
    masked = TorchAttention(load_spec(folder), TORCH_OPS, masked=True)
    monkeypatch.setattr(
        runner, "choose_fast_paths", lambda *_, **__: FastPaths(masked, TORCH_OPS, {"attention": "masked"})
    )
    engine = Engine.load(folder, rows=6)
    for output, other in zip(engine.generate(requests), expected, strict=True):
        assert output.token_ids == other.token_ids
        assert output.logprobs == pytest.approx(other.logprobs, abs=1e-4)


def test_stats_count_rows_and_tokens(folder: Path) -> None:
    engine = Engine.load(folder, rows=2)
    engine.generate([Request("a", [5, 6, 7], params=GREEDY), Request("b", [5], params=GREEDY)])
    stats = engine.stats()
    assert (stats["prompt_tokens"], stats["output_tokens"], stats["steps"], stats["row_steps"]) == (4, 24, 11, 22)


def test_top_logprobs_are_the_likeliest(text_engine: Engine) -> None:
    params = replace(GREEDY, top_logprobs=3)
    output = run(text_engine, Request("a", "hello", params=params))
    assert output.details is not None
    assert len(output.details) == 12
    for token_id, logprob, detail in zip(output.token_ids, output.logprobs, output.details, strict=True):
        assert (detail.top[0][1], detail.top[0][2]) == (token_id, logprob)
        assert [entry[2] for entry in detail.top] == sorted((entry[2] for entry in detail.top), reverse=True)


def test_stop_string_cuts_text_tokens_and_logprobs(text_engine: Engine) -> None:
    request = Request("a", "some prompt", params=replace(GREEDY, max_tokens=60, temperature=1.5, seed=3))
    whole = run(text_engine, request)
    stop = whole.text[20:23]
    cut = run(text_engine, replace(request, params=replace(request.params, stop=("never there", stop))))
    assert (cut.text, cut.finish_reason) == (whole.text[: whole.text.index(stop)], "stop")
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]
    assert cut.logprobs == whole.logprobs[: len(cut.token_ids)]
    kept = run(
        text_engine, replace(request, params=replace(request.params, stop=(stop,), include_stop_str_in_output=True))
    )
    assert kept.text == cut.text + stop


def test_chat_uses_the_template(text_engine: Engine) -> None:
    output = run(text_engine, Request("a", messages=[{"role": "user", "content": " hi "}], params=GREEDY))
    assert output.prompt_token_ids == [191, ord("h"), ord("i"), 190, 192]


def test_broken_numbers_fail_their_row_only(folder: Path) -> None:
    engine = Engine.load(folder, rows=2)
    with torch.no_grad():
        engine.weights.embedding[50] = torch.nan
    good = Request("good", [5, 6, 7], params=GREEDY)
    outputs = engine.generate(
        [Request("bad", [50], params=GREEDY), good, *[replace(good, id=str(i)) for i in range(3)]]
    )
    assert outputs[0].error is not None
    assert outputs[0].error.code == "nonfinite_logits"
    assert {tuple(output.token_ids) for output in outputs[1:]} == {tuple(run(engine, good).token_ids)}


def test_progress_counts_finished_rows(engine: Engine) -> None:
    seen: list[int] = []
    engine.generate(ragged_requests(9), seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 9


def test_bfloat16_stays_near_float32(folder: Path, engine: Engine) -> None:
    request = Request("a", [5, 6, 7], params=replace(GREEDY, max_tokens=1))
    low = run(Engine.load(folder, dtype="bfloat16"), request)
    assert low.logprobs == pytest.approx(run(engine, request).logprobs, abs=0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 0}, "at least 1"),
        ({"dtype": "int8"}, "dtype 'int8' is not known"),
        ({"dtype": "float16"}, "needs a CUDA device"),
        ({"device": "abacus"}, "device 'abacus' is not known"),
        ({"device": "cuda:7"}, "is not there"),
        ({"max_model_len": 300}, "context length of 256"),
    ],
)
def test_bad_settings_are_named(folder: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        Engine.load(folder, **settings)  # type: ignore[arg-type]


def test_info_tells_what_may_change_a_token(engine: Engine, folder: Path) -> None:
    assert (engine.info.device, engine.info.dtype, engine.info.max_model_len) == ("cpu", "float32", 256)
    assert engine.info.fingerprint != Engine.load(folder, dtype="bfloat16").info.fingerprint
    assert engine.info.fingerprint == Engine.load(folder, rows=3).info.fingerprint


def test_plain_types_import_no_torch() -> None:
    code = "import sys, worker.engine, worker.engine.types; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("masked", [None, True, False])
def test_a_prompt_of_one_token_sees_no_other_row(
    folder: Path, masked: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if masked is not None:
        torch_attention = TorchAttention(load_spec(folder), TORCH_OPS, masked=masked)
        paths = FastPaths(torch_attention, TORCH_OPS, {"attention": "torch"})
        monkeypatch.setattr(runner, "choose_fast_paths", lambda *_, **__: paths)
    engine = Engine.load(folder, rows=4)
    (alone,) = engine.generate([Request("one", [77], params=GREEDY)])
    engine.add(engine.prepare(Request("other", [5, 6, 7, 8, 9], params=GREEDY)))
    engine.step()
    engine.add(engine.prepare(Request("one", [77], params=GREEDY)))
    outputs: list[Output] = []
    while engine.has_work:
        outputs += engine.step()
    assert next(output for output in outputs if output.request_id == "one").token_ids == alone.token_ids


def test_long_rows_go_on_while_short_ones_keep_coming(folder: Path) -> None:
    engine = Engine.load(folder, rows=16, prefix_sharing=False)
    long = engine.prepare(Request("long", [3, 4], params=replace(GREEDY, max_tokens=200, ignore_eos=True)))
    engine.add(long)
    engine.step()
    short = replace(GREEDY, max_tokens=1)
    for number in range(400):
        engine.add(engine.prepare(Request(f"short{number}", [3 + number % 100] * 250, params=short)))
    before = long.sequences[0].num_generated
    for _ in range(30):
        engine.step()
    assert engine.num_waiting > 100
    assert long.sequences[0].num_generated >= before + 3


def test_many_tokens_asked_for_take_memory_only_as_they_come(folder: Path) -> None:
    engine = Engine.load(folder, rows=16)
    params = replace(GREEDY, max_tokens=2**31 - 1, context_overflow="crop", frequency_penalty=0.5)
    engine.add(engine.prepare(Request("endless", [3, 4], params=params)))
    for _ in range(3):
        engine.step()
    assert engine._rows.penalties.seen_ids.shape[1] <= 256


def test_text_beyond_the_models_vocabulary_fails_its_request(tmp_path: Path) -> None:
    tiny_llama(tmp_path, vocab_size=120)
    write_tiktoken(tmp_path)
    engine = Engine.load(tmp_path, rows=2)
    params = replace(GREEDY, max_tokens=2)
    bad, good = engine.generate([Request("a", "\N{GRINNING FACE}", params=params), Request("b", "hi", params=params)])
    assert bad.error is not None
    assert (bad.error.code, "120" in bad.error.message) == ("invalid_prompt", True)
    assert len(good.token_ids) <= 2
    assert good.error is None


def test_output_says_how_long_it_took(folder: Path) -> None:
    """The second request waits for the only row, which its time to the first token holds and its prefill does not."""
    engine = Engine.load(folder, rows=1)
    params = SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True)
    began = time.perf_counter()
    first, second = engine.generate([Request(name, [5, 6], params=params) for name in "ab"])
    whole = 1000 * (time.perf_counter() - began)
    assert first.timings is not None
    assert second.timings is not None
    assert 0 < first.timings.prefill_ms <= first.timings.ttft_ms
    assert 0 < first.timings.decode_ms < second.timings.ttft_ms
    assert second.timings.ttft_ms + second.timings.decode_ms < whole
