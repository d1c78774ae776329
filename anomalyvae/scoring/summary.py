"""The files beside scores in a folder that `score_folder` wrote."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyvae.tables.parquet import parquet_table
from anomalyvae.untrusted import read_json

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow.compute as pc

# Settings, written first; results, written last. Programs that read a folder as a data set pass over the underscore.
RUN, SUMMARY = "_run.json", "_summary.json"


def side_file(folder: Path, name: str) -> Path:
    """The place of `RUN` or `SUMMARY` in a folder of scores; earlier versions wrote them without the underscore."""
    earlier = folder / name.removeprefix("_")
    return earlier if earlier.exists() and not (folder / name).exists() else folder / name


def read_scores_of(
    file: Path, columns: list[str], where: "pc.Expression | None" = None, optional: str = ""
) -> "pd.DataFrame":
    """Read columns of a file of scores, in the rows ``where`` they fit; one that is ``optional`` may be missing.

    Raises ValueError if the file is damaged, or lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        there = pq.read_schema(file).names
        columns = [name for name in columns if name != optional or name in there]
        lacking = [name for name in columns if name not in there]
        if lacking:
            raise ValueError(f"it has no column {', '.join(lacking)}")
        return parquet_table(file, columns, where).to_pandas()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ValueError(f"{file} cannot be read ({error}). Score its recording again.") from error


def read_summary(scores: str | os.PathLike[str], model_id: str | None = None) -> dict[str, Any]:
    """Read the `SUMMARY` of a finished folder of scores.

    Raises FileNotFoundError if there is none, ValueError if it is damaged or, with ``model_id``, of another model.
    """
    folder = Path(scores)
    try:
        content = side_file(folder, SUMMARY).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"Got {folder} without a {SUMMARY}, expected a complete folder of scores. Run 'anomalyvae score' with "
            "this folder as target."
        ) from None
    try:
        summary = dict(read_json(content, longest=len(content)))
        parts = [summary["source"], *(file[key] for file in summary["files"] for key in ("file", "scores"))]
        if not all(isinstance(part, str) for part in [summary["model_id"], *parts]):
            raise TypeError("a name that is not text")
        summary["files"] = [file | {"error": file["error"]} for file in summary["files"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"Got {side_file(folder, SUMMARY)}, which is damaged ({error!r}). Run 'anomalyvae score' with this folder "
            "as target again."
        ) from error
    if model_id is not None and summary["model_id"] != model_id:
        raise ValueError(
            f"Got scores of model {summary['model_id']} and the bundle of model {model_id}, expected the same model. "
            "Score the recordings with this bundle, or pass the other bundle."
        )
    return summary


def failed_in(summary: dict[str, Any]) -> dict[str, str]:
    """The files without scores, and why."""
    return {file["file"]: file["error"] for file in summary["files"] if file["error"] is not None}


def settings_of(folder: Path) -> dict[str, Any]:
    """The settings of the scores in a folder; empty if there are none, or they are damaged."""
    try:
        return dict(read_json(side_file(folder, RUN).read_bytes()))
    except (FileNotFoundError, TypeError, ValueError):
        return {}


def refuse_ticks(scores: str | os.PathLike[str]) -> None:
    """Raise ValueError for a folder of scores per tick, where scores of windows are needed."""
    if settings_of(Path(scores)).get("per_tick"):
        raise ValueError(
            f"Got {os.fspath(scores)} with a score per tick, expected scores of windows, which explain events. "
            "Score into another folder without per_tick (--per-tick)."
        )
