"""Tables among a detector's attributes as plain values: skops stores arrays and dicts, and no DataFrame."""

from typing import Any

import pandas as pd

TABLES = ("history_", "suspects_")


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
