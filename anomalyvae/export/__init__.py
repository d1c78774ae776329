"""A fitted detector or Pipeline as an ONNX graph, and the check before the file is written."""

from anomalyvae.export.check import write_onnx

__all__ = ["write_onnx"]
