"""``VAEOutlierDetector``: the scikit-learn estimator around the networks."""

from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import Tags, check_random_state

from anomalyvae.calibration import Calibration, auto_threshold, contamination_threshold
from anomalyvae.detector.among import Among
from anomalyvae.detector.fitting import FitResult, Trainer, rounded_up
from anomalyvae.detector.parameters import architecture_of, check_parameters, scaling_of
from anomalyvae.detector.rows import Rows
from anomalyvae.detector.state import TABLES, kept_on_failure, plain, table_of
from anomalyvae.detector.validation import (
    TrainingData,
    new_gaps,
    read_training,
    refuse_unscaled,
    warn_of_few,
    warn_of_giants,
    weights_of,
)
from anomalyvae.nets.bodies import Body
from anomalyvae.nets.elbo import Elbo
from anomalyvae.nets.objectives import build, restore
from anomalyvae.nets.reconstruction import Reconstruction
from anomalyvae.nets.scaling import fit_scaling

Floats = NDArray[np.float64]


class VAEOutlierDetector(OutlierMixin, Among, BaseEstimator):
    """Detect outliers and novelties with a variational autoencoder.

    A network learns to encode and reconstruct normal rows. By default, the anomaly score of a row says how unlike the
    training rows it is, in the space of the row, its latent code and its reconstruction error. Missing cells are
    allowed. Columns of a DataFrame of dtype category, string or bool are categories.

    Parameters
    ----------
    objective : {"elbo", "reconstruction", "adversarial"}, default="elbo"
        ``"elbo"`` is the variational autoencoder of Kingma and Welling [1]_: diagonal Gaussian posterior, N(0, I)
        prior. ``"reconstruction"`` is the deterministic autoencoder with the same layers. ``"adversarial"`` adds a
        critic, a second network that pulls the codes towards N(0, I) [2]_.
    body : {"mlp", "conv2d"} or callable, default="mlp"
        The layers around the latent code. ``"mlp"``: fully connected. ``"conv2d"``: convolutions over an image, each
        halving both sides. A callable ``(input_shape, latent_dim) -> torch.nn.Module`` gives its own layers; see
        `anomalyvae.nets.bodies`.
    input_shape : tuple of int, default=None
        The shape of a row; the last axis runs fastest. ``(signals, samples)`` is a window, for which ``"novelty"`` has
        views of its own; see `anomalyvae.nets.window_views`. ``(channels, height, width)`` is an image, for
        ``"conv2d"``. The default is a flat row; rows with categories must be flat.
    latent_dim : int or "auto", default="auto"
        Size of the latent code. ``"auto"`` is half the number of features, between 2 and 32.
    hidden : tuple of int or "auto", default="auto"
        Sizes of the encoder's layers, from the row inwards; the decoder mirrors them. ``"auto"`` is (128, 64) units for
        ``"mlp"``, and (32, 64) channels for ``"conv2d"``. Ignored with a callable ``body``.
    beta : float, default=1.0
        Weight of the KL term in training, or of the critic's term. Larger values give simpler codes and coarser
        reconstructions. Ignored with ``objective="reconstruction"``.
    likelihood : {"auto", "gaussian", "isotropic", "bernoulli"}, default="auto"
        The distribution of numbers given the code. ``"gaussian"`` learns one variance per column. ``"isotropic"``
        learns one variance for all cells, and divides rows by one standard deviation. ``"bernoulli"`` takes cells in
        [0, 1]: as probabilities if every training cell is 0 or 1, else as intensities with a continuous Bernoulli
        density [3]_. The last two are for cells in one unit, such as pixels; they ignore ``scaling`` and exclude
        categories. ``"auto"`` is ``"isotropic"`` for an ``input_shape`` of three axes, and for flat rows of 16 columns
        and more whose cells are levels of one scale that most columns span, such as pixels; else ``"gaussian"``.
    masking : float in [0, 1), default=0.5
        In training, half of the rows hide up to this share of their cells from the encoder; the loss counts all cells.
        It lets the model handle missing cells and improves the default score. 0 hides none.
    criterion : {"novelty", "near", "crowd", "linear", "memory", "elbo", "reconstruction", "kl", "log_likelihood", \
            "critic", "energy"}, default="novelty"
        The anomaly score; see `score_terms`. ``"novelty"`` detects best; it compares with up to 4,096 training rows
        (2,048 windows or images).
        ``"elbo"`` is ten times as fast, and is a density estimate. Every objective has ``"reconstruction"`` and the
        scores that compare with training rows (the first five); ``"critic"`` and ``"energy"`` need ``"adversarial"``,
        the others ``"elbo"``.
    scaling : {"auto", "asinh", "standard", "robust", "quantile"} or None, default="auto"
        How columns are standardised, as the first layer of the network. ``"standard"``: mean and standard deviation.
        ``"asinh"``: the same, with compressed tails. ``"robust"``: median and interquartile range. ``"quantile"``:
        normal quantiles. ``"auto"`` is ``"standard"`` for windows that ``"novelty"`` compares, so that energies keep
        their meaning, else ``"asinh"``. Constant columns are allowed. None is for columns that are standardised.
    contamination : "auto" or float in (0, 0.5], default="auto"
        ``"auto"`` takes all rows of ``X`` as normal, and sets the threshold so that 5 % of new normal rows exceed it,
        estimated on held-out rows (1 / (m + 1) with m < 19 of them). A number is the expected share of outliers in
        ``X``: that share of ``X`` exceeds the threshold and is listed in ``suspects_``. Half of that share, the rows
        that are farthest from the others, is never learned, and of each batch that share, the rows with the largest
        losses. New rows are not compared with the 2 x ``contamination`` rows that are farthest from the others.
        `outliers_among` finds the outliers of a table without a number.
    max_epochs : int or "auto", default="auto"
        Passes over the training rows. ``"auto"`` makes 1,000 steps, and at least 20 epochs; with a criterion that
        compares with training rows, a step per two rows is enough, from 100 to 1,000; of windows with more than 128
        cells at most ``128000 / cells``, or 500. Densities, samples and imputed cells gain from more.
    validation_fraction : "auto" or float in [0, 1), default="auto"
        Which rows set the threshold. A number is the share of rows (or groups) held out from training: half of them
        stop training early, half set ``offset_``; none are held out where either half has fewer than five rows.
        ``"auto"`` is 0.2 from 5,000 rows (or 10 groups) on; of fewer than 190 groups, up to a third or 19 set
        ``offset_``, so that small p-values can be shown. Below, it cross-fits: one network learns all rows and
        makes all epochs, and three more, each trained without a third of the rows, score the third that they did not
        see (below 150 rows: eight, each without an eighth). They train at once, where layers allow it.
    device : {"auto", "cpu", "cuda"} or str, default="auto"
        ``"auto"`` is CUDA if present.
    random_state : int, RandomState instance or None, default=None
        Seeds initial weights, batches and held-out rows. Scoring uses no random number.
    verbose : bool or int, default=False
        Show a progress bar on stderr during training. `anomalyvae.train.train` and the other functions that fit a
        detector follow the detector's setting.

    Attributes
    ----------
    network_ : torch.nn.Module
        The trained network, in float64; calling it with rows gives their anomaly scores.
    offset_ : float
        ``decision_function = score_samples - offset_``.
    calibration_ : Calibration
        Anomaly scores of held-out rows, and their weights.
    suspects_ : DataFrame
        Only if ``contamination`` is a number: the training rows beyond the threshold, most anomalous first, by their
        index (or position) in ``X``, with their ``anomaly_score``.
    history_ : DataFrame
        A row per epoch: the loss and, with a split, the held-out loss and its terms.
    stop_reason_ : {"max_epochs", "patience", "interrupted"}
        Why training ended; ``"patience"``: the held-out loss did not improve for a fifth of the epochs, at least 10.
    training_ : dict
        Number of ``rows`` and their ``sha256`` (distinct rows, weights and groups, in any order); with ``outliers``,
        their number and ``outliers_sha256``. Names of columns that are numbers or tuples are ``names``.
    categories_ : dict
        The known levels of each categorical column, sorted: text, or False and True. Levels in a single training row
        (or group), or in less than a thousandth of the rows, are pooled with unseen levels.
    category_dtypes_ : dict
        The dtype of each categorical column.
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
        criterion: str = "novelty",
        scaling: str | None = "auto",
        contamination: float | str = "auto",
        max_epochs: int | str = "auto",
        validation_fraction: float | str = "auto",
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
        self.scaling = scaling
        self.contamination = contamination
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # Fitting

    def fit(
        self,
        X: ArrayLike,
        y: Any = None,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        outliers: ArrayLike | None = None,
        selected: ArrayLike | None = None,
    ) -> Self:
        """Learn normal rows.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            Rows, in any units. Text and booleans of a DataFrame are categories.
        y : ignored
        sample_weight : array-like of shape (n_samples,), default=None
            Whole numbers are frequencies: a row of weight two equals two such rows. Others are importances. A row of
            weight zero is left out.
        groups : array-like of shape (n_samples,), default=None
            The recording (drive, machine, patient, ...) of each row. Whole groups are held out: rows of one recording
            are alike, which would make the threshold too low. By default, windows (``input_shape`` of two numbers) that
            overlap are held out in stretches of time; their samples tell, if no step before has changed them. Other
            rows are held out at random, with a warning if rows beside each other are alike.
        outliers : array-like or DataFrame of shape (n_outliers, n_features), default=None
            Known outliers, such as confirmed faults. Training pushes their loss above that of normal rows (outlier
            exposure [1]_), and new rows are not compared with similar rows of ``X``. They do not affect the
            calibration. scikit-learn's cross-validation splits arguments with as many rows as ``X``: pass it another
            number of outliers.
        selected : array-like of bool, shape (n_samples,), default=None
            Rows of ``X`` that were chosen because they scored high, such as flags that a review found normal. They are
            learned but never held out: as a biased sample of normal rows they would raise the threshold.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For invalid parameters, and for rows that cannot be used: infinite cells, a column without a value or of
            dates, fewer than two rows.
        FloatingPointError
            If training diverges.

        References
        ----------
        .. [1] D. Hendrycks, M. Mazeika, T. Dietterich (2019), Deep Anomaly Detection with Outlier Exposure,
           arXiv:1812.04606.
        """
        check_parameters(self)
        with kept_on_failure(self):
            data = read_training(self, X, sample_weight, groups, outliers, selected)
            rng = check_random_state(self.random_state)
            seed = int(rng.randint(2**31 - 1))
            architecture = architecture_of(self, data)
            kind = scaling_of(self, architecture)
            if kind is None:
                refuse_unscaled(data)
            elif kind in ("asinh", "standard"):
                warn_of_giants(data)

            def new_network(rows: Rows) -> Reconstruction:
                scaling = fit_scaling(kind, torch.from_numpy(rows.x), torch.from_numpy(rows.weight), data.cells)
                return build(architecture, scaling, seed).to(_device(self.device))

            trainer = Trainer(
                new_network,
                seed,
                self.max_epochs,
                self.validation_fraction,
                data.outliers,
                bool(self.verbose),
                data.cells,
            )
            result = trainer.fit(data.rows, rng)

            self.architecture_, self.network_ = architecture, result.network
            self.categories_, self.category_dtypes_ = data.categories, data.dtypes
            self.training_ = data.describe()
            self.history_, self.stop_reason_ = pd.DataFrame(result.history), result.stop_reason
            held_out = rounded_up(result.network, result.scores)
            self.calibration_ = Calibration.from_rows(held_out, result.calibration.weight, result.calibration.group)
            self.__dict__.pop("suspects_", None)  # of an earlier fit
            if self.contamination == "auto":
                self._set_threshold_of_normal_rows(data, result)
            else:
                self._set_threshold_by_share(X, data, float(self.contamination))
        return self

    def _set_threshold_of_normal_rows(self, data: TrainingData, result: FitResult) -> None:
        """Set the threshold that few new normal rows exceed, by the scores of held-out ones."""
        warn_of_few(self.training_, self.calibration_.evidence)
        # Each group counts alike, and all together as many rows as they have.
        weight = self.calibration_.weight * (result.calibration.weight.sum() / self.calibration_.evidence)
        self.offset_ = -auto_threshold(self.calibration_.scores, weight)

    def _set_threshold_by_share(self, X: ArrayLike, data: TrainingData, share: float) -> None:
        """Set the threshold that a share of the training rows exceeds, and list these rows."""
        scores, counted = self._apply(self.network_, data.x), data.weight > 0
        ties = rounded_up(self.network_, scores[counted])
        self.offset_ = -contamination_threshold(scores[counted], data.weight[counted], share, ties)
        index = X.index if isinstance(X, pd.DataFrame) else pd.RangeIndex(len(scores))
        beyond = pd.DataFrame({"anomaly_score": scores}, index=index)[scores > -self.offset_]
        self.suspects_ = beyond.sort_values("anomaly_score", ascending=False, kind="stable")

    # Scoring

    def anomaly_score(self, X: ArrayLike) -> Floats:
        """Anomaly score of each row, high = anomalous: the negative of `score_samples`, shape ``(n,)``."""
        x = self._rows(X)
        return self._apply(self.network_, x)

    def score_samples(self, X: ArrayLike) -> Floats:
        """How normal each row is, low = anomalous, shape ``(n,)``.

        For ``criterion="novelty"`` it estimates log P(a normal row is as unlike the training rows), in nats. For
        ``"memory"`` it is the negative distance from the training rows in the memory, without a unit. For the others it
        is an estimate of the log-density, or a term of it, in nats of the standardised row (`log_density`
        is in input units). A row gets the same bits in any call, batch or order.
        """
        return -self.anomaly_score(X)

    def score(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> float:
        """Mean log-density of rows in nats, for `GridSearchCV`; high = better fit.

        With ``sample_weight``, the weighted mean: a row of weight two equals two such rows.

        Whatever the ``criterion``, it is the evidence lower bound or, for other objectives, the log-likelihood of the
        reconstruction: distances of different models cannot be compared.
        """
        network = self._fitted()
        bound = network.elbo if isinstance(network, Elbo) else network.reconstruction
        losses = self._apply(bound, self._rows(X))
        if sample_weight is None:
            return -float(losses.mean())
        return -float(np.average(losses, weights=weights_of(sample_weight, len(losses))))

    def decision_function(self, X: ArrayLike) -> Floats:
        """``score_samples(X) - offset_``: negative for outliers, shape ``(n,)``."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """+1 for normal rows, -1 for outliers, shape ``(n,)``."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: ArrayLike, *, tail: str = "conformal") -> Floats:
        """Probability that a normal row scores at least as high, shape ``(n,)``, in (0, 1].

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        tail : {"conformal", "pareto"}, default="conformal"
            Whether to extrapolate below 1 / (calibration rows + 1); see `Calibration.p_values`.

        Notes
        -----
        Scores are compared with those of held-out rows (``calibration_``); with ``groups``, each group counts as one
        observation. `Calibration` states what is guaranteed. Nothing is guaranteed with outliers among the training
        rows, or where no rows could be held out (fewer than three distinct rows or two groups,
        ``validation_fraction=0``, an interrupted fit): calibration rows are then learned rows.
        """
        scores = self.anomaly_score(X)  # first: it refuses an unfitted detector
        return self.calibration_.p_values(scores, tail)

    def new_gaps(self, X: ArrayLike) -> list[list[str]]:
        """For each row, the columns with a missing cell that had none in training; mostly empty.

        Nothing is known of the scores of rows with such gaps: their p-values and flags are not calibrated.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
        """
        return new_gaps(self, X)

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
        """Flag rows for exactly one target of false alarms; bool, shape ``(n,)``.

        Parameters
        ----------
        X : array-like or DataFrame of shape (n_samples, n_features)
            With ``fdr``, all rows of the batch.
        alpha : float, optional
            At most this share of normal rows is flagged.
        fdr : float, optional
            At most this share of flagged rows is normal, on average over batches (Benjamini & Hochberg 1995).
        per_hour, rows_per_hour : float, optional
            At most ``per_hour`` normal rows are flagged per hour of ``rows_per_hour`` rows.
        tail, storey
            See `Calibration.alarms`, which also states what is guaranteed.
        """
        scores = self.anomaly_score(X)
        return self.calibration_.alarms(
            scores, alpha=alpha, fdr=fdr, per_hour=per_hour, rows_per_hour=rows_per_hour, tail=tail, storey=storey
        )

    # Inside

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
            state |= {name: plain(state[name]) for name in TABLES if name in state}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "network_" in state:
            tensors = {name: torch.from_numpy(np.array(a)) for name, a in state["network_"].items()}
            self.network_ = restore(self.architecture_, tensors).to(_device(self.device))
            self.calibration_ = Calibration(**state["calibration_"])
            self.__dict__.update({name: table_of(state[name]) for name in TABLES if name in state})


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"Got device={name!r}, but this machine has no CUDA device. Use device='auto' or 'cpu'.")
    return torch.device(name)
