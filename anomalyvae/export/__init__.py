"""A fitted detector or Pipeline as an ONNX graph, and the check before the file is written."""

from typing import TYPE_CHECKING

from anomalyvae.lazy import lazy_names

if TYPE_CHECKING:
    from anomalyvae.export.check import write_onnx

__all__ = ["write_onnx"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "write_onnx": "anomalyvae.export.check",
    },
)
