"""anomalyvae: anomaly detection with a variational autoencoder.

Everything is a row. A recording becomes a table, a table becomes windows, a window is one row of numbers. A model maps
a row to an anomaly score. Everything after that is a table of scores.

============================  =============================================================
name                          what it does
============================  =============================================================
``VAEOutlierDetector``        scikit-learn outlier detector: fit, score, predict, sample
``read_log``                  read a recording file: signals, each with its own time stamps
``WindowRecipe``              how a recording is cut into windows, one row each
``read_windows``              cut recording files into windows
``save``, ``load``            a fitted model as a folder without pickle
``export_onnx``               a fitted model as one ONNX file, checked before it is written
``Scorer``                    score rows with an ONNX file, without torch and scikit-learn
``score_folder``              score a folder of files, each exactly once
``as_pyod``                   the detector with PyOD's conventions, for PyOD's tools
``tracked_run``, ``track``    record a fit as an MLflow run, live or from its folder
``autolog``                   record every fit as an MLflow run
============================  =============================================================

`anomalyvae.train.train` trains on recording files and writes the bundle. Names are resolved on first use, so importing
the package costs nothing.
"""

from typing import TYPE_CHECKING

from anomalyvae.lazy import lazy_names

__version__ = "0.1.0"

_HOME = {
    "Scorer": "anomalyvae.scoring.scorer",
    "VAEOutlierDetector": "anomalyvae.detector",
    "WindowRecipe": "anomalyvae.recordings",
    "as_pyod": "anomalyvae.pyod_adapter",
    "autolog": "anomalyvae.tracking.autologging",
    "export_onnx": "anomalyvae.models",
    "load": "anomalyvae.models",
    "read_log": "anomalyvae.recordings",
    "read_windows": "anomalyvae.recordings",
    "save": "anomalyvae.models",
    "score_folder": "anomalyvae.scoring.batch",
    "track": "anomalyvae.tracking",
    "tracked_run": "anomalyvae.tracking",
}

__all__ = [
    "Scorer",
    "VAEOutlierDetector",
    "WindowRecipe",
    "__version__",
    "as_pyod",
    "autolog",
    "export_onnx",
    "load",
    "read_log",
    "read_windows",
    "save",
    "score_folder",
    "track",
    "tracked_run",
]

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector
    from anomalyvae.models import export_onnx, load, save
    from anomalyvae.pyod_adapter import as_pyod
    from anomalyvae.recordings import WindowRecipe, read_log, read_windows
    from anomalyvae.scoring.batch import score_folder
    from anomalyvae.scoring.scorer import Scorer
    from anomalyvae.tracking import track, tracked_run
    from anomalyvae.tracking.autologging import autolog


__getattr__, __dir__ = lazy_names(__name__, _HOME)
