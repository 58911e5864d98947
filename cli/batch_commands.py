"""The options of `batchmill batches`. Nothing heavy is imported before a command runs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from cli.client import Client, Json

batches_app = typer.Typer(help="Batches of a running service.", no_args_is_help=True)


class Format(StrEnum):
    """How a command prints what it found."""

    TEXT = "text"
    JSON = "json"


Url = Annotated[
    str, typer.Option(envvar=["BATCHMILL_URL", "OPENAI_BASE_URL"], help="The service; the key is BATCHMILL_API_KEY's.")
]
Output = Annotated[Format, typer.Option("--output", "-o", help="text or json.")]
BatchId = Annotated[str, typer.Argument(help="Id of a batch: batch_...")]
DEFAULT_URL = "http://127.0.0.1:8000/v1"


@batches_app.command("create")
def create(
    file: Annotated[str, typer.Argument(help="JSONL file of requests, - for standard input, or an uploaded one's id.")],
    endpoint: Annotated[str | None, typer.Option(help="Default: the url of the first line.")] = None,
    completion_window: Annotated[str, typer.Option(help="Rows not done by then expire: 90m, 24h, 7d.")] = "24h",
    priority: Annotated[int | None, typer.Option(min=0, max=9, help="9 is soonest (default: 4).")] = None,
    metadata: Annotated[list[str] | None, typer.Option(help="A pair k=v; may be given several times.")] = None,
    output: Output = Format.TEXT,
    url: Url = DEFAULT_URL,
) -> None:
    """Upload requests and create a batch of them; prints its id."""
    from cli import batches

    options = {"completion_window": completion_window, "priority": priority, "metadata": _pairs(metadata or [])}
    batch = batches.create(_client(url), file, options, endpoint=endpoint)
    _print(batch, batch["id"], output)
    _console().print(f"to watch it: batchmill batches watch {batch['id']}", highlight=False, soft_wrap=True)


@batches_app.command("list")
def list_batches(
    limit: Annotated[int, typer.Option(min=1, help="How many at most, the newest first.")] = 20,
    status: Annotated[str | None, typer.Option(help="Only those of a status: in_progress, completed, ...")] = None,
    output: Output = Format.TEXT,
    url: Url = DEFAULT_URL,
) -> None:
    """List batches, newest first."""
    from cli import batches
    from cli.console import write_out

    found = batches.list_all(_client(url), limit=limit, status=status)
    lines = [batches.list_line(batch) for batch in found]
    if output is Format.JSON:
        write_out(batches.as_json(found))
    elif lines:
        write_out("\n".join(lines))


@batches_app.command("get")
def get(batch_id: BatchId, output: Output = Format.TEXT, url: Url = DEFAULT_URL) -> None:
    """Print a batch: its status, why it stands there, its counts and files."""
    from cli import batches
    from cli.client import path_to

    batch = _client(url).get(path_to("batches", batch_id))
    _print(batch, batches.describe(batch), output)


@batches_app.command("watch")
def watch(batch_id: BatchId, output: Output = Format.TEXT, url: Url = DEFAULT_URL) -> None:
    """Watch a batch to its end. Ctrl-C ends the watch, not the batch.

    Exit status: 0 all rows completed, 1 failure, 2 usage, 3 some rows have no result.
    """
    from cli import batches
    from cli.batch_progress import exit_code
    from cli.signals import interrupts

    console = _console()
    with interrupts():
        batch = batches.watch(_client(url), batch_id, console)
    batches.say(batch, console)
    if output is Format.JSON:
        _print(batch, "", output)
    raise SystemExit(exit_code(batch))


@batches_app.command("cancel")
def cancel(batch_id: BatchId, output: Output = Format.TEXT, url: Url = DEFAULT_URL) -> None:
    """Cancel what is not done; results so far are kept."""
    from cli.client import path_to

    batch = _client(url).post(path_to("batches", batch_id, "cancel"), {})
    _print(batch, f"{batch['id']} {batch['status']}", output)


@batches_app.command("results")
def results(
    batch_id: BatchId,
    output: Annotated[str, typer.Option("--output", "-o", help="Where results go, in input order; - for stdout.")],
    errors: Annotated[Path | None, typer.Option(help="Where failed rows go (default: OUTPUT.errors.jsonl).")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Download a batch's results; those so far where it still runs.

    Exit status: 0 all rows completed or still running, 1 failure, 2 usage, 3 some rows have no result.
    """
    from cli import batches
    from cli.batch_progress import exit_code

    console = _console()
    batch = batches.save_results(_client(url), batch_id, output, errors, console)
    batches.say(batch, console)
    raise SystemExit(exit_code(batch))


def _client(url: str) -> "Client":
    from cli.client import Client

    return Client.from_environment(url)


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def _print(body: "Json", text: str, output: Format) -> None:
    from cli.batches import as_json
    from cli.console import write_out

    write_out(as_json(body) if output is Format.JSON else text)


def _pairs(given: list[str]) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in given]
    if any(not key or not sign for key, sign, _ in pairs):
        raise typer.BadParameter("give a pair as k=v", param_hint="--metadata")
    return {key: value for key, _, value in pairs}
