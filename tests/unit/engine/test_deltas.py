"""Pieces of answers as they are decoded: together a beginning of what the output says, whatever was asked for."""

import random
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.engine.models import byte_pieces, tiny_llama, write_tiktoken, write_tokenizer_json
from tests.unit.engine.test_text_stream import write_sentencepiece_like
from worker.engine import Delta, Engine, Output, Request, RowError, SamplingParams

SPECIAL = [190, 191, 192, 193]


@pytest.fixture(scope="module", params=["tiktoken", "bytes", "sentencepiece"])
def engine(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Engine:
    """Three rows of a model that says anything, among it halves of characters and special tokens."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny_llama(folder, scale=1.0, vocab_size=300)
    if request.param == "tiktoken":
        write_tiktoken(folder)
    elif request.param == "bytes":
        write_tokenizer_json(folder)
    else:
        write_sentencepiece_like(folder, is_metaspace=True)
    return Engine.load(folder, rows=3, max_model_len=60)


def decode(engine: Engine, requests: list[Request]) -> tuple[dict[str, Output], list[Delta]]:
    """Every output and every piece; a piece comes no later than its output."""
    outputs: dict[str, Output] = {}
    deltas: list[Delta] = []
    for request in requests:
        engine.add(engine.prepare(request))
    while engine.has_work:
        finished = engine.step()
        new = engine.take_deltas()
        assert not {delta.request_id for delta in new} & outputs.keys()
        deltas += new
        outputs |= {output.request_id: output for output in finished}
    return outputs, deltas


def check(output: Output, deltas: list[Delta], params: SamplingParams) -> None:
    """The pieces follow each other without a gap, and each says what the output says in its place."""
    by_answer: dict[int, list[Delta]] = defaultdict(list)
    for delta in deltas:
        by_answer[delta.answer].append(delta)
    for answer, completion in enumerate(output.completions):
        text, ids, details = "", list[int](), list[Any]()
        for delta in by_answer[answer]:
            assert delta.offset == len(text)
            assert delta.token_offset == (len(ids) if params.top_logprobs is None else len(details))
            text, ids = text + delta.text, ids + delta.token_ids
            details += delta.details or ()
        assert completion.text.startswith(text)
        assert completion.token_ids[: len(ids)] == ids
        if params.top_logprobs is None:
            assert all(delta.details is None for delta in by_answer[answer])
        else:
            assert (completion.details or [])[: len(details)] == details
        if not params.stop and completion.finish_reason == "length":
            assert ids == completion.token_ids or not completion.text[len(text) :].strip("\N{REPLACEMENT CHARACTER}")


ALPHABET = "ab\x00\x01 ~\N{GRINNING FACE}\N{LATIN SMALL LETTER E WITH ACUTE}\N{REPLACEMENT CHARACTER}"


@st.composite
def streaming(draw: st.DrawFn) -> Request:
    rng = random.Random(draw(st.integers(0, 2**32)))
    # Few tokens, so that stop strings and whole characters of several bytes come up.
    some = [97, 98, 32, 128, 129, 130, 131, 132, 133, *SPECIAL][draw(st.integers(0, 5)) :]
    biases = tuple((token, 30.0) for token in rng.sample(some, k=min(len(some), draw(st.integers(2, 8)))))
    params = SamplingParams(
        max_tokens=draw(st.integers(0, 30)),
        temperature=draw(st.sampled_from([0.0, 1.0, 2.0])),
        seed=draw(st.integers(0, 99)),
        logit_bias=draw(st.sampled_from([biases, ()])),
        stop=tuple(draw(st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=3))),
        include_stop_str_in_output=draw(st.booleans()),
        min_tokens=draw(st.sampled_from([0, 0, 4])),
        stop_token_ids=draw(st.sampled_from([(), (97,)])),
        ignore_eos=draw(st.booleans()),
        skip_special_tokens=draw(st.booleans()),
        echo=True,
        n=draw(st.integers(1, 3)),
        top_logprobs=draw(st.sampled_from([None, 0, 2])),
        context_overflow=draw(st.sampled_from(["error", "crop"])),
    )
    if params.max_tokens:
        params = replace(params, echo=draw(st.booleans()))
    prompt = [rng.choice([*range(3, 134), *SPECIAL]) for _ in range(draw(st.integers(1, 30)))]
    return Request("", prompt, params=params, stream=True)


def with_stop(engine: Engine, request: Request, place: float) -> Request:
    """The same request with a stop string that its answer comes to hold, if it goes on for long enough."""
    plain = replace(request.params, stop=(), echo=False, n=1, max_tokens=max(request.params.max_tokens or 0, 1))
    [output] = engine.generate([replace(request, params=plain)])
    start = int(place * len(output.text))
    stop = output.text[start : start + 3]
    stops = (*request.params.stop, stop) if stop else request.params.stop
    return replace(request, params=replace(request.params, stop=stops))


@given(asked=st.lists(st.tuples(streaming(), st.floats(0, 0.99)), min_size=1, max_size=4))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pieces_are_a_beginning_of_the_answer(engine: Engine, asked: list[tuple[Request, float]]) -> None:
    requests = [
        replace(with_stop(engine, request, place), id=str(index)) for index, (request, place) in enumerate(asked)
    ]
    outputs, deltas = decode(engine, requests)
    for request in requests:
        own = [delta for delta in deltas if delta.request_id == request.id]
        check(outputs[request.id], own, request.params)


def of(text_engine: Engine, prompt: list[int] | str, **params: Any) -> tuple[Output, list[Delta]]:  # noqa: ANN401
    outputs, deltas = decode(text_engine, [Request("r", prompt, params=SamplingParams(**params), stream=True)])
    return outputs["r"], deltas


def forced(text: str) -> tuple[tuple[int, float], ...]:
    """Biases that leave the bytes of a text."""
    ids = [byte_pieces().index(bytes([byte])) for byte in sorted(set(text.encode()))]
    return tuple((token_id, 1000.0) for token_id in ids)


def test_an_answer_streams_token_by_token(text_engine: Engine) -> None:
    output, deltas = of(text_engine, "abc", max_tokens=6, temperature=1.0, logit_bias=forced("xyz"))
    assert [len(delta.text) for delta in deltas] == [1] * 6
    assert "".join(delta.text for delta in deltas) == output.text


def test_what_a_stop_string_may_begin_with_is_held(text_engine: Engine) -> None:
    """Only "x" can be said, of which "xxxx!" would begin with four."""
    output, deltas = of(text_engine, "abc", max_tokens=9, temperature=0.0, logit_bias=forced("x"), stop=("xxxx!",))
    assert (output.text, [delta.text for delta in deltas]) == ("x" * 9, ["x"] * 5)


def test_streaming_changes_no_answer(text_engine: Engine) -> None:
    params = SamplingParams(max_tokens=30, temperature=1.0, seed=3, n=2, top_logprobs=1, stop=("q",))
    plain = Request("r", "some prompt", params=params)
    outputs, deltas = decode(text_engine, [replace(plain, stream=True)])
    assert outputs["r"] == text_engine.generate([plain])[0]
    assert deltas
    assert decode(text_engine, [plain])[1] == []


def test_prompt_comes_first_and_alone(text_engine: Engine) -> None:
    output, deltas = of(text_engine, "abc", max_tokens=3, echo=True, top_logprobs=1, n=2, logit_bias=forced("xyz"))
    for answer in (0, 1):
        first, second = [delta for delta in deltas if delta.answer == answer][:2]
        assert (first.text, first.token_ids, first.token_offset, len(first.details or ())) == ("abc", [], 0, 3)
        assert (second.offset, second.token_offset, len(second.token_ids)) == (3, 3, 1)
    assert output.completions[0].text.startswith("abc")


def test_without_a_tokenizer_tokens_are_given_alone(folder: Path) -> None:
    output, deltas = of(Engine.load(folder, rows=2), [5, 6], max_tokens=5, temperature=0.0)
    assert [token_id for delta in deltas for token_id in delta.token_ids] == output.token_ids
    assert {delta.text for delta in deltas} == {""}


@pytest.mark.parametrize("params", [{"best_of": 2}, {"use_beam_search": True}])
def test_answers_that_are_chosen_at_the_end_do_not_stream(text_engine: Engine, params: dict[str, Any]) -> None:
    request = Request("r", "a", params=SamplingParams(**params), stream=True)
    with pytest.raises(RowError, match="stream") as raised:
        text_engine.prepare(request)
    assert raised.value.code == "unsupported_parameter"


def test_row_that_begins_anew_repeats_nothing(text_engine: Engine) -> None:
    """As when memory runs out in the middle of an answer."""
    params = SamplingParams(max_tokens=12, seed=1, temperature=1.0, top_logprobs=1, echo=True, logit_bias=forced("xyz"))
    text_engine.add(text_engine.prepare(Request("r", "abc", params=params, stream=True)))
    for _ in range(5):
        text_engine.step()
    before = text_engine.take_deltas()
    text_engine._recovery.begin_anew()
    outputs, after = decode(text_engine, [])
    assert "".join(delta.text for delta in before)
    check(outputs["r"], before + after, params)
    assert "".join(delta.text for delta in before + after) == outputs["r"].text
