"""Small line charts as SVG, drawn here so that the page needs no script for them."""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Final

from relayd.api.page.html import Html, tag, text

_WIDTH: Final = 240
_HEIGHT: Final = 44
_TOP: Final = 3
#: Points of a chart; more are averaged.
_MOST: Final = 120


def chart(values: Sequence[float], label: str) -> Html:
    """Return a chart of values over time, the oldest first; NaN leaves a gap.

    Args:
        values: of equal periods.
        label: says in words what it shows.
    """
    points = _thinned(values)
    top = max((value for value in points if not math.isnan(value)), default=0.0) or 1.0
    runs = _runs(points, top)
    curves = "".join(f"M{' L'.join(run)}" for run in runs)
    areas = "".join(_area(run) for run in runs)
    return tag(
        "svg",
        tag("title", label),
        Html(f'<path class="area" d="{areas}"/>'),
        Html(f'<path class="curve" d="{curves}"/>'),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=text(label),
    )


def _thinned(values: Sequence[float]) -> list[float]:
    step = max(1, math.ceil(len(values) / _MOST))
    return [_mean(values[place : place + step]) for place in range(0, len(values), step)]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return fmean(known) if known else math.nan


def _runs(points: Sequence[float], top: float) -> list[list[str]]:
    """Return the points of each part without a gap."""
    runs: list[list[str]] = []
    step = _WIDTH * max(1, len(points) - 1) ** -1
    scale = (_HEIGHT - 1 - _TOP) * top**-1
    for number, value in enumerate(points):
        if math.isnan(value):
            runs.append([])
            continue
        if not runs:
            runs.append([])
        x = number * step
        y = _HEIGHT - 1 - value * scale
        runs[-1].append(f"{x:.1f} {y:.1f}")
    return [run for run in runs if run]


def _area(run: Sequence[str]) -> str:
    first, last = run[0].split()[0], run[-1].split()[0]
    return f"M{first} {_HEIGHT} L{' L'.join(run)} L{last} {_HEIGHT}Z"
