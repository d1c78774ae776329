"""A fitted detector or Pipeline as an ONNX graph, and the check before the file is written."""
