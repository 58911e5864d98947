"""A soak as a picture: jobs per second and resident memory over the jobs done."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.soak.samples import MIB, Sample, Tenth

_COLORS = {"worker": "#1f6feb", "api": "#bf8700", "redis": "#8250df", "postgresql": "#57606a"}
_FAINT, _INK = "#b8c0cc", "#3d444d"
_SIZE_INCHES, _DPI = (9.0, 4.6), 150


def save_chart(path: Path, samples: Sequence[Sample], parts: Sequence[Tenth], title: str) -> None:
    """Write a PNG."""
    figure = Figure(figsize=_SIZE_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    running = [sample for sample in samples if sample.num_done]
    began = running[0].seconds
    minutes = [(sample.seconds - began) / 60 for sample in running]
    rates = [(b.num_done - a.num_done) / (b.seconds - a.seconds) for a, b in pairwise(running)]
    above.plot(minutes[1:], rates, color=_FAINT, linewidth=0.8)
    edges = [sum(part.seconds for part in parts[:number]) / 60 for number in range(len(parts) + 1)]
    above.stairs([part.rate for part in parts], edges, color=_COLORS["worker"], linewidth=2, baseline=None)
    above.set_ylim(bottom=0)
    above.set_ylabel("jobs/s", color=_INK)
    for name in running[0].memory:
        below.plot(minutes, [sample.memory[name] / MIB for sample in running], color=_COLORS[name], label=name)
    below.set_ylim(0, 1.25 * max(below.get_ylim()))  # room for the legend
    below.set_ylabel("resident MiB", color=_INK)
    below.set_xlabel("minutes", color=_INK)
    below.legend(frameon=False, fontsize=8, ncols=4, loc="upper right")
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8, labelcolor=_INK)
    figure.suptitle(title, fontsize=10, color=_INK)
    figure.savefig(path)
