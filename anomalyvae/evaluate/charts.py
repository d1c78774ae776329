"""Charts in the style of the project. Those of the report are SVG in a data URI for ``<img>``: no script runs there."""

import base64
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae.events import event_spans, touches
from anomalyvae.fleet import REASONS
from anomalyvae.lazy import not_installed
from anomalyvae.review.reasons import WindowView
from anomalyvae.untrusted import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Blue, vermilion and green are from Okabe and Ito's palette, for colour-blind readers. HTML pages use the same colours.
INK, MUTED, RULE, SHADE = "#1f2a35", "#66727f", "#d5dbe1", "#f0f2f5"
ANOMALY, MODEL, SIGNAL = "#d55e00", "#0072b2", "#009e73"

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib; `svg_of` puts the reader's fonts first
    "font.size": 9,
    "text.parse_math": False,  # show a dollar sign in a signal's name as it is
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "svg.fonttype": "none",
    "svg.hashsalt": "anomalyvae",  # the same run gives the same page
}

_FONTS = b"'Helvetica Neue', Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"
_TICKS_S = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600)
_NAMED, _NUMBERED = 20, 8  # recordings of a fleet
_POINTS = 1500  # in a timeline; more would overlap


def timeline(
    scores: pd.DataFrame, flags: pd.DataFrame, events: pd.DataFrame, threshold: float, tolerance_s: float
) -> str:
    """Draw the score of a recording over time, with its flags, and its known events below, as a data URI.

    ``scores`` has a row per window, ``flags`` and ``events`` a row each, all of this recording. An event counts as
    found if a flag lies within ``tolerance_s``.
    """
    known = event_spans(events)
    found = touches(known, flags, tolerance_s)
    middle = known[["start_s", "end_s"]].mean(axis=1).to_numpy()
    time_s, score = _downsampled(scores)
    low, high = np.nanmin(score), max(np.nanmax(score), threshold)
    height = (high - low) or 1.0
    floor, margin = low - 0.15 * height, 0.07 * height

    def draw(figure: "Figure") -> None:
        axes = figure.add_axes((0.045, 0.18, 0.93, 0.8))  # room for half of the last label
        for start_s, end_s in zip(flags["start_s"], flags["end_s"], strict=True):
            axes.axvspan(start_s, end_s, color=ANOMALY, alpha=0.13, linewidth=0)
        axes.axhline(threshold, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.plot(time_s, score, color=MUTED, linewidth=0.9)
        above = np.where(score >= threshold, score, np.nan)
        axes.plot(time_s, above, color=ANOMALY, linewidth=1.4, marker="o", markersize=1.6)
        for chosen, face in ((found, INK), (~found, "white")):
            marks: dict[str, Any] = {"color": INK, "markerfacecolor": face, "markersize": 5, "markeredgewidth": 0.8}
            axes.plot(middle[chosen], np.full(chosen.sum(), floor), "^", **marks)
        axes.set_ylim(floor - margin, high + margin)
        axes.set_xlim(scores["start_s"].min(), scores["end_s"].max())
        axes.locator_params(axis="y", nbins=4)
        _clock_axis(axes, ticks=12)

    return _svg(draw, 11.0, 1.7)


def window(view: WindowView) -> str:
    """Draw the signals of a window, the time around it, and the model's reconstruction, as a data URI."""
    n_signals = len(view.signals)
    height = 0.3 + 0.68 * n_signals
    inside = (view.around_time_s > view.start_s - 1e-6) & (view.around_time_s < view.end_s - 1e-6)
    top = int(np.argmax(view.shares)) if view.shares.any() else -1  # the signal that contributes most

    def draw(figure: "Figure") -> None:
        from matplotlib.ticker import FixedLocator

        layout = {"left": 0.115, "right": 0.96, "bottom": 0.26 / height, "top": 1.0, "hspace": 0.14}
        panels = figure.subplots(n_signals, 1, sharex=True, squeeze=False, gridspec_kw=layout)[:, 0]
        for index, axes in enumerate(panels):
            is_top, last = index == top, index == n_signals - 1
            values = view.around[index]
            axes.axvspan(view.start_s, view.end_s, color=SHADE, linewidth=0)
            axes.plot(*_broken(view.around_time_s, values), color="#a9b2bc", linewidth=0.9)
            axes.plot(view.time_s, view.reconstruction[index], color=MODEL, linewidth=1.2, linestyle=(0, (3, 1.5)))
            own = {"color": ANOMALY if is_top else INK, "linewidth": 1.6, "marker": "o", "markersize": 2}
            axes.plot(view.around_time_s[inside], values[inside], **own)

            low, high = axes.get_ylim()
            axes.set_ylim(low, high + 0.4 * (high - low))  # room for the name
            words = {"color": own["color"], "weight": "bold" if is_top else "normal", "transform": axes.transAxes}
            axes.text(0.01, 0.95, _short(view.signals[index]), va="top", **words)
            axes.text(0.99, 0.95, f"{100 * view.shares[index]:.0f} %", va="top", ha="right", **words)
            axes.yaxis.set_major_locator(FixedLocator(_inner_ticks(low, high)))
            axes.spines["bottom"].set_visible(last)
            axes.tick_params(axis="x", length=3 if last else 0)
        panels[0].set_xlim(view.around_time_s[0], view.around_time_s[-1])
        _clock_axis(panels[-1], ticks=6)

    return _svg(draw, 3.7, height)


def fleet(ranking: pd.DataFrame) -> str:
    """Draw whole recordings, the most unlike by name, as a data URI; see `draw_fleet`."""
    draw, height = draw_fleet(ranking)
    return _svg(draw, 11.0, height)


def draw_fleet(ranking: pd.DataFrame) -> tuple[Callable[["Figure"], None], float]:
    """How to draw the result of `anomalyvae.scoring.ranking.rank`, and the height in inches for a width of 11.

    On the left, the most unlike recordings by name; on the right all of them, by how sure a short event and a long
    oddness are.
    """
    top = ranking.head(_NAMED)
    height = 1.1 + 0.21 * max(len(top), 8)
    colors = ranking["reason"].map(dict(zip(REASONS, (ANOMALY, MODEL, SIGNAL), strict=True)))

    def draw(figure: "Figure") -> None:
        low, high = 0.5 / height, 1 - 0.3 / height
        shown = [_short(name, 36) for name in top["recording"]]
        left = 0.03 + 0.24 / 36 * max(map(len, shown))
        names = figure.add_axes((left, low, 0.56 - left, high - low))
        rows = range(len(top))
        names.barh(rows, top["unlike"], color=colors[: len(top)], height=0.62)
        for y, row in zip(rows, top.to_dict("records"), strict=True):
            p = "" if np.isnan(row["p_value"]) else f"p {row['p_value']:.3f}  "
            names.annotate(
                f"{p}{row['share_flagged']:.0%} flagged", (max(row["unlike"], 0), y), xytext=(5, 0),
                textcoords="offset points", va="center", color=MUTED,
            )  # fmt: skip
        names.set_yticks(rows, shown)
        names.set_ylim(len(top) - 0.4, -0.6)
        names.set_xlim(min(0.0, float(top["unlike"].min())), 1.45 * max(float(top["unlike"].max()), 0.1))
        names.tick_params(axis="y", length=0)
        names.set_xlabel("how unlike the training recordings, nats")

        cloud = figure.add_axes((0.64, low, 0.34, high - low))
        cloud.scatter(ranking["brief"], ranking["lasting"], s=16, c=colors, linewidth=0, alpha=0.8)
        for row in top.head(_NUMBERED).to_dict("records"):
            where = (row["brief"], row["lasting"])
            cloud.annotate(f"{row['place']}", where, xytext=(4, 3), textcoords="offset points", color=INK)
        cloud.set_xlabel("short event, nats")
        cloud.set_ylabel("long oddness, nats")
        for line, (reason, color) in enumerate(dict(zip(ranking["reason"], colors, strict=True)).items()):
            cloud.text(0.99, 0.02 + 0.07 * line, reason, color=color, ha="right", transform=cloud.transAxes)

    return draw, height


def clock(seconds: float) -> str:
    """Format a time in a recording as hours, minutes and seconds, with tenths if there are any.

    Examples
    --------
    >>> clock(271), clock(3871), clock(3.52)
    ('4:31', '1:04:31', '0:03.5')
    """
    tenths = round(seconds * 10)
    hours, minutes, rest = tenths // 36000, tenths // 600 % 60, tenths % 600
    text = f"{rest // 10:02d}" + (f".{rest % 10}" if rest % 10 else "")
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"


def _clock_axis(axes: "Axes", ticks: int) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    first, last = axes.get_xlim()
    step = next((step for step in _TICKS_S if (last - first) / step <= ticks), _TICKS_S[-1])
    axes.xaxis.set_major_locator(MultipleLocator(step))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))


def _inner_ticks(low: float, high: float) -> list[float]:
    """Two or three round numbers, away from the edges, where they would touch those of the next panel."""
    from matplotlib.ticker import MaxNLocator

    edge = 0.12 * (high - low)
    return [tick for tick in MaxNLocator(3).tick_values(low, high) if low + edge <= tick <= high - edge]


def _downsampled(scores: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores at the middle of each window. If there are many, keep the highest of each interval of time."""
    ordered = scores.sort_values("start_s", kind="stable")
    time_s = ordered[["start_s", "end_s"]].mean(axis=1).to_numpy()
    score = ordered["anomaly_score"].to_numpy()
    if time_s.size > _POINTS:
        interval = np.floor((time_s - time_s[0]) / (np.ptp(time_s) + 1e-9) * _POINTS)
        firsts = np.flatnonzero(np.diff(interval, prepend=-1.0))
        time_s, score = time_s[firsts], np.maximum.reduceat(score, firsts)
    return _broken(time_s, score)


def _broken(
    time_s: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Break a line at gaps: steps more than 1.5 times the median one."""
    steps = np.diff(time_s)
    gaps = np.flatnonzero(steps > 1.5 * np.median(steps)) + 1 if steps.size else np.empty(0, dtype=int)
    return np.insert(time_s, gaps, time_s[gaps - 1]), np.insert(values, gaps, np.nan)


def _short(name: str, longest: int = 32) -> str:
    name = printable(name)  # other characters would spoil the SVG
    return name if len(name) <= longest else name[: longest - 1] + "…"


def _svg(draw: Callable[["Figure"], None], width_in: float, height_in: float) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg_of(draw, width_in, height_in)).decode()


def svg_of(draw: Callable[["Figure"], None], width_in: float, height_in: float) -> bytes:
    """Draw an SVG file in the style of the project."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in))
        draw(figure)
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return file.getvalue().replace(b"'DejaVu Sans'", _FONTS)


def figure_of(draw: Callable[["Figure"], None], width_in: float, height_in: float) -> "Figure":
    """Draw a figure in the style of the project; a notebook shows it, ``savefig`` writes it."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise not_installed(error, "drawing a chart", "anomalyvae[report]") from error
    with rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), dpi=120)
        draw(figure)
        figure.draw_without_rendering()  # makes the ticks, in this style
    return figure
