"""Latent codes, reconstructions, densities and samples of a fitted detector."""

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from anomalyvae.detector.categories import as_pandas, decode_categories, fill_cells, in_kind_of
from anomalyvae.detector.validation import read_rows
from anomalyvae.nets.elbo import IMPUTATION_CODES, Elbo, expected_rows, log_density, sobol_points
from anomalyvae.nets.reconstruction import Reconstruction
from anomalyvae.nets.training import in_blocks
from anomalyvae.tables.arrays import unmasked, unreal

_SAMPLED = 2048  # rows sampled from a model without a memory

Floats = NDArray[np.float64]


class Representation(TransformerMixin):
    """The methods of `VAEOutlierDetector` for codes, densities and samples."""

    network_: Reconstruction
    categories_: dict[str, list[str | bool]]
    category_dtypes_: dict[str, str]
    n_features_in_: int
    objective: str
    random_state: int | np.random.RandomState | None

    # The latent space

    def embed(self, X: ArrayLike) -> Floats | pd.DataFrame:
        """Latent code of each row (the posterior mean), shape ``(n_samples, latent_dim)``."""
        codes = self.transform(X)
        return codes if isinstance(codes, pd.DataFrame) else self._like(X, codes, self.get_feature_names_out())

    def transform(self, X: ArrayLike) -> Floats:
        """`embed` as an array, or as `set_output` says; scikit-learn's pipelines call it."""
        return self._apply(self._fitted().embed, self._rows(X))

    def decode(self, Z: ArrayLike) -> Floats | pd.DataFrame:
        """Rows ``(n, n_features)`` that latent codes ``(n, latent_dim)`` decode to, in the units of ``X``."""
        network = self._fitted()
        codes = unmasked(Z)
        if kind := unreal(np.asarray(codes)):
            raise ValueError(f"Got latent codes of dtype {kind}, expected numbers. Pass what embed returns.")
        z = np.array(codes, dtype=np.float64)
        if z.ndim != 2 or z.shape[1] != network.latent_dim:
            raise ValueError(
                f"Got latent codes of shape {z.shape}, expected (n, {network.latent_dim}). Pass what embed returns."
            )
        if not np.isfinite(z).all():
            raise ValueError(
                "Got latent codes that are missing or infinite, expected numbers. Pass what embed returns."
            )
        rows = self._apply(network.decode_units, z)
        return self._table(Z, rows, self._names(None))

    def reconstruct(self, X: ArrayLike) -> Floats | pd.DataFrame:
        """The reconstruction of each row, also of its missing cells, ``(n_samples, n_features)``, in units of ``X``."""
        network = self._fitted()
        return self._table(X, self._apply(lambda x: network.decode_units(network.embed(x)), self._rows(X)))

    # Density and samples

    def log_density(self, X: ArrayLike, *, samples: int = 1000) -> Floats:
        """Estimate log p(x) of each row, in the units of ``X``.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        samples : int, default=1000
            Codes per row, rounded up to a multiple of three; more give a tighter bound. `score_terms` uses 64.

        Returns
        -------
        ndarray of shape (n_samples,)
            The importance-weighted bound [1]_ in nats, high = normal: a density per unit of each observed number, times
            the probability of each category. It is the bound of the standardised row plus the log of the slope of the
            scaling at each cell. A row gets the same number in any call, batch or order.

        Notes
        -----
        In expectation over codes it is at most the log-density of the model, rises with ``samples``, and converges to
        it. The prior is N(0, I), as in all scores.

        References
        ----------
        .. [1] Y. Burda, R. Grosse, R. Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519.
        """
        network = self._with_density()
        if samples < 1:
            raise ValueError(f"Got samples={samples}, expected at least 1. Pass more for a tighter bound.")
        points = sobol_points(samples, network.latent_dim).to(network.device)
        return self._apply(lambda x: log_density(network, x, points), self._rows(X))

    def sample(
        self, n: int = 1, *, prior: str | None = None, random_state: int | np.random.RandomState | None = None
    ) -> Floats | pd.DataFrame:
        """Sample new rows: a code from a prior, then a row given the code.

        Parameters
        ----------
        n : int
        prior : {"aggregate", "standard"}, optional
            ``"aggregate"`` samples codes from the posteriors of training rows (see
            `anomalyvae.nets.elbo.AggregatePosterior`), which is closer to real rows; the default with
            ``objective="elbo"``. ``"standard"`` samples codes from N(0, I), the prior of the scores; the default with
            ``objective="adversarial"``.
        random_state : int, RandomState instance or None
            The default is the detector's; an integer gives the same rows at every call.

        Returns
        -------
        ndarray or DataFrame of shape (n, n_features)
            In the units of ``X``; a DataFrame if the detector was fitted to one.
        """
        network = self._fitted()
        if not isinstance(n, Integral) or n < 0:
            raise ValueError(f"Got n={n!r}, expected a number of rows. Pass an integer of at least 0.")
        if not network.generative:
            raise ValueError(
                "Got objective='reconstruction', expected a model with a prior to sample from. Use objective='elbo'."
            )
        aggregate = network.aggregate if isinstance(network, Elbo) and prior != "standard" else None
        if prior not in (None, "aggregate", "standard") or (prior == "aggregate" and aggregate is None):
            raise ValueError(
                f"Got prior={prior!r} with objective={self.objective!r}, expected 'standard' or, for a model with "
                "objective='elbo', 'aggregate'. Leave out prior for the default."
            )
        rng = check_random_state(self.random_state if random_state is None else random_state)
        z = torch.from_numpy(rng.standard_normal((n, network.latent_dim))).to(network.device)
        noise = torch.from_numpy(rng.standard_normal((n, network.cells))).to(network.device)
        likelihood = network.likelihood
        with torch.no_grad():
            if aggregate is not None and isinstance(network, Elbo):
                z = aggregate.codes(torch.from_numpy(rng.random_sample(n)).to(network.device), z)
                likelihood = network.sampling_likelihood()
            rows = network.scaling.inverse(likelihood.sample(network.decode(z), noise)).cpu().numpy()
        return self._table(pd.DataFrame(index=range(n)) if hasattr(self, "feature_names_in_") else None, rows)

    def impute(self, X: ArrayLike) -> Floats | pd.DataFrame:
        """Replace missing cells (NaN) by their expectation given the observed cells, shape ``(n_samples, n_features)``.

        Numbers are conditional means, categories the likeliest level. Observed cells are unchanged.

        Raises
        ------
        ValueError
            For a model without a density of rows, such as ``objective="reconstruction"``; use `reconstruct` there.
        """
        network = self._with_density()
        x = self._rows(X).copy()
        holed = np.isnan(x).any(axis=1)
        points = sobol_points(IMPUTATION_CODES, network.latent_dim).to(network.device)
        values = self._apply(lambda part: expected_rows(network, network.scaling(part), points), x[holed])
        x[holed] = np.where(np.isnan(x[holed]), values, x[holed])
        given = as_pandas(X)
        if not isinstance(given, pd.DataFrame):
            return x
        table = self._table(given, x)
        assert isinstance(table, pd.DataFrame)  # noqa: S101
        return in_kind_of(X, fill_cells(given, table, self.categories_))

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Column names of `transform`: ``latent0``, ``latent1``, ..."""
        return np.array([f"latent{i}" for i in range(self._fitted().latent_dim)], dtype=object)

    # Inside

    def _rows(self, X: Any) -> Floats:
        return read_rows(self, X)

    def _fitted(self) -> Reconstruction:
        check_is_fitted(self, "network_")
        return self.network_

    def _with_density(self) -> Elbo:
        network = self._fitted()
        if not isinstance(network, Elbo):
            raise ValueError(
                f"Got objective={self.objective!r}, expected a model with a density of rows. Use objective='elbo'."
            )
        return network

    def _apply(self, function: Callable[[torch.Tensor], torch.Tensor], x: Floats) -> Floats:
        return in_blocks(self.network_, function, torch.from_numpy(x)).numpy()

    def _like(self, X: Any, values: Floats, columns: Any = None) -> Floats | pd.DataFrame:
        """A table for a table, of its kind; an array for an array."""
        given = as_pandas(X)
        if not isinstance(given, pd.DataFrame):
            return values
        columns = self._names(given) if columns is None else columns
        return in_kind_of(X, pd.DataFrame(values, index=given.index, columns=columns))

    def _names(self, X: Any) -> Any:
        """The names of training; where columns had numbers there, those of the rows, or their positions."""
        positions = range(self.n_features_in_)
        given = getattr(as_pandas(X), "columns", positions)
        return getattr(self, "feature_names_in_", given if len(given) == len(positions) else positions)

    def _table(self, X: Any, rows: Floats, columns: Any = None) -> Floats | pd.DataFrame:
        """Rows in the units of ``X``, with categories decoded; always a DataFrame if there are any."""
        if not self.categories_:
            return self._like(X, rows, columns)
        index = X.index if isinstance(X, pd.DataFrame) else None  # a list has a method of that name
        table = pd.DataFrame(rows, index=index, columns=self.feature_names_in_)
        return in_kind_of(X, decode_categories(table, self.categories_, self.category_dtypes_))


def rows_like_training(detector: Any) -> pd.DataFrame:
    """Rows like those of training, in their units and categories: those of the memory, or samples of the model."""
    network = detector.network_
    if network.learned_rows is not None:
        return _in_units(detector, network.learned_rows)
    if network.generative:
        return pd.DataFrame(detector.sample(_SAMPLED, random_state=0))
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((_SAMPLED, network.cells)))
    return pd.DataFrame(detector.reconstruct(_in_units(detector, noise.to(network.device))))


def probes(detector: Any) -> pd.DataFrame:
    """Rows at the centre of the training rows, around it and far from it, in their units and categories."""
    network = detector.network_
    steps = network.missing.new_tensor([0.0, 1.0, -1.0, 4.0])
    return _in_units(detector, steps[:, None].expand(-1, network.cells).contiguous())


def _in_units(detector: Any, s: torch.Tensor) -> pd.DataFrame:
    with torch.no_grad():
        rows = detector.network_.scaling.inverse(s).cpu().numpy()
    return pd.DataFrame(detector._table(pd.DataFrame(index=range(len(rows))), rows))
