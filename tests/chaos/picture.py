"""A run as a picture: jobs by state over time, and beneath it what was broken when."""

import re
from pathlib import Path

from tests.chaos.run import Verdict
from tests.chaos.timeline import Mark

STATES = {  # bottom to top
    "completed": "#7fb685",
    "cancelled": "#b8b8b8",
    "failed": "#c8553d",
    "expired": "#8d6a9f",
    "in_progress": "#3f7cac",
    "queued": "#f2c14e",
}
LABELS = {"in_progress": "in progress", "failed": "failed, bad when they came"}
COLORS = ("#c8553d", "#8d6a9f", "#3b3b3b")  # of faults of processes, of servers, of the network


def draw(verdict: Verdict, path: Path) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    samples, marks = verdict.timeline.samples, sorted(verdict.timeline.marks, key=lambda mark: mark.began)
    rows = sorted({_kind(mark) for mark in marks}, key=_place)
    heights = [3.2, max(0.26 * len(rows), 0.8)]
    figure, (top, bottom) = pyplot.subplots(
        2, 1, sharex=True, figsize=(11, sum(heights) + 1.2), height_ratios=heights, layout="constrained"
    )
    times = [time for time, _ in samples]
    shown = [state for state in STATES if any(counts.get(state) for _, counts in samples)]
    top.stackplot(
        times,
        [[counts.get(state, 0) for _, counts in samples] for state in shown],
        colors=[STATES[state] for state in shown],
        labels=[LABELS.get(state, state) for state in shown],
        linewidth=0,
    )
    top.set_ylabel("accepted jobs, by state")
    handles, labels = top.get_legend_handles_labels()
    top.legend(handles[::-1], labels[::-1], loc="upper left", frameon=False)
    top.set_title(
        f"{verdict.journal.num_accepted()} jobs accepted while everything broke, seed {verdict.seed}: "
        + ("a promise was broken" if verdict.violations else "every promise kept"),
        loc="left",
    )
    for mark in marks:
        kind, seconds = _kind(mark), max(mark.ended - mark.began, 0.2)
        color = COLORS[_place(kind)[0]]
        bottom.barh(rows.index(kind), seconds, left=mark.began, height=0.6, color=color)
        top.axvspan(mark.began, mark.began + seconds, color=color, alpha=0.1, linewidth=0, zorder=0)
    bottom.set_yticks(range(len(rows)), rows, fontsize=8)
    bottom.invert_yaxis()
    bottom.set_ylim(len(rows) - 0.4, -0.6)
    bottom.grid(axis="x", linewidth=0.3)
    bottom.set_xlabel("seconds")
    bottom.set_xlim(0, times[-1] if times else 1)
    for axis in (top, bottom):
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _kind(mark: Mark) -> str:
    """What it was, whichever worker it befell."""
    return (
        re.sub(r"worker\d", "worker", mark.what.replace("_", " "))
        .replace("-db", " to database:")
        .replace("-redis", " to Redis:")
    )


def _place(kind: str) -> tuple[int, str]:
    """Processes first, then servers, then the network; within them by name."""
    is_network, is_server = " to " in kind or kind.startswith("client-api"), kind.startswith(("Redis", "PostgreSQL"))
    return (2 if is_network else int(is_server)), kind
