"""scikit-learn's estimator checks: all of them, none skipped, none expected to fail."""

import os

import pytest
from sklearn.utils.estimator_checks import check_outliers_train, parametrize_with_checks

from anomalyvae import VAEOutlierDetector


def test_the_array_api_check_is_not_skipped():
    assert os.environ.get("SCIPY_ARRAY_API") == "1", "Import no SciPy before tests/conftest.py sets SCIPY_ARRAY_API=1."


@parametrize_with_checks([VAEOutlierDetector(max_epochs=4)])  # few epochs: the contract does not depend on them
def test_estimator_check(estimator, check):
    try:
        check(estimator)
    except pytest.skip.Exception as skipped:  # a skipped check proves nothing
        pytest.fail(f"skipped: {skipped}")


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["elbo", "reconstruction", "adversarial"])
def test_outlier_check_with_every_default(objective):
    check_outliers_train("VAEOutlierDetector", VAEOutlierDetector(objective=objective))
