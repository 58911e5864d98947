"""Parameters by their official meaning: a task through Redis, a worker with the demo model, a row, a rendered body."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from redis import Redis

from api.rendering.bodies import endpoint_body
from tests.integration.worker.conftest import Station

PROMPT = "json.dumps:"
LONG_SECONDS = 60.0
Json = dict[str, Any]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, redis_server: str, sqlite_template: Path) -> Iterator[Station]:
    """One worker for all tests of this file: loading the model takes most of their time."""
    folder = tmp_path_factory.mktemp("demo")
    path = shutil.copy(sqlite_template, folder / "batchmill.db")
    with Redis.from_url(redis_server) as redis:
        redis.flushall()
    station = Station(f"sqlite:///{path}", redis_server, folder)
    station.start_worker(model="demo")
    yield station
    station.close()


def body(demo: Station, **parameters: Any) -> Json:  # noqa: ANN401 (any field of a request)
    """Send a task, wait for it, and render its row as its endpoint would."""
    kwargs = {"prompt": PROMPT, "temperature": 0, "max_tokens": 8, "return_token_ids": True} | parameters
    sent = demo.send("generate.demo", kwargs=kwargs)
    sent.get(timeout=LONG_SECONDS)
    job = demo.store.job(UUID(sent.id))
    assert job is not None
    return endpoint_body(job)


def only_choice(demo: Station, **parameters: Any) -> Json:  # noqa: ANN401
    (choice,) = body(demo, **parameters)["choices"]
    assert isinstance(choice, dict)
    return choice


def mean_logprob(choice: Json) -> float:
    logprobs = choice["logprobs"]["token_logprobs"]
    return float(sum(logprobs)) / len(logprobs)


def test_n_answers_are_sampled_apart_and_repeat_with_their_seed(demo: Station) -> None:
    wanted = {"n": 3, "temperature": 2.0, "seed": 5, "max_tokens": 16}
    answered = body(demo, **wanted)
    texts = [choice["text"] for choice in answered["choices"]]
    assert [choice["index"] for choice in answered["choices"]] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert answered["usage"]["completion_tokens"] == sum(len(choice["token_ids"]) for choice in answered["choices"])
    assert [choice["text"] for choice in body(demo, **wanted)["choices"]] == texts


def test_best_of_returns_the_likeliest_first(demo: Station) -> None:
    wanted = {"temperature": 1.0, "seed": 5, "logprobs": 0, "ignore_eos": True}
    everything = sorted((mean_logprob(choice) for choice in body(demo, **wanted, n=4)["choices"]), reverse=True)
    best = [mean_logprob(choice) for choice in body(demo, **wanted, n=2, best_of=4)["choices"]]
    assert (len(everything), len(best)) == (4, 2)
    assert best == pytest.approx(everything[:2])


def test_no_tokens_with_echo_score_the_prompt(demo: Station) -> None:
    answered = body(demo, max_tokens=0, echo=True, logprobs=1, prompt_logprobs=1)
    (choice,) = answered["choices"]
    logprobs, ids = choice["logprobs"], choice["prompt_token_ids"]
    assert (choice["text"], choice["token_ids"], answered["usage"]["completion_tokens"]) == (PROMPT, [], 0)
    assert len(logprobs["tokens"]) == len(logprobs["text_offset"]) == len(ids)
    assert (logprobs["token_logprobs"][0], logprobs["top_logprobs"][0], choice["prompt_logprobs"][0]) == (None,) * 3
    scores = [entry[str(token_id)] for entry, token_id in zip(choice["prompt_logprobs"][1:], ids[1:], strict=True)]
    assert [score["logprob"] for score in scores] == logprobs["token_logprobs"][1:]
    assert [score["decoded_token"] for score in scores] == logprobs["tokens"][1:]
    for score, entry in zip(scores, choice["prompt_logprobs"][1:], strict=True):
        assert (score["rank"] == 1) == (score["logprob"] == max(other["logprob"] for other in entry.values()))


def test_echo_puts_the_prompt_before_the_same_answer(demo: Station) -> None:
    plain, echoed = only_choice(demo, logprobs=0), only_choice(demo, logprobs=0, echo=True)
    num = len(echoed["prompt_token_ids"])
    assert echoed["text"] == PROMPT + plain["text"]
    assert echoed["token_ids"] == plain["token_ids"]
    assert echoed["logprobs"]["token_logprobs"][num:] == plain["logprobs"]["token_logprobs"]
    assert echoed["logprobs"]["text_offset"][num] == len(PROMPT)


def test_logit_bias_forces_and_forbids_a_token(demo: Station) -> None:
    usual = only_choice(demo)["token_ids"]
    forced = only_choice(demo, logit_bias={"300": 100})["token_ids"]
    banned = only_choice(demo, logit_bias={str(usual[0]): -100})["token_ids"]
    assert set(forced) == {300}
    assert usual[0] not in banned


@pytest.mark.parametrize("penalty", [{"frequency_penalty": 2}, {"presence_penalty": 2}, {"repetition_penalty": 2}])
def test_penalties_change_an_answer_that_repeats_itself(demo: Station, penalty: Json) -> None:
    wanted = {"max_tokens": 48, "ignore_eos": True}
    usual, penalised = only_choice(demo, **wanted)["token_ids"], only_choice(demo, **wanted, **penalty)["token_ids"]
    assert len(set(penalised)) > len(set(usual))


def test_beams_return_the_best_first_and_find_no_worse_than_greedy(demo: Station) -> None:
    wanted = {"logprobs": 0, "ignore_eos": True, "length_penalty": 0.0, "use_beam_search": True}
    answered = body(demo, **wanted, best_of=3, n=2)
    assert answered["choices"][0]["text"] != answered["choices"][1]["text"]
    first, second = (sum(choice["logprobs"]["token_logprobs"]) for choice in answered["choices"])
    greedy = sum(only_choice(demo, logprobs=0, ignore_eos=True)["logprobs"]["token_logprobs"])
    assert first >= second
    assert first >= greedy - 1e-4


def test_prompt_is_cut_to_its_newest_tokens(demo: Station) -> None:
    whole, cut = only_choice(demo)["prompt_token_ids"], only_choice(demo, truncate_prompt_tokens=2)["prompt_token_ids"]
    assert cut == whole[-2:]
