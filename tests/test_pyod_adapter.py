"""PyOD, both ways: our detector fulfils what PyOD expects, and the comparison follows its protocol."""

import copy
import importlib
import pickle
import pkgutil
import random
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from anomalyvae import VAEOutlierDetector, as_pyod, pyod_adapter
from anomalyvae.nets.training import _Optimiser
from anomalyvae.peers import compare
from anomalyvae.pyod_adapter import OURS, PYOD_DETECTORS, pyod_detector

pytest.importorskip("pyod")
from pyod.models.base import BaseDetector
from pyod.models.knn import KNN
from pyod.utils import persistence
from pyod.utils.data import evaluate_print, generate_data
from pyod.utils.utility import standardizer

SLOW = {"autoencoder", "lunar", "vae"}  # of PyOD's
QUICK = {"max_epochs": 3, "hidden": (8,), "validation_fraction": 0}
TRAIN, TEST, _, OUTLIER = generate_data(n_train=200, n_test=100, contamination=0.1, random_state=42)


def quick(**settings):
    return VAEOutlierDetector(random_state=0, **(QUICK | settings))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """LUNAR's steps are too small for several threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fitted():
    return as_pyod(quick(max_epochs=20), contamination=0.1).fit(TRAIN)


# Our detector inside PyOD: what PyOD's own tests expect


def test_training_rows_get_scores_labels_and_a_threshold(fitted):
    assert isinstance(fitted, BaseDetector)
    np.testing.assert_array_equal(fitted.decision_scores_, fitted.decision_function(TRAIN))
    np.testing.assert_array_equal(fitted.labels_, fitted.decision_scores_ > fitted.threshold_)
    assert fitted.labels_.sum() == 20  # contamination=0.1 of 200
    assert fitted._mu == fitted.decision_scores_.mean()
    assert fitted._sigma == fitted.decision_scores_.std()


def test_new_outliers_get_high_scores_and_label_1(fitted):
    scores = fitted.decision_function(TEST)
    assert scores.shape == OUTLIER.shape
    assert roc_auc_score(OUTLIER, scores) >= 0.8  # PyOD's floor
    np.testing.assert_array_equal(fitted.predict(TEST), (scores > fitted.threshold_).astype(int))


@pytest.mark.parametrize("method", ["linear", "unify"])
def test_probabilities_are_probabilities_and_follow_the_scores(fitted, method):
    probability, confidence = fitted.predict_proba(TEST, method=method, return_confidence=True)
    assert probability.min() >= 0
    assert probability.max() <= 1
    np.testing.assert_allclose(probability.sum(axis=1), 1)
    assert (np.diff(probability[np.argsort(fitted.decision_function(TEST)), 1]) >= 0).all()
    np.testing.assert_array_equal(confidence, fitted.predict_confidence(TEST))
    with pytest.raises(ValueError, match="not a valid probability conversion method"):
        fitted.predict_proba(TEST, method="something")


def test_confidence_and_rejection(fitted):
    labels, confidence = fitted.predict(TEST, return_confidence=True)
    assert labels.shape == confidence.shape == OUTLIER.shape
    assert confidence.min() >= 0
    assert confidence.max() <= 1
    with pytest.warns(UserWarning, match="cost of rejection"):
        kept, (expected, bound, cost) = fitted.predict_with_rejection(TEST, return_stats=True)
    assert set(kept) <= {-2, 0, 1}
    assert (kept[kept != -2] == labels[kept != -2]).all()
    assert 0 <= expected <= 1
    assert 0 <= bound <= 1
    assert cost >= 0


def test_ranks_keep_the_order_of_the_scores(fitted):
    scores, ranks = fitted.decision_function(TEST), fitted._predict_rank(TEST)
    assert (np.diff(ranks[np.argsort(scores)]) >= 0).all()
    assert ranks.min() >= 0
    assert ranks.max() <= len(TRAIN)
    assert fitted._predict_rank(TEST, normalized=True).max() == 1


@pytest.mark.filterwarnings("ignore:Function fit_predict")
def test_the_old_names_still_work(fitted, capsys):
    detector = clone(fitted)
    np.testing.assert_array_equal(detector.fit_predict(TRAIN), fitted.labels_)
    assert detector.fit_predict_score(TEST, OUTLIER, scoring="prc_n_score") >= 0.5
    with pytest.raises(NotImplementedError):
        detector.fit_predict_score(TEST, OUTLIER, scoring="something")


def test_parameters_are_read_and_set_at_both_levels(fitted):
    detector = clone(fitted)
    assert not hasattr(detector, "decision_scores_")
    assert detector.get_params(deep=False).keys() == {"contamination", "detector"}
    assert detector.get_params()["detector__max_epochs"] == 20
    detector.set_params(contamination=0.25, detector__beta=2.0)
    assert (detector.contamination, detector.detector.beta) == (0.25, 2.0)
    assert fitted.detector.beta == 1.0
    assert repr(detector).startswith("PyODDetector(contamination=0.25,")
    with pytest.raises(ValueError, match="Invalid parameter"):
        detector.set_params(detector__nothing=1)


@pytest.mark.parametrize("contamination", [0, 0.51, -0.5])
def test_contamination_is_bounded_as_in_pyod(contamination):
    with pytest.raises(ValueError, match="contamination must be in"):
        as_pyod(quick(), contamination=contamination)


def test_contamination_is_the_detectors_own_if_it_has_one():
    assert as_pyod(quick()).contamination == 0.1
    assert as_pyod(quick(contamination=0.02)).contamination == 0.02


@pytest.mark.parametrize(("columns", "away"), [(4, 4), (10, 3)])
def test_a_detector_whose_contamination_is_auto_is_told_of_it(columns, away):
    """A clump of outliers among the training rows is dense: a detector that learns it finds it normal."""
    rng = np.random.default_rng(0)
    rows = np.vstack([rng.normal(size=(450, columns)), away + 0.2 * rng.normal(size=(50, columns))])
    clump = np.repeat([0, 1], [450, 50])
    told = as_pyod(quick(), contamination=0.1).fit(rows)
    assert roc_auc_score(clump, told.decision_scores_) > 0.99
    own = quick(contamination=0.1).fit(rows)
    np.testing.assert_array_equal(told.decision_function(rows), own.anomaly_score(rows))
    np.testing.assert_array_equal(clone(told).set_params(contamination=0.1).fit(rows).labels_, told.labels_)
    assert roc_auc_score(clump, quick().fit(rows).anomaly_score(rows)) < 0.9  # without being told
    assert told.detector.contamination == "auto"


@pytest.mark.parametrize(("own", "given", "learned"), [("auto", None, 0.1), (0.02, 0.2, 0.02), ("auto", 0.25, 0.25)])
def test_a_number_of_the_detector_s_own_stays(own, given, learned):
    adapter = as_pyod(quick(contamination=own), contamination=given).fit(TRAIN)
    assert adapter.detector_.contamination == learned


def test_copies_give_the_same_scores(fitted, tmp_path):
    persistence.save(fitted, tmp_path / "model.joblib")
    stored = persistence.load(tmp_path / "model.joblib", trusted=True)
    for other in (copy.deepcopy(fitted), pickle.loads(pickle.dumps(fitted)), stored):  # noqa: S301
        assert type(other) is type(fitted) is pyod_adapter.PyODDetector
        np.testing.assert_array_equal(other.decision_function(TEST), fitted.decision_function(TEST))
        np.testing.assert_array_equal(other.predict(TEST), fitted.predict(TEST))


@pytest.mark.slow
def test_a_pickle_opens_in_a_new_process(fitted, tmp_path):
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(fitted))
    script = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).threshold_.hex())"
    command = [sys.executable, "-c", script, tmp_path / "model.pickle"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == fitted.threshold_.hex(), done.stderr


# Our detector inside PyOD: already fitted


def test_a_fitted_detector_is_used_as_it_is_with_its_training_rows():
    detector = quick().fit(TRAIN)
    adapter = as_pyod(detector, TRAIN)
    assert adapter.detector_ is detector
    np.testing.assert_array_equal(adapter.decision_scores_, detector.anomaly_score(TRAIN))
    assert adapter.labels_.sum() == 20
    assert adapter.predict_proba(TEST).shape == (100, 2)


def test_without_them_it_has_scores_but_no_threshold():
    detector = quick().fit(TRAIN)
    adapter = as_pyod(detector)
    np.testing.assert_array_equal(adapter.decision_function(TEST), detector.anomaly_score(TEST))
    for method in (adapter.predict, adapter.predict_proba, adapter.predict_confidence):
        with pytest.raises(NotFittedError):
            method(TEST)


def test_fit_leaves_the_given_detector_alone():
    detector = quick().fit(TRAIN)
    before = detector.anomaly_score(TEST)
    adapter = as_pyod(detector).fit(TEST)
    assert len(adapter.labels_) == len(TEST)
    np.testing.assert_array_equal(detector.anomaly_score(TEST), before)


def test_unfitted_or_other_detectors_are_refused():
    with pytest.raises(NotFittedError):
        as_pyod(quick(), TRAIN)
    with pytest.raises(NotFittedError):
        as_pyod(quick()).decision_function(TEST)
    with pytest.raises(TypeError, match=r"Got a KNN, expected a VAEOutlierDetector\. Pass the detector itself\."):
        as_pyod(KNN())


def test_column_names_are_kept():
    frame = pd.DataFrame(TRAIN, columns=["speed", "yaw"])
    detector = as_pyod(quick()).fit(frame)
    with pytest.raises(ValueError, match=r"(?s)feature names.*missing.*yaw"):
        detector.predict(frame.rename(columns={"yaw": "roll"}))


# Our detector inside PyOD: its ensembles, thresholds and evaluation


class Thresholder:
    """A stand-in for a PyThresh object."""

    def fit(self, scores):
        self.thresh_ = float(np.median(scores))
        self.labels_ = self.predict(scores)

    def predict(self, scores):
        return (scores > self.thresh_).astype(int)


def test_a_pythresh_object_sets_the_threshold():
    detector = clone(as_pyod(quick(), contamination=Thresholder())).fit(TRAIN)
    assert detector.detector_.contamination == "auto"
    assert detector.labels_.sum() == 100
    np.testing.assert_array_equal(detector.predict(TEST), detector.decision_function(TEST) > detector.threshold_)


def test_evaluation_reads_the_scores(fitted, capsys):
    evaluate_print("ours", OUTLIER, fitted.decision_function(TEST))
    assert capsys.readouterr().out.startswith("ours ROC:")


@pytest.mark.filterwarnings("ignore::UserWarning:pyod")
def test_a_locally_selective_ensemble_of_ours_and_knn():
    from pyod.models.lscp import LSCP

    ensemble = LSCP([as_pyod(quick()), KNN()], random_state=0).fit(TRAIN)
    assert roc_auc_score(OUTLIER, ensemble.decision_function(TEST)) >= 0.8


def test_feature_bagging_clones_and_seeds_ours():
    from pyod.models.feature_bagging import FeatureBagging

    base = as_pyod(quick())
    bagging = FeatureBagging(base, n_estimators=3, random_state=0, combination="max").fit(TRAIN)
    assert len({one.detector.random_state for one in bagging.estimators_}) == 3
    assert not hasattr(base, "detector_")
    assert bagging.labels_.sum() == 20
    assert roc_auc_score(OUTLIER, bagging.decision_function(TEST)) >= 0.8


@pytest.mark.filterwarnings("ignore")
def test_suod_trains_ours_beside_others():
    pytest.importorskip("suod", reason="needs suod: pip install suod")
    from pyod.models.suod import SUOD

    ensemble = SUOD([as_pyod(quick()), KNN(), as_pyod(quick(beta=2.0))], n_jobs=1, verbose=False).fit(TRAIN)
    assert ensemble.labels_.sum() == 20
    assert roc_auc_score(OUTLIER, ensemble.decision_function(TEST)) >= 0.8


@pytest.mark.parametrize("name", ["FILTER", "IQR", "MAD", "YJ", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore")
def test_thresholders_of_pythresh_set_the_threshold(fitted, name):
    thresholds = pytest.importorskip("pythresh.thresholds", reason="needs pythresh: pip install pythresh")
    modules = [module.name for module in pkgutil.iter_modules(thresholds.__path__)]
    modules = [name.lower()] if name != "all" else [m for m in modules if m not in ("base", "gamgmm", "thresh_utility")]
    for module in modules:
        try:
            kind = getattr(importlib.import_module(f"pythresh.thresholds.{module}"), module.upper())
            thresholder = kind()
            KNN(contamination=thresholder).fit(TRAIN)
        except (ImportError, AttributeError):  # it needs another package, or fails with PyOD's own detectors
            continue
        detector = as_pyod(fitted.detector, contamination=kind()).fit(TRAIN)
        assert set(detector.labels_) <= {0, 1}, module
        assert set(detector.predict(TEST)) <= {0, 1}, module


def test_combinations_of_ours_and_knn(fitted):
    from pyod.models import combination

    detectors = [fitted, KNN().fit(TRAIN), fitted, KNN(n_neighbors=9).fit(TRAIN)]
    learned = np.column_stack([detector.decision_scores_ for detector in detectors])
    _, scores = standardizer(learned, np.column_stack([detector.decision_function(TEST) for detector in detectors]))
    for combine in (combination.average, combination.maximization, combination.median):
        assert roc_auc_score(OUTLIER, combine(scores)) >= 0.8
    for combine in (combination.aom, combination.moa):
        assert roc_auc_score(OUTLIER, combine(scores, n_buckets=2, random_state=0)) >= 0.8
    votes = combination.majority_vote(np.column_stack([detector.predict(TEST) for detector in detectors]))
    assert set(votes) <= {0, 1}


# PyOD's detectors


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in PYOD_DETECTORS]
)
def test_every_detector_scores_outliers_higher(name, capsys):
    rng = np.random.default_rng(0)
    normal, outliers = rng.normal(size=(80, 3)), 9 + rng.normal(size=(8, 3))
    scores = pyod_detector(name, seed=0).fit(normal).anomaly_score(np.vstack([normal, outliers]))
    assert roc_auc_score(np.repeat([0, 1], [80, 8]), scores) > 0.95
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["iforest", "vae"])
def test_pyod_repeats_itself_and_restores_the_global_generators(name):
    def numbers():
        return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002, S311

    def seeded():
        random.seed(7), np.random.seed(7), torch.manual_seed(7)  # noqa: NPY002

    seeded()
    expected = numbers()
    seeded()
    first = pyod_detector(name, seed=3).fit(TRAIN)
    scores = first.anomaly_score(TEST)
    assert numbers() == expected
    other, again = pyod_detector(name, seed=4).fit(TRAIN), pyod_detector(name, seed=3).fit(TRAIN)
    assert not np.array_equal(other.anomaly_score(TEST), scores)  # and in between it draws nothing of the next one's
    np.testing.assert_array_equal(again.anomaly_score(TEST), scores)
    np.testing.assert_array_equal(first.fit(TRAIN).anomaly_score(TEST), scores)


def test_a_missing_extra_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyod.models.base", None)
    monkeypatch.setitem(sys.modules, "pyod.models.knn", None)
    monkeypatch.setattr(pyod_adapter, "_pyod_class", pyod_adapter._pyod_class.__wrapped__)
    for call in (lambda: as_pyod(quick()), lambda: pyod_detector("knn"), lambda: compare(TRAIN, against=["knn"])):
        with pytest.raises(ImportError, match=r"is not installed.* pip install 'anomalyvae\[compare\]'"):
            call()


# The comparison


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    values = np.vstack([rng.normal(size=(80, 3)), 2 + rng.normal(size=(8, 3))]) * [1, 100, 0.01]
    return pd.DataFrame(values, columns=["a", "b", "c"]).assign(fault=np.repeat([0, 1], [80, 8]))


def test_figures_with_a_label_are_those_of_the_benchmark(rows, tmp_path):
    import tabular

    np.savez(tmp_path / "toy.npz", X=rows[["a", "b", "c"]], y=rows["fault"])
    table = compare(rows, "fault", ["knn", "iforest"], detector=quick(), seeds=2, random_state=4)
    source = tabular.Source("toys", tmp_path / "toy.npz", ("toy",))
    for name in ("knn", "iforest"):
        runs = [run for s in (4, 5) for run in tabular.results_of(tabular.Job(source, "normal", s, name))]
        for figure in ("auroc", "average_precision"):
            assert table.loc[name, figure] == pytest.approx(np.mean([run[figure] for run in runs]))
    assert table.index.name == "detector"
    assert list(table) == ["auroc", "average_precision", "fit_s", "score_s", "failure"]
    assert table["auroc"].is_monotonic_decreasing
    assert (table["failure"] == "").all()
    assert table.attrs["protocol"] == (
        "Mean of seeds 4 to 5: 40 of 80 normal rows are learned; 40 others and 8 outliers are scored."
    )


def test_without_a_label_it_measures_agreement_and_speed_only(rows):
    features = rows[["a", "b", "c"]]
    table = compare(features, against=["knn"], detector=quick(), seeds=1)
    assert list(table) == ["rank_correlation", "top_shared", "fit_s", "score_s", "failure"]
    assert table.loc[OURS, ["rank_correlation", "top_shared"]].tolist() == [1, 1]
    ours = quick().fit(features).anomaly_score(features)
    standard = ((features - features.mean()) / features.std(ddof=0)).to_numpy()
    theirs = pyod_detector("knn").fit(standard).anomaly_score(standard)
    assert table.loc["knn", "rank_correlation"] == pytest.approx(pd.Series(ours).corr(pd.Series(theirs), "spearman"))
    shared = set(np.argsort(ours)[-5:]) & set(np.argsort(theirs)[-5:])  # 5 % of 88 rows, rounded up
    assert table.loc["knn", "top_shared"] == len(shared) / 5
    assert "all 88 rows are learned and scored. Without a label, rankings are compared" in table.attrs["protocol"]


@pytest.mark.parametrize(
    ("values", "positive"),
    [
        ([False, True], None),
        ([0.0, 1.0], None),
        (["ok", "broken"], "broken"),
        ([1, 0], "0"),
        ([7, 3], 3),
        ([1.0, 2.0], "2"),
    ],
)
def test_a_label_may_be_written_in_several_ways(rows, values, positive):
    label = np.repeat(values, [80, 8])
    column = compare(rows.assign(fault=label), "fault", [], positive=positive, detector=quick(), seeds=1)
    array = compare(rows[["a", "b", "c"]], label, [], positive=positive, detector=quick(), seeds=1)
    expected = compare(rows, "fault", [], detector=quick(), seeds=1)
    for table in (column, array):
        assert table["auroc"].tolist() == expected["auroc"].tolist()


@pytest.mark.parametrize(
    ("label", "positive", "message"),
    [
        ("falt", None, r"label='falt' is not one of the columns a, b, c, fault\. Correct"),
        (
            ["x"] * 80 + ["y"] * 8,
            None,
            r"x, y; it needs two, one of them 1 for outliers.*positive= \(--positive\)",
        ),
        (["x"] * 80 + ["y"] * 8, "z", r"the values x, y; it needs two, one of them 'z'"),
        (["x"] * 80 + ["y"] * 7 + ["z"], "z", r"the values x, y, z; it needs two"),
        ([0] * 87 + [np.nan], None, r"the values 0\.0, nan; it needs two.* drop rows without a label"),
        ([0] * 88, None, r"the values 0; it needs two"),
        ([0] * 3 + [1] * 85, None, r"Got 3 normal rows, expected at least 4"),
        ([0, 1], None, r"Got a label of shape \(2,\) for 88 rows, expected a value per row, or the name of a column"),
        (3, None, r"Got a label of shape \(\) for 88 rows, expected a value per row, or the name of a column"),
        (None, "x", r"positive='x' is a value of the label, and no label was given"),
    ],
)
def test_an_unusable_label_is_refused(rows, label, positive, message):
    with pytest.raises(ValueError, match=message):
        compare(rows, label, ["knn"], positive=positive, detector=quick())


@pytest.mark.parametrize("unit", [2.0**600, 2.0**-600])
def test_rows_of_any_size_are_standardised_for_pyod(rows, unit):
    """The squares of such numbers are beyond the range of floats, so that all columns counted as constant."""
    table = compare(
        rows.assign(**{name: rows[name] * unit for name in "ab"}), "fault", ["knn"], detector=quick(), seeds=1
    )
    plain = compare(rows, "fault", ["knn"], detector=quick(), seeds=1)
    assert table.loc["knn", "auroc"] == plain.loc["knn", "auroc"]


def test_other_detectors_are_not_compared(rows):
    with pytest.raises(ValueError, match=r"Got a KNN, expected a VAEOutlierDetector\. Pass one, or leave it out"):
        compare(rows, "fault", ["knn"], detector=KNN())


def test_unknown_names_and_no_seeds_are_refused(rows):
    with pytest.raises(ValueError, match=r"'knnn' is not one of PyOD's detectors here\. Choose from knn, lof"):
        compare(rows, "fault", ["knnn"])
    with pytest.raises(ValueError, match="seeds=0 is below 1"):
        compare(rows, "fault", seeds=0)


class Tolerant(VAEOutlierDetector):
    """A detector that accepts rows that PyOD's do not."""

    def fit(self, X):
        return super().fit(self._numbers(X))

    def anomaly_score(self, X):
        return super().anomaly_score(self._numbers(X))

    def _numbers(self, X):
        return X.select_dtypes("number").fillna(0)


def test_rows_that_pyod_cannot_use_leave_its_lines_empty_with_the_columns(rows):
    ours = Tolerant(**QUICK)
    holes = rows.assign(b=rows["b"].where(rows.index > 2), c=rows["c"].replace(rows["c"][5], np.inf))
    table = compare(holes.assign(c=rows["c"]), "fault", ["knn", "pca"], detector=ours, seeds=2)
    assert table.index[0] == OURS
    assert table.loc[OURS, "auroc"] > 0.5
    assert table.loc[["knn", "pca"], ["auroc", "fit_s"]].isna().all(axis=None)
    assert table.loc["pca", "failure"].endswith("cells are missing or infinite in b. Impute them.")


def test_text_is_encoded_for_pyod(rows):
    """Outliers by their text alone, in a table whose numbers say nothing."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"x": rng.normal(size=88), "road": np.repeat(["dry", "ice"], [80, 8]), "on": rng.random(88) < 0.5}
    )
    table.loc[:40:2, "road"] = "wet"
    table.loc[7, "road"] = None
    table["id"] = [f"row {i}" for i in range(88)]
    label = np.repeat([0, 1], [80, 8])
    found = compare(table, label, ["knn"], detector=quick(max_epochs=60), seeds=1)
    assert (found["failure"] == "").all()
    assert (found["auroc"] > 0.9).all()
    with pytest.raises(ValueError, match="neither numeric nor categories: 'when'"):
        compare(table.assign(when=pd.Timestamp("2026-01-01")), label, ["knn"], detector=quick(), seeds=1)


def test_rows_that_our_detector_cannot_use_are_an_error(rows):
    with pytest.raises(ValueError, match=r"infinity in X: c"):
        compare(rows.assign(c=np.inf), "fault", ["knn"], detector=quick())


def test_a_detector_that_fails_is_a_line_with_the_reason():
    few = np.random.default_rng(0).normal(size=(6, 2))  # knn needs five neighbours, and two rows are learned
    table = compare(few, [0, 0, 0, 0, 0, 1], ["knn", "pca"], detector=quick(), seeds=2)
    assert table.index[-1] == "knn"
    assert table.loc["knn", "failure"].startswith("ValueError: Expected n_neighbors")
    assert table.loc[[OURS, "pca"], "auroc"].notna().all()


def test_a_detector_that_fails_once_has_no_mean(rows, monkeypatch):
    calls = []

    def unreliable(self, x):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("two\nlines")
        return self

    monkeypatch.setattr(KNN, "fit", unreliable)
    monkeypatch.setattr(KNN, "decision_function", lambda self, x: np.arange(len(x)))
    table = compare(rows, "fault", ["knn"], detector=quick(), seeds=3)
    assert table.loc["knn", "failure"] == "RuntimeError: two lines"
    assert np.isnan(table.loc["knn", "auroc"])
    assert len(calls) == 2


def test_nan_scores_are_a_failure_and_infinite_ones_are_ranked(rows, monkeypatch):
    monkeypatch.setattr(KNN, "decision_function", lambda self, x: np.where(np.arange(len(x)) < 40, 0, np.inf))
    assert compare(rows, "fault", ["knn"], detector=quick(), seeds=1).loc["knn", "auroc"] == 1
    monkeypatch.setattr(KNN, "decision_function", lambda self, x: np.full(len(x), np.nan))
    for label in ("fault", None):
        failure = compare(rows, label, ["knn"], detector=quick(), seeds=1).loc["knn", "failure"]
        assert "are NaN" in failure


def test_an_interrupt_stops_the_comparison(rows, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(KNN, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(rows, "fault", ["knn"], detector=quick(), seeds=1)


@pytest.mark.parametrize("steps", [5, 45])
def test_an_interrupt_of_our_training_stops_the_comparison_too(rows, monkeypatch, steps):
    taken, step = [], _Optimiser.step

    def interrupted(self, *args, **kwargs):
        taken.append(1)
        if len(taken) == steps:  # early and late
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(_Optimiser, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        compare(rows, "fault", ["pca"], detector=quick(max_epochs=50, validation_fraction="auto"), seeds=1)
    assert len(taken) == steps


def test_progress_counts_every_fit(rows):
    steps = []
    compare(rows, "fault", ["pca"], detector=quick(), seeds=2, progress=lambda *step: steps.append(step))
    assert [step[:2] for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [step[2] for step in steps[:2]] == ["anomalyvae, seed 0", "pca, seed 0"]
    assert re.fullmatch(r"anomalyvae, seed 1, \d+ s left", steps[2][2])  # as long as the first seed took
    assert re.fullmatch(r"pca, seed 1, \d+ s left", steps[3][2])


def test_of_many_rows_all_detectors_learn_a_sample(rows, monkeypatch):
    learned, fit = [], KNN.fit
    monkeypatch.setattr(KNN, "fit", lambda self, x, y=None: learned.append(len(x)) or fit(self, x))
    ours = quick()
    table = compare(rows, "fault", ["knn"], detector=ours, seeds=1, learn=30)
    assert (
        "a sample of 30 of 80 normal rows is learned; 40 others and 8 outliers are scored." in table.attrs["protocol"]
    )
    assert table.attrs["protocol"].endswith("pass learn (--learn).")
    table = compare(rows[["a", "b", "c"]], against=["knn"], detector=ours, seeds=1, learn=30)
    assert "a sample of 30 of 88 rows is learned, and all are scored." in table.attrs["protocol"]
    assert learned == [30, 30]
    with pytest.raises(ValueError, match=r"learn=1 is below 2\. .*--learn"):
        compare(rows, "fault", ["knn"], learn=1)
