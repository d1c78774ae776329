"""Pictures of a latent space, one function each: its plane, its walks and its map. They need matplotlib."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

from anomalyvae.calibration import AUTO_FALSE_ALARMS
from anomalyvae.evaluate.style import INK, MODEL, MUTED, RULE, STRANGE, VERDICTS, drawn
from anomalyvae.study.latent import LatentSpace
from anomalyvae.study.maps import LatentMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GRID = 70  # points along each side of a plane
_REACH = 3.2  # standard deviations of the prior that a plane shows at least
_NAMED_COLUMNS = 16  # more names than this cannot be read side by side
_GROUPS = (MODEL, "#cc79a7", "#e69f00", "#56b4e9", INK)  # of a map, where a group has no colour of its own
_POINTS: dict[str, Any] = {"linewidths": 0, "rasterized": True}


def draw_plane(spaces: LatentSpace | Mapping[str, LatentSpace]) -> "Figure":
    """Draw 2-D latent spaces with their holes: how plausible the row is that each point decodes to.

    Parameters
    ----------
    spaces : LatentSpace or mapping of str to LatentSpace
        Of detectors with ``latent_dim=2``; several are drawn side by side, under their names.

    Returns
    -------
    Figure
        Dots are the codes of the rows; the ground is white where decoding gives rows that the detector finds
        plausible, and darker the smaller their p-value; dashed, where there is a prior, the circle that holds 95 % of
        it.
    """
    named = {"": spaces} if isinstance(spaces, LatentSpace) else dict(spaces)
    wrong = [len(space.units) for space in named.values() if len(space.units) != 2]
    if wrong or not named:
        raise ValueError(
            f"Got latent_dim={wrong[0] if wrong else None}, expected planes. Fit with latent_dim=2, or map() the codes."
        )

    def draw(figure: "Figure") -> None:
        for axes, (name, space) in zip(figure.subplots(1, len(named), squeeze=False)[0], named.items(), strict=True):
            _draw_plane(axes, space)
            axes.set_title(name, loc="left", fontsize=9)
        figure.tight_layout(w_pad=1.5)

    return drawn(draw, 3.6 * len(named), 3.7)


def _draw_plane(axes: "Axes", space: LatentSpace) -> None:
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    codes = space.codes.to_numpy()
    low, high = np.quantile(codes, 0.002, axis=0), np.quantile(codes, 0.998, axis=0)
    if space.has_prior:
        low, high = np.minimum(low, -_REACH), np.maximum(high, _REACH)
    x, y = (np.linspace(a, b, _GRID) for a, b in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    p = space.detector.p_values(space.detector.decode(pd.DataFrame(grid))).reshape(_GRID, _GRID)
    ground = LinearSegmentedColormap.from_list("ground", ["#d98c5f", "#f3d9c6", "#ffffff"])
    axes.pcolormesh(x, y, p, cmap=ground, norm=LogNorm(0.01, 0.25), shading="nearest", rasterized=True)
    size = float(np.clip(3000 / len(codes), 1, 8))
    axes.scatter(codes[:, 0], codes[:, 1], s=size, color=MODEL, alpha=0.6, **_POINTS)
    if space.has_prior:
        turn = np.linspace(0, 2 * math.pi, 200)
        radius = math.sqrt(chi2.ppf(1 - AUTO_FALSE_ALARMS, 2))
        axes.plot(radius * np.cos(turn), radius * np.sin(turn), color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_xlabel(space.units[0])
    axes.set_ylabel(space.units[1])


def draw_traversals(
    space: LatentSpace, units: Sequence[int | str] | None = None, *, around: Any = None, steps: int = 9
) -> "Figure":
    """Draw what each latent unit changes: a panel per unit, a line per value that it takes.

    Parameters
    ----------
    space : LatentSpace
    units : sequence of int or str, optional
        By default the four that move a row most (`LatentSpace.continuity`), strongest first.
    around : one row, optional
        See `LatentSpace.traverse`.
    steps : int

    Returns
    -------
    Figure
        From light, the unit's low values, to dark, its high ones; numeric columns side by side, each in its own
        standard deviations around its mean, both of the reconstructed rows.
    """
    if units is None:
        units = [*space.continuity()["movement"].sort_values(ascending=False).index[:4]]
    usual = pd.DataFrame(space.detector.decode(space.codes)).select_dtypes("number")
    centre, spread = usual.mean(), usual.std(ddof=0).replace(0, 1)
    walks = [((space.traverse(unit, steps, around=around)[usual.columns] - centre) / spread) for unit in units]

    def draw(figure: "Figure") -> None:
        from matplotlib.colors import LinearSegmentedColormap

        shades = LinearSegmentedColormap.from_list("shades", ["#bcd9ec", MODEL, "#06304c"])
        panels = figure.subplots(len(walks), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, walk in zip(panels, walks, strict=True):
            axes.axhline(0, color=RULE, linewidth=0.8)
            for share, row in zip(np.linspace(0, 1, len(walk)), walk.to_numpy(), strict=True):
                axes.plot(row, color=shades(share), linewidth=1.2, marker="o" if len(row) <= 24 else "", markersize=3)
            axes.set_ylabel(walk.index.name)
            axes.margins(x=0.02)
        _name_columns(axes, [str(column) for column in usual.columns])
        figure.tight_layout(h_pad=0.6)

    return drawn(draw, 7.2, 1.0 + 1.15 * len(walks))


def draw_path(space: LatentSpace, a: Any, b: Any, steps: int = 41) -> "Figure":
    """Draw the way between two rows: what changes along it, and where the detector would flag it.

    Parameters
    ----------
    space : LatentSpace
    a, b : one row each
        See `LatentSpace.interpolate`.
    steps : int

    Returns
    -------
    Figure
        Above, the numeric columns from the one row to the other, each between its smallest (light) and its largest
        value (dark) on the way; below, the anomaly score, and dashed the detector's threshold.
    """
    rows, scores = space.interpolate(a, b, steps)
    cells = rows.select_dtypes("number")
    width = (cells.max() - cells.min()).replace(0, 1)
    threshold, score = -space.detector.offset_, scores["anomaly_score"]

    def draw(figure: "Figure") -> None:
        from matplotlib.colors import LinearSegmentedColormap

        shades = LinearSegmentedColormap.from_list("shades", ["#f4f8fb", MODEL, "#06304c"])
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=[max(2, cells.shape[1] / 5), 1.6])
        extent = (-0.5 / (steps - 1), 1 + 0.5 / (steps - 1), cells.shape[1] - 0.5, -0.5)
        picture = ((cells - cells.min()) / width).T.to_numpy(dtype=float)
        above.imshow(picture, aspect="auto", cmap=shades, extent=extent, interpolation="nearest")
        if cells.shape[1] <= _NAMED_COLUMNS:
            above.set_yticks(range(cells.shape[1]), [str(column) for column in cells.columns])
        below.axhline(threshold, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        below.plot(score.index, score, color=MUTED, linewidth=1.4)
        below.plot(score.index, score.where(score > threshold), color=STRANGE, linewidth=2.0)
        below.set_ylabel("anomaly score")
        below.set_xlabel("share of the way")
        below.margins(x=0, y=0.15)
        figure.tight_layout()

    return drawn(draw, 7.2, 2.3 + 0.16 * min(cells.shape[1], 20))


def draw_map(latent_map: LatentMap, groups: Mapping[str, Any] | None = None) -> "Figure":
    """Draw a map of the latent space: what it was made of in grey, and other rows over it.

    Parameters
    ----------
    latent_map : LatentMap
        See `LatentSpace.map`.
    groups : mapping of str to array-like or DataFrame of rows, optional
        Rows by what they are, such as ``"flagged"`` (rings) and the verdicts ``"new_normal"``, ``"fault"``, ``"noise"``
        and ``"unsure"``; any other name will do.
    """
    own = latent_map.coordinates
    placed = {name: latent_map.transform(rows) for name, rows in (groups or {}).items() if len(rows)}
    plain = iter(_GROUPS * (1 + len(placed) // len(_GROUPS)))
    colours = {name: VERDICTS.get(name) or (STRANGE if name == "flagged" else next(plain)) for name in placed}
    share = "" if latent_map.explained is None else f", {latent_map.explained:.0%} of the variance"

    def draw(figure: "Figure") -> None:
        axes = figure.add_axes((0.03, 0.03, 0.94, 0.88))
        axes.scatter(
            own["x"], own["y"], s=float(np.clip(4000 / len(own), 3, 14)), color="#b4bdc6", alpha=0.7, **_POINTS
        )
        for name, at in placed.items():
            kind: dict[str, Any] = (
                {"facecolors": "none", "edgecolors": colours[name], "linewidths": 1.1, "s": 46}
                if name == "flagged"
                else {"color": colours[name], "s": 16, "linewidths": 0}
            )
            axes.scatter(at["x"], at["y"], label=f"{name} ({len(at)})", **kind)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(f"{latent_map.method}{share}", loc="left", fontsize=9, color=MUTED)
        if placed:
            axes.legend(frameon=False, fontsize=8, labelcolor=INK, handletextpad=0.2)

    return drawn(draw, 5.6, 4.6)


def _name_columns(axes: "Axes", columns: list[str]) -> None:
    """Each column's name under it; of a window's many columns, the signal's name under where it begins."""
    if len(columns) <= _NAMED_COLUMNS:
        slanted = max(map(len, columns)) * len(columns) > 90
        axes.set_xticks(
            range(len(columns)), columns, rotation=30 if slanted else 0, ha="right" if slanted else "center"
        )
        return
    signals = [name.rpartition("@")[0] for name in columns]
    begins = [i for i, signal in enumerate(signals) if signal and (i == 0 or signal != signals[i - 1])]
    if begins:
        axes.set_xticks(begins, [signals[i] for i in begins], ha="left")
    else:
        axes.set_xlabel("column")
