"""Tables of Arrow and polars give the scores of a DataFrame, and tables of their own kind come back."""

import importlib.util
from datetime import datetime, timedelta
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse

from anomalyvae import VAEOutlierDetector, load, save
from anomalyvae.scoring import Scorer


def from_polars(frame):
    import polars

    return polars.DataFrame(pa.Table.from_pandas(frame, preserve_index=False))


def to_pandas(table):
    return table.to_pandas()


KINDS = [
    pytest.param(lambda frame: pa.Table.from_pandas(frame, preserve_index=False), id="pyarrow"),
    pytest.param(lambda frame: pa.RecordBatch.from_pandas(frame, preserve_index=False), id="record batch"),
    pytest.param(
        from_polars, id="polars",
        marks=pytest.mark.skipif(importlib.util.find_spec("polars") is None, reason="needs polars"),
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def frame():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {"a": rng.normal(size=90), "n": rng.integers(0, 9, 90), "t": list("xyz") * 30, "b": rng.random(90) < 0.5}
    )


@pytest.fixture(scope="module")
def detector(frame):
    return VAEOutlierDetector(max_epochs=3, hidden=[8], random_state=0, objective="elbo").fit(frame)


@pytest.mark.parametrize("made_of", KINDS)
def test_a_table_of_any_kind_is_learned_and_scored_alike(made_of, frame, detector):
    table = made_of(frame)
    again = VAEOutlierDetector(max_epochs=3, hidden=[8], random_state=0, objective="elbo").fit(table)
    expected = detector.anomaly_score(frame)
    np.testing.assert_array_equal(again.anomaly_score(table), expected)
    np.testing.assert_array_equal(detector.anomaly_score(table), expected)
    np.testing.assert_array_equal(again.anomaly_score(frame), expected)
    assert again.categories_ == detector.categories_ == {"t": ["x", "y", "z"], "b": [False, True]}


@pytest.mark.parametrize("made_of", KINDS)
def test_what_comes_back_is_of_the_kind_that_came(made_of, frame, detector):
    holed = frame.assign(a=frame["a"].where(np.arange(90) % 7 > 0), t=frame["t"].where(np.arange(90) % 5 > 0))
    table = made_of(holed)
    for method in ("feature_scores", "impute", "reconstruct"):
        expected, found = getattr(detector, method)(holed), getattr(detector, method)(table)
        assert type(found) is type(table)
        pd.testing.assert_frame_equal(found.to_pandas(), expected, check_dtype=False)
    with pytest.warns(UserWarning, match=r"such as a, t\. Their p-values"):
        detector.anomaly_score(table)
    assert detector.new_gaps(table) == detector.new_gaps(holed)


@pytest.mark.parametrize("made_of", KINDS)
def test_the_scorer_takes_them_too(made_of, frame, detector, tmp_path):
    scorer = Scorer(save(detector, tmp_path / "model"))
    expected = scorer.anomaly_score(frame)
    np.testing.assert_array_equal(scorer.anomaly_score(made_of(frame)), expected)
    categorical = made_of(frame.astype({"t": "category"}))
    np.testing.assert_array_equal(scorer.anomaly_score(categorical), expected)
    np.testing.assert_array_equal(detector.anomaly_score(categorical), detector.anomaly_score(frame))


@pytest.fixture(scope="module")
def numbers():
    """Rows of numbers with missing cells, a detector without column names, and its file."""
    x = np.random.default_rng(1).normal(size=(60, 3))
    x[::7, 1] = np.nan
    return x, VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0).fit(x)


@pytest.fixture(scope="module")
def scorers(numbers, frame, detector, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return Scorer(save(numbers[1], folder / "numbers")), Scorer(save(detector, folder / "frame"))


@pytest.mark.parametrize(
    "made_of",
    [
        pytest.param(lambda x: np.ma.array(np.nan_to_num(x, nan=77.0), mask=np.isnan(x)), id="floats"),
        pytest.param(lambda x: np.ma.array(np.nan_to_num(x, nan=7).astype(int), mask=np.isnan(x)), id="integers"),
        pytest.param(lambda x: [np.ma.array(np.nan_to_num(r, nan=7), mask=np.isnan(r)) for r in x], id="list"),
    ],
)
def test_masked_cells_are_missing(made_of, numbers, scorers):
    x, model = np.round(5 * numbers[0]), numbers[1]
    masked = made_of(x)
    np.testing.assert_array_equal(model.anomaly_score(masked), model.anomaly_score(x))
    again = VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0)
    assert again.fit(masked, outliers=masked).training_ == again.fit(x, outliers=x).training_
    np.testing.assert_array_equal(scorers[0].anomaly_score(masked), scorers[0].anomaly_score(x))
    columns = np.ma.array(masked).T
    np.testing.assert_array_equal(scorers[0].anomaly_score(dict(enumerate(columns))), scorers[0].anomaly_score(x))


@pytest.mark.parametrize(
    "made_of",
    [
        pytest.param(lambda x: x.astype(np.longdouble), id="long doubles"),
        pytest.param(lambda x: x.map(lambda cell: Decimal(cell)), id="decimals"),
        pytest.param(lambda x: x.astype("double[pyarrow]"), id="floats of Arrow"),
        pytest.param(
            lambda x: pa.Table.from_pandas(x.map(lambda cell: None if np.isnan(cell) else Decimal(cell))).to_pandas(
                types_mapper=pd.ArrowDtype
            ),
            id="decimals of Arrow",
        ),
    ],
)
def test_numbers_of_any_type_are_the_same_numbers(made_of, numbers, scorers):
    x, model = pd.DataFrame(np.round(4 * numbers[0]) / 4), numbers[1]
    given = made_of(x)
    np.testing.assert_array_equal(model.anomaly_score(given), model.anomaly_score(x))
    np.testing.assert_array_equal(model.impute(given).astype(float), model.impute(x))
    again = VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0)
    assert again.fit(given).training_ == again.fit(x).training_
    np.testing.assert_array_equal(scorers[0].anomaly_score(given), scorers[0].anomaly_score(x))


def test_a_dictionary_of_arrow_is_a_category(frame, detector, scorers):
    given = frame.assign(t=frame["t"].astype(pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string()))))
    np.testing.assert_array_equal(detector.anomaly_score(given), detector.anomaly_score(frame))
    np.testing.assert_array_equal(scorers[1].anomaly_score(given), scorers[1].anomaly_score(frame))
    again = VAEOutlierDetector(max_epochs=3, hidden=[8], random_state=0).fit(given)
    assert again.categories_ == detector.categories_
    assert again.impute(given)["t"].tolist() == frame["t"].tolist()


@pytest.mark.parametrize("cells", [None, np.nan, pd.array([None] * 90, dtype=pd.ArrowDtype(pa.null()))])
@pytest.mark.parametrize("name", ["t", "b"])
def test_a_category_without_a_value_is_filled_in_by_its_levels(name, cells, frame, detector):
    filled = detector.impute(frame.assign(**{name: cells}))
    assert filled[name].dtype == frame[name].dtype
    assert filled[name].isin(detector.categories_[name]).all()


@pytest.mark.parametrize("whole", [10**400, -(10**400)], ids=["above", "below"])
def test_whole_numbers_beyond_the_range_of_floats_are_infinite(whole, frame, numbers, detector, scorers):
    spoiled = frame.assign(a=[whole, *frame["a"][1:]])
    with pytest.raises(ValueError, match=r"Got 1 cells that are infinity in X: a \(1\).*Replace them"):
        detector.anomaly_score(spoiled)
    with pytest.raises(ValueError, match=r"infinite cells in 'a'\. Replace them"):
        scorers[1].score(spoiled)
    for model, found in zip((numbers[1], scorers[0]), ("infinity in X: column 1", "infinite cells in 1"), strict=True):
        with pytest.raises(ValueError, match=found):
            model.anomaly_score([[1.0, whole, 2.0]])


def test_one_row_as_a_dict_of_cells_is_refused(frame, detector, scorers):
    for model in (detector, scorers[1]):
        with pytest.raises(ValueError, match=r"dict with a float for 'a', expected a column for each .*list of dicts"):
            model.anomaly_score(frame.iloc[0].to_dict())
        assert model.anomaly_score([frame.iloc[0].to_dict()]).shape == (1,)
    with pytest.raises(ValueError, match=r"dict with a dict for 'a', expected a column for each name"):
        scorers[1].anomaly_score(frame.to_dict())


def test_a_masked_text_or_boolean_is_missing(frame, scorers):
    mask = np.arange(90) % 4 == 0
    masked = {name: np.ma.array(frame[name].to_numpy(), mask=mask) for name in frame}
    expected = frame.astype({"b": object, "n": float}).where(~np.repeat(mask[:, None], 4, axis=1))
    np.testing.assert_array_equal(scorers[1].anomaly_score(masked), scorers[1].anomaly_score(expected))


@pytest.mark.parametrize("unit", ["m8[s]", "M8[s]"])
def test_dates_and_durations_are_no_numbers(unit, frame, numbers, scorers):
    times = np.arange(90).astype(unit)
    for take in (VAEOutlierDetector().fit, numbers[1].anomaly_score, scorers[0].anomaly_score):
        with pytest.raises(ValueError, match=r"Got rows of dtype .*(datetime|timedelta)64\[s\], expected numbers"):
            take(np.repeat(times[:, None], 3, axis=1))
        with pytest.raises(ValueError, match=r"Got rows of dtype (datetime|timedelta)64\[s\], expected numbers"):
            take(np.array([[1.0, 2.0, time] for time in times], dtype=object))
        with pytest.raises(ValueError, match=r"Got rows of dtype (datetime|timedelta), expected numbers"):
            take([[1.0, 2.0, datetime(2026, 1, 1) if "M" in unit else timedelta(1)]] * 9)
    for made_of in (dict, pd.DataFrame, pa.table):
        with pytest.raises(ValueError, match=r"Column 'a' is of type .*, expected numbers"):
            scorers[1].score(made_of(dict(frame.assign(a=times))))


def test_sparse_columns_are_taken_and_a_sparse_matrix_is_named(frame, scorers):
    dense = frame.assign(a=frame["a"].where(frame["a"] > 0, 0.0), t=frame["t"].astype(object))
    fill = {"a": pd.SparseDtype(float, 0.0), "n": pd.SparseDtype(int, 0), "t": pd.SparseDtype(object, "x")}
    expected = VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0).fit(dense)
    found = VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0).fit(dense.astype(fill))
    np.testing.assert_array_equal(found.anomaly_score(dense.astype(fill)), expected.anomaly_score(dense))
    np.testing.assert_array_equal(scorers[1].anomaly_score(dense.astype(fill)), scorers[1].anomaly_score(dense))
    for kind in (scipy.sparse.csr_array, scipy.sparse.dok_matrix):
        with pytest.raises(ValueError, match=r"sparse .*, expected dense rows\. .*toarray\(\)"):
            scorers[0].score(kind(np.eye(3)))


def test_a_sparse_table_of_numbers_is_taken(numbers):
    x = pd.DataFrame(np.where(numbers[0] > 0, numbers[0], 0.0), columns=list("abc"))
    model = VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0).fit(x.astype(pd.SparseDtype(float, 0.0)))
    np.testing.assert_array_equal(model.anomaly_score(x.astype(pd.SparseDtype(float, 0.0))), model.anomaly_score(x))


@pytest.mark.parametrize(
    "made_of",
    [
        pytest.param(lambda frame: frame.to_dict("records"), id="list of dicts"),
        pytest.param(lambda frame: frame.to_dict("list"), id="dict of columns"),
        pytest.param(lambda frame: frame.to_records(index=False), id="structured array"),
    ],
)
def test_rows_with_names_are_a_table(made_of, frame, detector, scorers):
    rows = made_of(frame)
    again = VAEOutlierDetector(max_epochs=3, hidden=[8], random_state=0, objective="elbo").fit(rows)
    np.testing.assert_array_equal(again.anomaly_score(rows), detector.anomaly_score(frame))
    np.testing.assert_array_equal(scorers[1].anomaly_score(rows), scorers[1].anomaly_score(frame))
    pd.testing.assert_frame_equal(pd.DataFrame(detector.reconstruct(rows)), detector.reconstruct(frame))
    codes = detector.embed(frame).to_numpy()
    pd.testing.assert_frame_equal(detector.decode(codes.tolist()), detector.decode(codes))


def test_a_column_may_have_the_name_of_a_reason(frame):
    numbers = frame[["a", "n"]].rename(columns={"n": "view"})
    reasons = VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0).fit(numbers).reasons(numbers)
    assert list(reasons.columns) == ["view", "a", "view"]


def test_a_dict_that_lacks_a_cell_lacks_its_value(frame, detector, scorers):
    rows = frame.to_dict("records")
    del rows[1]["a"], rows[2]["t"]
    holed = frame.assign(a=frame["a"].mask(frame.index == 1), t=frame["t"].mask(frame.index == 2))
    for model in (detector, scorers[1]):
        with pytest.warns(UserWarning, match="missing cells"):
            np.testing.assert_array_equal(model.anomaly_score(rows), model.anomaly_score(holed))


def test_rows_that_are_not_in_memory_are_refused(frame, detector, scorers):
    for model in (detector, scorers[1]):
        with pytest.raises(ValueError, match=r"Got a RecordBatchReader, expected rows that are in memory\. .*read_all"):
            model.anomaly_score(pa.Table.from_pandas(frame).to_reader())


def test_a_table_of_arrow_has_its_own_types(frame, detector, scorers):
    """Not those of the DataFrame that it once was."""
    nullable = pa.Table.from_pandas(frame.astype({"n": "Int64"}).set_index(frame.index + 5))
    decimals = nullable.set_column(1, "n", nullable["n"].cast(pa.decimal128(30, 2)))
    np.testing.assert_array_equal(detector.anomaly_score(decimals), detector.anomaly_score(frame))
    levels = frame.assign(t=pd.Categorical(np.tile([1, 2, 3], 30)))
    model = VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0).fit(levels)
    table = pa.Table.from_pandas(levels, preserve_index=False)
    np.testing.assert_array_equal(model.anomaly_score(table), model.anomaly_score(levels))


def test_levels_that_are_numbers_are_text_in_a_file_too(frame, tmp_path):
    levels = frame.assign(t=pd.Categorical(np.tile([1, 2, 3], 30)))
    scorer = Scorer(save(VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0).fit(levels), tmp_path / "m"))
    table = pa.Table.from_pandas(levels, preserve_index=False)
    np.testing.assert_array_equal(scorer.anomaly_score(table), scorer.anomaly_score(levels))


@pytest.mark.parametrize(("learned", "given"), [("int64", "float64"), ("float64", "Int64")])
def test_levels_that_a_missing_cell_makes_decimals_stay_the_same(learned, given, frame, tmp_path):
    cells = pd.Series(np.tile([1, 2, 3], 30))
    rows, others = (frame.assign(t=cells.astype(kind).astype("category")) for kind in (learned, given))
    model = VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0).fit(rows)
    np.testing.assert_array_equal(model.anomaly_score(others), model.anomaly_score(rows))
    scorer = Scorer(save(model, tmp_path / "m"))
    np.testing.assert_array_equal(scorer.anomaly_score(others), scorer.anomaly_score(rows))
    holed = others.assign(t=others["t"].where(np.arange(90) % 9 > 0))
    assert set(model.impute(holed)["t"]) == {1, 2, 3}


def test_kept_identifiers_keep_their_digits(frame, scorers):
    number = 2**60 + 1
    table = pa.Table.from_pandas(frame, preserve_index=False).append_column("id", pa.array([number, None] * 45))
    assert list(scorers[1].score(table, keep=["id"])["id"][:2]) == [number, None]
    masked = {**frame.to_dict("list"), "id": np.ma.array([number, 0] * 45, mask=[False, True] * 45)}
    assert list(scorers[1].score(masked, keep=["id"])["id"][:2]) == [number, None]
    nullable = frame.assign(id=pd.array([number, None] * 45, dtype="Int64"))
    assert scorers[1].score(nullable, keep=["id"])["id"][0] == number


@pytest.mark.parametrize("fit_names", [[5, 6, 7], range(3), pd.MultiIndex.from_tuples([(1, "x"), (1, "y"), (2, "x")])])
def test_columns_without_names_of_text_keep_their_order(fit_names, numbers, tmp_path):
    x, array = numbers
    table = pd.DataFrame(x, columns=fit_names)
    detector = VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0).fit(table)
    folder = save(detector, tmp_path / "model")
    expected = array.anomaly_score(x)
    for model in (detector, load(folder)):
        for rows in (table, x, pd.DataFrame(x)):
            np.testing.assert_array_equal(model.anomaly_score(rows), expected)
    for model in (detector, load(folder), Scorer(folder)):
        with pytest.raises(
            ValueError, match=r"another order than in training: .*, expected .* in their places\. Select"
        ):
            model.anomaly_score(table.iloc[:, [0, 2, 1]])
        others = table.set_axis([1, 8, 9], axis=1)
        if table.columns.equals(pd.RangeIndex(3)):
            np.testing.assert_allclose(model.anomaly_score(others), expected, rtol=1e-3, atol=1e-3)
        else:
            with pytest.raises(ValueError, match=r"Got columns of other names than in training: 1, 8, 9, expected"):
                model.anomaly_score(others)
    with pytest.raises(ValueError, match=r"Got columns in another order than in training"):
        VAEOutlierDetector().fit(table, outliers=table.iloc[:3, ::-1])


def test_columns_that_are_numbered_in_another_order_come_back_as_they_came(numbers, tmp_path):
    x, array = numbers
    table = pd.DataFrame(x, columns=[2, 0, 1])
    detector = VAEOutlierDetector(max_epochs=2, hidden=[8], random_state=0).fit(table)
    for model in (detector, load(save(detector, tmp_path / "model"))):
        np.testing.assert_array_equal(model.anomaly_score(table), array.anomaly_score(x))
        for found in (model.reconstruct(table), model.feature_scores(table), model.reasons(table).drop(columns="view")):
            assert found.columns.tolist() == [2, 0, 1]  # their names were 0, 1 and 2


@pytest.mark.parametrize("kind", ["pandas", "table", "batch"])
def test_two_columns_of_one_name_are_refused(kind, numbers, scorers):
    x, array = numbers
    table = pa.table([*x.T], names=["a", "b", "a"])
    twice = {"pandas": table.to_pandas(), "table": table, "batch": table.to_batches()[0]}[kind]
    calls = [VAEOutlierDetector().fit, array.predict, *(scorer.predict for scorer in scorers)]
    for call in [*calls, lambda rows: scorers[1].score(rows, keep=["a"])]:
        with pytest.raises(ValueError, match=r"The table has 2 columns named 'a'; names must be distinct. Rename them"):
            call(twice)


def test_an_array_says_nothing_of_the_names_of_columns(numbers, scorers):
    x, array = numbers
    for model in (array, scorers[0]):
        np.testing.assert_array_equal(model.anomaly_score(pd.DataFrame(x)[[2, 1, 0]]), model.anomaly_score(x[:, ::-1]))
