"""`batchmill jobs submit, list, cancel` against a running service."""

import json
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from cli.main import app as commands
from models.ids import parse_job_id
from tests.integration.api.fakes import Worker


@pytest.fixture
def url(server: httpx.Client) -> str:
    return f"{server.base_url}/v1"


def run(url: str, *arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(commands, ["jobs", *arguments, "--url", url], input=stdin)


def out(url: str, *arguments: str) -> Any:  # noqa: ANN401 (JSON)
    result = run(url, *arguments, "-o", "json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_submitted_prompt_is_a_job(url: str, worker: Worker) -> None:
    job = out(url, "submit", "hello", "--max-tokens", "3", "--seed", "7", "--priority", "9", "--metadata", "team=a=b")

    stored = worker.store.job(parse_job_id(job["id"]))
    assert stored is not None
    assert (stored.priority, stored.endpoint, stored.model) == (9, "/v1/completions", "demo")
    assert stored.body == {
        "model": "demo",
        "prompt": "hello",
        "max_tokens": 3,
        "seed": 7,
        "priority": 9,
        "metadata": {"team": "a=b"},
    }
    assert run(url, "submit", "-", "--chat", stdin="from a pipe").stdout.startswith("chatcmpl-")


def test_awaited_prompt_prints_its_text(url: str, worker: Worker) -> None:
    worker.finish_all()

    for options in ([], ["--chat"]):
        result = run(url, "submit", "hello", "--wait", *options)
        assert (result.exit_code, result.stdout) == (0, "done\n")


def test_prompt_that_fails_is_a_failure(url: str, worker: Worker) -> None:
    worker.finish_all("out_of_memory")

    result = run(url, "submit", "hello", "--wait")

    assert result.exit_code == 1
    assert result.stderr == "batchmill: failed (out_of_memory): it was out_of_memory\n"


def test_model_must_be_named_where_the_service_does_not_say(url: str) -> None:
    result = run(url, "submit", "hello", "--metadata", "nonsense", "--model", "demo")

    assert result.exit_code == 1
    assert "--metadata" in str(result.exception)


def test_jobs_are_listed_newest_first(url: str, worker: Worker) -> None:
    first, second, third = (out(url, "submit", "hello", "--metadata", f"run={run}")["id"] for run in "121")

    assert [job["id"] for job in out(url, "list")] == [third, second, first]
    assert [job["id"] for job in out(url, "list", "--limit", "2")] == [third, second]
    assert [job["id"] for job in out(url, "list", "--metadata", "run=1", "--status", "queued")] == [third, first]
    assert out(url, "list", "--model", "other") == []
    assert run(url, "list", "--model", "other").stdout == ""
    [line] = run(url, "list", "--metadata", "run=2").stdout.splitlines()
    assert (line.split()[:2], line.split()[-2:]) == ([second, "queued"], ["demo", "/v1/completions"])


def test_list_reads_page_after_page(url: str, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [out(url, "submit", "hello")["id"] for _ in range(3)]
    monkeypatch.setattr("cli.job_service.PAGE", 2)

    assert [job["id"] for job in out(url, "list")] == ids[::-1]


def test_cancelled_job_says_so(url: str, worker: Worker) -> None:
    id = out(url, "submit", "hello")["id"]

    assert run(url, "cancel", id).stdout == f"{id}  cancelled\n"
    assert out(url, "cancel", id)["status"] == "cancelled"
    assert run(url, "cancel", "nobody").exit_code == 1
