"""The latent space of a fitted model: traversals, interpolation, and measures of its quality.

A good latent space is continuous (nearby codes decode to similar rows) and complete (every code sampled from the prior
decodes to a plausible row), and all of its units are active.
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

ACTIVE_VARIANCE = 0.01  # of a unit's code over rows, above which it is active (Burda et al. 2016, section 5)
_FEW_ACTIVE = 0.25  # share of active units below which a warning is issued
_TRAVERSED = (0.01, 0.99)  # quantiles of a unit's codes: the decoder has seen few rows beyond
_MEASURED_ROWS = 1000  # at which continuity is measured
_DIFFERENCE = 1e-4  # step of the numerical derivative, in standard deviations of the unit's codes

Floats = NDArray[np.float64]


class LatentSpace:
    """The latent space of a fitted detector, measured at some rows.

    Parameters
    ----------
    detector : VAEOutlierDetector
        Fitted, with any objective and body.
    X : array-like or DataFrame of shape (n_samples, n_features)
        Rows like those of training, preferably held out; two or more.

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
                f"Got a {type(detector).__name__}, expected a VAEOutlierDetector. For a Pipeline, pass its last step, "
                "and the rows as pipeline[:-1].transform(X)."
            )
        check_is_fitted(detector, "network_")
        self.detector = detector
        self.units = [str(name) for name in detector.get_feature_names_out()]
        self.codes = pd.DataFrame(detector.transform(X), index=getattr(X, "index", None), columns=self.units)
        if len(self.codes) < 2:
            raise ValueError("Got 1 row, expected at least 2. Pass rows like those of training.")
        self._unit_kl = _unit_kl(detector, X)

    @property
    def has_prior(self) -> bool:
        """Whether training tied the codes to N(0, I)."""
        return self.detector.network_.generative

    # --- traversals, in the user's units ----------------------------------------------------------------

    def traverse(
        self, unit: int | str, steps: int = 9, *, around: Any = None, values: ArrayLike | None = None
    ) -> pd.DataFrame:
        """Decoded rows as one latent unit changes and the others stay.

        Parameters
        ----------
        unit : int or str
            Such as ``0`` or ``"latent0"``.
        steps : int
            Number of values, evenly spaced between the 1 % and the 99 % quantile of the unit's codes.
        around : Series, DataFrame or array-like of one row, optional
            The row that sets the other units; by default the one whose code is nearest to the mean code.
        values : array-like of shape (steps,), optional
            Values of the unit to use instead.

        Returns
        -------
        DataFrame of shape (steps, n_features)
            Decoded rows in the units and categories of training, indexed by the value of the unit.
        """
        position = self._position(unit)
        low, high = np.quantile(self.codes.iloc[:, position], _TRAVERSED)
        taken = np.linspace(low, high, steps) if values is None else np.asarray(values, dtype=np.float64)
        codes = np.tile(self._central_code() if around is None else self._code(around), (len(taken), 1))
        codes[:, position] = taken
        return self._decode(codes, pd.Index(taken, name=self.units[position]))

    def interpolate(self, a: Any, b: Any, steps: int = 9) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Decoded rows on the straight line between the codes of two rows.

        Parameters
        ----------
        a, b : Series, DataFrame or array-like of one row
        steps : int
            Number of rows, both ends included.

        Returns
        -------
        rows : DataFrame of shape (steps, n_features)
            Decoded rows in the units and categories of training, indexed by the share of the way. The ends are the
            reconstructions of ``a`` and ``b``.
        scores : DataFrame of shape (steps, 2)
            The detector's ``anomaly_score`` (high = anomalous) and ``p_value`` of those rows. Decoded rows are means
            without noise, so they score a little lower than real rows.
        """
        share = np.linspace(0, 1, steps)
        start, end = self._code(a), self._code(b)
        rows = self._decode((1 - share[:, None]) * start + share[:, None] * end, pd.Index(share, name="share"))
        scores = {"anomaly_score": self.detector.anomaly_score(rows), "p_value": self.detector.p_values(rows)}
        return rows, pd.DataFrame(scores, index=rows.index)

    # --- measures ---------------------------------------------------------------------------------------

    def continuity(self) -> pd.DataFrame:
        """How far decoded rows move per step in each latent unit, at up to 1,000 of the rows.

        Returns
        -------
        DataFrame of shape (latent_dim, 4)
            Per unit j, with J_j(z) the derivative of the decoded row with respect to z_j, in standardised units
            (probabilities for the levels of a category):

            - ``step``: standard deviation of the unit's codes, in latent units;
            - ``gain``: root mean square of ‖J_j‖ over rows, standardised units per latent unit;
            - ``movement``: gain × step, how far a row moves per typical step. For a linear decoder with uncorrelated
              units, the squares sum to the variance that the code explains (at most one per column);
            - ``roughness``: 95 % quantile of ‖J_j‖ over its median; 1 for a linear decoder. A large value says that a
              small step makes the row jump in some places.

        Notes
        -----
        The derivative is a central difference over 1/5,000 of a step. `smoothness` measures whole paths.
        """
        codes = self._evenly_spaced(_MEASURED_ROWS)
        step = self.codes.std(ddof=0).to_numpy()
        table = {}
        for j, unit in enumerate(self.units):
            shift = np.zeros(codes.shape[1])
            shift[j] = _DIFFERENCE * (step[j] or 1.0)
            derivative = (self._standardised(codes + shift) - self._standardised(codes - shift)) / (2 * shift[j])
            length = np.linalg.norm(derivative, axis=1)
            gain, median = math.sqrt(np.mean(length**2)), np.median(length)
            roughness = np.quantile(length, 0.95) / median if median > 0 else math.nan
            table[unit] = {"step": step[j], "gain": gain, "movement": gain * step[j], "roughness": roughness}
        return pd.DataFrame.from_dict(table, orient="index")

    def smoothness(
        self, pairs: int = 200, steps: int = 32, *, random_state: int | np.random.RandomState = 0
    ) -> pd.Series:
        """How straight and even the decoded path between two rows is.

        Rows are paired at random, and the straight line between their codes is decoded in equal steps. Both figures
        are 1 for a linear decoder. They do not depend on the scale of the codes, so models can be compared.

        Parameters
        ----------
        pairs, steps : int
        random_state : int or RandomState

        Returns
        -------
        Series
            Medians over pairs, in standardised units (probabilities for the levels of a category):

            - ``detour``: length of the decoded path over the distance between its ends;
            - ``largest_step``: the largest step of the path over the mean step.

            NaN if no decoded path moves.
        """
        rng = check_random_state(random_state)
        codes = self.codes.to_numpy()
        a = rng.randint(len(codes), size=pairs)
        b = (a + rng.randint(1, len(codes), size=pairs)) % len(codes)
        first = last = self._standardised(codes[a])
        path, largest = np.zeros(pairs), np.zeros(pairs)
        for share in np.linspace(0, 1, steps + 1)[1:]:
            here = self._standardised((1 - share) * codes[a] + share * codes[b])
            moved = np.linalg.norm(here - last, axis=1)
            path, largest, last = path + moved, np.maximum(largest, moved), here
        distance = np.linalg.norm(last - first, axis=1)
        moving = distance > 1e-9
        figures = {"detour": path[moving] / distance[moving], "largest_step": largest[moving] / (path[moving] / steps)}
        return pd.Series({name: np.median(value) if moving.any() else math.nan for name, value in figures.items()})

    def completeness(
        self, n: int = 1000, *, alpha: float = 0.05, random_state: int | np.random.RandomState = 0
    ) -> pd.Series:
        """Whether codes sampled from the prior decode to plausible rows.

        Parameters
        ----------
        n : int
            Codes to sample from N(0, I).
        alpha : float in (0, 1)
            A row is plausible if its p-value is above it.
        random_state : int or RandomState

        Returns
        -------
        Series
            Shares c in [0, 1], with a standard error of sqrt(c (1 - c) / n):

            - ``plausible``: of the sampled codes, those that decode to a plausible row. The others lie in holes, where
              no row has its code;
            - ``reference``: the same share for the codes of the rows themselves, to compare with;
            - ``coverage``: of the rows, those whose code lies in the ball that holds 1 - ``alpha`` of the prior. The
              others are hardly ever sampled.

        Raises
        ------
        ValueError
            For a model without a prior, and if the calibration has too few rows for ``alpha``.

        Notes
        -----
        The p-values are those of the detector's own score. ``"memory"``, the distance to training rows, detects holes;
        likelihoods hardly do, since they judge rows that their own decoder made. A collapsed model decodes every code
        to the same row, so all are plausible or none is: look at `active_units` first.
        """
        if not self.has_prior:
            raise ValueError(
                f"The objective {self.detector.objective!r} has no prior to sample codes from. Use objective='elbo', "
                "or compare models by smoothness()."
            )
        evidence = self.detector.calibration_.evidence
        if alpha * (1 + evidence) < 1 - 1e-9:
            raise ValueError(
                f"With {evidence:g} calibration rows (or groups) no p-value is as small as alpha={alpha}; this takes "
                f"at least {math.ceil(1 / alpha) - 1}. Fit with more rows, or pass a larger alpha."
            )
        sampled = check_random_state(random_state).standard_normal((n, len(self.units)))
        codes = self._evenly_spaced(n)
        return pd.Series(
            {
                "plausible": self._plausible(sampled, alpha),
                "reference": self._plausible(codes, alpha),
                "coverage": np.mean(np.square(codes).sum(axis=1) <= chi2.ppf(1 - alpha, len(self.units))),
            }
        )

    def active_units(self, threshold: float = ACTIVE_VARIANCE) -> pd.DataFrame:
        """Which latent units carry information about a row.

        Parameters
        ----------
        threshold : float
            Variance of the code above which a unit is active. Without a prior, a share of the largest unit's variance.

        Returns
        -------
        DataFrame of shape (latent_dim, 3)
            Per unit: ``variance`` of the posterior mean over rows [1]_; ``kl``, the mean over rows of the unit's part
            ½ (σ² + μ² - 1 - log σ²) of the KL term, in nats [2]_ (NaN without a posterior); ``active``.

        Warns
        -----
        UserWarning
            If no unit is active (the posterior has collapsed onto the prior), or fewer than a quarter are.

        References
        ----------
        .. [1] Y. Burda, R. Grosse, R. Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519, 5.
        .. [2] D. P. Kingma, M. Welling (2013), Auto-Encoding Variational Bayes, arXiv:1312.6114, appendix B.
        """
        variance = self.codes.var(ddof=0)
        active = variance > threshold * (1.0 if self.has_prior else variance.max())
        _warn_of_inactive_units(int(active.sum()), len(active), threshold)
        return pd.DataFrame({"variance": variance, "kl": self._unit_kl, "active": active})

    # --- inside -----------------------------------------------------------------------------------------

    def _position(self, unit: int | str) -> int:
        names: list[int | str] = [*range(len(self.units))] if isinstance(unit, Integral) else [*self.units]
        if unit not in names:
            raise ValueError(
                f"unit={unit!r} is not one of the {len(self.units)} latent units. Pass 0 to {len(self.units) - 1}, or "
                f"a name from {self.units[0]!r} to {self.units[-1]!r}."
            )
        return names.index(unit)

    def _code(self, row: Any) -> Floats:
        """Code ``(latent_dim,)`` of one row of any type."""
        if isinstance(row, pd.Series):
            row = row.to_frame().T.infer_objects()
        elif not isinstance(row, pd.DataFrame):
            row = np.atleast_2d(row)
        if len(row) != 1:
            raise ValueError(f"Got {len(row)} rows, expected one. Pass for example X.iloc[0] or X[0].")
        return self.detector.transform(row)[0]

    def _central_code(self) -> Floats:
        """The row's code nearest to the mean code, at which there may be no row."""
        codes = self.codes.to_numpy()
        return codes[np.square(codes - codes.mean(axis=0)).sum(axis=1).argmin()]

    def _evenly_spaced(self, most: int) -> Floats:
        """At most ``most`` of the codes, evenly over the rows."""
        codes = self.codes.to_numpy()
        return codes if len(codes) <= most else codes[np.linspace(0, len(codes) - 1, most).astype(int)]

    def _plausible(self, codes: Floats, alpha: float) -> float:
        rows = self._decode(codes, pd.RangeIndex(len(codes)))
        return float(np.mean(self.detector.p_values(rows) > alpha))

    def _decode(self, codes: Floats, index: pd.Index) -> pd.DataFrame:
        return pd.DataFrame(self.detector.decode(pd.DataFrame(codes, index=index)))

    def _standardised(self, codes: Floats) -> Floats:
        """Decoded rows in standardised units ``(n, cells)``, categories as the probabilities of their levels."""
        network: Any = self.detector.network_

        def cells(z: torch.Tensor) -> torch.Tensor:
            if not self.detector.categories_:
                return network.likelihood.expected(network.decode(z))
            numbers, logits = network.decode(z).split(network.likelihood.split, dim=1)
            return torch.cat([numbers, network.likelihood.categorical.probabilities(logits)], dim=1)

        return self.detector._apply(cells, codes)


def _unit_kl(detector: VAEOutlierDetector, X: ArrayLike) -> Floats:
    """Each unit's part of the KL term, mean over rows, shape ``(latent_dim,)``; NaN without a posterior."""
    network: Any = detector.network_
    if not hasattr(network, "posterior"):
        return np.full(network.latent_dim, math.nan)

    def kl(x: torch.Tensor) -> torch.Tensor:
        mean, log_var = network.posterior(network.scaling(x))
        return 0.5 * (log_var.exp() + mean.square() - 1 - log_var)

    return detector._apply(kl, detector._rows(X)).mean(axis=0)


def _warn_of_inactive_units(active: int, units: int, threshold: float) -> None:
    if active == 0:
        warnings.warn(
            f"None of {units} latent units is active (no code varies by more than {threshold:g}): the posterior has "
            "collapsed onto the prior, and all rows get the same reconstruction. Fit with a smaller beta, or longer.",
            stacklevel=3,
        )
    elif active < _FEW_ACTIVE * units:
        warnings.warn(
            f"Only {active} of {units} latent units are active. If a smaller beta activates no others, the rows have "
            "so few causes, and a smaller latent_dim is enough.",
            stacklevel=3,
        )
