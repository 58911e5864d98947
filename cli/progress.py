"""Progress on stderr: a bar on a terminal, a line every ten seconds elsewhere; and the table at the end."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column, Table

from models.records import BatchRecord

LINE_SECONDS = 10.0


class LiveDisplay:
    """A bar on a terminal, else a line every ten seconds; nothing outside its block."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last_line = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(table_column=Column(no_wrap=True)),  # a narrow terminal costs the bar, not the count
                TextColumn("{task.fields[rate]}", markup=False),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("starting", total=None, rate="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, *, description: str, done: int, total: int | None, rate: str, line: str) -> None:
        """Move the bar, or print the line if its time has come. `total` None: not known yet."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=description, completed=done, total=total, rate=rate)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            self._console.print(line, highlight=False, markup=False)


class RunProgress(LiveDisplay):
    """Shows how far a run is. Rates count what this invocation did, not what an earlier one left done."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._began = time.monotonic()
        self._first: BatchRecord | None = None

    def update(self, batch: BatchRecord, *, intake_done: bool) -> None:
        """Show the batch as it stands now."""
        if self._first is None:
            self._first = batch
        rate, more = self._rate(batch), "" if intake_done else "+"
        self.show(
            description="generating" if done(batch) else "starting",
            done=done(batch),
            total=batch.num_total or None,
            rate=rate,
            line=f"{done(batch)} of {batch.num_total}{more} rows · {rate}",
        )

    def _rate(self, batch: BatchRecord) -> str:
        """Tokens per second since this invocation began, failures, and the time left at that rate."""
        first = self._first or batch
        seconds = max(time.monotonic() - self._began, 1e-9)
        rows_per_second = (done(batch) - done(first)) / seconds
        tokens_per_second = (batch.output_tokens - first.output_tokens) / seconds
        text = f"{tokens_per_second:,.0f} tokens/s"
        if rows_per_second:
            text += f" · {duration(batch.num_unfinished / rows_per_second)} left"
        return text + (f" · {batch.num_failed} failed" if batch.num_failed else "")


def done(batch: BatchRecord) -> int:
    """Rows with a final status."""
    return batch.num_total - batch.num_unfinished


def summary(batch: BatchRecord, *, first: BatchRecord, seconds: float, occupancy: float | None) -> Table:
    """What was done, in one table. Rate and time are this invocation's."""
    table = Table(title="batchmill run", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, number in (
        ("rows completed", batch.num_completed),
        ("rows failed", batch.num_failed),
        ("rows cancelled or expired", batch.num_cancelled + batch.num_expired),
    ):
        if number or name == "rows completed":
            table.add_row(name, f"{number:,}")
    if done(first):
        table.add_row("of these by an earlier run", f"{done(first):,}")
    table.add_row("prompt tokens", f"{batch.prompt_tokens:,}")
    table.add_row("output tokens", f"{batch.output_tokens:,}")
    new_tokens = batch.output_tokens - first.output_tokens
    table.add_row("time", duration(seconds))
    table.add_row("output tokens/s", f"{new_tokens / max(seconds, 1e-9):,.0f}")
    table.add_row("batch occupancy", "-" if occupancy is None else f"{occupancy:.0%}")
    return table


def duration(seconds: float) -> str:
    """A time as people say it."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if whole < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
