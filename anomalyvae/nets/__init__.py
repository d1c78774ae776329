"""Rows -> strangeness. Torch only: what a row is (bodies) x what learning means (objectives), and one loop."""
