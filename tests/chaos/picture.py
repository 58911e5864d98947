"""A run as a picture: jobs by state over time, and beneath it what was broken when."""

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


def draw(verdict: Verdict, path: Path) -> None:
    """Write the picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    samples, marks = verdict.timeline.samples, sorted(verdict.timeline.marks, key=lambda mark: mark.began)
    rows = list(dict.fromkeys(_kind(mark) for mark in marks))
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
        labels=[state.replace("_", " ") for state in shown],
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
        row = rows.index(_kind(mark))
        bottom.barh(row, max(mark.ended - mark.began, 0.15), left=mark.began, height=0.6, color="#c8553d")
        top.axvline(mark.began, color="#c8553d", linewidth=0.6, alpha=0.35)
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
    return mark.what.replace("_", " ")
