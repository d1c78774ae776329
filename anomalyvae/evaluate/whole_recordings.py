"""The recordings of a run as wholes: which are unlike the others, and whether later ones differ from earlier ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from anomalyvae.fleet import FEWEST, Fleet, Tally
from anomalyvae.scoring.drift import drift, summary_of
from anomalyvae.scoring.ranking import Scores, in_order_of_time, in_table, rank


def ranked(
    tallies: Mapping[str, Tally], starts: Mapping[str, pd.Timestamp], signals: tuple[str, ...]
) -> tuple[pd.DataFrame, dict[str, Any] | None]:
    """Rank recordings among each other, and look for drift from the earlier half of them to the later one.

    ``tallies`` are the figures of each recording, scored by a model of the others; ``starts`` says when recordings
    began, as far as they say it. The ranking is that of `anomalyvae.scoring.ranking.rank`, without p-values for fewer
    than three recordings. Drift is that of `anomalyvae.scoring.drift.drift_of`, and ``reference``, the number of
    earlier recordings; None for fewer than six. They are in the order of time or, if a recording does not say when it
    began, of names.
    """
    table = in_table(
        [
            {"recording": name, "start": starts.get(name), **tally.to_dict(), "file": ""}
            for name, tally in tallies.items()
        ]
    )
    ranking = rank(Scores(table, Fleet.of(tallies, signals), ""))
    table = in_order_of_time(table)
    half = len(table) // 2
    earlier = Fleet.of({name: tallies[name] for name in table["recording"][:half]}, signals) if half >= FEWEST else None
    found = None if earlier is None else summary_of(drift(Scores(table[half:].reset_index(drop=True), earlier, "")))
    return ranking, None if found is None else {"reference": half, **found}


def with_moments(spans: pd.DataFrame, starts: Mapping[str, pd.Timestamp]) -> pd.DataFrame:
    """Spans of recordings with ``time``, the moment (UTC) of ``start_s``; missing where a recording does not say it."""
    start = pd.to_datetime(spans["recording"].map(lambda name: starts.get(name)), utc=True)
    after = pd.to_timedelta(np.round(1e6 * spans["start_s"].to_numpy(dtype=float)), unit="us")
    table = spans.copy()
    table.insert(list(spans).index("end_s") + 1, "time", (start + after).astype("datetime64[us, UTC]"))
    return table
