"""A fitted network as a way between rows and latent codes: what it makes of a row, and rows that it makes up."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from anomalyvae.detector.categories import decode_categories, fill_cells
from anomalyvae.nets.blocks import in_blocks
from anomalyvae.nets.generation import (
    CANDIDATES,
    drawing_likelihood,
    drawn_rows,
    even_points,
    expected_rows,
    log_density,
)
from anomalyvae.nets.objectives import Elbo, Reconstruction

_SAMPLED = 2048  # rows drawn from a model that remembers none

Floats = NDArray[np.float64]


class Representation(TransformerMixin):
    """What `VAEOutlierDetector` knows of rows, apart from how strange they are: codes, densities, samples."""

    network_: Reconstruction
    categories_: dict[str, list[str | bool]]
    category_dtypes_: dict[str, str]
    n_features_in_: int
    objective: str
    random_state: int | np.random.RandomState | None
    _rows: Callable[[Any], Floats]  # the door, where rows are validated

    # The latent space

    def embed(self, X: ArrayLike) -> Floats | pd.DataFrame:
        """Latent code of each row (the posterior mean), shape ``(n_samples, latent_dim)``."""
        codes = self.transform(X)
        return codes if isinstance(codes, pd.DataFrame) else self._like(X, codes, self.get_feature_names_out())

    def transform(self, X: ArrayLike) -> Floats:
        """`embed`, under the name that pipelines call."""
        return self._apply(self._fitted().embed, self._rows(X))

    def decode(self, Z: ArrayLike) -> Floats | pd.DataFrame:
        """Latent codes ``(n, latent_dim)`` -> the rows they stand for ``(n, n_features)``, in the units of ``X``."""
        network = self._fitted()
        z = np.array(Z, dtype=np.float64)
        if z.ndim != 2 or z.shape[1] != network.latent_dim:
            raise ValueError(
                f"Got latent codes of shape {z.shape}, expected (n, {network.latent_dim}). Pass what embed returns."
            )
        return self._table(Z, self._apply(network.decode_units, z))

    def reconstruct(self, X: ArrayLike) -> Floats | pd.DataFrame:
        """What the network makes of each row, missing cells included, ``(n_samples, n_features)``, as in ``X``."""
        network = self._fitted()
        return self._table(X, self._apply(lambda x: network.decode_units(network.embed(x)), self._rows(X)))

    # Density and samples

    def log_density(self, X: ArrayLike, *, samples: int = 1000) -> Floats:
        """How dense the model is at each row, in the units of ``X``: an estimate of log p(x) that ``samples`` tighten.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        samples : int, default=1000
            Codes that are weighed for each row, rounded up to a multiple of three; `score_terms` does with 64.

        Returns
        -------
        ndarray of shape (n_samples,)
            The importance-weighted bound [1]_ in nats, high = normal: per unit of each number that was observed, and
            of the probability of each category. What it gains over the standardised row is the log of the slope of
            the scaling at each cell. The same row gets the same number in any call, batch or order.

        Notes
        -----
        In expectation over codes it is at most the log-density of the model, rises with ``samples``, and reaches it in
        the limit. What then is left to the truth is the model's. The prior is N(0, I), as in all scores.

        References
        ----------
        .. [1] Y. Burda, R. Grosse, R. Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519.
        """
        network = self._with_density()
        if samples < 1:
            raise ValueError(f"Got samples={samples}, expected at least 1. Pass more for a tighter bound.")
        points = even_points(samples, network.latent_dim).to(next(network.parameters()).device)
        return self._apply(lambda x: log_density(network, x, points), self._rows(X))

    def sample(
        self, n: int = 1, *, prior: str | None = None, random_state: int | np.random.RandomState | None = None
    ) -> Floats | pd.DataFrame:
        """Draw new rows from the model: a code from a prior, then a row given the code.

        Parameters
        ----------
        n : int
        prior : {"aggregate", "standard"}, optional
            ``"aggregate"`` draws codes where those of training rows lie (see
            `anomalyvae.nets.generation.AggregatePosterior`), with variances of the rows given such codes: closer to
            the real rows. It is the default where the model has it, which takes ``objective="elbo"``.
            ``"standard"`` draws codes from N(0, I): it is the density that the scores state.
        random_state : int, RandomState instance or None
            By default the detector's own, so that an integer there gives the same rows at every call.

        Returns
        -------
        ndarray or DataFrame of shape (n, n_features)
            In the units of ``X``; a DataFrame if the detector was fitted to one.
        """
        network = self._fitted()
        if not network.generative:
            raise ValueError(
                "Got objective='reconstruction', expected a model with a prior to draw from. Use objective='elbo'."
            )
        aggregate = network.aggregate if isinstance(network, Elbo) and prior != "standard" else None
        if prior not in (None, "aggregate", "standard") or (prior == "aggregate" and aggregate is None):
            raise ValueError(
                f"Got prior={prior!r} with objective={self.objective!r}, expected 'standard' or, for a model with "
                "objective='elbo' that this version fitted, 'aggregate'. Leave prior out for what there is."
            )
        rng = check_random_state(self.random_state if random_state is None else random_state)
        device = next(network.parameters()).device
        z = torch.from_numpy(rng.standard_normal((n, network.latent_dim))).to(device)
        noise = torch.from_numpy(rng.standard_normal((n, np.prod(network.input_shape)))).to(device)
        likelihood = network.likelihood
        with torch.no_grad():
            if aggregate is not None and isinstance(network, Elbo):
                z = aggregate.codes(torch.from_numpy(rng.random_sample(n)).to(device), z)
                likelihood = drawing_likelihood(network)
            rows = network.scaling.inverse(likelihood.draw(network.decode(z), noise)).cpu().numpy()
        return self._table(pd.DataFrame(index=range(n)) if hasattr(self, "feature_names_in_") else None, rows)

    def impute(
        self, X: ArrayLike, *, draws: int | None = None, random_state: int | np.random.RandomState | None = None
    ) -> Floats | pd.DataFrame | list[Floats | pd.DataFrame]:
        """Fill in missing cells by what the observed ones say of them.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            NaN where a cell is to be filled in, as many in a row as there are.
        draws : int, optional
            By default each missing cell gets its best guess: the mean of a number, the likeliest level of a category.
            That is the same at every call, and shrinks what varies. With ``draws``, cells are drawn from
            p(missing | observed), those of a row together, as often as asked: for figures that have to bear how
            unsure a cell is (multiple imputation), and to draw rows of which some columns are given.
        random_state : int, RandomState instance or None
            Of the draws; by default the detector's own.

        Returns
        -------
        ndarray or DataFrame of shape (n_samples, n_features), or with ``draws`` a list of so many
            Observed cells are as they came.

        Raises
        ------
        ValueError
            For a model without a density of rows, such as ``objective="reconstruction"``; `reconstruct` fills in there.
        """
        network = self._with_density()
        if draws is not None and draws < 1:
            raise ValueError(f"Got draws={draws}, expected at least 1, or None for the best guess.")
        x = self._rows(X)
        holed = np.isnan(x).any(axis=1)
        device = next(network.parameters()).device

        def filled(values: Floats) -> Floats | pd.DataFrame:
            rows = x.copy()
            rows[holed] = np.where(np.isnan(x[holed]), values, x[holed])
            return self._filled(X, rows)

        if draws is None:
            points = even_points(CANDIDATES, network.latent_dim).to(device)
            return filled(self._apply(lambda part: expected_rows(network, network.scaling(part), points), x[holed]))
        rng = check_random_state(self.random_state if random_state is None else random_state)
        generator = torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
        with torch.no_grad():
            s = network.scaling(torch.from_numpy(x[holed]).to(device))
        return [filled(drawn.cpu().numpy()) for drawn in drawn_rows(network, s, draws, generator)]

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """``latent0``, ``latent1``, ...: the names of the columns that `transform` gives."""
        return np.array([f"latent{i}" for i in range(self._fitted().latent_dim)], dtype=object)

    # Inside

    def _fitted(self) -> Reconstruction:
        check_is_fitted(self, "network_")
        return self.network_

    def _with_density(self) -> Elbo:
        network = self._fitted()
        if not isinstance(network, Elbo):
            raise ValueError(
                f"Got objective={self.objective!r}, expected a model that gives rows a density. Use objective='elbo'."
            )
        return network

    def _filled(self, X: Any, rows: Floats) -> Floats | pd.DataFrame:
        """The rows as they came, with what was drawn where a cell is missing."""
        if not isinstance(X, pd.DataFrame):
            return rows
        table = self._table(X, rows)
        assert isinstance(table, pd.DataFrame)  # noqa: S101
        return fill_cells(X, table, self.categories_)

    def _apply(self, function: Callable[[torch.Tensor], torch.Tensor], x: Floats) -> Floats:
        return in_blocks(self.network_, function, torch.from_numpy(x)).numpy()

    def _like(self, X: Any, values: Floats, columns: Any = None) -> Floats | pd.DataFrame:
        """A DataFrame for a DataFrame, an array for an array."""
        if not isinstance(X, pd.DataFrame):
            return values
        if columns is None:
            columns = getattr(self, "feature_names_in_", range(self.n_features_in_))
        return pd.DataFrame(values, index=X.index, columns=columns)

    def _table(self, X: Any, rows: Floats) -> Floats | pd.DataFrame:
        """Rows in the units of training, with its categories: always a DataFrame if there are any."""
        if not self.categories_:
            return self._like(X, rows)
        table = pd.DataFrame(rows, index=getattr(X, "index", None), columns=self.feature_names_in_)
        return decode_categories(table, self.categories_, self.category_dtypes_)


def rows_like_training(detector: Any) -> pd.DataFrame:
    """Rows like those of training, in their units: remembered ones, or draws from the model."""
    network, columns = detector.network_, getattr(detector, "feature_names_in_", None)

    def in_units(s: torch.Tensor) -> pd.DataFrame:
        with torch.no_grad():
            return pd.DataFrame(network.scaling.inverse(s).cpu().numpy(), columns=columns)

    if network.memorised is not None:
        return in_units(network.memorised.rows[:, : detector.n_features_in_])  # row, code, residual
    if detector.network_.generative:
        return pd.DataFrame(detector.sample(_SAMPLED, random_state=0), columns=columns)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((_SAMPLED, detector.n_features_in_)))
    return pd.DataFrame(detector.reconstruct(in_units(noise.to(network.missing.device))), columns=columns)
