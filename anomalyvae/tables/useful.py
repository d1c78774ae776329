"""Columns of a table from which nothing can be learned: identifiers, time stamps, constant and empty ones."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from anomalyvae.tables.names import index_of_time

if TYPE_CHECKING:
    import pandas as pd

_FEWEST = 20  # rows: in fewer, texts may differ by chance
_FALLS = 0.1  # share of the rows at which a counter or clock may begin again: rows of several files
_UNIQUE = 0.9  # share of the rows with a text of their own
_ID = re.compile(
    r"(.*[ _.-])?(id|ids|uuid|guid|index|idx|row|key|nr|no|number|counter|seq|sequence|serial|unnamed: \d+)",
    re.IGNORECASE,
)
_DATE = r"\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.]\d{4}|\d{1,2}-\w{3}-\d{4})([T ,].*)?"
_CLOCK = r"\s*\d{1,2}:\d\d(:\d\d([.,]\d+)?)?\s*"


def useful_columns(table: pd.DataFrame, keep: Iterable[str] = ()) -> pd.DataFrame:
    """Return the columns of a table from which something can be learned; warn of the others, each with its reason.

    Columns to ``keep`` stay, whatever they hold. Raises ValueError if nothing can be learned from any column.
    """
    kept = set(keep)
    useless = {str(name): reason for name in table.columns if name not in kept and (reason := _reason(table[name]))}
    if not useless:
        return table
    listed = ", ".join(f"{name!r} ({reason})" for name, reason in useless.items())
    if len(useless) == len(table.columns):
        raise ValueError(f"Nothing can be learned from the columns {listed}. Name those to use (--columns).")
    warnings.warn(f"Left out, as nothing can be learned from them: {listed}. --columns keeps a column.", stacklevel=2)
    return table.drop(columns=list(useless))


def _reason(column: pd.Series) -> str:
    """Return why nothing can be learned from a column; empty if something can."""
    filled = column.dropna()
    if not len(filled):
        return "empty"
    try:
        distinct = filled.nunique()
    except TypeError:  # nested values, which the detector refuses
        return ""
    if distinct == 1 and len(filled) == len(column) > 1:
        return "constant"
    if column.dtype.kind in "Mm":
        return "a time stamp"
    if column.dtype.kind in "iuf":
        return _reason_of_numbers(str(column.name), filled, distinct)
    text = filled.head(1000).astype(str)
    if column.dtype.kind != "b" and (text.str.fullmatch(_DATE) | text.str.fullmatch(_CLOCK)).all():
        return "a time stamp"
    if column.dtype.kind != "b" and distinct > _UNIQUE * len(filled) and len(filled) >= _FEWEST:
        return "an identifier"
    return ""


def _reason_of_numbers(name: str, filled: pd.Series, distinct: int) -> str:
    """Return whether numbers are identifiers or time stamps by their name and order."""
    if len(filled) < 2:
        return ""
    values = filled.to_numpy()
    falls, rises = np.mean(values[1:] < values[:-1]), np.mean(values[1:] > values[:-1])
    goes_on = falls <= _FALLS
    if _ID.fullmatch(name) and (filled % 1 == 0).all():
        return "an identifier" if distinct == len(filled) or (goes_on and rises >= 1 - _FALLS) else ""
    return "a time stamp" if goes_on and rises > 0.5 and index_of_time([name]) is not None else ""
