"""The parts of a bundle, the folder of a fitted model: card, arrays, preprocessing, manifest."""

from typing import TYPE_CHECKING

from anomalyvae.lazy import lazy_names

if TYPE_CHECKING:
    from anomalyvae.bundle.arrays import read_calibration
    from anomalyvae.bundle.card import read_card
    from anomalyvae.bundle.manifest import read_manifest

__all__ = ["read_calibration", "read_card", "read_manifest"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "read_calibration": "anomalyvae.bundle.arrays",
        "read_card": "anomalyvae.bundle.card",
        "read_manifest": "anomalyvae.bundle.manifest",
    },
)
