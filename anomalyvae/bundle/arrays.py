"""The arrays of a bundle, ``model.safetensors``: of the network and of its calibration."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from anomalyvae.bundle.card import ARRAYS, read_card
from anomalyvae.calibration import Calibration

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector


def arrays_of(model: "VAEOutlierDetector") -> bytes:
    """All arrays of a fitted detector, in the format of safetensors."""
    from safetensors.numpy import save as as_bytes

    state = model.__getstate__()
    arrays = {f"network.{name}": np.ascontiguousarray(a) for name, a in state["network_"].items()}
    return as_bytes(arrays | {f"calibration.{name}": a for name, a in state["calibration_"].items()})


def read_calibration(folder: str | os.PathLike[str]) -> Calibration:
    """The calibration of a bundle's model, without its network.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no bundle, or if it is damaged.
    """
    from safetensors.numpy import load_file

    read_card(folder)
    arrays = load_file(Path(folder) / ARRAYS)
    return Calibration(arrays["calibration.scores"], arrays["calibration.weight"])
