"""Studies of a fitted model: its latent space and its samples."""

from typing import TYPE_CHECKING

from anomalyvae.lazy import lazy_names

if TYPE_CHECKING:
    from anomalyvae.study.latent import LatentSpace
    from anomalyvae.study.samples import sample_quality

__all__ = ["LatentSpace", "sample_quality"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "LatentSpace": "anomalyvae.study.latent",
        "sample_quality": "anomalyvae.study.samples",
    },
)
