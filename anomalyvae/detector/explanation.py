"""Why a row scores as it does: all scores side by side, and the part of each feature."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from anomalyvae.detector.representation import Representation
from anomalyvae.nets.memory import Memory
from anomalyvae.nets.views import COMPARING, VIEW_SCORES, Views

Floats = NDArray[np.float64]


class Explanation(Representation):
    """The methods of `VAEOutlierDetector` that explain scores."""

    criterion: str

    def score_terms(self, X: ArrayLike) -> pd.DataFrame:
        """All scores of the objective, side by side.

        Returns
        -------
        DataFrame of shape (n_samples, n_scores)
            Per row, high = anomalous; all but ``memory`` in nats. Which view is the largest says why a row is new:

            - ``reconstruction``: -log p(x | z) at the posterior mean z;
            - ``kl``: KL(q(z | x) || N(0, I)) [1]_, appendix B;
            - ``elbo``: their sum, the negative evidence lower bound with its expectation taken at the mean;
            - ``log_likelihood``: the negative importance-weighted bound over 64 fixed latent points, the tightest
              estimate of -log p(x) [2]_, equation 8;
            - ``critic``: -log q(z), how rare the code is among those of training rows; the critic's logit is a ratio
              of densities [3]_, proposition 1;
            - ``energy``: reconstruction + critic, -log p(x | z) q(z);
            - ``near``, ``crowd``, ``linear``: unlike the nearest training rows, unlike the crowd of them, both in the
              space of row, latent code and standardised residual, and the Mahalanobis distance of the row; of windows
              also ``wave``, ``short``, ``residual`` and ``states``. ``novelty`` is what they say together; see
              `anomalyvae.nets.views` and `anomalyvae.nets.window_views`;
            - ``memory``, with ``criterion="memory"`` instead of these: mean distance to the second to sixth nearest
              training row in that space, scaled by the local density; see `anomalyvae.nets.memory`.

            Each objective has ``reconstruction`` and the last two entries; ``"elbo"`` has ``kl``, ``elbo`` and
            ``log_likelihood``, ``"adversarial"`` has ``critic`` and ``energy``.

        References
        ----------
        .. [1] D. P. Kingma, M. Welling (2013), Auto-Encoding Variational Bayes, arXiv:1312.6114.
        .. [2] Y. Burda, R. Grosse, R. Salakhutdinov (2016), Importance Weighted Autoencoders, arXiv:1509.00519.
        .. [3] I. Goodfellow et al. (2014), Generative Adversarial Networks, arXiv:1406.2661.
        """
        x = self._rows(X)
        network, stored = self.network_, self.network_.memorised
        skipped = VIEW_SCORES if isinstance(stored, Memory) else COMPARING
        terms = {name: self._apply(getattr(network, name), x) for name in network.scores if name not in skipped}
        if isinstance(stored, Views):
            terms |= dict(zip(stored.names, self._apply(network.views, x).T, strict=True))
            terms["novelty"] = self._apply(network.novelty, x)
        return pd.DataFrame(terms, index=X.index if isinstance(X, pd.DataFrame) else None)

    def feature_scores(self, X: ArrayLike) -> Floats | pd.DataFrame:
        """The contribution of each feature to the reconstruction term, shape ``(n, n_features)``.

        It is -log p(x_j | z) in nats, 0 for a missing cell; a row adds up to ``score_terms(X)["reconstruction"]``.
        """
        return self._like(X, self._apply(self._fitted().feature_scores, self._rows(X)))

    def reasons(self, X: ArrayLike) -> pd.DataFrame:
        """Which view raised each row, in words, and the share of each feature in it; for ``criterion="novelty"``.

        Returns
        -------
        DataFrame of shape (n_samples, 1 + n_features)
            ``view``: ``"far from its neighbours"``, ``"far from the crowd"`` or ``"breaks a linear relation"``; of
            windows also ``"samples unlike themselves"``, ``"a waveform never seen"``, ``"a short event"`` or ``"a value
            never seen"``. It is the surest; see `anomalyvae.nets.views` and `anomalyvae.nets.window_views`. Then the
            shares of the features in that distance, which add up to 1.

        Raises
        ------
        ValueError
            For another criterion; `feature_scores` explains densities.
        """
        x = self._rows(X)
        if not isinstance(self.network_.memorised, Views):
            raise ValueError(
                f"Got criterion={self.criterion!r}, expected one that has views. Use criterion='novelty', or "
                "feature_scores for the parts of a density."
            )
        largest = self._apply(self.network_.strongest_view, x)
        shares = self._apply(self.network_.view_shares, x)[np.arange(len(x)), largest]
        index = X.index if isinstance(X, pd.DataFrame) else None
        table = pd.DataFrame(shares, columns=self._names(X), index=index)
        table.insert(0, "view", np.array(self.network_.memorised.words)[largest], allow_duplicates=True)
        return table
