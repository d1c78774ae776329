"""CSV files packed by gzip are read as the files in them; damaged and cut ones are refused, wherever they are read."""

import gzip

import numpy as np
import pandas as pd
import pytest

from anomalyvae.recordings import read_log
from anomalyvae.scoring.inputs import batches_of
from anomalyvae.tables import packed
from anomalyvae.tables.rows import read_rows

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame({"time_s": np.arange(30_000) / 100, "speed": RNG.normal(size=30_000), "load": 1.5})
TEXT = TABLE.to_csv(index=False).encode()
PACKED = gzip.compress(TEXT, mtime=0)


def rows_of(path):
    return read_rows([path])


def scored(path):
    return list(batches_of(path.parent, path.name, {"windowing": None, "columns": None, "kinds": {}}))


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        TABLE[:500].to_csv(index=False, sep=";", decimal=",").encode("utf-16"),
        TABLE[:500].to_csv(index=False).replace("\n", "\r").encode(),
        TABLE[:500].rename(columns={"load": "°C"}).to_csv(index=False, quoting=2).encode("cp1252"),
    ],
)
def test_what_is_packed_is_read_as_the_file_in_it(text, tmp_path):
    plain, other = tmp_path / "drive.csv", tmp_path / "DRIVE.CSV.GZ"
    plain.write_bytes(text)
    other.write_bytes(gzip.compress(text[:1000]) + gzip.compress(text[1000:]))  # gzip files may be joined
    pd.testing.assert_frame_equal(rows_of(other), rows_of(plain))
    expected, found = read_log(plain), read_log(other)
    assert list(found.signals) == list(expected.signals)
    for name, signal in expected.signals.items():
        np.testing.assert_array_equal(found[name].time_s, signal.time_s)
        np.testing.assert_array_equal(found[name].values, signal.values)


def flipped(place):
    return PACKED[:place] + bytes([PACKED[place] ^ 0x55]) + PACKED[place + 1 :]


@pytest.mark.parametrize("read", [read_log, rows_of, scored])
@pytest.mark.parametrize(
    "data",
    [
        *(PACKED[:-cut] for cut in (1, 8, len(PACKED) // 2)),
        *(flipped(place % len(PACKED)) for place in (-1, -6, len(PACKED) // 2)),
        PACKED + b"more",
        TEXT,
    ],
    ids=["end", "checksum", "half", "length", "flipped checksum", "flipped", "garbage", "not packed"],
)
def test_damaged_and_cut_files_are_refused(read, data, tmp_path):
    path = tmp_path / "drive.csv.gz"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"drive.csv.gz is damaged or cut \(.*\)\. Copy or export it again"):
        read(path)


@pytest.mark.parametrize("read", [read_log, rows_of, scored])
@pytest.mark.parametrize("filling", [b"0" * 2_000_000, b"0.02,1,2\n" * 200_000])
def test_a_small_file_does_not_fill_the_memory(read, filling, tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "_MOST_BYTES", 1_000_000)
    path = tmp_path / "drive.csv.gz"
    path.write_bytes(gzip.compress(b"time_s,speed,load\n0,1,2\n0.01,1,2\n" + filling))
    with pytest.raises(ValueError, match=r"drive.csv.gz unpacks to more than 200 times its size"):
        read(path)
