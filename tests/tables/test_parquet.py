"""Parquet files whose footer or pages contradict themselves are refused wherever they are read."""

import subprocess
import sys
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from anomalyvae.events import read_events
from anomalyvae.recordings import read_log
from anomalyvae.scoring.inputs import batches_of
from anomalyvae.tables.parquet import parquet_file
from anomalyvae.tables.rows import read_rows

SPEED = np.sin(np.arange(300.0))


def rows_of(path):
    return read_rows([path])


def scored(path):
    return list(batches_of(path.parent, path.name, {"windowing": None, "columns": None, "kinds": {}}))


@pytest.fixture
def written(tmp_path):
    """A file of three row groups, and where its footer begins."""
    path = tmp_path / "drive.parquet"
    table = pa.table({"time_s": np.arange(300) / 10, "speed": SPEED})
    pq.write_table(table, path, row_group_size=100, compression="none", use_dictionary=False, write_page_checksum=True)
    data = path.read_bytes()
    return path, data, len(data) - 8 - int.from_bytes(data[-8:-4], "little")


def renamed(data, foot):
    place = data.index(b"speed", foot)  # in the schema; each row group has the name again
    return data[:place] + b"spee2" + data[place + 5 :]


def shorter(data, foot):
    """Give a row group 64 rows."""
    for place in range(foot, len(data) - 8):
        if data.startswith(b"\xc8\x01", place):  # 100
            changed = data[:place] + b"\x80\x01" + data[place + 2 :]
            if pq.ParquetFile(pa.BufferReader(changed)).metadata.row_group(1).num_rows == 64:
                return changed
    raise AssertionError


def miscounted(data, foot):
    """Give the sizes of a column a list of levels that it cannot have; PyArrow ends a process that asks about it."""
    place = data.index(b"\x29\x06\x19\x26", foot)
    return data[:place] + b"\x14" + data[place + 1 :]


def flipped(data, foot):
    place = data.index(SPEED[30].tobytes())
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("read", [read_log, rows_of, scored])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (renamed, "its column 'spee2' is 'speed' in a row group"),
        (shorter, "it says that it has 300 rows, and its row groups have 264"),
        (miscounted, "histogram size mismatch"),
        (flipped, "CRC"),
    ],
)
def test_a_parquet_file_that_contradicts_itself_is_refused(written, read, damage, said):
    path, data, foot = written
    read(path)
    path.write_bytes(damage(data, foot))
    with pytest.raises((ValueError, OSError), match=said):
        read(path)


@pytest.mark.parametrize("read", [read_log, rows_of, scored])
def test_two_columns_of_one_name_are_refused(written, read):
    path = written[0]
    names = ["time_s", "speed", "load", "speed"]
    pq.write_table(pa.table([np.arange(300) / 10, SPEED, SPEED, SPEED], names=names), path)
    with pytest.raises(ValueError, match=r"^\S*drive.parquet has 2 columns named 'speed'; names must be distinct"):
        read(path)


def test_nested_columns_and_long_names_are_read(tmp_path):
    path = tmp_path / "rows.parquet"
    names = ["ä" * 100, "x.y", "n"]
    pq.write_table(pa.table([SPEED, SPEED, pa.array([{"a": 1.0, "b": [2.0]}] * 300)], names=names), path)
    with parquet_file(path) as file:
        assert file.schema_arrow.names == names


def test_numbers_as_text_are_named_unless_they_are_few(tmp_path):
    path, speed = tmp_path / "rows.parquet", [f"{value:.3f}" for value in SPEED]
    pq.write_table(pa.table({"speed": [*speed[:-1], None], "gear": ["1", "2"] * 150, "road": ["1a", *speed[1:]]}), path)
    said = r"^Column 'speed' of \S*rows.parquet holds numbers as text, such as '0.000'; its \d+ values are taken"
    with pytest.warns(UserWarning, match=said) as warned:
        read_rows([path])
    assert len(warned) == 1


def test_columns_of_one_name_may_be_left_out(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table([SPEED, SPEED, SPEED], names=["a", "b", "a"]), path)
    assert read_rows([path], exclude=["a"]).columns.tolist() == ["b"]


def test_a_damaged_file_of_scores_does_not_hang(tmp_path):
    path = tmp_path / "scores.parquet"
    table = pa.table({"p_value": np.arange(300) / 300, "is_outlier": np.arange(300) % 3 == 0})
    pq.write_table(table, path, row_group_size=100, compression="none")
    read = (
        "import sys, pathlib, pyarrow.compute as pc; from anomalyvae.scoring.summary import read_scores_of as read;"
        "print(len(read(pathlib.Path(sys.argv[1]), ['p_value', 'is_outlier'], pc.field('p_value') < 0.5)))"
    )
    command = [sys.executable, "-c", read, path]
    assert subprocess.run(command, capture_output=True, text=True, timeout=300).stdout.split() == ["150"]
    data = path.read_bytes()
    foot = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    path.write_bytes(miscounted(data, foot))
    said = subprocess.run(command, capture_output=True, text=True, timeout=300).stderr
    assert f"{path} cannot be read" in said
    assert "Score its recording again" in said


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (pa.array([7, None]), ["7", None]),
        (pa.array([2**60 + 1, None]), [str(2**60 + 1), None]),
        (pa.array([7.0, 8.5]), ["7", "8.5"]),
        (pa.array([7, None]).dictionary_encode(), ["7", None]),
    ],
)
def test_names_in_a_column_of_numbers_have_no_decimals(tmp_path, cells, names):
    pq.write_table(pa.table({"recording": cells, "kind": cells, "time_s": [1.0, 2.0]}), tmp_path / "events.parquet")
    events = read_events(tmp_path / "events.parquet").astype(object)
    for name in ("recording", "kind"):
        assert events[name].where(events[name].notna(), None).tolist() == names


def test_decimals_are_numbers(tmp_path):
    decimals = pa.array([Decimal("1.10"), None], pa.decimal128(30, 2))
    pq.write_table(pa.table({"price": decimals}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"price": [1.1, 2.0]}), tmp_path / "b.parquet")
    table = read_rows([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    np.testing.assert_array_equal(table["price"], [1.1, np.nan, 1.1, 2.0])
