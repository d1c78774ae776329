"""The latent space of simulated driving: what beta and the size of the code do, and where the holes are.

    python pipelines/benchmarks/latent_space.py docs    # writes latent-planes.png and latent-beta.png; some minutes

`sweep` measures a model per value of a parameter on held-out rows; docs/latent-space.md quotes its tables.
"""

import argparse
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import chi2
from sklearn.base import clone
from sklearn.model_selection import train_test_split

from anomalyvae import VAEOutlierDetector
from anomalyvae.calibration import AUTO_FALSE_ALARMS
from anomalyvae.datasets import get_dataset
from anomalyvae.evaluate.charts import ANOMALY, INK, MODEL, MUTED, RULE, figure_of
from anomalyvae.metrics import auroc, average_precision
from anomalyvae.study import LatentSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNALS = ["speed_mps", "engine_rpm", "throttle_pct", "engine_load_pct", "acc_x_g", "acc_y_g", "gyro_z_radps"]
BETAS, SIZES = (0.001, 0.01, 0.1, 1.0, 4.0, 16.0), (1, 2, 3, 5, 8)
HELD_OUT = 0.25  # share of the rows (or groups) that all models are measured on
GRID = 70  # points along each side of a plane
REACH = 3.2  # standard deviations of the prior that a plane shows at least


def sweep(
    detector: VAEOutlierDetector,
    parameter: str,
    values: Sequence[Any],
    X: pd.DataFrame,
    *,
    outliers: ArrayLike | None = None,
) -> pd.DataFrame:
    """Fit a detector per value of a parameter, and measure all of them on the same held-out rows.

    Parameters
    ----------
    detector : VAEOutlierDetector
        Its other settings are kept.
    parameter : str
        Such as ``"beta"`` (Higgins et al. 2017, beta-VAE, ICLR) or ``"latent_dim"``.
    values : sequence
    X : DataFrame of shape (n_samples, n_features)
        Normal rows, of which a quarter is held out. The seed of this split, and of all models, is 0.
    outliers : array-like or DataFrame of shape (n_outliers, n_features), optional
        Known outliers; they are not learned.

    Returns
    -------
    DataFrame
        A row per value: medians over rows of `VAEOutlierDetector.score_terms` in nats (a mean would be dominated by
        single rows), ``active_units``, the columns of `LatentSpace.completeness` if there is a prior and of
        `LatentSpace.smoothness`, and with ``outliers`` AUROC and average precision of the detector's score.
    """
    train, test = train_test_split(X, test_size=HELD_OUT, random_state=0)
    models = [clone(detector).set_params(**{parameter: value}, random_state=0).fit(train) for value in values]
    records = [measures(model, test, outliers) for model in models]
    return pd.DataFrame(records, index=pd.Index(values, name=parameter))


def measures(detector: VAEOutlierDetector, rows: pd.DataFrame, outliers: ArrayLike | None) -> dict[str, float]:
    """A row of the table of `sweep`, from held-out rows."""
    space = LatentSpace(detector, rows)
    record = dict(
        detector.score_terms(rows).drop(columns=["near", "crowd", "linear", "novelty"], errors="ignore").median()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of inactive units, which the table shows
        record["active_units"] = int(space.active_units()["active"].sum())
    if space.has_prior:
        alpha = max(AUTO_FALSE_ALARMS, 1 / (1 + detector.calibration_.evidence))  # the smallest p-value
        record |= space.completeness(alpha=alpha)
    record |= space.smoothness()
    if outliers is not None:
        scores = [detector.anomaly_score(rows), detector.anomaly_score(outliers)]
        labels = np.repeat([False, True], [len(part) for part in scores])
        record["auroc"] = auroc(labels, np.concatenate(scores))
        record["average_precision"] = average_precision(labels, np.concatenate(scores))
    return record


PANELS: dict[str, dict[str, str]] = {  # title: column and colour of each line
    "Held-out loss, nats per row": {"reconstruction": MODEL, "kl": ANOMALY, "elbo": INK},
    "Active latent units": {"active_units": MODEL},
    "Completeness": {"plausible": MODEL, "reference": MUTED, "coverage": ANOMALY},
    "Continuity (linear: 1)": {"detour": MODEL, "largest_step": ANOMALY},
    "Detection": {"auroc": MODEL, "average_precision": ANOMALY},
}


def draw_sweep(table: pd.DataFrame) -> "Figure":
    """Draw the table of `sweep`, a panel per kind of measure, the values evenly spaced."""
    panels = {title: lines for title, lines in PANELS.items() if set(lines) & set(table)}

    def draw(figure: "Figure") -> None:
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (title, lines) in zip(grid, panels.items(), strict=True):
            for name in [name for name in lines if name in table]:
                label = name.replace("_", " ")
                axes.plot(
                    table[name].to_numpy(), color=lines[name], linewidth=1.6, marker="o", markersize=3.5, label=label
                )
            axes.set_title(title, loc="left", fontsize=9, color=INK)
            axes.set_xticks(range(len(table)), [f"{value:g}" for value in table.index])
            axes.set_xlabel(str(table.index.name))
            axes.margins(x=0.08, y=0.12)
            if title == "Completeness":
                axes.set_ylim(0.0, 1.02)
            if title.startswith("Continuity"):
                axes.axhline(1.0, color=RULE, linewidth=0.8)
            if len(lines) > 1:
                axes.legend(frameon=False, fontsize=8, labelcolor=MUTED, handlelength=1.2, labelspacing=0.3)
        figure.tight_layout(w_pad=2.0)

    return figure_of(draw, 3.1 * len(panels), 2.9)


def draw_planes(spaces: Mapping[str, LatentSpace]) -> "Figure":
    """Draw two-dimensional latent spaces with their holes, side by side under their names.

    Dots are the codes of the rows. The background is white where codes decode to plausible rows, and darker the smaller
    their p-value. The dashed circle holds 95 % of the prior.
    """

    def draw(figure: "Figure") -> None:
        for axes, (name, space) in zip(figure.subplots(1, len(spaces), squeeze=False)[0], spaces.items(), strict=True):
            draw_plane(axes, space)
            axes.set_title(name, loc="left", fontsize=9)
        figure.tight_layout(w_pad=1.5)

    return figure_of(draw, 3.6 * len(spaces), 3.7)


def draw_plane(axes: "Axes", space: LatentSpace) -> None:
    """Draw one latent plane."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    codes = space.codes.to_numpy()
    low, high = np.quantile(codes, 0.002, axis=0), np.quantile(codes, 0.998, axis=0)
    if space.has_prior:
        low, high = np.minimum(low, -REACH), np.maximum(high, REACH)
        turn, radius = np.linspace(0, 2 * math.pi, 200), math.sqrt(chi2.ppf(1 - AUTO_FALSE_ALARMS, 2))
        axes.plot(radius * np.cos(turn), radius * np.sin(turn), color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
    x, y = (np.linspace(a, b, GRID) for a, b in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    p = space.detector.p_values(space.detector.decode(pd.DataFrame(grid))).reshape(GRID, GRID)
    ground = LinearSegmentedColormap.from_list("ground", ["#d98c5f", "#f3d9c6", "#ffffff"])
    axes.pcolormesh(x, y, p, cmap=ground, norm=LogNorm(0.01, 0.25), shading="nearest", rasterized=True)
    size = float(np.clip(3000 / len(codes), 1, 8))
    axes.scatter(codes[:, 0], codes[:, 1], s=size, color=MODEL, alpha=0.6, linewidths=0, rasterized=True)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel=space.units[0], ylabel=space.units[1])


def driving() -> pd.DataFrame:
    """Rows of the simulated drives, two a second."""
    drives = sorted((get_dataset("simulated") / "recordings").glob("*.parquet"))
    return pd.concat([pd.read_parquet(drive)[SIGNALS][::5] for drive in drives], ignore_index=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the pictures go")
    folder: Path = parser.parse_args().folder
    rows, plain = driving(), VAEOutlierDetector(validation_fraction=0.2, random_state=0)
    plane = clone(plain).set_params(latent_dim=2)
    settings: dict[str, dict[str, Any]] = {
        "autoencoder": {"objective": "reconstruction"},
        "VAE, beta = 0.001": {"beta": 0.001},
        "VAE, beta = 1": {},
    }
    spaces = {name: LatentSpace(clone(plane).set_params(**one).fit(rows), rows) for name, one in settings.items()}
    draw_planes(spaces).savefig(folder / "latent-planes.png", dpi=100)
    table = sweep(plane, "beta", BETAS, rows)
    draw_sweep(table).savefig(folder / "latent-beta.png", dpi=100)
    print(table.round(2), sweep(plain, "latent_dim", SIZES, rows).round(2), sep="\n\n")


if __name__ == "__main__":
    main()
