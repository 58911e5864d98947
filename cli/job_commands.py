"""The options of `batchmill jobs` that ask a running service. Nothing heavy is imported before a command runs."""

from typing import Annotated

import typer

from cli.batch_commands import DEFAULT_URL, Format, Output, Url

jobs_app = typer.Typer(help="Single jobs of a running service, and their results.", no_args_is_help=True)

Pairs = Annotated[list[str] | None, typer.Option(help="A pair k=v; may be given several times.")]


@jobs_app.command("submit")
def submit(
    prompt: Annotated[str, typer.Argument(help="The prompt; - reads standard input.")],
    model: Annotated[str | None, typer.Option(help="Default: the only one that the service serves.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send the prompt as a user's message.")] = False,
    max_tokens: Annotated[int | None, typer.Option(min=0, help="How many tokens to generate at most.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 is greedy (default: 1).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same answer.")] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="9 is soonest (default: 4).")] = None,
    metadata: Pairs = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end and print the text.")] = False,
    output: Output = Format.TEXT,
    url: Url = DEFAULT_URL,
) -> None:
    """Submit a prompt as a job; prints its id, or with --wait its text.

    Exit status: 0 submitted, or completed; 1 failure, or a job that ended without a result; 2 usage.
    """
    from cli import job_service
    from cli.client import Client

    client = Client.from_environment(url)
    fields = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed}
    beside = {"priority": priority, "metadata": job_service.pairs(metadata or [])}
    job = job_service.submit(client, job_service.read_prompt(prompt), model, fields, beside, is_chat=chat)
    if wait:
        job = job_service.wait_for(client, job["id"])
    job_service.show(job, as_json=output is Format.JSON)
    raise SystemExit(job_service.exit_code(job))


@jobs_app.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only those of a status: queued, completed, ...")] = None,
    batch: Annotated[str | None, typer.Option(help="The rows of a batch instead of jobs outside batches.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those of a model.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Only those of an endpoint: /v1/completions, ...")] = None,
    metadata: Pairs = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the newest first.")] = 20,
    output: Output = Format.TEXT,
    url: Url = DEFAULT_URL,
) -> None:
    """List jobs, newest first."""
    from cli import job_service
    from cli.client import Client
    from cli.console import write_out

    wanted = {"status": status, "batch_id": batch, "model": model, "endpoint": endpoint}
    wanted |= {f"metadata[{key}]": value for key, value in job_service.pairs(metadata or []).items()}
    found = job_service.list_all(Client.from_environment(url), wanted, limit=limit)
    if output is Format.JSON:
        write_out(job_service.as_json(found))
    elif found:
        write_out("\n".join(job_service.list_line(job) for job in found))


@jobs_app.command("cancel")
def cancel(
    job_id: Annotated[str, typer.Argument(help="Any job id: cmpl-..., chatcmpl-..., batch_req_...")],
    output: Output = Format.TEXT,
    url: Url = DEFAULT_URL,
) -> None:
    """Cancel a job: at once while it is queued, at the next decode step once it runs. A finished one stays as it is."""
    from cli import job_service
    from cli.client import Client
    from cli.console import write_out
    from cli.job_view import standing

    job = job_service.cancel(Client.from_environment(url), job_id)
    write_out(job_service.as_json(job) if output is Format.JSON else f"{job['id']}  {standing(job)}")


@jobs_app.command("show")
def show(
    job_id: Annotated[str, typer.Argument(help="Any job id: cmpl-..., chatcmpl-..., batch_req_...")],
    output: Output = Format.TEXT,
    url: Url = DEFAULT_URL,
) -> None:
    """Print where a job stands: its status and why, attempts, crashes of its workers, times. Not its text."""
    from cli.client import Client, path_to
    from cli.console import write_out
    from cli.job_service import as_json
    from cli.job_view import describe

    job = Client.from_environment(url).get(path_to("jobs", job_id), include="")
    write_out(as_json(job) if output is Format.JSON else describe(job))
