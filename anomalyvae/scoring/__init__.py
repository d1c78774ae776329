"""Scoring with the ONNX file: rows, folders of files and growing files. Needs neither torch nor scikit-learn."""
