"""Studies of a fitted model: its latent space and its samples."""

from anomalyvae.study.latent import LatentSpace
from anomalyvae.study.samples import sample_quality

__all__ = ["LatentSpace", "sample_quality"]
