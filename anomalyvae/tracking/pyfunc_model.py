"""The model as MLflow runs it: a `Scorer` around the bundle that travels with it.

MLflow copies this file beside the bundle, and runs it wherever the model is loaded: in a notebook, behind
``mlflow models serve``, in a Spark executor. Such a place needs what `NEEDED` lists, and no torch.
"""

import sys
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

BUNDLE, PACKAGE = "bundle", "package"  # the artifacts of the model; both are folders
NEEDED = ("mlflow", "numpy", "onnxruntime", "pandas")


class ScorerModel(PythonModel):
    """Rows in, a row of scores out for each."""

    def load_context(self, context: Any) -> None:
        """Open the bundle; a place without anomalyvae takes the few files of it that travel with the model."""
        try:
            from anomalyvae.scoring.scorer import Scorer
        except ModuleNotFoundError:
            sys.modules.pop("anomalyvae", None)  # a folder of that name, with no package in it
            sys.path.append(context.artifacts[PACKAGE])
            from anomalyvae.scoring.scorer import Scorer

        self.scorer = Scorer(context.artifacts[BUNDLE])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score rows.

        Parameters
        ----------
        context : PythonModelContext
        model_input : DataFrame
            For a model without column names an ndarray of shape (n, d); MLflow allows but one type to be named here.
        params : ignored

        Returns
        -------
        DataFrame of n rows
            ``anomaly_score`` (high = strange), ``p_value``, ``is_outlier`` by the model's threshold, ``model_id``.
        """
        found = self.scorer.score(model_input, ["anomaly_score", "p_value", "is_outlier"])
        return pd.DataFrame(
            {
                "anomaly_score": found["anomaly_score"],
                "p_value": found["p_value"],
                "is_outlier": found["is_outlier"],
                "model_id": np.full(len(found["is_outlier"]), self.scorer.metadata["model_id"], dtype=object),
            },
            index=getattr(model_input, "index", None),
        )


set_model(ScorerModel())
