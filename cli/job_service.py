"""`batchmill jobs` of a running service, over HTTP, so that it works from another machine as well."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from cli.client import Client, Json, path_to
from cli.console import EXIT_FAILURE, write_out
from cli.job_view import standing
from models.errors import ConfigurationError

STDIN = "-"
PAGE = 100
WAIT_SECONDS = 30  # of a long poll
FINAL = ("completed", "failed", "cancelled", "expired")


def submit(
    client: Client,
    prompt: str,
    model: str | None,
    fields: Mapping[str, object],
    beside: Mapping[str, object],
    *,
    is_chat: bool,
) -> Json:
    """Submit a prompt. `fields` go into the request, `beside` next to it; None counts as not given."""
    asked = {"messages": [{"role": "user", "content": prompt}]} if is_chat else {"prompt": prompt}
    body = {"model": model or _only_model(client), **asked, **_given(fields)}
    endpoint = "/v1/chat/completions" if is_chat else "/v1/completions"
    return client.post("/jobs", {"endpoint": endpoint, "body": body, **_given(beside)})


def wait_for(client: Client, job_id: str) -> Json:
    """The job at its end."""
    while True:
        job = client.get(path_to("jobs", job_id), wait=WAIT_SECONDS)
        if job["status"] in FINAL:
            return job


def list_all(client: Client, wanted: Mapping[str, str | None], *, limit: int) -> list[Json]:
    """The newest jobs, page after page."""
    found: list[Json] = []
    after: str | None = None
    while len(found) < limit:
        page = client.get("/jobs", limit=min(PAGE, limit - len(found)), after=after, **wanted)
        found += page["data"]
        after = page["last_id"]
        if not page["has_more"]:
            break
    return found


def cancel(client: Client, job_id: str) -> Json:
    """Withdraw a job."""
    return client.post(path_to("jobs", job_id, "cancel"), {})


def show(job: Json, *, as_json: bool) -> None:
    """A completed job's texts, another one's id; what went wrong on stderr."""
    if as_json:
        write_out(json.dumps(job, indent=2, ensure_ascii=False))
        return
    result = job.get("result")
    write_out(job["id"] if result is None else "\n".join(_text(choice) for choice in result["choices"]))
    if job["error"] is not None:
        sys.stderr.write(f"batchmill: {standing(job)}: {job['error']['message']}\n")


def exit_code(job: Json) -> int:
    """0 for a job that is on its way or completed."""
    return EXIT_FAILURE if job["error"] is not None else 0


def list_line(job: Json) -> str:
    """A job in one line of a list."""
    created = datetime.fromtimestamp(job["created_at"], UTC).astimezone()
    return f"{job['id']}  {standing(job):<11}  {created:%Y-%m-%d %H:%M:%S}  {job['model']}  {job['endpoint']}"


def as_json(value: Json | Sequence[Json]) -> str:
    """For machines."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def pairs(texts: Sequence[str]) -> dict[str, str]:
    """Metadata as it is given on a command line: k=v. Raises ConfigurationError."""
    if any("=" not in text for text in texts):
        raise ConfigurationError("--metadata takes a pair: name=value")
    return dict(text.split("=", 1) for text in texts)


def read_prompt(text: str) -> str:
    """The prompt as given, or standard input."""
    return sys.stdin.read() if text == STDIN else text


def _only_model(client: Client) -> str:
    """The model of a service that serves one. Raises ConfigurationError."""
    names = [str(model["id"]) for model in client.get("/models")["data"]]
    if len(names) != 1:
        served = f"it serves {', '.join(names)}" if names else "no worker serves any yet"
        raise ConfigurationError(f"name a model with --model: {served}")
    return names[0]


def _given(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value not in (None, {})}


def _text(choice: Json) -> str:
    return str(choice["message"]["content"] if "message" in choice else choice["text"])
