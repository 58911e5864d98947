"""The options of `batchmill dead-letters`. Nothing heavy is imported before a command runs."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli.batch_commands import DEFAULT_URL, Format, Output, Url

if TYPE_CHECKING:
    from cli.client import Client

dead_letters_app = typer.Typer(
    help="Jobs that failed though their request was sound: look at them, and do their work over again.",
    no_args_is_help=True,
)

OfModel = Annotated[str | None, typer.Option("--model", help="Only those of a model.")]
OfBatch = Annotated[str | None, typer.Option("--batch", help="Only rows of a batch.")]
Reason = Annotated[str | None, typer.Option(help="Only those that failed with a code: worker_crashed, ...")]


@dead_letters_app.command("list")
def list_letters(
    model: OfModel = None,
    reason: Reason = None,
    batch: OfBatch = None,
    replayed: Annotated[bool | None, typer.Option(help="Only those that were replayed, or that were not.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the last to fail first.")] = 20,
    output: Output = Format.TEXT,
    url: Url = DEFAULT_URL,
) -> None:
    """List dead letters, the last to fail first; an administrator's key lists those of everyone."""
    from cli import dead_letters
    from cli.console import write_out
    from cli.job_service import as_json

    wanted = _filters(model, reason, batch) | {"replayed": None if replayed is None else str(replayed).lower()}
    found = list(dead_letters.find(_client(url), wanted, limit=limit))
    if output is Format.JSON:
        write_out(as_json(found))
    elif found:
        dead_letters.print_table(found)


@dead_letters_app.command("show")
def show(
    id: Annotated[str, typer.Argument(help="Id of a dead letter.")],
    output: Output = Format.TEXT,
    url: Url = DEFAULT_URL,
) -> None:
    """Print a dead letter: why it failed, and what it went through."""
    from cli.client import path_to
    from cli.console import write_out
    from cli.job_service import as_json
    from cli.job_view import describe

    letter = _client(url).get(path_to("dead_letters", id))
    write_out(as_json(letter) if output is Format.JSON else describe(letter))


@dead_letters_app.command("replay")
def replay(
    ids: Annotated[list[str] | None, typer.Argument(help="Ids of dead letters.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that nobody replayed, or those that the options name.")] = (
        False
    ),
    model: OfModel = None,
    reason: Reason = None,
    batch: OfBatch = None,
    output: Output = Format.TEXT,
    url: Url = DEFAULT_URL,
) -> None:
    """Do the work of dead letters over again, each as a new job; prints their ids, or with --all how many there are.

    One that was replayed before is not run twice: its replay's id is printed. Exit status: 0 all replayed, 1 failure,
    or some were refused; 2 usage.
    """
    from cli import dead_letters
    from cli.console import write_out
    from cli.job_service import as_json

    wanted = _filters(model, reason, batch)
    if every == bool(ids) or (ids and any(wanted.values())):
        raise typer.BadParameter("give ids, or --all and what it shall be narrowed by", param_hint="IDS")
    client = _client(url)
    if ids:
        jobs = [dead_letters.replay(client, id) for id in ids]
        write_out(as_json(jobs) if output is Format.JSON else "\n".join(job["id"] for job in jobs))
        return
    from dataclasses import asdict

    from rich.console import Console

    console = Console(stderr=True)
    tally = dead_letters.replay_all(client, wanted, console)
    dead_letters.say(tally, console)
    if output is Format.JSON:
        write_out(as_json(asdict(tally)))
    raise SystemExit(dead_letters.exit_code(tally))


def _client(url: str) -> "Client":
    from cli.client import Client

    return Client.from_environment(url)


def _filters(model: str | None, reason: str | None, batch: str | None) -> dict[str, str | None]:
    return {"model": model, "error_code": reason, "batch_id": batch}
