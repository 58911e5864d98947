"""Answers that come piece by piece, through the official client: the same words as without streaming, once each."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI

from api.streams import streaming
from models.database import Database
from models.ids import parse_job_id
from models.records import ClaimedJob
from models.settings import Settings, load_settings
from models.status import Status
from models.store import Store
from tests.integration.api.fakes import Worker, wait_for_job
from tests.integration.api.hanging_up import hang_up_when_stored, only_job
from tests.integration.api.streams import Publisher, read_events
from tests.integration.api.test_completions import BODY, CHAT, error_of
from tests.waiting import wait_until

PIECES = ("Hel", "lo, ", "world")
TEXT = "Hello, world!"  # the end of it is never published: the committed result has it
RESPONSE: dict[str, Any] = {"model": "demo", "input": "hello"}

Work = Callable[[Worker, ClaimedJob, Publisher], None]


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return load_settings(redis_url=redis_url, auth="auto", sync_timeout_seconds=5, model="demo")


@pytest.fixture
def openai_client(server: httpx.Client) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.base_url}/v1", api_key="EMPTY", max_retries=0, timeout=10) as client:
        yield client


@pytest.fixture
def working(database: Database, worker: Worker, redis_url: str) -> Callable[[Work], Any]:
    """Have the one job that will come worked on in a thread while the block lasts."""

    def work_on(work: Work) -> None:
        wait_until(lambda: only_job(database))
        job_id = only_job(database)
        assert job_id is not None
        publisher = Publisher(redis_url, job_id)
        work(worker, worker.claim(job_id), publisher)
        publisher.close()

    @contextmanager
    def meanwhile(work: Work) -> Iterator[None]:
        thread = threading.Thread(target=work_on, args=(work,))
        thread.start()
        yield
        thread.join()

    return meanwhile


def answer(worker: Worker, job: ClaimedJob, feed: Publisher) -> None:
    """Publish the answer but for its last character, then commit it."""
    feed.say(*PIECES)
    worker.complete(job, TEXT)


def test_completion_is_streamed(openai_client: OpenAI, working: Callable[[Work], Any]) -> None:
    with working(answer):
        stream = openai_client.completions.create(**BODY, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)

    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (3, 2)


def test_chat_is_streamed(openai_client: OpenAI, working: Callable[[Work], Any]) -> None:
    with working(answer), openai_client.chat.completions.stream(**CHAT) as stream:
        final = stream.get_final_completion()

    assert (final.choices[0].message.role, final.choices[0].message.content) == ("assistant", TEXT)
    assert (final.choices[0].finish_reason, final.system_fingerprint) == ("stop", "fp")


def test_response_is_streamed(openai_client: OpenAI, working: Callable[[Work], Any]) -> None:
    with working(answer):
        events = list(openai_client.responses.create(**RESPONSE, stream=True))

    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == TEXT
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(set(numbers))


def test_response_is_streamed_by_the_clients_helper(openai_client: OpenAI, working: Callable[[Work], Any]) -> None:
    with working(answer), openai_client.responses.stream(**RESPONSE) as stream:
        assert stream.get_final_response().output_text == TEXT


@pytest.mark.parametrize("committed", ["Hi", "Hello, worms, and what lives with them"])
def test_response_that_changed_meanwhile_ends_as_it_was_committed(
    openai_client: OpenAI, working: Callable[[Work], Any], committed: str
) -> None:
    """A row whose scores are no numbers is answered anew in float32, after some of it was streamed."""
    sent, heard, events = "".join(PIECES), "", []
    with working(changing_to(committed, was_heard := threading.Event())):
        for event in openai_client.responses.create(**RESPONSE, stream=True):
            events.append(event)
            heard += event.delta if event.type == "response.output_text.delta" else ""
            if heard == sent:
                was_heard.set()

    assert heard == sent + committed[len(sent) :]
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == committed


def test_completion_that_became_shorter_ends(openai_client: OpenAI, working: Callable[[Work], Any]) -> None:
    sent, heard = "".join(PIECES), ""
    with working(changing_to("Hi", was_heard := threading.Event())):
        for chunk in openai_client.completions.create(**BODY, stream=True):
            heard += chunk.choices[0].text
            if heard == sent:
                was_heard.set()

    assert (heard, chunk.choices[0].finish_reason) == (sent, "stop")


def changing_to(committed: str, was_heard: threading.Event) -> Work:
    """Publish some of an answer, and commit another once that was heard."""

    def work(worker: Worker, job: ClaimedJob, feed: Publisher) -> None:
        feed.say(*PIECES)
        was_heard.wait(5)
        worker.complete(job, committed)

    return work


@pytest.mark.parametrize("seen", [1, 2, 4, 6, 7])
def test_response_in_the_background_is_resumed(
    openai_client: OpenAI, working: Callable[[Work], Any], seen: int
) -> None:
    may_end = threading.Event()

    def work(worker: Worker, job: ClaimedJob, feed: Publisher) -> None:
        feed.say(*PIECES)
        may_end.wait(5)
        worker.complete(job, TEXT)

    with working(work):
        heard = []
        with openai_client.responses.create(**RESPONSE, background=True, stream=True) as stream:
            for event in stream:
                heard.append(event)
                if len(heard) == seen:
                    break
        assert heard[0].type == "response.created"
        response_id = heard[0].response.id
        may_end.set()
        rest = openai_client.responses.retrieve(response_id, stream=True, starting_after=heard[-1].sequence_number)
        heard += rest

    assert "".join(event.delta for event in heard if event.type == "response.output_text.delta") == TEXT
    assert heard[-1].type == "response.completed"
    numbers = [event.sequence_number for event in heard]
    assert numbers == sorted(set(numbers))
    again = list(openai_client.responses.retrieve(response_id, stream=True, starting_after=numbers[-2]))
    assert [event.type for event in again] == ["response.completed"]


def test_response_that_is_cancelled_ends_its_stream(openai_client: OpenAI, database: Database) -> None:
    with openai_client.responses.create(**RESPONSE, background=True, stream=True) as stream:
        first = next(stream)
        assert first.type == "response.created"
        openai_client.responses.cancel(first.response.id)
        last = list(stream)[-1]

    assert last.type == "response.cancelled"


def test_choices_come_under_their_index(openai_client: OpenAI, working: Callable[[Work], Any]) -> None:
    def work(worker: Worker, job: ClaimedJob, feed: Publisher) -> None:
        feed.say("a", choice=0)
        feed.say("b", choice=1)
        worker.complete(job, "aa", more=["bb"])

    with working(work):
        chunks = list(openai_client.completions.create(**BODY, n=2, stream=True))

    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert ["".join(entry.text for entry in choices if entry.index == index) for index in (0, 1)] == ["aa", "bb"]
    assert [entry.index for entry in choices if entry.finish_reason] == [0, 1]


@pytest.mark.parametrize(
    ("create", "status"),
    [
        ("completions", 400),
        ("chat", 400),
        ("responses", 400),
    ],
)
def test_request_that_the_engine_refuses_is_answered_as_without_streaming(
    openai_client: OpenAI,
    working: Callable[[Work], Any],
    create: str,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "HOLD_SECONDS", 5)  # a slow machine needs longer to refuse

    def work(worker: Worker, job: ClaimedJob, feed: Publisher) -> None:
        worker.fail(job, "context_length_exceeded")

    creators: dict[str, Callable[[], object]] = {
        "completions": lambda: openai_client.completions.create(**BODY, stream=True),
        "chat": lambda: openai_client.chat.completions.create(**CHAT, stream=True),
        "responses": lambda: openai_client.responses.create(**RESPONSE, stream=True),
    }
    with working(work), pytest.raises(openai.BadRequestError) as raised:
        creators[create]()

    assert (raised.value.status_code, raised.value.code) == (status, "context_length_exceeded")


def test_failure_in_the_middle_is_an_event(openai_client: OpenAI, working: Callable[[Work], Any]) -> None:
    def work(worker: Worker, job: ClaimedJob, feed: Publisher) -> None:
        feed.say("Hel")
        worker.fail(job, "worker_crashed")

    heard: list[str] = []
    with working(work):
        stream = openai_client.completions.create(**BODY, stream=True)
        with pytest.raises(openai.APIError) as raised:
            heard.extend(chunk.choices[0].text for chunk in stream)

    assert (heard, raised.value.code, raised.value.type) == (["Hel"], "worker_crashed", "server_error")


def test_response_that_fails_in_the_background_says_so(openai_client: OpenAI, working: Callable[[Work], Any]) -> None:
    def work(worker: Worker, job: ClaimedJob, feed: Publisher) -> None:
        worker.fail(job, "context_length_exceeded")

    with working(work):
        events = list(openai_client.responses.create(**RESPONSE, background=True, stream=True))

    assert events[-1].type == "response.failed"
    assert events[-1].response.error is not None
    assert events[-1].response.error.code == "invalid_prompt"


@pytest.mark.parametrize(("change", "status"), [({}, Status.CANCELLED), ({"store": True}, Status.QUEUED)])
def test_client_that_hangs_up_cancels_what_only_it_knows(
    server: httpx.Client, database: Database, change: dict[str, Any], status: Status
) -> None:
    with server.stream("POST", "/v1/completions", json=BODY | change | {"stream": True}, timeout=3) as stream:
        assert stream.status_code == 200  # a second of queueing, then the headers
    job_id = only_job(database)
    assert job_id is not None

    if status is Status.CANCELLED:
        wait_for_job(Store(database), job_id, status)
    else:
        assert server.get("/health").status_code == 200
        assert Store(database).statuses([job_id]) == {job_id: status}


def test_client_that_hangs_up_before_the_headers_cancels_too(server: httpx.Client, database: Database) -> None:
    job_id = hang_up_when_stored(server, database, "/v1/completions", BODY | {"stream": True})

    wait_for_job(Store(database), job_id, Status.CANCELLED)


def test_repeated_request_hears_the_same_answer(client: TestClient, working: Callable[[Work], Any]) -> None:
    headers = {"idempotency-key": "k1"}

    with working(lambda worker, job, feed: worker.complete(job, TEXT)):
        first = client.post("/v1/completions", json=BODY | {"stream": True}, headers=headers)
    again = client.post("/v1/completions", json=BODY | {"stream": True}, headers=headers)

    assert first.text == again.text
    assert [answer.headers.get("idempotent-replayed") for answer in (first, again)] == [None, "true"]
    *_, last = read_events(first.iter_lines())
    assert last.is_done


@pytest.mark.parametrize("settings", [load_settings(redis_url="redis://127.0.0.1:1/0", sync_timeout_seconds=1.2)])
def test_silent_job_goes_on_past_the_limit(client: TestClient, database: Database) -> None:
    heard = list(read_events(client.post("/v1/completions", json=BODY | {"stream": True}).iter_lines()))

    [event] = heard
    assert event.data["error"]["code"] == "sync_timeout"
    job_id = parse_job_id(event.data["error"]["message"].rsplit("/", 1)[1])
    assert Store(database).statuses([job_id]) == {job_id: Status.QUEUED}


@pytest.mark.parametrize("settings", [load_settings(redis_url="redis://127.0.0.1:1/0", sync_timeout_seconds=5)])
def test_without_redis_the_text_comes_at_the_end(client: TestClient, worker: Worker) -> None:
    worker.finish_all()

    heard = list(read_events(client.post("/v1/completions", json=BODY | {"stream": True}).iter_lines()))

    assert [event.data["choices"][0]["text"] for event in heard[:-1]] == ["done", ""]


def test_resuming_knows_what_a_sequence_number_is(client: TestClient) -> None:
    posted = client.post("/v1/responses", json=RESPONSE | {"background": True}).json()

    bad = client.get(f"/v1/responses/{posted['id']}?stream=true&starting_after=x")

    assert error_of(bad) == (400, "invalid_value", "starting_after")
