"""A detector's attributes: kept where a fit fails, and tables as plain values, as skops stores no DataFrame."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd

TABLES = ("history_", "suspects_")


@contextmanager
def kept_on_failure(detector: Any) -> Iterator[None]:
    """Restore the attributes of a detector if its fit fails or is interrupted: those of two fits do not go together."""
    before = dict(vars(detector))
    try:
        yield
    except BaseException:
        vars(detector).clear()
        vars(detector).update(before)
        raise


def plain(table: pd.DataFrame) -> dict[str, Any]:
    """A table as a dict of arrays."""
    index = table.index
    return {
        "columns": {str(name): table[name].to_numpy() for name in table},
        "index": [_plain_index(index.get_level_values(level)) for level in range(index.nlevels)],
        "names": list(index.names),
    }


def table_of(state: Any) -> pd.DataFrame:
    """The reverse of `plain`; a table is returned as it is."""
    if isinstance(state, pd.DataFrame):  # of a pickle that an earlier version wrote
        return state
    levels = [_index_of(*level) for level in state["index"]]
    index: Any = levels[0] if len(levels) == 1 else pd.MultiIndex.from_arrays(levels)
    return pd.DataFrame(state["columns"], index=index.set_names(state["names"]))


def _plain_index(index: Any) -> tuple[Any, str | None]:
    """The values of an index, and its time zone."""
    zone = getattr(index, "tz", None)
    return (index.to_numpy(), None) if zone is None else (index.tz_convert(None).to_numpy(), str(zone))


def _index_of(values: Any, zone: str | None) -> Any:
    index = pd.Index(values)
    return index if zone is None else pd.DatetimeIndex(index).tz_localize("UTC").tz_convert(zone)
