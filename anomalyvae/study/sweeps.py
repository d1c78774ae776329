"""What beta and the size of the latent code do: a model per value, measured on rows that it has not learned."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit
from sklearn.utils import _safe_indexing

from anomalyvae.calibration import AUTO_FALSE_ALARMS
from anomalyvae.detector import VAEOutlierDetector
from anomalyvae.evaluate.style import INK, MODEL, MUTED, RULE, STRANGE, drawn
from anomalyvae.metrics import auroc, average_precision
from anomalyvae.study.latent import LatentSpace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HELD_OUT = 0.25  # share of the rows (or groups) that all models are measured on


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a study of one parameter found.

    Parameters
    ----------
    table : DataFrame
        A row per value, which the index holds under the parameter's name; see `sweep_beta`.
    detectors : dict
        The fitted detector of each value.
    """

    table: pd.DataFrame
    detectors: Mapping[Any, VAEOutlierDetector]

    def plot(self) -> "Figure":
        """Draw the table: a panel for the loss, one for the latent units, one for the latent space, one for detection.

        Raises
        ------
        ImportError
            Without matplotlib (``pip install 'anomalyvae[report]'``).
        """
        panels = [panel for panel in _PANELS if set(panel["lines"]) & set(self.table.columns)]

        def draw(figure: "Figure") -> None:
            grid = figure.subplots(1, len(panels), squeeze=False)
            for axes, panel in zip(grid[0], panels, strict=True):
                _draw_panel(axes, self.table, **panel)
            figure.tight_layout(w_pad=2.0)

        return drawn(draw, 3.1 * len(panels), 2.9)


def sweep_beta(
    X: ArrayLike,
    betas: Sequence[float] = (0.001, 0.01, 0.1, 1.0, 4.0, 16.0),
    *,
    detector: VAEOutlierDetector | None = None,
    outliers: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    random_state: int = 0,
    verbose: bool = False,
) -> Sweep:
    """What the weight of the KL term does: regularity of the latent space, at the cost of reconstruction [1]_.

    Parameters
    ----------
    X : array-like or DataFrame of shape (n_samples, n_features)
        Normal rows. A quarter of them is held out, the same for all values.
    betas : sequence of float
        The weights to try.
    detector : VAEOutlierDetector, optional
        Whose settings to keep; by default the class's own. With few rows, ``validation_fraction=0.2`` takes a quarter
        of the time: one network a value in place of four.
    outliers : array-like or DataFrame of shape (n_outliers, n_features), optional
        Rows that are known to be strange. They are not learned; how well each model tells them from the held-out rows
        is measured.
    groups : array-like of shape (n_samples,), optional
        The recording of each row. Whole recordings are then held out.
    random_state : int
        Of the split, of every model and of every measure.
    verbose : bool
        Show a progress bar.

    Returns
    -------
    Sweep
        With ``table``, by value, all of it measured on the held-out rows:

        - ``reconstruction`` (-log p(x | z)), ``kl``, ``elbo``, ``log_likelihood``: medians over rows, in nats, as
          `VAEOutlierDetector.score_terms` describes them (a cell that was constant in training can cost one row
          thousands, which a mean would show and nothing else);
        - ``active_units``: see `LatentSpace.active_units`;
        - ``plausible``, ``reference``, ``coverage``: see `LatentSpace.completeness`;
        - ``detour``, ``largest_step``: see `LatentSpace.smoothness`;
        - ``auroc``, ``average_precision`` of the detector's own score, with ``outliers``.

    Raises
    ------
    ValueError
        For no values, and for a detector whose objective has no prior.

    References
    ----------
    .. [1] I. Higgins et al. (2017), beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework,
       ICLR.
    """
    model = _settings(detector, random_state)
    if model.objective == "reconstruction":
        raise ValueError("Got objective='reconstruction', which beta does not enter. Pass a detector with 'elbo'.")
    return _sweep(model, "beta", [float(beta) for beta in betas], X, outliers, groups, random_state, verbose)


def sweep_latent_dim(
    X: ArrayLike,
    dims: Sequence[int] = (1, 2, 3, 5, 8, 16),
    *,
    detector: VAEOutlierDetector | None = None,
    outliers: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    random_state: int = 0,
    verbose: bool = False,
) -> Sweep:
    """What the size of the latent code does: a narrow bottleneck loses more, a wide one is used in part.

    Parameters
    ----------
    X, detector, outliers, groups, random_state, verbose
        See `sweep_beta`. Any objective will do.
    dims : sequence of int
        The sizes to try.

    Returns
    -------
    Sweep
        As `sweep_beta` describes it, without the columns that an objective has not.
    """
    model = _settings(detector, random_state)
    return _sweep(model, "latent_dim", [int(dim) for dim in dims], X, outliers, groups, random_state, verbose)


def _settings(detector: VAEOutlierDetector | None, random_state: int) -> VAEOutlierDetector:
    model = VAEOutlierDetector() if detector is None else clone(detector)
    return model.set_params(random_state=random_state, warm_start=False)


def _sweep(
    model: VAEOutlierDetector,
    parameter: str,
    values: list[Any],
    X: ArrayLike,
    outliers: ArrayLike | None,
    groups: ArrayLike | None,
    random_state: int,
    verbose: bool,
) -> Sweep:
    if not values:
        raise ValueError(f"Got no values of {parameter}, expected some to compare. Pass one or more.")
    splitter = (ShuffleSplit if groups is None else GroupShuffleSplit)(
        1, test_size=_HELD_OUT, random_state=random_state
    )
    [(learned, held_out)] = splitter.split(X, groups=groups)
    rows, unseen = _safe_indexing(X, learned), _safe_indexing(X, held_out)
    group = None if groups is None else np.asarray(groups)[learned]
    records, detectors = [], {}
    with _progress(verbose, parameter, values) as steps:
        for value in steps:
            fitted = clone(model).set_params(**{parameter: value}).fit(rows, groups=group)
            records.append(_measures(fitted, unseen, outliers, random_state))
            detectors[value] = fitted
    return Sweep(pd.DataFrame(records, index=pd.Index(values, name=parameter)), detectors)


def _measures(
    detector: VAEOutlierDetector, unseen: Any, outliers: ArrayLike | None, random_state: int
) -> dict[str, float]:
    """A row of the table, of rows that the detector has not learned."""
    space = LatentSpace(detector, unseen)
    terms = detector.score_terms(unseen).drop(columns="memory", errors="ignore").median()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the table says it
        active = space.active_units()["active"].sum()
    record = {**terms, "active_units": int(active)}
    if space.has_prior:
        alpha = max(AUTO_FALSE_ALARMS, 1 / (1 + detector.calibration_.evidence))  # few recordings tell no finer
        record |= space.completeness(alpha=alpha, random_state=random_state)
    record |= space.smoothness(random_state=random_state)
    if outliers is not None:
        normal, strange = detector.anomaly_score(unseen), detector.anomaly_score(outliers)
        labels, scores = np.repeat([False, True], [len(normal), len(strange)]), np.concatenate([normal, strange])
        record |= {"auroc": auroc(labels, scores), "average_precision": average_precision(labels, scores)}
    return record


@contextmanager
def _progress(verbose: bool, parameter: str, values: list[Any]) -> Iterator[Any]:
    """The values one by one, with a bar that names the present one, or without."""
    if not verbose:
        yield values
        return
    from rich.progress import Progress

    with Progress() as bar:
        task = bar.add_task("", total=len(values))

        def steps() -> Iterator[Any]:
            for value in values:
                bar.update(task, description=f"{parameter}={value:g}")
                yield value
                bar.advance(task)

        yield steps()


_PANELS: list[dict[str, Any]] = [
    {"title": "Held-out loss, nats per row", "lines": {"reconstruction": MODEL, "kl": STRANGE, "elbo": INK}},
    {"title": "Active latent units", "lines": {"active_units": MODEL}},
    {
        "title": "Completeness",
        "lines": {"plausible": MODEL, "reference": MUTED, "coverage": STRANGE},
        "limits": (0.0, 1.02),
    },
    {"title": "Continuity (linear: 1)", "lines": {"detour": MODEL, "largest_step": STRANGE}, "reference": 1.0},
    {"title": "Detection", "lines": {"auroc": MODEL, "average_precision": STRANGE}},
]


def _draw_panel(
    axes: "Axes",
    table: pd.DataFrame,
    title: str,
    lines: Mapping[str, str],
    limits: tuple[float, float] | None = None,
    reference: float | None = None,
) -> None:
    """A line per column over the values, evenly spaced: what is tried is seldom linear."""
    places = np.arange(len(table))
    if reference is not None:
        axes.axhline(reference, color=RULE, linewidth=0.8)
    for name, colour in lines.items():
        if name in table:
            values = table[name].to_numpy(dtype=float)
            axes.plot(
                places, values, color=colour, linewidth=1.6, marker="o", markersize=3.5, label=name.replace("_", " ")
            )
    axes.set_title(title, loc="left", fontsize=9, color=INK)
    axes.set_xticks(places, [f"{value:g}" for value in table.index])
    axes.set_xlabel(str(table.index.name))
    axes.margins(x=0.08, y=0.12)
    if set(lines) == {"active_units"}:
        axes.locator_params(axis="y", integer=True)
    if limits is not None:
        axes.set_ylim(*limits)
    if len(lines) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=MUTED, handlelength=1.2, labelspacing=0.3)
