"""The cases as bars: generated tokens per CPU second of each engine."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.engine.case import Case

_OURS, _PEER, _INK = "#1f6feb", "#b8c0cc", "#3d444d"
_WIDTH_INCHES, _PANEL_INCHES, _DPI = 9.0, 2.3, 150
_COLUMNS = 2


def save_chart(path: Path, cases: Sequence[Case], processor: str) -> None:
    """Write a PNG with one panel per case; each has its own scale, and says how many times quicker ours is."""
    columns = min(_COLUMNS, len(cases))
    rows = -(-len(cases) // columns)
    figure = Figure(figsize=(_WIDTH_INCHES, _PANEL_INCHES * rows + 0.6), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, case in zip(panels, cases, strict=False):
        _draw(axes, case)
    for axes in panels[len(cases) :]:
        axes.set_visible(False)
    figure.suptitle(f"Generated tokens per CPU second, one thread, {processor}", fontsize=10, color=_INK)
    figure.savefig(path)


def _draw(axes: Axes, case: Case) -> None:
    ours, *peers = [compared.result for compared in case.results]
    rates = [result.tokens_per_second for result in (ours, *peers)]
    labels = [f"{rates[0]:.0f}", *(f"{rate:.0f}  (ours {rates[0] / rate:.1f}x)" for rate in rates[1:])]
    bars = axes.barh([result.name for result in (ours, *peers)], rates, color=[_OURS, *[_PEER] * len(peers)])
    axes.bar_label(bars, labels, padding=3, fontsize=8, color=_INK)
    axes.invert_yaxis()
    axes.set_xlim(0, max(rates) * 1.18)
    axes.set_title(f"{case.shape} {case.info.dtype}, {case.num_jobs} jobs", fontsize=9, loc="left", color=_INK)
    axes.tick_params(axis="y", length=0, labelsize=8, labelcolor=_INK)
    axes.xaxis.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
