"""The scikit-learn outlier detector: fit, score, predict, explain, sample."""

from anomalyvae.detector.estimator import VAEOutlierDetector

__all__ = ["VAEOutlierDetector"]
