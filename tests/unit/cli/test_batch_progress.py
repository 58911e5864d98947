"""A batch object to what a watcher reads, and to an exit status."""

import io
from typing import Any

import pytest
from rich.console import Console

from cli import progress
from cli.batch_progress import BatchProgress, exit_code, rate_of, summary

BATCH: dict[str, Any] = {
    "id": "batch_1",
    "status": "in_progress",
    "status_reason": None,
    "request_counts": {"total": 10, "completed": 3, "failed": 1},
    "counts": {"queued": 4, "running": 2, "completed": 3, "failed": 1, "cancelled": 0, "expired": 0},
    "progress": {"fraction": 0.4, "tokens_generated": 40, "tokens_per_second": 1234.5, "eta_seconds": 125.0},
    "errors": None,
    "first_errors": [{"code": "out_of_memory", "message": "no room", "count": 1}],
}
OVER = BATCH | {"status": "completed", "request_counts": {"total": 10, "completed": 10, "failed": 0}}


def test_rate_tells_speed_time_left_and_failures() -> None:
    assert rate_of(BATCH) == "1,234 tokens/s · 2 min 05 s left · 1 failed"
    assert rate_of(OVER | {"progress": {"tokens_per_second": None, "eta_seconds": None}}) == "0 tokens/s"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, 0),
        ({"status": "in_progress", "request_counts": {"total": 10, "completed": 3, "failed": 7}}, 0),
        ({"request_counts": {"total": 10, "completed": 9, "failed": 1}}, 3),
        ({"status": "cancelled", "request_counts": {"total": 0, "completed": 0, "failed": 0}}, 3),
        ({"status": "expired", "request_counts": {"total": 10, "completed": 9, "failed": 0}}, 3),
        ({"status": "failed"}, 1),
    ],
)
def test_exit_status_tells_what_became_of_the_rows(changes: dict[str, Any], code: int) -> None:
    assert exit_code(OVER | changes) == code


def test_summary_names_the_errors() -> None:
    error = {"code": "duplicate_custom_id", "message": "used before", "param": None, "line": 3}

    assert summary(BATCH) == [
        "batch_1 in_progress: 3 of 10 rows completed, 1 failed",
        "  1 x out_of_memory: no room",
        "  what failed by our fault: batchmill dead-letters replay --all --batch batch_1",
    ]
    refused = BATCH | {"first_errors": [{"code": "empty_prompt", "message": "no", "count": 1}]}
    assert summary(refused)[1:] == ["  1 x empty_prompt: no"]
    failed = BATCH | {"status": "failed", "errors": {"object": "list", "data": [error] * 9}, "first_errors": None}
    assert summary(failed)[1:] == ["  line 3: used before (duplicate_custom_id)"] * 5


def test_elsewhere_than_on_a_terminal_a_line_comes_when_its_time_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    with BatchProgress(Console(file=written, width=100)) as shown:
        shown.update(BATCH)
        assert written.getvalue() == ""
        monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
        shown.update(BATCH)

    assert written.getvalue() == "in_progress: 4 of 10 rows · 1,234 tokens/s · 2 min 05 s left · 1 failed\n"


@pytest.mark.parametrize("width", [60, 100])
def test_on_a_terminal_a_bar_moves(width: int) -> None:
    written = io.StringIO()
    with BatchProgress(Console(file=written, width=width, force_terminal=True)) as shown:
        shown.update(BATCH)

    assert "4/10" in written.getvalue()
    assert "in_progress" in written.getvalue()


def test_batch_that_waits_says_why() -> None:
    waiting = {"counts": BATCH["counts"] | {"running": 0}, "status_reason": "in_progress: no worker serves model [x]"}
    written = io.StringIO()
    with BatchProgress(Console(file=written, width=100, force_terminal=True)) as shown:
        shown.update(BATCH | waiting)

    assert "no worker serves model [x]" in written.getvalue()
