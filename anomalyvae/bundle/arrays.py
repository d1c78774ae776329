"""The arrays of a bundle, ``model.safetensors``: of the network and of its calibration."""

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from anomalyvae.bundle.card import ARRAYS, inconsistent, read_bundle
from anomalyvae.calibration import Calibration

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector


def arrays_of(model: "VAEOutlierDetector") -> bytes:
    """All arrays of a fitted detector, in the format of safetensors."""
    from safetensors.numpy import save as as_bytes

    state = model.__getstate__()
    arrays = {f"network.{name}": np.ascontiguousarray(a) for name, a in state["network_"].items()}
    return as_bytes(arrays | {f"calibration.{name}": a for name, a in state["calibration_"].items()})


def read_arrays(folder: str | os.PathLike[str], data: bytes) -> dict[str, NDArray[np.float64]]:
    """The arrays in the bytes of a bundle's ``model.safetensors``; ValueError unless all are finite float64."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as from_bytes

    try:
        arrays = from_bytes(data)
    except (SafetensorError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise inconsistent(folder, str(error)) from error
    for name, array in arrays.items():
        if array.dtype != np.float64 or not np.isfinite(array).all():
            raise inconsistent(folder, f"arrays must be finite float64, and {name!r} is not")
    return arrays


def read_calibration(folder: str | os.PathLike[str], model_id: str | None = None) -> Calibration:
    """The calibration of a bundle's model, without its network.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no bundle, if it is damaged, or if it is of another model than the given one.
    """
    card, parts = read_bundle(folder, ARRAYS)
    if model_id not in (None, card["model_id"]):
        raise ValueError(f"{folder} is the model {card['model_id']} now, expected {model_id}. Start again.")
    arrays = read_arrays(folder, parts[ARRAYS])
    try:
        return Calibration(arrays["calibration.scores"], arrays["calibration.weight"])
    except (KeyError, ValueError) as error:
        raise inconsistent(folder, str(error)) from error
