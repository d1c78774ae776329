"""Which rows of a table are outliers, where none is known to be normal."""

import math

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from anomalyvae.alarms import false_discovery
from anomalyvae.detector.explanation import Explanation
from anomalyvae.detector.rows import equal_rows
from anomalyvae.nets.ellipsoid import ellipsoid
from anomalyvae.nets.memory import Marks, cleanest, share_of_cleanest
from anomalyvae.nets.reconstruction import Reconstruction
from anomalyvae.nets.scaling import Mixed
from anomalyvae.nets.training import in_blocks
from anomalyvae.nets.views import BLOCK, Views

_ASSUMED = 0.1  # share of outliers, unless `contamination` says another
_STORED, _SAMPLES = 512, 8  # rows of a sample: of more rows, outliers have neighbours of their own kind
FEWEST = 20  # rows
_MIDDLE, _UPPER = 0.5, 0.9  # quantiles between which the scores of normal rows show how they fall off

Floats = NDArray[np.float64]


class Among(Explanation):
    """The method of `VAEOutlierDetector` for tables that may hold outliers."""

    contamination: float | str

    def outliers_among(self, X: ArrayLike, *, fdr: float = 0.05) -> pd.DataFrame:
        """Compare the rows of a table with each other, and say which are outliers.

        `anomaly_score` and `predict` take the training rows as normal. So outliers that were learned hide themselves
        and similar ones there. This method takes no row as normal. It is outlier detection, as PyOD's
        ``decision_scores_`` and scikit-learn's ``negative_outlier_factor_``, and meant for the training table itself.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            All rows of a table, at least 20. The score of a row depends on the other rows.
        fdr : float, default=0.05
            Share of the rows that are called outliers which may be normal, on average over tables.

        Returns
        -------
        DataFrame of shape (n_samples, 3), with the index of X
            ``anomaly_score``: how unlike the others a row is, high = anomalous. ``p_value``: an estimate of the
            probability that a normal row scores at least as high. ``outlier``: whether it is called an outlier.

        Raises
        ------
        ValueError
            For fewer than 20 rows, for windows (`anomalyvae rank` compares recordings), and for an ``fdr`` outside of 0
            to 1.

        Notes
        -----
        The score is the mean of the views, and the mean over eight samples of 512 rows that they store; see
        `anomalyvae.nets.views`. Each sample leaves out the rows that are farthest from its others, twice the share of
        outliers that is assumed: ``contamination``, or a tenth if it is ``"auto"``. A row is not its own neighbour.

        The p-value extends an exponential tail through the median and the 90 % quantile of the scores, so that it needs
        no normal rows (an empirical null; Efron 2004, Large-scale simultaneous hypothesis testing). It is too low if
        the scores of normal rows fall off more slowly, and too high if more than a tenth of the rows are outliers. Rows
        are called outliers by the procedure of Benjamini and Hochberg (1995).

        Examples
        --------
        >>> import numpy as np
        >>> from anomalyvae import VAEOutlierDetector
        >>> rows = np.random.default_rng(0).normal(size=(200, 3))
        >>> rows[[7, 70]] = [[9, -9, 9], [-9, -9, 9]]
        >>> detector = VAEOutlierDetector(random_state=0, max_epochs=5).fit(rows)
        >>> detector.outliers_among(rows).query("outlier").index.tolist()
        [7, 70]
        """
        network, x = self._fitted(), self._rows(X)
        if len(network.input_shape) == 2:
            raise ValueError(
                f"Got a detector of windows (input_shape={network.input_shape}), which overlap, expected one of plain "
                "rows or images. Use `anomalyvae rank` to find recordings that are unlike the others."
            )
        if len(x) < FEWEST:
            raise ValueError(f"Got {len(x)} rows, expected at least {FEWEST}. Pass all rows of the table.")
        share = _ASSUMED if isinstance(self.contamination, str) else float(self.contamination)
        scores = _scores_among(network, x, share)
        p_values = _p_values(scores)
        table = {"anomaly_score": scores, "p_value": p_values, "outlier": false_discovery(p_values, fdr)}
        return pd.DataFrame(table, index=X.index if isinstance(X, pd.DataFrame) else None)


@torch.no_grad()
def _scores_among(network: Reconstruction, x: Floats, share: float) -> Floats:
    """How unlike the others each row is, shape ``(n,)``, if at most a ``share`` of the rows are outliers."""
    first, content = equal_rows(np.where(np.isnan(x), np.nan, x + 0.0).view(np.uint64))  # one NaN, and 0.0 for -0.0
    distinct = torch.from_numpy(x[first])
    u = in_blocks(network, network.features, distinct)
    unbent = in_blocks(network, lambda rows: network.scaling.unbent(network.scaling(rows)), distinct)
    rows = torch.from_numpy(np.sort(content))  # in an order that does not depend on that of x
    size, generator = round(_STORED / share_of_cleanest(share)), torch.Generator().manual_seed(0)
    scores = []
    for _ in range(_SAMPLES if len(rows) > size else 1):
        sample = rows[torch.randperm(len(rows), generator=generator)[:size]]
        stored = sample[cleanest(u[sample], share)]
        views = Views.of(u[stored], unbent[stored], Marks.none(len(stored)), generator)
        linear = _with_known_levels(network, unbent, stored)
        scores.append(
            torch.cat([_unlike(views, u, linear, part, stored) for part in torch.arange(len(u)).split(BLOCK)])
        )
    return torch.stack(scores).mean(0).numpy()[content]


def _with_known_levels(network: Reconstruction, unbent: Tensor, stored: Tensor) -> Tensor:
    """Rows for the linear view, without the known levels that no stored row has: they count as missing.

    The one-hot cells of a category add up to 1. Without a cell that is 0 in all stored rows, the others would do so
    exactly, and no relation would be broken more than by that level.
    """
    if not isinstance(network.scaling, Mixed):
        return unbent
    sizes = [len(network.scaling.numbers), *network.scaling.sizes]
    numbers, *categories = unbent.split(sizes, dim=1)
    for i, cells in enumerate(categories):
        lacking = (cells[stored] != 1).all(0)
        lacking[-1] = False  # levels that are pooled, each of a row or two
        categories[i] = cells.masked_fill((cells[:, lacking] == 1).any(1, keepdim=True), torch.nan)
    return torch.cat([numbers, *categories], dim=1)


def _unlike(views: Views, u: Tensor, unbent: Tensor, part: Tensor, stored: Tensor) -> Tensor:
    """The mean of the views of some rows, in nats; none is its own neighbour."""
    copies = part[:, None] == stored
    itself = copies & (copies.cumsum(1) == 1)  # other rows that are equal stay
    near = views.near_distance(u[part], left_out=itself)
    linear = ellipsoid(unbent[part], views.mean, views.whitening)
    nats = views.in_nats(torch.stack([near, views.crowd_distance(u[part]), linear], dim=1))
    return nats[:, views.switched_on].mean(1)


def _p_values(scores: Floats) -> Floats:
    """Estimates of the probability that a normal row scores at least as high, from scores of which few are outliers."""
    middle, upper = np.quantile(scores, [_MIDDLE, _UPPER])
    if middle == upper:  # too many score alike to show how scores fall off: take the share of rows that score as high
        return 1 - np.searchsorted(np.sort(scores), scores) / len(scores)
    unit = (upper - middle) / math.log((1 - _MIDDLE) / (1 - _UPPER))
    return np.minimum(1.0, (1 - _MIDDLE) * np.exp((middle - scores) / unit))
