"""The model as MLflow runs it: a `Scorer` around the bundle that travels with it.

MLflow copies this file beside the bundle, and runs it where the model is loaded: in a notebook, by ``mlflow models
serve``, in a Spark executor. It needs the packages in `NEEDED`, and no torch.
"""

import sys
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

BUNDLE, PACKAGE = "bundle", "package"  # the artifacts of the model; both are folders
NEEDED = ("mlflow", "numpy", "onnxruntime", "pandas")


class ScorerModel(PythonModel):
    """Scores rows."""

    def load_context(self, context: Any) -> None:
        """Open the bundle, with the copy of the scoring code if anomalyvae is not installed."""
        try:
            from anomalyvae.scoring import Scorer
        except ModuleNotFoundError:
            sys.modules.pop("anomalyvae", None)  # a folder of that name, with no package in it
            sys.path.append(context.artifacts[PACKAGE])
            from anomalyvae.scoring import Scorer

        self.scorer = Scorer(context.artifacts[BUNDLE])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Score rows.

        Parameters
        ----------
        context : PythonModelContext
        model_input : DataFrame
            For a model without column names an ndarray of shape (n, d); MLflow allows one type hint only.
        params : ignored

        Returns
        -------
        DataFrame of n rows
            ``anomaly_score`` (high = anomalous), ``p_value``, ``is_outlier`` by the model's threshold, ``model_id``.
        """
        outputs = ["anomaly_score", "p_value", "is_outlier"]
        found = self.scorer.score(model_input, outputs)
        table = pd.DataFrame({name: found[name] for name in outputs}, index=getattr(model_input, "index", None))
        return table.assign(model_id=self.scorer.metadata["model_id"])


set_model(ScorerModel())
