"""Date-times as loggers write them, as text in one column.

ISO 8601 and times of day are read by pandas. The others are those of `_FORMS`, with a point, a comma or an underscore
before the fraction of a second, AM or PM, and an offset from UTC. ``12:34.5`` is minutes and seconds. Not guessed is

- whether ``12:34`` is hours or minutes: the unit of the column says it, ``Time [hh:mm]`` or ``Time [mm:ss]``;
- whether ``01/05/2024`` begins with the day or the month: a value above 12 shows it, dates with points (``01.05.2024``)
  begin with the day, or the unit says it: ``Date [dmy]``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pandas as pd

DAY_S, HOUR_S = 86_400.0, 3600.0
_CLOCK = r":|^\s*\d{4}-\d\d-\d\d"
_TIME = (
    r"(?P<H>\d{1,2})(?P<c>[:.\-])(?P<M>\d\d)(?:(?P=c)(?P<S>\d\d)(?:[.,_:](?P<f>\d{1,9}))?)?"
    r" ?(?P<half>[AaPp]\.?[Mm]\.?)?"
)
_ZONE = r" ?(?P<zone>Z|UTC|(?:UTC|GMT)?[+-]\d\d:?\d\d|GMT)?"
_DAY_FIRST, _MONTH_FIRST = "dmy", "mdy"
ORDERS = (_DAY_FIRST, _MONTH_FIRST)
_NUMERIC = rf"(?P<a>\d{{1,2}})(?P<mark>[-/.])(?P<b>\d{{1,2}})[-/.](?P<y>\d{{4}})[ ,T]+{_TIME}{_ZONE}"
_FORMS = (
    rf"(?P<d>\d{{1,2}})[-/ .]+(?P<name>[^\W\d]{{3,9}})\.?[-/ .,]+(?P<y>\d{{4}})[ ,T]+{_TIME}{_ZONE}",
    rf"(?:[^\W\d]{{2,9}},? )?(?P<name>[^\W\d]{{3,9}})\.? +(?P<d>\d{{1,2}}),? +{_TIME}{_ZONE} +(?P<y>\d{{4}})",
    rf"(?P<y>\d{{4}})[-/._](?P<m>\d{{1,2}})[-/._](?P<d>\d{{1,2}})[ ,T_]+{_TIME}{_ZONE}",
    r"(?P<y>\d{4})(?P<m>\d\d)(?P<d>\d\d)[ T_-](?P<H>\d\d):?(?P<M>\d\d):?(?P<S>\d\d)(?:[.,_](?P<f>\d{1,9}))?" + _ZONE,
)
_TIME_OF_DAY = rf"\s*{_TIME}\s*"
_OF_HOUR = r"\s*(?P<M>\d{1,3}):(?P<S>[0-5]\d)(?:[.,](?P<f>\d{1,9}))?\s*"
_ENGLISH = "jan feb mar apr may jun jul aug sep oct nov dec"
_MONTHS = {name: i + 1 for i, name in enumerate(_ENGLISH.split())} | {
    "mär": 3,
    "mrz": 3,
    "mai": 5,
    "okt": 10,
    "dez": 12,
}

Read = Callable[[pd.Series], pd.Series]


def reader_of(first: pd.Series, order: str, source: str) -> tuple[Read, float] | None:
    """Return the function that reads such text, and after how many seconds such a clock begins again.

    The function takes text and returns date-times (UTC) or durations, NaT for what it cannot read. The seconds are 0
    for points in time, a day for times of day, an hour for minutes and seconds. None is returned if no cell can be
    read.

    The most common form of the ``first`` cells counts. ``order`` is ``"dmy"`` or ``"mdy"`` if the caller knows the
    order of dates, ``"hh:mm"`` or ``"mm:ss"`` if it knows what short times are, otherwise anything. ``source`` names
    the column in errors.
    """
    if _iso(first).notna().any():
        return _iso, 0.0
    if _of_day(first).notna().any():
        return _of_day, DAY_S
    for form in _FORMS:
        if first.str.fullmatch(r"\s*" + form + r"\s*").any():
            return (lambda cells, form=form: _by_form(cells, form, "")), 0.0
    dates = first.str.extract(rf"^\s*{_NUMERIC}\s*$").dropna(subset=["a"])
    if len(dates):
        order = _order(dates, first, order, source)
        return (lambda cells: _by_form(cells, _NUMERIC, order)), 0.0
    of_hour = first.str.extract(f"^{_OF_HOUR}$").dropna(subset=["M"])
    if order == "mm:ss" or of_hour["f"].notna().any():
        return (_by_minutes, HOUR_S) if len(of_hour) else None
    of_day = first.str.extract(f"^{_TIME_OF_DAY}$").dropna(subset=["H"])
    if len(of_day) and order != "hh:mm" and of_day[["S", "half"]].isna().all(axis=None):
        name = _name_in(source) or "Time"
        raise ValueError(
            f"{source} holds times such as {first[of_day.index[0]]!r}, which may be hours and minutes or minutes and "
            f"seconds. Pass time= (--time) '{name} [hh:mm]' or '{name} [mm:ss]' to say which."
        )
    return (_by_clock, DAY_S) if len(of_day) else None


def _iso(cells: pd.Series) -> pd.Series:
    clocks = cells.where(cells.str.contains(_CLOCK))  # "20170419" would be parsed as nanoseconds
    return pd.to_datetime(clocks, format="ISO8601", utc=True, errors="coerce")


def _of_day(cells: pd.Series) -> pd.Series:
    clocks = cells.where(cells.str.contains(_CLOCK))
    return pd.to_timedelta(clocks.str.replace(r"(:\d\d),(\d+\s*)$", r"\1.\2", regex=True), errors="coerce")


def _order(dates: pd.DataFrame, first: pd.Series, order: str, source: str) -> str:
    """Return whether dates begin with the day or the month; refuse to guess."""
    if order in ORDERS:
        return order
    if (dates["mark"] == ".").all() or (dates["a"].astype(int) > 12).any():
        return _DAY_FIRST
    if (dates["b"].astype(int) > 12).any():
        return _MONTH_FIRST
    name = _name_in(source) or "Date"
    raise ValueError(
        f"{source} holds dates such as {first.iloc[0]!r}, which may begin with the day or with the month. Pass time= "
        f"(--time) '{name} [dmy]' or '{name} [mdy]' to say which."
    )


def _name_in(source: str) -> str:
    return re.split("'", source)[1] if "'" in source else ""


def _by_form(cells: pd.Series, form: str, order: str) -> pd.Series:
    """Return date-times of one form as UTC; NaT where the text has another form or is no date."""
    parts = cells.str.extract(rf"^\s*{form}\s*$")
    if order:
        month, day = ("b", "a") if order == _DAY_FIRST else ("a", "b")
        parts = parts.assign(m=parts[month], d=parts[day])
    if "name" in parts:
        parts["m"] = parts["name"].str[:3].str.lower().map(_MONTHS).astype("Int64").astype("string")
    zone = parts["zone"].fillna("").str.replace(r"^(UTC|GMT)", "", regex=True).replace("", "Z")
    text = parts["y"] + "-" + parts["m"].str.zfill(2) + "-" + parts["d"].str.zfill(2) + "T" + _clock(parts) + zone
    return pd.to_datetime(text, format="ISO8601", utc=True, errors="coerce")


def _by_clock(cells: pd.Series) -> pd.Series:
    return pd.to_timedelta(_clock(cells.str.extract(f"^{_TIME_OF_DAY}$")), errors="coerce")


def _by_minutes(cells: pd.Series) -> pd.Series:
    parts = cells.str.extract(f"^{_OF_HOUR}$")
    seconds = 60 * pd.to_numeric(parts["M"]) + pd.to_numeric(parts["S"])
    return pd.to_timedelta(
        seconds.astype("Int64").astype("string") + "." + parts["f"].fillna("0") + "s", errors="coerce"
    )


def _clock(parts: pd.DataFrame) -> pd.Series:
    """Return times of day as HH:MM:SS.fff, from the parts that a form has found."""
    hours = pd.to_numeric(parts["H"]).astype("Int64")
    if "half" in parts:
        half = parts["half"].str[:1].str.lower()
        twelve = half.notna()
        hours = hours.mask(twelve & (hours > 12)).mask(twelve, hours % 12 + 12 * (half == "p").astype(int))
    seconds = parts["S"].fillna("00") if "S" in parts else "00"
    fraction = parts["f"].fillna("0") if "f" in parts else "0"
    return hours.astype("string").str.zfill(2) + ":" + parts["M"] + ":" + seconds + "." + fraction
