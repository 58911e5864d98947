"""Streams of the demo model, by a service and a worker as a user starts them: the same words as without streaming."""

from collections.abc import Iterator
from typing import Any

import pytest
from openai import APIError, BadRequestError, OpenAI

from tests.acceptance.served import Served

PROMPT = "import os\n\ndef "


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    served = Served(tmp_path_factory.mktemp("served"))
    with OpenAI(base_url=served.url, api_key="EMPTY", max_retries=0, timeout=60) as client:
        yield client
    served.close()


@pytest.fixture(scope="module")
def model(client: OpenAI) -> str:
    return next(iter(client.models.list())).id


def joined(chunks: Any) -> dict[int, dict[str, Any]]:  # noqa: ANN401 (the client's own types)
    """What the chunks come to, by choice."""
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            known = choices.setdefault(choice.index, {"text": "", "tokens": [], "token_ids": []})
            known["text"] += choice.text
            known["tokens"] += choice.logprobs.tokens if choice.logprobs else []
            known["token_ids"] += choice.model_extra.get("token_ids", [])
            known["finish_reason"] = choice.finish_reason
    return choices


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"temperature": 1, "seed": 5},
        {"n": 3, "seed": 5},
        {"prompt": [PROMPT, "class "], "n": 2, "seed": 5},
        {"stop": ["(", "\n\n"]},
        {"echo": True, "logprobs": 2},
        {"logprobs": 1, "extra_body": {"return_token_ids": True}},
        {"echo": True, "logprobs": 1, "extra_body": {"return_token_ids": True}},
    ],
)
def test_stream_says_what_the_answer_says(client: OpenAI, model: str, change: dict[str, Any]) -> None:
    request: dict[str, Any] = {"model": model, "prompt": PROMPT, "max_tokens": 40, "temperature": 0} | change

    whole = client.completions.create(**request)
    streamed = list(client.completions.create(**request, stream=True))

    assert joined(streamed) == {
        choice.index: {
            "text": choice.text,
            "tokens": choice.logprobs.tokens if choice.logprobs else [],
            "token_ids": (choice.model_extra or {}).get("token_ids", []),
            "finish_reason": choice.finish_reason,
        }
        for choice in whole.choices
    }
    assert len(streamed) > 2 * len(whole.choices), "all of it came at the end"


def test_answer_that_is_too_long_is_refused_before_anything_is_sent(client: OpenAI, model: str) -> None:
    with pytest.raises(BadRequestError) as raised:
        client.completions.create(model=model, prompt=[5] * 100_000, stream=True)

    assert raised.value.code == "context_length_exceeded"


def test_cancelled_job_ends_its_stream_with_an_error(client: OpenAI, model: str) -> None:
    stream = client.completions.create(
        model=model,
        prompt=PROMPT,
        max_tokens=2000,
        stream=True,
        extra_body={"ignore_eos": True, "context_overflow": "crop"},
    )
    first = next(stream)
    client.post(f"/jobs/{first.id}/cancel", cast_to=object)

    with pytest.raises(APIError) as raised:
        list(stream)

    assert raised.value.code == "batch_cancelled"
