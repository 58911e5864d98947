"""`batchmill dead-letters`: jobs of a running service that failed by no fault of theirs, over HTTP."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from cli.client import Client, Json, ServiceError, path_to
from cli.console import EXIT_FAILURE
from cli.job_view import moment
from cli.progress import LiveDisplay

PAGE = 100
AT_ONCE = 8  # replays on their way together
WIDE = 240  # characters: more than a line of the table has

Filters = Mapping[str, str | None]


@dataclass(slots=True)
class Tally:
    """What came of replaying many."""

    replayed: int = 0
    refused: int = 0


def find(client: Client, wanted: Filters, *, limit: int | None = None) -> Iterator[Json]:
    """Dead letters page after page, the last to fail first."""
    after, left = None, limit
    while left is None or left > 0:
        page = client.get("/dead_letters", limit=PAGE if left is None else min(PAGE, left), after=after, **wanted)
        yield from page["data"]
        after, left = page["last_id"], None if left is None else left - len(page["data"])
        if not page["has_more"]:
            return


def replay(client: Client, id: str) -> Json:
    """The job that does a dead letter's work over again. Raises ServiceError, Unreachable."""
    return client.post(path_to("dead_letters", id, "replay"), {})


def replay_all(client: Client, wanted: Filters, console: Console) -> Tally:
    """Replay what nobody replayed yet; what cannot be is told and left. Memory is a page of them.

    Interrupted, or begun twice, it replays none twice.
    """
    tally = Tally()
    with LiveDisplay(console) as shown, ThreadPoolExecutor(AT_ONCE) as pool:
        for group in _groups(find(client, {**wanted, "replayed": "false"})):
            for answer in pool.map(lambda letter: _tried(client, letter["id"]), group):
                _count(tally, answer, console)
            shown.show(
                description="replaying",
                done=tally.replayed,
                total=None,
                rate=f"{tally.refused} refused" if tally.refused else "",
                line=f"{tally.replayed} replayed so far",
            )
    return tally


def print_table(letters: Sequence[Json]) -> None:
    """Dead letters as a table. A narrow terminal breaks its lines, but no id into parts that cannot be copied."""
    console = Console(file=sys.stdout, width=WIDE)
    table = Table("ID", "FAILED", "REASON", "ATTEMPTS", "CRASHES", "MODEL", "REPLAYED AS", box=None, pad_edge=False)
    for letter in letters:
        numbers = (str(letter["attempts"]), str(letter["suspicion"]))
        when, why = moment(letter["finished_at"]), letter["error"]["code"]
        table.add_row(letter["id"], when, why, *numbers, letter["model"], letter["replayed_as"] or "-")
    console.print(table, highlight=False, markup=False)


def say(tally: Tally, console: Console) -> None:
    """What came of it, for a person."""
    refused = f", {tally.refused} refused" if tally.refused else ""
    console.print(
        f"{tally.replayed} dead letter{'' if tally.replayed == 1 else 's'} replayed{refused}", highlight=False
    )


def exit_code(tally: Tally) -> int:
    """0 unless something was refused."""
    return EXIT_FAILURE if tally.refused else 0


def _groups(letters: Iterator[Json]) -> Iterator[list[Json]]:
    group = []
    for letter in letters:
        group.append(letter)
        if len(group) == PAGE:
            yield group
            group = []
    yield group


def _tried(client: Client, id: str) -> Json | ServiceError:
    """One that was deleted meanwhile, or whose input was, does not hold the others up."""
    try:
        return replay(client, id)
    except ServiceError as error:
        return error


def _count(tally: Tally, answer: Json | ServiceError, console: Console) -> None:
    if not isinstance(answer, ServiceError):
        tally.replayed += 1
        return
    if not tally.refused:
        console.print(f"refused: {answer.message}", highlight=False, markup=False, soft_wrap=True)
    tally.refused += 1
