"""A batch of a service as a watcher sees it: from the batch object alone."""

from cli.client import Json
from cli.progress import LiveDisplay, duration
from models.faults import OUR_FAULTS

FINAL = frozenset({"completed", "failed", "expired", "cancelled"})
EXIT_COMPLETED, EXIT_FAILURE, EXIT_ROWS_FAILED = 0, 1, 3


class BatchProgress(LiveDisplay):
    """Shows how far a batch is; while nothing of it runs, why."""

    def update(self, batch: Json) -> None:
        """Show the batch as it stands now."""
        total, status = batch["request_counts"]["total"], str(batch["status"])
        is_waiting = not batch["counts"]["running"] and batch["status_reason"] is not None
        rate = str(batch["status_reason"]).removeprefix(f"{status}: ") if is_waiting else rate_of(batch)
        self.show(
            description=status,
            done=done(batch),
            total=total or None,
            rate=rate,
            line=f"{status}: {done(batch)} of {total} rows · {rate}",
        )


def done(batch: Json) -> int:
    """Rows with a final status."""
    counts = batch["counts"]
    return int(sum(counts[status] for status in ("completed", "failed", "cancelled", "expired")))


def rate_of(batch: Json) -> str:
    """Tokens per second and the time left, by the mean since the batch began, and failures."""
    progress, num_failed = batch["progress"], batch["request_counts"]["failed"]
    text = f"{progress['tokens_per_second'] or 0:,.0f} tokens/s"
    if progress["eta_seconds"] is not None and batch["status"] not in FINAL:
        text += f" · {duration(progress['eta_seconds'])} left"
    return text + (f" · {num_failed} failed" if num_failed else "")


def summary(batch: Json) -> list[str]:
    """What became of a batch, in a few lines."""
    counts = batch["request_counts"]
    first = f"{batch['id']} {batch['status']}: {counts['completed']} of {counts['total']} rows completed"
    others = [f"{batch['counts'][name]} {name}" for name in ("failed", "cancelled", "expired") if batch["counts"][name]]
    lines = [", ".join([first, *others])]
    lines += [f"  {error['count']} x {error['code']}: {error['message']}" for error in batch["first_errors"] or ()]
    if any(error["code"] in OUR_FAULTS for error in batch["first_errors"] or ()):
        lines.append(f"  what failed by our fault: batchmill dead-letters replay --all --batch {batch['id']}")
    lines += [_input_error(error) for error in (batch["errors"] or {"data": ()})["data"][:5]]
    return lines


def exit_code(batch: Json) -> int:
    """0 all completed, 1 the batch failed, 3 some rows have no result; 0 too while it is not over."""
    if batch["status"] == "failed":
        return EXIT_FAILURE
    is_over, counts = batch["status"] in FINAL, batch["request_counts"]
    has_gaps = counts["completed"] < counts["total"] or batch["status"] in ("expired", "cancelled")
    return EXIT_ROWS_FAILED if is_over and has_gaps else EXIT_COMPLETED


def _input_error(error: Json) -> str:
    where = f"line {error['line']}: " if error.get("line") is not None else ""
    return f"  {where}{error['message']} ({error['code']})"
