"""Scoring with the ONNX file: rows, folders of files and growing files. Needs neither torch nor scikit-learn."""

from typing import TYPE_CHECKING

from anomalyvae.lazy import lazy_names

if TYPE_CHECKING:
    from anomalyvae.scoring.batch import score_folder
    from anomalyvae.scoring.scorer import Scorer
    from anomalyvae.scoring.watch import Watcher

__all__ = ["Scorer", "Watcher", "score_folder"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Scorer": "anomalyvae.scoring.scorer",
        "Watcher": "anomalyvae.scoring.watch",
        "score_folder": "anomalyvae.scoring.batch",
    },
)
