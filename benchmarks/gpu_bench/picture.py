"""The roofline: how much arithmetic a second, over how much of it there is for each byte read."""

import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.gpu_bench.limits import Peaks
from benchmarks.gpu_bench.ours import OURS
from benchmarks.gpu_bench.records import Case, Phase, Report, Run

_INK, _FAINT, _DECODE, _PREFILL = "#3d444d", "#9aa4b1", "#1f6feb", "#bc4c00"
_WIDTH_INCHES, _PANEL_INCHES, _TITLE_INCHES, _FOOT_INCHES, _DPI = 9.0, 4.9, 0.4, 0.55, 150
_LABEL_STEP = 0.052  # of the panel's height, between two labels
_ALONG = 0.35  # of the slope, from its foot to the ridge: where its name stands
_LABEL_COLUMN = 1.03  # of the panel's width, where labels begin


class Point(NamedTuple):
    """A phase of a workload."""

    workload: str
    phase: Phase
    color: str
    marker: str

    @property
    def label(self) -> str:
        """What is written beside it."""
        rate = self.phase.flops_per_second / 1e12
        return f"{self.workload}  {rate:,.3g} TFLOP/s, {self.phase.of_limit:.0%} of limit"


def save_picture(path: Path, report: Report) -> None:
    """Write a PNG with one panel for each shape that our engine ran on. Raises ValueError if there is none."""
    panels = [(shape, points(list(cases))) for shape, cases in groupby(report.cases, key=lambda case: case.shape)]
    panels = [(shape, found) for shape, found in panels if found]
    if not panels:
        raise ValueError(f"the report holds no run of {OURS}")
    height = _PANEL_INCHES * len(panels) + _TITLE_INCHES
    figure = Figure(figsize=(_WIDTH_INCHES, height), dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.suptitle(f"{OURS} on {report.machine['device']}", fontsize=12, color=_INK, x=0.09, ha="left")
    # Labels stand at the right of the panels. Where panels are must be known before slopes and heights are worked out.
    margins = {"bottom": _FOOT_INCHES / height, "top": 1 - 2 * _TITLE_INCHES / height}
    figure.subplots_adjust(left=0.09, right=0.62, hspace=0.3, **margins)
    rows = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axes, (shape, found) in zip(rows, panels, strict=True):
        _draw(axes, f"{shape} shape, {report.dtype}", found, report.ceilings.peaks)
    figure.savefig(path)


def points(cases: Sequence[Case]) -> list[Point]:
    """The decode steps of every workload our engine ran, and the prompts of those that were timed alone."""
    found = []
    for case in cases:
        for run in case.runs:
            if run.engine == OURS:
                found += _run_points(case.workload, run)
    return found


def _run_points(workload: str, run: Run) -> list[Point]:
    decode = [Point(f"{workload}, decode", run.decode, _DECODE, "o")] if run.decode else []
    return decode + ([Point(f"{workload}, prompts", run.prefill, _PREFILL, "^")] if run.prefill else [])


def _draw(axes: Axes, title: str, found: Sequence[Point], peaks: Peaks) -> None:
    ridge = peaks.flops_per_second / peaks.bytes_per_second
    intensities = [point.phase.intensity for point in found]
    low, high = min(*intensities, ridge) / 3, max(*intensities, ridge) * 3
    floor = min(point.phase.flops_per_second for point in found) / 1e12 / 3
    top = peaks.flops_per_second / 1e12
    axes.plot([low, ridge, high], [low * peaks.bytes_per_second / 1e12, top, top], color=_INK, linewidth=1.5, zorder=2)
    for point in found:
        axes.plot(
            *(point.phase.intensity, point.phase.flops_per_second / 1e12),
            marker=point.marker,
            color=point.color,
            markersize=7,
            markeredgecolor="white",
            zorder=4,
        )
    axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(floor, top * 3))
    _name_ceilings(axes, peaks, low, ridge)
    _name_points(axes, found)
    axes.set_title(title, fontsize=10, loc="left", color=_INK)
    _style(axes)


def _style(axes: Axes) -> None:
    axes.set_xlabel("FLOPs per byte of weights, keys and values", fontsize=9, color=_INK)
    axes.set_ylabel("TFLOP/s", fontsize=9, color=_INK)
    axes.tick_params(labelsize=8, colors=_INK, which="both")
    axes.grid(visible=True, which="major", color="#e6e9ed", linewidth=0.7, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def _name_ceilings(axes: Axes, peaks: Peaks, low: float, ridge: float) -> None:
    """Write along the two lines what they are."""
    rate = f"copy {peaks.bytes_per_second / 1e9:,.0f} GB/s"
    peak = f"matrix product {peaks.flops_per_second / 1e12:,.3g} TFLOP/s"
    style: dict[str, Any] = {"fontsize": 8, "color": _INK, "textcoords": "offset points"}
    axes.annotate(peak, (ridge, peaks.flops_per_second / 1e12), xytext=(6, 4), **style)
    middle = low * (ridge / low) ** _ALONG
    start, end = (axes.transData.transform((x, x * peaks.bytes_per_second / 1e12)) for x in (middle, middle * 1.5))
    angle = math.degrees(math.atan2(end[1] - start[1], end[0] - start[0]))
    axes.annotate(
        rate,
        (middle, middle * peaks.bytes_per_second / 1e12),
        xytext=(-6, 6),
        ha="center",
        rotation=angle,
        rotation_mode="anchor",
        **style,
    )


def _name_points(axes: Axes, found: Sequence[Point]) -> None:
    """Write the labels in a column at the right, in the order of the points' heights, and lead a line to each point."""
    ordered = sorted(found, key=lambda point: point.phase.flops_per_second)
    heights = spread([_height(axes, point) for point in ordered], _LABEL_STEP)
    for point, height in zip(ordered, heights, strict=True):
        where = (point.phase.intensity, point.phase.flops_per_second / 1e12)
        axes.annotate(
            point.label,
            xy=where,
            xytext=(_LABEL_COLUMN, height),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=point.color,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": _FAINT,
                "linewidth": 0.6,
                "shrinkA": 2,
                "shrinkB": 4,
                "relpos": (0, 0.5),
            },
        )


def _height(axes: Axes, point: Point) -> float:
    """A point's height as a share of the panel's."""
    pixels = axes.transData.transform((point.phase.intensity, point.phase.flops_per_second / 1e12))
    return float(axes.transAxes.inverted().transform(pixels)[1])


def spread(heights: Sequence[float], step: float) -> list[float]:
    """Move ascending heights apart to at least a step, upwards, and back down from 1 where there is no more room."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + step) if found else height)
    ceiling = 1.0
    for index in reversed(range(len(found))):
        found[index] = min(found[index], ceiling)
        ceiling = found[index] - step
    return found
