"""anomalyvae: a variational autoencoder that notices what is new.

Everything is a row. A recording becomes a table, a table becomes windows, a window is one row of
numbers; a model turns a row into how strange it is; everything after that is a table of scores.

============================  =============================================================
name                          what it is
============================  =============================================================
``VAEOutlierDetector``        the scikit-learn outlier detector: fit, score, predict, sample
``read_log``                  a recording file -> its signals, each with its own time stamps
``WindowRecipe``              how recordings become rows, and a row back to (recording, time)
``read_windows``              recording files -> their windows, one row each
``save``, ``load``            a fitted model as a folder that holds no pickle
``export_onnx``               a fitted detector as one ONNX file, checked before it is written
``Scorer``                    that file at work: rows in, scores out, without torch and scikit-learn
``score_folder``              a folder of files in, a folder of scores out, each exactly once
``as_pyod``                   the detector with PyOD's conventions, for PyOD's tools
``tracked_run``, ``track``    a fit as a run of MLflow, while it goes on or from its folder
``autolog``                   every fit as a run of MLflow
============================  =============================================================

The names are resolved when they are first used, so that importing the package costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'anomalyvae' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}.")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
