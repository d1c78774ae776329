"""The scikit-learn outlier detector: fit, score, predict, explain, sample."""

from anomalyvae.detector.estimator import VAEOutlierDetector
from anomalyvae.detector.parameters import check_parameters

__all__ = ["VAEOutlierDetector", "check_parameters"]
