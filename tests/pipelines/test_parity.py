"""Generated pipelines score the same as their exported files; ``make bench-parity`` tries 300."""

import parity
import pytest

from anomalyvae import Scorer, VAEOutlierDetector, export_onnx

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")


@pytest.mark.parametrize("seed", [1, 2, 5, 6, 8, 10, 11, 12, 14, 18, 210020])
def test_a_file_scores_as_its_model(seed, tmp_path):
    kind, details, _ = parity.outcome(seed, tmp_path)
    assert kind == "same", details


def test_a_file_of_another_model_differs(normal, fresh, tmp_path):
    """The comparison finds scores, labels and p-values that are not the model's."""
    settings = {"max_epochs": 1, "hidden": (8,), "validation_fraction": 0.4}
    ours, other = (VAEOutlierDetector(random_state=seed, **settings).fit(normal) for seed in (0, 1))
    file = Scorer(export_onnx(other, tmp_path / "other.onnx"))
    found, _ = parity.differences(ours, file, fresh)
    assert [name for name in ("score", "label", "p-value") if any(f" {name}s" in line for line in found)] == [
        "score", "label", "p-value"
    ]  # fmt: skip


def test_a_case_is_always_the_same():
    first, second = parity.case(7), parity.case(7)
    assert repr(first.model) == repr(second.model)
    assert repr(first.mutated) == repr(second.mutated)
