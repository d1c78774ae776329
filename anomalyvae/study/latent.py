"""What a fitted model's latent space is like: walked through, measured and mapped.

A good latent space is continuous (codes that are near each other stand for rows that are alike) and complete (any code
that the prior draws stands for a row that could be), and its units are used.
"""

import math
import warnings
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from anomalyvae.detector import VAEOutlierDetector
from anomalyvae.study.maps import LatentMap

ACTIVE_VARIANCE = 0.01  # of a unit's code over rows, beyond which it is active (Burda et al. 2016, section 5)
_FEW_ACTIVE = 0.25  # share of active units below which most of the code is idle
_INNER = (0.01, 0.99)  # quantiles between which a unit is walked: beyond them the decoder knows few rows
_MEASURED_ROWS = 1000  # at which continuity is measured
_NUDGE = 1e-4  # of a latent unit, in its own spread: how the slope of the decoder is taken

Floats = NDArray[np.float64]


class LatentSpace:
    """The latent space of a fitted detector, seen from some of its rows.

    Parameters
    ----------
    detector : VAEOutlierDetector
        Fitted, with any objective and body.
    X : array-like or DataFrame of shape (n_samples, n_features)
        Representative rows, such as those of training or, better, others like them; two or more.

    Attributes
    ----------
    codes : DataFrame of shape (n_samples, latent_dim)
        The code of each row (the posterior mean), by the index of ``X``.
    units : list of str
        The names of the latent units: ``latent0``, ``latent1``, ...

    Raises
    ------
    TypeError
        For anything but a VAEOutlierDetector.
    ValueError
        For fewer than two rows.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalyvae import VAEOutlierDetector
    >>> normal = np.random.default_rng(0).normal(size=(500, 4))
    >>> space = LatentSpace(VAEOutlierDetector(latent_dim=2, random_state=0, max_epochs=5).fit(normal), normal)
    >>> rows, scores = space.interpolate(normal[0], normal[1], steps=3)
    >>> rows.shape, [*scores.columns]
    ((3, 4), ['anomaly_score', 'p_value'])
    """

    def __init__(self, detector: VAEOutlierDetector, X: ArrayLike) -> None:
        if not isinstance(detector, VAEOutlierDetector):
            raise TypeError(
                f"Got {type(detector).__name__}, expected a VAEOutlierDetector. Of a Pipeline pass its last step, and "
                "the rows as pipeline[:-1].transform(X) gives them."
            )
        check_is_fitted(detector, "network_")
        self.detector = detector
        self.units = [str(name) for name in detector.get_feature_names_out()]
        self.codes = pd.DataFrame(detector.transform(X), index=getattr(X, "index", None), columns=self.units)
        if len(self.codes) < 2:
            raise ValueError(f"Got {len(self.codes)} row, expected some that differ. Pass rows like those of training.")
        self._unit_kl = _kl_by_unit(detector, X)

    @property
    def has_prior(self) -> bool:
        """Whether training held the codes to N(0, I)."""
        return self.detector.network_.generative

    # Walks, in the user's units

    def traverse(
        self, unit: int | str, steps: int = 9, *, around: Any = None, values: ArrayLike | None = None
    ) -> pd.DataFrame:
        """What changes as one latent unit does and the others stay.

        Parameters
        ----------
        unit : int or str
            Such as ``0`` or ``"latent0"``.
        steps : int
            How many values it takes, evenly between the 1 % and the 99 % quantile of its codes.
        around : Series, DataFrame or array-like of one row, optional
            Whose other units are kept; by default the most central of the rows.
        values : array-like of shape (steps,), optional
            Values to take in place of those.

        Returns
        -------
        DataFrame of shape (steps, n_features)
            Decoded rows in the units and categories of training, indexed by the value of the unit.
        """
        place = self._place(unit)
        own = self.codes.iloc[:, place]
        low, high = np.quantile(own, _INNER)
        taken = np.linspace(low, high, steps) if values is None else np.asarray(values, dtype=np.float64)
        walked = np.tile(self._centre() if around is None else self._code(around), (len(taken), 1))
        walked[:, place] = taken
        return self._decode(walked, pd.Index(taken, name=self.units[place]))

    def interpolate(self, a: Any, b: Any, steps: int = 9) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The rows that lie between two rows, on the straight line between their codes.

        Parameters
        ----------
        a, b : Series, DataFrame or array-like of one row
        steps : int
            How many rows, both ends included.

        Returns
        -------
        rows : DataFrame of shape (steps, n_features)
            Decoded rows in the units and categories of training, indexed by the share of the way. The ends are the
            reconstructions of ``a`` and ``b``.
        scores : DataFrame of shape (steps, 2)
            What the detector says of those rows: ``anomaly_score`` (high = strange) and ``p_value``. Decoded rows are
            means without noise, so that they tend to be a little less strange than real ones.
        """
        share = np.linspace(0, 1, steps)
        start, end = self._code(a), self._code(b)
        walked = (1 - share[:, None]) * start + share[:, None] * end
        rows = self._decode(walked, pd.Index(share, name="share"))
        scores = {"anomaly_score": self.detector.anomaly_score(rows), "p_value": self.detector.p_values(rows)}
        return rows, pd.DataFrame(scores, index=rows.index)

    # Measures

    def continuity(self) -> pd.DataFrame:
        """How far decoding moves per step in each latent unit, at up to 1,000 of the rows.

        Returns
        -------
        DataFrame of shape (latent_dim, 4)
            Per unit j, with J_j(z) the derivative of the decoded row with respect to z_j, in standardised units (cells
            of a category in probability):

            - ``step``: standard deviation of the unit's codes, in latent units;
            - ``gain``: root mean square of ‖J_j‖ over rows, standardised units per latent unit;
            - ``movement``: gain × step, how far a row moves per usual step in this unit. Of a linear decoder whose
              units are uncorrelated, the squares sum to the variance that the code explains: one per column at most;
            - ``roughness``: 95 % quantile of ‖J_j‖ over its median. A linear decoder has 1; a large one says that a
              small step makes a row jump in some places.

        The derivative is a central difference over 1/5,000 of a step. `smoothness` measures whole walks.
        """
        codes = self._spread_out(_MEASURED_ROWS)
        step = self.codes.std(ddof=0).to_numpy()
        table = {}
        for place, unit in enumerate(self.units):
            nudge = np.zeros(codes.shape[1])
            nudge[place] = _NUDGE * (step[place] or 1.0)
            slope = (self._cells(codes + nudge) - self._cells(codes - nudge)) / (2 * nudge[place])
            length = np.linalg.norm(slope, axis=1)
            gain, usual = math.sqrt(np.mean(length**2)), np.median(length)
            roughness = np.quantile(length, 0.95) / usual if usual > 0 else math.nan
            table[unit] = {"step": step[place], "gain": gain, "movement": gain * step[place], "roughness": roughness}
        return pd.DataFrame.from_dict(table, orient="index")

    def smoothness(
        self, pairs: int = 200, steps: int = 32, *, random_state: int | np.random.RandomState = 0
    ) -> pd.Series:
        """How straight and even the way between two rows is, once decoded.

        Rows are paired at random, and the straight line between the codes of each pair is walked in equal steps. Of a
        linear decoder, both figures are 1 for every pair; neither depends on the scale of the codes, so models compare.

        Parameters
        ----------
        pairs, steps : int
        random_state : int or RandomState

        Returns
        -------
        Series
            Medians over pairs, in standardised units (cells of a category in probability):

            - ``detour``: length of the decoded way over the distance between its ends;
            - ``largest_step``: the largest step of the way over the mean step.

            NaN where decoding moves nowhere at all.
        """
        rng = check_random_state(random_state)
        codes = self.codes.to_numpy()
        a = rng.randint(len(codes), size=pairs)
        b = (a + rng.randint(1, len(codes), size=pairs)) % len(codes)
        first = last = self._cells(codes[a])
        way, largest = np.zeros(pairs), np.zeros(pairs)
        for share in np.linspace(0, 1, steps + 1)[1:]:
            here = self._cells((1 - share) * codes[a] + share * codes[b])
            moved = np.linalg.norm(here - last, axis=1)
            way, largest, last = way + moved, np.maximum(largest, moved), here
        apart = np.linalg.norm(last - first, axis=1)
        moving = apart > 1e-9
        figures = {"detour": way[moving] / apart[moving], "largest_step": largest[moving] / (way[moving] / steps)}
        return pd.Series({name: np.median(value) if moving.any() else math.nan for name, value in figures.items()})

    def completeness(
        self, n: int = 1000, *, alpha: float = 0.05, random_state: int | np.random.RandomState = 0
    ) -> pd.Series:
        """Whether the codes that the prior draws and those that rows have are the same.

        Parameters
        ----------
        n : int
            Codes to draw from N(0, I).
        alpha : float in (0, 1)
            A row is plausible if its p-value is above it.
        random_state : int or RandomState

        Returns
        -------
        Series
            Shares, in [0, 1], with a standard error of sqrt(c (1 - c) / n):

            - ``plausible``: of the drawn codes, those whose decoded row the detector finds plausible. The rest lie in
              holes, where no row has its code;
            - ``reference``: the same share of the codes of the rows themselves, which is what to compare with;
            - ``coverage``: of the rows, those whose code lies in the ball that holds 1 - ``alpha`` of the prior. The
              prior hardly ever draws the others.

        Raises
        ------
        ValueError
            For a model without a prior, and where ``alpha`` is finer than the calibration can tell.

        Notes
        -----
        The p-values are those of the detector's own score. ``"memory"``, the distance to training rows, sees holes;
        likelihoods judge what their own decoder made kindly. A model that has collapsed decodes every code to one
        row, all of them plausible or none: see `active_units` first.
        """
        if not self.has_prior:
            raise ValueError(
                f"Got objective={self.detector.objective!r}, whose codes follow no prior, expected one that codes can "
                "be drawn from. Use objective='elbo'; smoothness() compares both."
            )
        evidence = self.detector.calibration_.evidence
        if alpha * (1 + evidence) < 1 - 1e-9:
            raise ValueError(
                f"Got alpha={alpha} with {evidence:g} calibration rows (or groups), expected at least "
                f"{math.ceil(1 / alpha) - 1}: no p-value is so small. Fit with more rows, or pass a larger alpha."
            )
        drawn = check_random_state(random_state).standard_normal((n, len(self.units)))
        codes = self._spread_out(n)
        return pd.Series(
            {
                "plausible": self._plausible(drawn, alpha),
                "reference": self._plausible(codes, alpha),
                "coverage": np.mean(np.square(codes).sum(axis=1) <= chi2.ppf(1 - alpha, len(self.units))),
            }
        )

    def active_units(self, threshold: float = ACTIVE_VARIANCE) -> pd.DataFrame:
        """Which latent units say something of a row.

        Parameters
        ----------
        threshold : float
            Variance of the code beyond which a unit is active; without a prior, whose unit it is measured in, a share
            of the largest unit's variance.

        Returns
        -------
        DataFrame of shape (latent_dim, 3)
            Per unit: ``variance`` of the posterior mean over rows [1]_; ``kl``, the mean over rows of the unit's part
            ½ (σ² + μ² - 1 - log σ²) of the KL term, in nats [2]_ (NaN where there is no posterior); ``active``.

        Warns
        -----
        UserWarning
            Where no unit is active (the posterior has collapsed onto the prior), or fewer than a quarter are.

        References
        ----------
        .. [1] Y. Burda, R. Grosse, R. Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519, 5.
        .. [2] D. P. Kingma, M. Welling (2013), Auto-Encoding Variational Bayes, arXiv:1312.6114, appendix B.
        """
        variance = self.codes.var(ddof=0)
        active = variance > threshold * (1.0 if self.has_prior else variance.max())
        _tell_of_idle_units(int(active.sum()), len(active), threshold)
        return pd.DataFrame({"variance": variance, "kl": self._unit_kl, "active": active})

    def map(self, method: str = "pca", *, random_state: int = 0) -> LatentMap:
        """Lay the codes out in two dimensions, where new rows can be put too.

        Parameters
        ----------
        method : {"pca", "latent", "umap"}
            The plane that shows most of the codes' variance; the codes themselves, of a model with ``latent_dim=2``;
            or UMAP [1]_, which keeps neighbours together and no distances (``pip install 'anomalyvae[umap]'``).
        random_state : int
            Of UMAP.

        Raises
        ------
        ValueError
            For an unknown method, and for codes that it cannot lay out.

        References
        ----------
        .. [1] L. McInnes, J. Healy, J. Melville (2018), UMAP, arXiv:1802.03426.
        """
        return LatentMap(self.detector, self.codes, method, random_state)

    # Inside

    def _place(self, unit: int | str) -> int:
        names: list[int | str] = [*range(len(self.units))] if isinstance(unit, Integral) else [*self.units]
        if unit not in names:
            raise ValueError(
                f"Got unit={unit!r}, expected one of the {len(self.units)} latent units. Pass 0 to "
                f"{len(self.units) - 1}, or a name from {self.units[0]!r} to {self.units[-1]!r}."
            )
        return names.index(unit)

    def _code(self, row: Any) -> Floats:
        """Code ``(latent_dim,)`` of one row, however it comes."""
        if isinstance(row, pd.Series):
            row = row.to_frame().T.infer_objects()
        elif not isinstance(row, pd.DataFrame):
            row = np.atleast_2d(row)
        if len(row) != 1:
            raise ValueError(f"Got {len(row)} rows, expected one. Pass such as X.iloc[0] or X[0].")
        return self.detector.transform(row)[0]

    def _centre(self) -> Floats:
        """The code nearest to the mean of all: where there is a row, not only a mean."""
        codes = self.codes.to_numpy()
        return codes[np.square(codes - codes.mean(axis=0)).sum(axis=1).argmin()]

    def _spread_out(self, most: int) -> Floats:
        """At most so many of the codes, evenly over the rows."""
        codes = self.codes.to_numpy()
        return codes if len(codes) <= most else codes[np.linspace(0, len(codes) - 1, most).astype(int)]

    def _plausible(self, codes: Floats, alpha: float) -> float:
        rows = self._decode(codes, pd.RangeIndex(len(codes)))
        return float(np.mean(self.detector.p_values(rows) > alpha))

    def _decode(self, codes: Floats, index: pd.Index) -> pd.DataFrame:
        return pd.DataFrame(self.detector.decode(pd.DataFrame(codes, index=index)))

    def _cells(self, codes: Floats) -> Floats:
        """Decoded rows in standardised units ``(n, cells)``, categories as the probabilities of their levels."""
        network: Any = self.detector.network_

        def cells(z: torch.Tensor) -> torch.Tensor:
            if not self.detector.categories_:
                return network.likelihood.expected(network.decode(z))
            numbers, logits = network.decode(z).split(network.likelihood.split, dim=1)
            return torch.cat([numbers, network.likelihood.categorical.probabilities(logits)], dim=1)

        return self.detector._apply(cells, codes)


def _kl_by_unit(detector: VAEOutlierDetector, X: ArrayLike) -> Floats:
    """Each unit's part of the KL term, mean over rows, shape ``(latent_dim,)``; NaN without a posterior."""
    network: Any = detector.network_
    if not hasattr(network, "posterior"):
        return np.full(network.latent_dim, math.nan)

    def by_unit(x: torch.Tensor) -> torch.Tensor:
        mean, log_var = network.posterior(network.scaling(x))
        return 0.5 * (log_var.exp() + mean.square() - 1 - log_var)

    return detector._apply(by_unit, detector._rows(X)).mean(axis=0)


def _tell_of_idle_units(active: int, units: int, threshold: float) -> None:
    if active == 0:
        warnings.warn(
            f"Got no active latent unit of {units} (none whose code varies by more than {threshold:g}), expected at "
            "least one: the posterior has collapsed onto the prior, and all rows get the same reconstruction. Fit "
            "with a smaller beta, or for longer.",
            stacklevel=3,
        )
    elif active < _FEW_ACTIVE * units:
        warnings.warn(
            f"Got {active} active latent units of {units}, expected a quarter of them or more. If a smaller beta "
            "wakes no others (see sweep_beta), the rows have so few causes, and a smaller latent_dim says the same.",
            stacklevel=3,
        )
