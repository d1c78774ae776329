"""anomalyvae: a variational autoencoder that notices what is new.

Everything is a row. A recording becomes a table, a table becomes windows, a window is one row of
numbers; a model turns a row into how strange it is; everything after that is a table of scores.

============================  =============================================================
name                          what it is
============================  =============================================================
``VAEOutlierDetector``        the scikit-learn outlier detector: fit, score, predict, sample
``read_log``                  a recording file -> its signals, each with its own time stamps
``WindowRecipe``              how recordings become rows, and a row back to (recording, time)
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
    "Scorer": "anomalyvae.deploy.scorer",
    "VAEOutlierDetector": "anomalyvae.detector",
    "WindowRecipe": "anomalyvae.logs",
    "as_pyod": "anomalyvae.peers",
    "autolog": "anomalyvae.deploy.tracking.autologging",
    "export_onnx": "anomalyvae.deploy.export",
    "load": "anomalyvae.deploy.bundle",
    "read_log": "anomalyvae.logs",
    "save": "anomalyvae.deploy.bundle",
    "score_folder": "anomalyvae.deploy.batch",
    "track": "anomalyvae.deploy.tracking",
    "tracked_run": "anomalyvae.deploy.tracking",
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
    "save",
    "score_folder",
    "track",
    "tracked_run",
]

if TYPE_CHECKING:
    from anomalyvae.deploy.batch import score_folder
    from anomalyvae.deploy.bundle import load, save
    from anomalyvae.deploy.export import export_onnx
    from anomalyvae.deploy.scorer import Scorer
    from anomalyvae.deploy.tracking import track, tracked_run
    from anomalyvae.deploy.tracking.autologging import autolog
    from anomalyvae.detector import VAEOutlierDetector
    from anomalyvae.logs import WindowRecipe, read_log
    from anomalyvae.peers import as_pyod


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'anomalyvae' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}.")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
