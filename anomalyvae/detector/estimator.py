"""``VAEOutlierDetector``: the scikit-learn estimator around the networks."""

import copy
import warnings
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context
from sklearn.utils import Tags, check_consistent_length, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from anomalyvae.calibration import Calibration, auto_threshold, contamination_threshold
from anomalyvae.detector.categories import (
    Categories,
    common_levels,
    encode_categories,
    find_categories,
    one_hot_cells,
)
from anomalyvae.detector.fitting import Conductor
from anomalyvae.detector.representation import Representation
from anomalyvae.detector.rows import Rows, distinct_rows, refuse_empty, refuse_infinite
from anomalyvae.nets.bodies import BODIES, HIDDEN, Body
from anomalyvae.nets.objectives import OBJECTIVES, Elbo, Reconstruction, build, restore
from anomalyvae.nets.scaling import fit_scaling

Floats = NDArray[np.float64]


class VAEOutlierDetector(OutlierMixin, Representation, BaseEstimator):
    """Detect outliers and novelties with a variational autoencoder.

    A network learns to encode and reconstruct normal rows. A row is strange if, with its latent code and what its
    reconstruction got wrong, it lies far from the training rows with theirs. It takes the place of any scikit-learn
    outlier detector. Missing cells are allowed, and so are categories: the columns of a DataFrame that are of dtype
    category, string or bool.

    Parameters
    ----------
    objective : {"elbo", "reconstruction", "adversarial"}, default="elbo"
        ``"elbo"`` is the variational autoencoder of Kingma and Welling [1]_: diagonal Gaussian posterior, N(0, I)
        prior. ``"reconstruction"`` is the deterministic autoencoder with the same layers; ``"adversarial"`` is that
        one with codes that a critic, a second network, cannot tell from draws of N(0, I) [2]_. All decode to the
        ``likelihood`` of numbers, and to the probabilities of the levels of each category.
    body : {"mlp", "conv1d", "conv2d", "gru"} or callable, default="mlp"
        The layers around the latent code: fully connected ones, which know no order of the features; convolutions
        over the time of a window or over an image, each halving the length of every axis; or gated recurrent units,
        which read a window step by step. A callable ``(input_shape, latent_dim) -> torch.nn.Module`` brings its own;
        see `anomalyvae.nets.bodies`.
    input_shape : tuple of int, default=None
        How to fold a row before it enters the body: ``(channels, length)`` for ``"conv1d"`` and ``"gru"``,
        ``(channels, height, width)`` for ``"conv2d"``, the last axis running fastest. Any length will do. By default a
        flat row; rows with categories must be.
    latent_dim : int or "auto", default="auto"
        Size of the latent code. ``"auto"`` takes half the number of features, between 2 and 32.
    hidden : tuple of int or "auto", default="auto"
        Sizes of the encoder's layers, from the row inwards, which the decoder mirrors: widths for ``"mlp"``, by
        default (128, 64); channels for ``"conv1d"`` and ``"conv2d"``, (32, 64); sizes of the state for ``"gru"``,
        (32,). A callable ``body`` has its own.
    beta : float, default=1.0
        Weight of the KL term in training, or of the critic's part. Larger values make latent codes simpler and
        reconstructions coarser. The objective ``"reconstruction"`` has nothing to weigh.
    likelihood : {"auto", "gaussian", "isotropic", "bernoulli"}, default="auto"
        What a number is. ``"gaussian"`` has one learned variance per column. The others are for rows whose cells share
        a unit, as pixels do: ``scaling`` has no part in them, and there can be no categories beside them. ``"auto"``
        is ``"isotropic"`` for images, that is for an ``input_shape`` of three sides, and else ``"gaussian"``.
        ``"isotropic"`` is a Gaussian with one variance for all, of rows divided by one standard deviation.
        ``"bernoulli"`` takes cells in [0, 1] as they are: where every training cell is 0 or 1, by their probabilities;
        else as intensities, whose density is the continuous Bernoulli [3]_.
    masking : float in [0, 1), default=0.5
        In training, half of the rows hide up to this share of their cells from the encoder, and have to be
        reconstructed whole. It is what makes missing cells nothing new, and sharpens the default score. 0 hides none.
    criterion : {"memory", "elbo", "reconstruction", "kl", "log_likelihood", "critic", "energy"},
            default="memory"
        What makes a row strange; see `score_terms`. ``"memory"`` detects best; ``"elbo"`` scores an order of
        magnitude faster, and is a density estimate. Every objective has ``"memory"`` and ``"reconstruction"``; the
        others are of ``"elbo"``, the last two of ``"adversarial"``.
    memory_size : int, default=2048
        Number of training rows, drawn at random by their weights, that ``criterion="memory"`` keeps to measure new ones
        against. Where all are kept, a row of weight w counts as if w such rows lay around it.
    scaling : {"asinh", "standard", "robust", "quantile"} or None, default="asinh"
        How columns are brought to a common unit, as the first layer of the network: mean and standard deviation
        with the tails drawn in, without that, median and interquartile range, normal scores, or not at all. A
        constant column neither fails nor dominates.
    contamination : "auto" or float in (0, 0.5], default="auto"
        Where the line between normal and strange is drawn. ``"auto"`` takes ``X`` as normal and draws it where 5 %
        of normal rows that were *not* learned lie beyond (1 / (m + 1) where fewer than 19 such rows are at hand): a
        statement on future false alarms. A number says that about this share of ``X`` are outliers. That share of
        each batch, the rows with the largest losses, is then not learned, and three times the share of the rows, those
        in the thinnest surroundings, not remembered; the share itself lies beyond the threshold, as elsewhere in
        scikit-learn, and is listed in ``suspects_``.
    max_epochs : int or "auto", default="auto"
        ``"auto"`` takes as many as make 1,000 steps, and at least 20: few rows need many epochs.
    batch_size : int or "auto", default="auto"
        ``"auto"`` takes a 32nd of the rows, between 128 and 1024.
    learning_rate : float, default=5e-3
        Of Adam at the start; it falls along half a cosine.
    validation_fraction : "auto" or float in [0, 1), default="auto"
        How rows that were not learned set the threshold. A number is the share of rows (or of groups) kept from
        training; half of them stop it early, half set ``offset_`` (where that leaves fewer than five rows each, none
        are kept). ``"auto"`` is 0.2 where rows abound. Below 5,000 rows, or 10 groups, each row counts: all are
        learned, all steps are made, and three more networks, each without a third of the rows, say how unlearned
        rows score (cross-fitting). Setting ``patience``, ``max_time`` or ``warm_start`` asks for a split.
    patience : int or "auto", default="auto"
        Epochs without a better held-out loss before training stops; the best epoch's weights are restored in any
        case. ``"auto"`` takes a fifth of ``max_epochs``, and at least 10.
    max_time : float, default=None
        Seconds after which training stops cleanly.
    warm_start : bool, default=False
        Whether another ``fit`` goes on from the present weights and scaling.
    device : {"auto", "cpu", "cuda"} or str, default="auto"
        ``"auto"`` is CUDA where present.
    random_state : int, RandomState instance or None, default=None
        Seeds weights, batches and the held-out rows. Scoring draws no random number.
    verbose : bool, default=False
        Show a progress bar while training.

    Attributes
    ----------
    network_ : torch.nn.Module
        The trained objective, in float64; calling it with rows gives their anomaly scores.
    offset_ : float
        ``decision_function = score_samples - offset_``.
    calibration_ : Calibration
        Anomaly scores of rows that were not learned, and what each counts as evidence.
    suspects_ : DataFrame
        Only if ``contamination`` is a number: the training rows beyond the threshold, strangest first, by their index
        in ``X`` (their position, if it has none), with their ``anomaly_score``.
    history_ : DataFrame
        A row per epoch: the loss and, where rows were split, the held-out loss and its terms.
    stop_reason_ : {"max_epochs", "patience", "max_time", "interrupted"}
        Why training ended.
    training_ : dict
        What was learned from: ``rows``, and ``sha256`` of them (of distinct rows, weights and groups, in no order);
        where ``outliers`` were passed, their number and ``outliers_sha256``.
    categories_ : dict
        The known levels of each categorical column by its name, sorted: text, or False and True. Text that makes a
        single training row, or less than a thousandth of them, is not known by its name: such levels are one level
        together, as which an unseen one then counts.
    category_dtypes_ : dict
        The dtype of each of those columns, by its name.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only if ``X`` had column names.

    References
    ----------
    .. [1] D. P. Kingma, M. Welling (2013), Auto-Encoding Variational Bayes, arXiv:1312.6114.
    .. [2] A. Makhzani et al. (2015), Adversarial Autoencoders, arXiv:1511.05644.
    .. [3] G. Loaiza-Ganem, J. P. Cunningham (2019), The continuous Bernoulli: fixing a pervasive error in variational
       autoencoders, arXiv:1907.06845.

    Examples
    --------
    >>> import numpy as np
    >>> from anomalyvae import VAEOutlierDetector
    >>> normal = np.random.default_rng(0).normal(size=(500, 4))
    >>> detector = VAEOutlierDetector(random_state=0, max_epochs=5).fit(normal)
    >>> detector.predict([[0, 0, 0, 0], [9, -9, 9, -9]])
    array([ 1, -1])
    """

    architecture_: dict[str, Any]
    calibration_: Calibration
    offset_: float
    training_: dict[str, Any]

    _parameter_constraints: dict[str, list[Any]] = {
        "objective": [StrOptions(set(OBJECTIVES))],
        "body": [StrOptions(set(BODIES)), callable],
        "input_shape": [tuple, list, None],
        "latent_dim": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "hidden": [StrOptions({"auto"}), tuple, list],
        "beta": [Interval(Real, 0, None, closed="left")],
        "likelihood": [StrOptions({"auto", "gaussian", "isotropic", "bernoulli"})],
        "masking": [Interval(Real, 0, 1, closed="left")],
        "criterion": [StrOptions({score for objective in OBJECTIVES.values() for score in objective.scores})],
        "memory_size": [Interval(Integral, 2, None, closed="left")],
        "scaling": [StrOptions({"asinh", "standard", "robust", "quantile"}), None],
        "contamination": [StrOptions({"auto"}), Interval(Real, 0, 0.5, closed="right")],
        "max_epochs": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "validation_fraction": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="left")],
        "patience": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "max_time": [Interval(Real, 0, None, closed="neither"), None],
        "warm_start": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        *,
        objective: str = "elbo",
        body: str | Body = "mlp",
        input_shape: tuple[int, ...] | None = None,
        latent_dim: int | str = "auto",
        hidden: tuple[int, ...] | str = "auto",
        beta: float = 1.0,
        likelihood: str = "auto",
        masking: float = 0.5,
        criterion: str = "memory",
        memory_size: int = 2048,
        scaling: str | None = "asinh",
        contamination: float | str = "auto",
        max_epochs: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: float = 5e-3,
        validation_fraction: float | str = "auto",
        patience: int | str = "auto",
        max_time: float | None = None,
        warm_start: bool = False,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.objective = objective
        self.body = body
        self.input_shape = input_shape
        self.latent_dim = latent_dim
        self.hidden = hidden
        self.beta = beta
        self.likelihood = likelihood
        self.masking = masking
        self.criterion = criterion
        self.memory_size = memory_size
        self.scaling = scaling
        self.contamination = contamination
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.max_time = max_time
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # Fitting

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self,
        X: ArrayLike,
        y: Any = None,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        outliers: ArrayLike | None = None,
        selected: ArrayLike | None = None,
    ) -> Self:
        """Learn what is normal.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows, in any units. Text and booleans of a DataFrame are categories.
        y : ignored
        sample_weight : array-like of shape (n_samples,), default=None
            A row of weight two is the same as the row given twice; a row of weight zero is not there.
        groups : array-like of shape (n_samples,), default=None
            The recording (drive, machine, patient, ...) of each row. Rows are then held out by whole groups, since
            neighbouring windows of one recording overlap and would flatter the threshold.
        outliers : array-like or DataFrame of shape (n_outliers, n_features), default=None
            Rows that are known to be strange, such as confirmed faults. They are not learned: training pushes their
            loss over that of normal rows (outlier exposure [1]_), and rows of ``X`` like them are not remembered. The
            threshold stays that of normal rows.
        selected : array-like of bool, shape (n_samples,), default=None
            Rows of ``X`` that are in it because they scored high, such as flags that a review found to be normal. They
            are learned like others, but never held out: they are no sample of normal rows, so they do not set the
            threshold, which they would raise above the faults.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For rows that cannot be used: infinite cells, a column without a value or of dates, fewer than two rows.
        FloatingPointError
            If training diverges.
        ConnectionError
            If one of several processes that train together has ended.

        Notes
        -----
        Where ``torch.distributed`` is initialised, as under ``torchrun``, every process calls ``fit`` with the same
        rows, computes its part of each batch, and gets the same detector: that of one process, but for rounding.

        References
        ----------
        .. [1] D. Hendrycks, M. Mazeika, T. Dietterich (2019), Deep Anomaly Detection with Outlier Exposure,
           arXiv:1812.04606.
        """
        resumes = self.warm_start and hasattr(self, "network_")
        categories, dtypes = (self.categories_, self.category_dtypes_) if resumes else find_categories(X)
        x = self._rows(X, new=categories)
        weight = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        refuse_empty(x, getattr(X, "columns", None))
        if not resumes:
            x, categories = common_levels(x, weight, getattr(X, "columns", None), categories)
        cells = one_hot_cells(getattr(X, "columns", None), categories)
        check_consistent_length(x, groups, selected)
        rng = check_random_state(self.random_state)
        seed = int(rng.randint(2**31 - 1))
        architecture = self._architecture(x, cells)
        rows = distinct_rows(x, weight, groups, selected)
        if not rows.drawn().any():
            raise ValueError(
                f"Got {len(x)} rows that are all selected, expected others that set the threshold. Leave selected out."
            )
        strange = None if outliers is None else self._known_outliers(outliers, categories)
        outcome = self._conductor(architecture, cells, seed, strange).fit(rows, rng, self._resumed(architecture))
        self.architecture_, self.categories_, self.category_dtypes_ = architecture, categories, dtypes
        self.training_ = {"rows": len(x), "sha256": rows.sha256()}
        if strange is not None:
            known = distinct_rows(strange, np.ones(len(strange)))
            self.training_ |= {"outliers": len(strange), "outliers_sha256": known.sha256()}
        self.network_ = outcome.network
        self.history_, self.stop_reason_ = pd.DataFrame(outcome.history), outcome.stop_reason
        unlearned = outcome.unlearned
        self.calibration_ = Calibration.from_rows(outcome.scores, unlearned.weight, unlearned.group)
        self.__dict__.pop("suspects_", None)  # of an earlier fit
        if self.contamination == "auto":
            self.offset_ = -auto_threshold(outcome.scores, unlearned.weight)
        else:
            score = self._anomaly_score(x)
            self.offset_ = -contamination_threshold(score[weight > 0], weight[weight > 0], float(self.contamination))
            self.suspects_ = self._strangest(X, score)
        return self

    def _conductor(
        self, architecture: dict[str, Any], cells: list[int], seed: int, outliers: Floats | None
    ) -> Conductor:
        def new_network(rows: Rows) -> Reconstruction:
            kind = {"gaussian": self.scaling, "isotropic": "isotropic"}.get(architecture["likelihood"])
            scaling = fit_scaling(kind, torch.from_numpy(rows.x), torch.from_numpy(rows.weight), cells)
            return build(architecture, scaling, seed).to(_device(self.device))

        return Conductor(
            new_network=new_network,
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            validation_fraction=self.validation_fraction,
            patience=self.patience,
            max_time=self.max_time,
            memory_size=self.memory_size,
            verbose=bool(self.verbose),
            splits=(
                self.validation_fraction != "auto"
                or self.patience != "auto"
                or self.max_time is not None  # it bounds the whole fit, and cross-fitting would take four times it
                or self.warm_start
            ),
            seed=seed,
            outliers=outliers,
        )

    def _resumed(self, architecture: dict[str, Any]) -> Reconstruction | None:
        """A copy of the present network, to go on from, where that is asked for."""
        if not (self.warm_start and hasattr(self, "network_")):
            return None
        if self.architecture_ != architecture:
            raise ValueError(
                f"Got warm_start=True with the architecture {architecture}, expected the fitted one, "
                f"{self.architecture_}. Set warm_start=False to begin anew."
            )
        return copy.deepcopy(self.network_).in_precision(torch.float32).train().to(_device(self.device))

    def _strangest(self, X: ArrayLike, score: Floats) -> pd.DataFrame:
        """The training rows beyond the threshold, strangest first."""
        index = X.index if isinstance(X, pd.DataFrame) else pd.RangeIndex(len(score))
        table = pd.DataFrame({"anomaly_score": score}, index=index)
        return table[score > -self.offset_].sort_values("anomaly_score", ascending=False, kind="stable")

    def _architecture(self, x: Floats, cells: list[int]) -> dict[str, Any]:
        """The plain values from which the network can be built again."""
        width = self.n_features_in_
        if cells and self.input_shape is not None:
            raise ValueError(
                f"Got input_shape={self.input_shape} and categories in X, expected numbers alone where rows are "
                "folded. Leave input_shape or the categories out."
            )
        flat = (sum(max(1, size) for size in cells) or width,)
        shape = flat if self.input_shape is None else tuple(int(side) for side in self.input_shape)
        if np.prod(shape) != flat[0]:
            raise ValueError(
                f"Got input_shape={shape} ({np.prod(shape)} cells), expected {width} cells as X has {width} features. "
                "Give a shape whose product is the number of features."
            )
        if self.criterion not in OBJECTIVES[self.objective].scores:
            having = next(name for name, objective in OBJECTIVES.items() if self.criterion in objective.scores)
            raise ValueError(
                f"Got criterion={self.criterion!r} with objective={self.objective!r}, expected one of "
                f"{OBJECTIVES[self.objective].scores}. Use objective={having!r} for that criterion."
            )
        return {
            "objective": self.objective,
            "body": self.body,
            "hidden": [int(h) for h in (HIDDEN.get(str(self.body), ()) if self.hidden == "auto" else self.hidden)],
            "input_shape": list(shape),
            "latent_dim": int(np.clip(width // 2, 2, 32)) if self.latent_dim == "auto" else int(self.latent_dim),
            "beta": float(self.beta),
            "likelihood": self._cell_likelihood(x, cells),
            "masking": float(self.masking),
            "trimming": 0.0 if self.contamination == "auto" else float(self.contamination),
            "criterion": self.criterion,
        }

    def _cell_likelihood(self, x: Floats, cells: list[int]) -> str:
        """The name of the likelihood of training cells."""
        pixels = self.input_shape is not None and len(self.input_shape) == 3
        if self.likelihood == "gaussian" or (self.likelihood == "auto" and not pixels):
            return "gaussian"
        if any(cells):
            raise ValueError(
                f"Got likelihood={self.likelihood!r} and categories in X, expected numbers alone. Use "
                "likelihood='gaussian', or leave the categories out."
            )
        if self.likelihood in ("auto", "isotropic"):
            return "isotropic"
        low, high = np.nanmin(x), np.nanmax(x)
        if low < 0 or high > 1:
            raise ValueError(
                f"Got cells from {low:g} to {high:g} with likelihood='bernoulli', expected cells in [0, 1]. Divide by "
                "the largest value there can be, such as 255, or use likelihood='gaussian'."
            )
        return "bernoulli" if (np.isnan(x) | (x == 0) | (x == 1)).all() else "continuous_bernoulli"

    # Scoring

    def anomaly_score(self, X: ArrayLike) -> Floats:
        """How strange each row is, high = strange: the negative of `score_samples`, shape ``(n,)``."""
        return self._anomaly_score(self._rows(X))

    def score_samples(self, X: ArrayLike) -> Floats:
        """How normal each row is: high where rows like it are many.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)

        Returns
        -------
        ndarray of shape (n_samples,)
            For ``criterion="memory"`` the negative distance from the remembered rows, a rank of density without a unit.
            For the other scores an estimate of the log-density, or a term of it, in nats of the standardised row
            (subtract the log of the column scales for the density in input units; ``likelihood="bernoulli"`` has no
            others). The same row gets the same number,
            bit for bit, in any call, batch or order.
        """
        return -self.anomaly_score(X)

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean log-density of rows, by which `GridSearchCV` compares models; high = better fit.

        It is the evidence lower bound or, for other objectives, the log-likelihood of the reconstruction, whatever
        the ``criterion``: distances of different models cannot be compared.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        y : ignored

        Returns
        -------
        float
            In nats.
        """
        network = self._fitted()
        bound = network.elbo if isinstance(network, Elbo) else network.reconstruction
        return -float(self._apply(bound, self._rows(X)).mean())

    def decision_function(self, X: ArrayLike) -> Floats:
        """``score_samples(X) - offset_``: negative for outliers, shape ``(n,)``."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """+1 for normal rows, -1 for outliers, shape ``(n,)``."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: ArrayLike, *, tail: str = "conformal") -> Floats:
        """How often a normal row would be at least as strange, shape ``(n,)``, in (0, 1].

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        tail : {"conformal", "pareto"}, default="conformal"
            Whether to extrapolate below 1 / (calibration rows + 1); see `Calibration.p_values`.

        Notes
        -----
        They compare with rows that were not learned (``calibration_``). Where ``groups`` were passed to ``fit``, each
        group counts as one piece of evidence; what then is promised, and what not, `Calibration` says. They promise
        nothing if there were outliers among the training rows, or if none could be held out (fewer than 15 rows or 2
        groups, ``validation_fraction=0``, an interrupted fit): they then compare with rows that were learned.
        """
        scores = self.anomaly_score(X)
        return self.calibration_.p_values(scores, tail)

    def alarms(
        self,
        X: ArrayLike,
        *,
        alpha: float | None = None,
        fdr: float | None = None,
        per_hour: float | None = None,
        rows_per_hour: float | None = None,
        tail: str = "conformal",
        storey: bool = False,
    ) -> NDArray[np.bool_]:
        """Flag rows under exactly one promise on false alarms: ``alpha``, ``fdr`` or ``per_hour``.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            With ``fdr``, all rows of a batch.
        alpha : float, optional
            At most this share of the normal rows is flagged.
        fdr : float, optional
            At most this share of the flagged rows is normal, on average over batches (Benjamini & Hochberg 1995).
        per_hour, rows_per_hour : float, optional
            At most ``per_hour`` normal rows are flagged an hour, where an hour has so many rows.
        tail, storey
            See `Calibration.alarms`, which also says what is guaranteed.

        Returns
        -------
        ndarray of bool, shape (n,)
        """
        scores = self.anomaly_score(X)
        return self.calibration_.alarms(
            scores,
            alpha=alpha,
            fdr=fdr,
            per_hour=per_hour,
            rows_per_hour=rows_per_hour,
            tail=tail,
            storey=storey,
        )

    def score_terms(self, X: ArrayLike) -> pd.DataFrame:
        """Every score that the objective gives, side by side.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)

        Returns
        -------
        DataFrame of shape (n_samples, n_scores)
            Per row, high = strange; all but ``memory`` in nats:

            - ``reconstruction``: -log p(x | z) at the posterior mean z;
            - ``kl``: KL(q(z | x) || N(0, I)) [1]_, appendix B;
            - ``elbo``: their sum, the negative evidence lower bound with its expectation taken at the mean;
            - ``log_likelihood``: the negative importance-weighted bound over 64 fixed latent points, the tightest
              estimate of -log p(x) [2]_, equation 8;
            - ``critic``: -log q(z), how rare the code is among those of training rows, where the critic estimates q: by
              its logit as a ratio of densities [3]_, proposition 1;
            - ``energy``: reconstruction + critic, -log p(x | z) q(z);
            - ``memory``, for a detector that scores by it: mean distance to the second to sixth nearest of the
              remembered training rows, in the space of row, latent code and standardised residual, each distance in
              the unit of that row's surroundings; see `anomalyvae.nets.memory`.

            Each objective has ``reconstruction`` and ``memory``; ``"elbo"`` has ``kl``, ``elbo`` and
            ``log_likelihood``, ``"adversarial"`` has ``critic`` and ``energy``.

        References
        ----------
        .. [1] D. P. Kingma, M. Welling (2013), Auto-Encoding Variational Bayes, arXiv:1312.6114.
        .. [2] Y. Burda, R. Grosse, R. Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519.
        .. [3] I. Goodfellow et al. (2014), Generative Adversarial Networks, arXiv:1406.2661.
        """
        x = self._rows(X)
        terms = {
            name: self._apply(getattr(self.network_, name), x)
            for name in self.network_.scores
            if name != "memory" or self.network_.memorised is not None
        }
        return pd.DataFrame(terms, index=X.index if isinstance(X, pd.DataFrame) else None)

    def feature_scores(self, X: ArrayLike) -> Floats | pd.DataFrame:
        """The part of each feature in each row's reconstruction term.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)

        Returns
        -------
        ndarray or DataFrame of shape (n_samples, n_features)
            -log p(x_j | z) in nats, 0 for a missing cell; rows add up to ``score_terms(X)["reconstruction"]``.
        """
        return self._like(X, self._apply(self._fitted().feature_scores, self._rows(X)))

    # Inside

    def _rows(self, X: Any, new: Categories | None = None) -> Floats:
        """The one door for rows: validated, float64, NaN where a cell is missing; ``new`` in training."""
        reset = new is not None
        if not reset:
            check_is_fitted(self, "network_")
        x = validate_data(
            self,
            encode_categories(X, self.categories_ if new is None else new),
            dtype=np.float64,
            order="C",
            reset=reset,
            force_writeable=True,  # torch wants it, though nothing writes
            ensure_all_finite=False,
            ensure_min_samples=2 if reset else 1,
        )
        refuse_infinite(x, getattr(X, "columns", None), type(self).__name__)
        empty = np.isnan(x).all(axis=1) if np.isnan(x.sum()) else np.zeros(1, dtype=bool)
        if empty.any() and not reset:
            warnings.warn(
                f"Got {empty.sum()} rows in which every cell is missing, expected at least one value. Their scores "
                "are those of the row that the model expects; leave them out.",
                stacklevel=4,
            )
        return x

    def _known_outliers(self, outliers: Any, categories: Categories) -> Floats:
        """Rows that are known to be strange, as `fit` takes them once the rows of ``X`` are checked."""
        cells = encode_categories(outliers, categories)
        x = validate_data(self, cells, dtype=np.float64, order="C", reset=False, ensure_all_finite=False)
        refuse_infinite(x, getattr(outliers, "columns", None), type(self).__name__)
        return np.array(x[~np.isnan(x).all(axis=1)])

    def _anomaly_score(self, x: Floats) -> Floats:
        return self._apply(self.network_, x)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64"]
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__().copy()
        if "network_" in state:
            state["network_"] = {name: t.cpu().numpy() for name, t in self.network_.state_dict().items()}
            state["calibration_"] = {"scores": self.calibration_.scores, "weight": self.calibration_.weight}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "network_" in state:
            tensors = {name: torch.from_numpy(np.array(a)) for name, a in state["network_"].items()}
            self.network_ = restore(self.architecture_, tensors).to(_device(self.device))
            self.calibration_ = Calibration(**state["calibration_"])


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"Got device={name!r}, but no CUDA device is present. Use device='auto' or 'cpu'.")
    return torch.device(name)
