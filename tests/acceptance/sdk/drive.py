"""Drives a running service with nothing but the official client, of whatever version this Python has.

    python drive.py http://127.0.0.1:8000/v1 MODEL

Prints a line a check and ends with status 1 if one failed. It is run by test_sdk.py under several versions, so it
imports nothing of this project and keeps to what version 1 of the client already knew.
"""

import asyncio
import io
import json
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import openai
from openai import AsyncOpenAI, OpenAI

Check = Callable[[Any, str], object]
CHECKS: list[Check] = []
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12}
FINAL = ("completed", "failed", "expired", "cancelled")


def check(function: Check) -> Check:
    """Enter a check."""
    CHECKS.append(function)
    return function


def lines(model: str, number: int, **body: object) -> bytes:
    """A batch file."""
    entries = [
        {
            "custom_id": f"line-{index}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": model, "prompt": f"name_{index}:", "max_tokens": 4, "temperature": 0, **body},
        }
        for index in range(number)
    ]
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def upload(client: Any, content: bytes) -> Any:
    """A file for a batch."""
    return client.files.create(file=("in.jsonl", content), purpose="batch")


def finished(client: Any, batch_id: str) -> Any:
    """Poll a batch until it is final."""
    for _ in range(600):
        batch = client.batches.retrieve(batch_id)
        if batch.status in FINAL:
            return batch
        time.sleep(0.1)
    raise AssertionError(f"still {batch.status}")


def refused(kind: type[openai.APIStatusError], code: str, call: Callable[[], object]) -> openai.APIStatusError:
    """The error a call must end in."""
    try:
        call()
    except kind as error:
        assert error.code == code, (error.code, code)
        assert error.request_id, "no request id"
        return error
    raise AssertionError(f"{code} was not refused")


@check
def models(client: Any, model: str) -> None:
    """Listed and retrieved; what is not there is a 404 with its code."""
    assert model in [entry.id for entry in client.models.list()]
    assert client.models.retrieve(model).object == "model"
    refused(openai.NotFoundError, "model_not_found", lambda: client.models.retrieve("nobody/serves-this"))


@check
def files(client: Any, model: str) -> None:
    """Uploaded, retrieved, listed page by page, read whole, in part and as a stream, deleted."""
    content = lines(model, 3)
    made = [upload(client, content) for _ in range(3)]
    first = client.files.retrieve(made[0].id)
    assert (first.bytes, first.filename, first.purpose, first.object) == (len(content), "in.jsonl", "batch", "file")
    assert client.files.wait_for_processing(first.id).status == "processed"
    listed = [entry.id for entry in client.files.list(limit=2, purpose="batch", order="desc")]
    assert listed[:3] == [entry.id for entry in reversed(made)]
    assert client.files.content(first.id).read() == content
    part = client.files.content(first.id, extra_headers={"Range": "bytes=5-9"})
    assert (part.read(), part.response.status_code) == (content[5:10], 206)
    with client.files.with_streaming_response.content(first.id) as streamed:
        assert list(streamed.iter_lines()) == content.decode().splitlines()
    for entry in made:
        assert client.files.delete(entry.id).deleted is True
    refused(openai.NotFoundError, "not_found", lambda: client.files.retrieve(first.id))
    refused(openai.NotFoundError, "not_found", lambda: client.files.content(first.id))


@check
def files_expire(client: Any, model: str) -> None:
    """expires_after travels as bracketed form fields."""
    made = client.files.create(
        file=("in.jsonl", io.BytesIO(lines(model, 1))),
        purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )
    assert made.expires_at == made.created_at + 3600


@check
def batch(client: Any, model: str) -> None:
    """From an upload to results in input order."""
    source = upload(client, lines(model, 20))
    made = client.batches.create(
        input_file_id=source.id,
        endpoint="/v1/completions",
        completion_window="24h",
        metadata={"kind": "conformance"},
    )
    assert (made.object, made.input_file_id, made.output_file_id) == ("batch", source.id, None)
    done = finished(client, made.id)
    assert (done.status, done.request_counts.completed, done.request_counts.total) == ("completed", 20, 20)
    assert (done.error_file_id, done.metadata) == (None, {"kind": "conformance"})
    results = [json.loads(line) for line in client.files.content(done.output_file_id).text.splitlines()]
    assert [result["custom_id"] for result in results] == [f"line-{index}" for index in range(20)]
    assert all(result["response"]["status_code"] == 200 and result["error"] is None for result in results)
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"


@check
def batch_with_bad_lines(client: Any, model: str) -> None:
    """A line's own fault is that line's; all failed gives no output file."""
    source = upload(client, lines(model, 2, temperature=9))
    done = finished(
        client,
        client.batches.create(input_file_id=source.id, endpoint="/v1/completions", completion_window="24h").id,
    )
    assert (done.status, done.output_file_id, done.request_counts.failed) == ("completed", None, 2)
    error = json.loads(client.files.content(done.error_file_id).text.splitlines()[0])
    assert (error["custom_id"], error["response"]["status_code"]) == ("line-0", 400)
    assert error["response"]["body"]["error"]["code"] == "invalid_value"


@check
def batch_that_is_no_batch(client: Any, model: str) -> None:
    """A file that is bad as a whole fails with line numbers."""
    source = upload(client, lines(model, 1) * 2)
    done = finished(
        client,
        client.batches.create(input_file_id=source.id, endpoint="/v1/completions", completion_window="24h").id,
    )
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    assert (done.errors.data[0].code, done.errors.data[0].line) == ("duplicate_custom_id", 2)


@check
def batches_listed_and_cancelled(client: Any, model: str) -> None:
    """Pages follow one another; a cancelled batch ends cancelled, and again is no error."""
    source = upload(client, lines(model, 3))
    made = [
        client.batches.create(input_file_id=source.id, endpoint="/v1/completions", completion_window="1h").id
        for _ in range(3)
    ]
    listed = []
    for entry in client.batches.list(limit=2):
        listed.append(entry.id)
        if len(listed) == 3:
            break
    assert listed == made[::-1]
    for batch_id in made:
        finished(client, batch_id)
    refused(openai.ConflictError, "batch_not_cancellable", lambda: client.batches.cancel(made[0]))
    # Long enough to be still running when it is cancelled.
    slow = upload(client, lines(model, 200, max_tokens=400, ignore_eos=True, context_overflow="crop"))
    running = client.batches.create(input_file_id=slow.id, endpoint="/v1/completions", completion_window="1h")
    assert client.batches.cancel(running.id).status in ("cancelling", "cancelled")
    assert finished(client, running.id).status == "cancelled"
    assert client.batches.cancel(running.id).status == "cancelled"


@check
def completions(client: Any, model: str) -> None:
    """Text, several prompts, token ids, n, logprobs, echo, scoring, usage."""
    one = client.completions.create(model=model, prompt="json.dumps:", logprobs=2, **GREEDY)
    assert (one.object, one.choices[0].finish_reason in ("stop", "length")) == ("text_completion", True)
    assert len(one.choices[0].logprobs.tokens) == one.usage.completion_tokens
    many = client.completions.create(model=model, prompt=["json.dumps:", "math.sqrt:"], n=2, seed=3, max_tokens=4)
    assert [choice.index for choice in many.choices] == [0, 1, 2, 3]
    alone = client.completions.create(model=model, prompt="math.sqrt:", n=2, seed=3, max_tokens=4)
    assert [choice.text for choice in many.choices[2:]] == [choice.text for choice in alone.choices]
    ids = client.completions.create(model=model, prompt=[[1, 2, 3], [4, 5]], max_tokens=1)
    assert (len(ids.choices), ids.usage.prompt_tokens) == (2, 5)
    scored = client.completions.create(model=model, prompt="json.dumps:", echo=True, logprobs=0, max_tokens=0)
    assert (scored.choices[0].text, scored.choices[0].logprobs.token_logprobs[0]) == ("json.dumps:", None)


@check
def completions_streamed(client: Any, model: str) -> None:
    """The pieces make the whole."""
    whole = client.completions.create(model=model, prompt="json.dumps:", seed=1, max_tokens=20)
    stream = client.completions.create(
        model=model,
        prompt="json.dumps:",
        seed=1,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


@check
def background_and_polling(client: Any, model: str) -> None:
    """Accepted at once, polled by id, cancelled, deleted; the same id is a job."""
    queued = client.completions.create(model=model, prompt="a:", extra_body={"background": True}, **GREEDY)
    assert (queued.status, queued.choices) == ("queued", [])
    job = client.get(f"/jobs/{queued.id}?wait=30", cast_to=dict[str, Any])
    assert (job["status"], job["result"]["choices"][0]["index"]) == ("completed", 0)
    page = client.post("/jobs/poll", body={"ids": [queued.id]}, cast_to=dict[str, Any])
    assert [entry["status"] for entry in page["data"]] == ["completed"]
    found = client.get(f"/completions/{queued.id}", cast_to=dict[str, Any])
    assert found["choices"] == job["result"]["choices"]
    client.delete(f"/completions/{queued.id}", cast_to=dict[str, Any])
    refused(openai.NotFoundError, "not_found", lambda: client.get(f"/jobs/{queued.id}", cast_to=dict[str, Any]))


@check
def chat(client: Any, model: str) -> None:
    """Created, retrieved, listed, updated, deleted by the client's own methods."""
    made = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "threading.Thread"}],
        logprobs=True,
        top_logprobs=2,
        metadata={"kind": "conformance"},
        store=True,
        **GREEDY,
    )
    assert (made.object, made.choices[0].message.role) == ("chat.completion", "assistant")
    assert len(made.choices[0].logprobs.content[0].top_logprobs) == 2
    assert client.chat.completions.retrieve(made.id).choices[0].message == made.choices[0].message
    listed = client.chat.completions.list(limit=1, order="desc", metadata={"kind": "conformance"})
    assert made.id in [entry.id for entry in listed]
    updated = client.chat.completions.update(made.id, metadata={"kind": "changed"})
    assert updated.metadata == {"kind": "changed"}
    assert client.chat.completions.delete(made.id).deleted is True
    refused(openai.NotFoundError, "not_found", lambda: client.chat.completions.retrieve(made.id))


@check
def chat_streamed(client: Any, model: str) -> None:
    """The role first, the pieces after it, the usage last."""
    messages: list[Any] = [{"role": "user", "content": "json.dumps"}]
    whole = client.chat.completions.create(model=model, messages=messages, **GREEDY)
    stream = client.chat.completions.create(
        model=model, messages=messages, stream=True, stream_options={"include_usage": True}, **GREEDY
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


@check
def responses(client: Any, model: str) -> None:
    """At once and in the background; retrieved, cancelled, deleted, its input read back."""
    made = client.responses.create(model=model, input="json.dumps", temperature=0, max_output_tokens=12)
    assert made.status in ("completed", "incomplete")
    assert made.output_text
    assert client.responses.retrieve(made.id).output_text == made.output_text
    items = list(client.responses.input_items.list(made.id))
    assert [item.role for item in items] == ["user"]
    later = client.responses.create(model=model, input="json.dumps", background=True, max_output_tokens=4)
    assert later.status == "queued"
    for _ in range(300):
        later = client.responses.retrieve(later.id)
        if later.status not in ("queued", "in_progress"):
            break
        time.sleep(0.05)
    assert later.status in ("completed", "incomplete")
    slow = client.responses.create(
        model=model,
        input="json.dumps",
        background=True,
        max_output_tokens=100_000,
        extra_body={"ignore_eos": True, "context_overflow": "crop"},
    )
    client.responses.cancel(slow.id)
    for _ in range(300):
        slow = client.responses.retrieve(slow.id)
        if slow.status == "cancelled":
            break
        time.sleep(0.05)
    assert slow.status == "cancelled"
    client.responses.delete(made.id)
    refused(openai.NotFoundError, "not_found", lambda: client.responses.retrieve(made.id))


@check
def responses_streamed_and_resumed(client: Any, model: str) -> None:
    """A stream that broke off goes on where it stopped."""
    stream = client.responses.create(
        model=model, input="json.dumps", background=True, stream=True, temperature=0, max_output_tokens=20
    )
    events = list(stream)
    kinds = [event.type for event in events]
    assert kinds[0] == "response.created"
    assert kinds[-1] in ("response.completed", "response.incomplete")
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1].response
    assert text == final.output_text
    middle = next(index for index, kind in enumerate(kinds) if kind == "response.output_text.delta")
    rest = list(client.responses.retrieve(final.id, stream=True, starting_after=numbers[middle]))
    assert all(event.sequence_number > numbers[middle] for event in rest)
    again = events[middle].delta + "".join(e.delta for e in rest if e.type == "response.output_text.delta")
    assert again == text


@check
def errors(client: Any, model: str) -> None:
    """Every refusal has the client's class for it, a code and a request id."""
    text = {"model": model, "prompt": "a"}
    bad: Any = client.completions.create
    refused(openai.BadRequestError, "invalid_value", lambda: bad(**text, temperature=9))
    error = refused(openai.BadRequestError, "unknown_parameter", lambda: bad(**text, extra_body={"temprature": 1}))
    assert error.param == "temprature"
    refused(openai.NotFoundError, "model_not_found", lambda: bad(model="nobody", prompt="a"))
    refused(openai.NotFoundError, "not_found", lambda: client.batches.retrieve("batch_" + "0" * 32))
    refused(openai.NotFoundError, "not_found", lambda: client.files.retrieve("file-" + "0" * 32))
    refused(
        openai.BadRequestError,
        "unsupported_parameter",
        lambda: client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": "a"}],
            tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}],
        ),
    )


@check
def idempotency(client: Any, model: str) -> None:
    """One key, one job; another body under it is refused."""
    headers = {"Idempotency-Key": f"key-{time.time_ns()}"}
    body = {"background": True}
    one = client.completions.create(model=model, prompt="a", extra_headers=headers, extra_body=body)
    raw = client.completions.with_raw_response.create(model=model, prompt="a", extra_headers=headers, extra_body=body)
    assert (raw.parse().id, raw.headers["idempotent-replayed"]) == (one.id, "true")
    refused(
        openai.UnprocessableEntityError,
        "idempotency_key_reused",
        lambda: client.completions.create(model=model, prompt="b", extra_headers=headers, extra_body=body),
    )


@check
def many_at_once(client: Any, model: str) -> None:
    """The asynchronous client, fifty requests together."""

    async def run() -> list[str]:
        async with AsyncOpenAI(base_url=client.base_url, api_key="any") as many:
            made = await asyncio.gather(
                *(many.completions.create(model=model, prompt=f"n{i}:", max_tokens=2) for i in range(50))
            )
            return [entry.id for entry in made]

    assert len(set(asyncio.run(run()))) == 50


def main() -> int:
    """Run every check, or those named after the model."""
    base_url, model, *names = sys.argv[1:]
    failures = 0
    with OpenAI(base_url=base_url, api_key="any", max_retries=1, timeout=60) as client:
        for function in CHECKS:
            name = getattr(function, "__name__", "")
            if names and name not in names:
                continue
            try:
                function(client, model)
            except Exception:
                failures += 1
                print(f"FAIL {name}\n{traceback.format_exc(limit=-4)}", flush=True)
            else:
                print(f"ok   {name}", flush=True)
    print(f"openai {openai.__version__}: {failures} failed")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
