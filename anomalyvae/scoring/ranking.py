"""From a folder of scores to a ranking of whole recordings: which are unlike the others, and why.

`score_folder` writes the figures of each recording into the metadata of its file of scores. So nothing is scored or
read again here.
"""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from anomalyvae.bundle import read_card
from anomalyvae.fleet import FEWEST, REASONS, Fleet, Tally, reasons, signal_nats
from anomalyvae.folders import confined
from anomalyvae.scoring.one_file import NOTE, TIME
from anomalyvae.scoring.summary import SUMMARY, failed_in, read_summary, settings_of, side_file
from anomalyvae.tables.parquet import parquet_file
from anomalyvae.tables.rows import read_rows
from anomalyvae.untrusted import from_spreadsheet, listed

Floats = np.ndarray[Any, np.dtype[np.float64]]
_SHOWN = 3  # signals
_SHORT = 0.25  # of the windows: an event that flags more is not short
_NEEDED = ["recording", "start_s", "anomaly_score"]
_TEXT = ("recording", "model_id")  # which may look like numbers
NO_FLEET = (
    "The model does not say how unlike each other its training recordings are: it was fitted by an earlier version, to "
    f"fewer than {FEWEST} recordings (those that go on where another ends count as one), or with a signal that few of "
    "them have. Fit it again, with more recordings."
)
NO_MODEL = (
    "A table of scores does not say how unlike each other the training recordings are. Pass the model (--model), or a "
    "folder of scores."
)


class Scores(NamedTuple):
    """Whole recordings, and what their model knows about the training recordings (None if it does not say).

    ``recordings`` has a row each: ``recording``, ``start`` (UTC, NaT if unknown), ``windows``, ``flagged`` (number of
    windows over the threshold), ``peak_s`` (the start of its most anomalous window) and ``figures`` (an array, of
    `anomalyvae.fleet.Tally`); ``file`` is that of its input, "" in a table. ``no_fleet`` says why there may be no
    fleet. ``failed`` has the files without scores, and why.
    """

    recordings: pd.DataFrame
    fleet: Fleet | None
    model_id: str
    no_fleet: str = NO_FLEET
    failed: Mapping[str, str] = MappingProxyType({})


def rank(scores: Scores) -> pd.DataFrame:
    """Order recordings by how unlike the training recordings they are, the most unlike first.

    Returns
    -------
    DataFrame
        ``place`` (from 1), ``recording``, ``start``, ``unlike`` (nats), ``p_value`` (NaN if the model does not know
        other recordings), ``learned`` (whether it is a training recording, which is then measured by the fit that left
        it out), ``reason``, the largest of ``brief``, ``lasting`` and ``signal`` (nats; `anomalyvae.fleet.reasons`),
        ``signals`` (the three most unlike, with the nats of each), ``share_flagged``, ``windows``, ``peak_s`` and
        ``file``.

    Notes
    -----
    Without p-values, recordings are compared with each other.
    """
    known, fleet = scores.recordings, scores.fleet
    figures = list(known["figures"])
    indices: list[int | None] = [None] * len(known)
    if fleet:
        indices = indices_of(known, fleet)
        figures = [
            fleet.fitting(row, windows) if index is None else fleet.figures[index]
            for row, windows, index in zip(figures, known["windows"], indices, strict=True)
        ]
    of = np.stack(figures)
    among = fleet.figures if fleet else of
    why = reasons(of, among)
    share = (known["flagged"] / known["windows"]).to_numpy()
    named = why.copy()
    named[share > _SHORT, 0] = -math.inf  # a long oddness raises the highest scores as well
    own = [fleet.p_value(row, index) if fleet else math.nan for row, index in zip(of, indices, strict=True)]
    table = pd.DataFrame(
        {
            "recording": known["recording"],
            "start": known["start"],
            "unlike": why.max(axis=1),
            "p_value": own,
            "learned": [index is not None for index in indices],
            "reason": np.array(REASONS)[named.argmax(axis=1)],
            **dict(zip(("brief", "lasting", "signal"), np.where(np.isfinite(why), why, math.nan).T, strict=True)),
            "signals": _signals(of, among, fleet.signals if fleet else ()),
            "share_flagged": share,
            "windows": known["windows"],
            "peak_s": known["peak_s"],
            "file": known["file"],
        }
    )
    table = table.sort_values(["unlike", "recording"], ascending=[False, True], kind="stable", ignore_index=True)
    table.insert(0, "place", np.arange(1, len(table) + 1))
    return table


def indices_of(known: pd.DataFrame, fleet: Fleet) -> list[int | None]:
    """The indices of recordings among the learned ones; None for new ones."""
    return [fleet.index_of(*row) for row in zip(known["recording"], known["windows"], known["figures"], strict=True)]


def in_order_of_time(recordings: pd.DataFrame) -> pd.DataFrame:
    """Recordings by their start or, if one does not say it, by name."""
    by = ["recording"] if recordings["start"].isna().any() else ["start", "recording"]
    return recordings.sort_values(by, kind="stable", ignore_index=True)


# --- reading --------------------------------------------------------------------------------------------


def read_scores(path: str | os.PathLike[str], model: str | os.PathLike[str] | None = None) -> Scores:
    """Read the figures of recordings from a folder that `score_folder` wrote, or from a table of scores.

    A table is a .parquet or .csv file with the columns ``recording``, ``start_s`` and ``anomaly_score``. It needs the
    ``model``, the bundle that gave the scores; a folder of scores does not.

    Raises FileNotFoundError or ValueError if there are no scores, or if they are of plain rows, which have no time, or
    of another model.
    """
    path = Path(path)
    card = None if model is None else read_card(model)
    if path.is_dir():
        summary, settings = read_summary(path), settings_of(path)
        plain, where = summary.get("fleet"), side_file(path, SUMMARY)
        try:
            scores = of_folder(path, summary, None if plain is None else Fleet.from_dict(plain))
        except ValueError as error:
            if "training recordings" not in str(error):
                raise
            raise ValueError(f"{where} is damaged: {error}. Score again.") from error
        if settings_of(path) != settings:
            raise ValueError(f"{path} was scored by another model meanwhile. Try again when that run has ended.")
    elif path.is_file():
        scores = _of_table(path)
    else:
        raise FileNotFoundError(f"{path} does not exist. Pass a folder or a table of scores.")
    if card is not None:
        if scores.model_id and card["model_id"] != scores.model_id:
            raise ValueError(
                f"Got scores of model {scores.model_id} and the bundle of model {card['model_id']}, expected the same "
                "model. Pass the bundle that gave the scores (--model)."
            )
        known = card.get("fleet")
        scores = scores._replace(fleet=None if known is None else Fleet.from_dict(known), no_fleet=NO_FLEET)
    if not len(scores.recordings):
        raise ValueError(f"No recording in {path} has scores. Score again, and see the errors.")
    return scores


def of_folder(folder: Path, summary: dict[str, Any], fleet: Fleet | None) -> Scores:
    """The recordings of a finished folder of scores, by its summary."""
    failed = failed_in(summary)
    files = [file for file in summary["files"] if file["file"] not in failed]
    rows = [_recording(confined(folder.resolve(), file["scores"]), file["file"]) for file in files]
    return Scores(in_table(rows), fleet, summary["model_id"], failed=failed | _without(rows))


def _of_table(path: Path) -> Scores:
    table = read_rows([path], text=_TEXT)
    missing = [name for name in _NEEDED if name not in table]
    if missing:
        raise ValueError(
            f"{path} has no column {', '.join(missing)}, expected a table of scores of recordings. Pass what "
            "'anomalyvae score' wrote for a model of windows."
        )
    if table["recording"].isna().any():
        raise ValueError(
            f"{path} has rows without a name in the column recording; NA and the like are missing cells in a CSV file. "
            "Score into a .parquet file or a folder."
        )
    _refuse_unlike(table, path)
    names = table["recording"].astype(str)
    if path.suffix.lower() == ".csv":  # in which no spreadsheet runs a name
        names = names.map(from_spreadsheet)
    rows = [_tallied(str(name), part) for name, part in table.assign(recording=names).groupby("recording", sort=False)]
    model = str(table["model_id"].iloc[0]) if "model_id" in table and len(table) else ""
    return Scores(in_table(rows), None, model, NO_MODEL, _without(rows))


def _refuse_unlike(table: pd.DataFrame, path: Path) -> None:
    """Refuse scores that are no numbers, windows of several models, and windows that are there twice."""
    if table["anomaly_score"].dtype.kind not in "fiu" or np.isinf(table["anomaly_score"]).any():
        raise ValueError(f"{path} has text or infinite cells in the column anomaly_score. Score again.")
    models = table["model_id"].unique() if "model_id" in table else ()
    if len(models) > 1:
        raise ValueError(
            f"{path} has scores of {len(models)} models ({listed(models)}), expected one. Pass those of each "
            "model by themselves."
        )
    twice = table.loc[table.duplicated(["recording", "start_s"]), ["recording", "start_s"]]
    if len(twice):
        name, start_s = twice.iloc[0]
        raise ValueError(
            f"{path} has {len(twice):,} windows twice, such as that of recording {name!r} at {start_s:g} s. Leave one "
            "of each out, or rename one of two recordings with one name."
        )


def _without(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Recordings without figures, and why."""
    return {row["file"] or row["recording"]: "each of its scores is missing." for row in rows if not _is_known(row)}


def _is_known(row: dict[str, Any]) -> bool:
    return bool(row["windows"]) and not np.isnan(row["figures"][:2]).any()


def in_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Recordings with figures, as many of them as all have, as `Scores` takes them."""
    rows = [row for row in rows if _is_known(row)]
    width = min((len(row["figures"]) for row in rows), default=0)
    table = pd.DataFrame(rows, columns=["recording", "start", "windows", "flagged", "peak_s", "figures", "file"])
    table["figures"] = [row[:width] for row in table["figures"]]
    return table.assign(start=pd.to_datetime(table["start"], utc=True))


def _recording(scores: Path, file: str) -> dict[str, Any]:
    """The figures in a file of scores; those of an earlier version are computed from its table."""
    try:
        content = pq.read_metadata(scores).metadata or {}
        note = json.loads(content.get(NOTE, b"{}")).get("recording")
        if note is not None:
            figures = np.array(note["figures"], dtype=np.float64)
            return {**note, "figures": figures, "file": file}
        with parquet_file(scores) as opened:
            table = opened.read().to_pandas()
    except (OSError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{scores} cannot be read ({error}). Score its recording again.") from error
    if "recording" not in table:
        raise ValueError(
            f"{scores} has scores of plain rows, expected those of recordings. Only recordings are ranked."
        )
    return _tallied(str(table["recording"].iloc[0]) if len(table) else file, table) | {"file": file}


def _tallied(name: str, table: pd.DataFrame) -> dict[str, Any]:
    tally = Tally()
    flagged = table["is_outlier"] if "is_outlier" in table else np.zeros(len(table))
    tally.add(table[["anomaly_score"]].to_numpy(dtype=np.float64), flagged, table["start_s"])
    return {"recording": name, "start": _start_of(table), **tally.to_dict(), "file": ""}


def _start_of(table: pd.DataFrame) -> pd.Timestamp | None:
    """When a recording began, by the moment of its first window; None if that is not known."""
    if TIME not in table or table[TIME].isna().all():
        return None
    first = table.dropna(subset=[TIME]).iloc[0]
    try:
        moment = pd.to_datetime(first[TIME], utc=True)
    except ValueError:
        raise ValueError(f"Got {first[TIME]!r} in the column {TIME}, expected a date-time. Score again.") from None
    return (moment - pd.to_timedelta(first["start_s"], unit="s")).round("us")


def _signals(of: Floats, among: Floats, signals: tuple[str, ...]) -> list[str]:
    """Of each recording, the three signals that are most unlike the others', with their nats, as text."""
    if not signals or of.shape[1] <= 2:
        return [""] * len(of)
    nats = signal_nats(of, among)
    order = np.argsort(-nats, axis=1, kind="stable")[:, :_SHOWN]
    return [", ".join(f"{signals[i]} {row[i]:.1f}" for i in best) for row, best in zip(nats, order, strict=True)]
