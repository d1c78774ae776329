"""``Scorer``: score rows with the ONNX file that `export_onnx` or `save` wrote.

It needs onnxruntime and numpy only, and imports neither torch, scikit-learn nor pandas, so a worker starts fast.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomalyvae.calibration import caution_of
from anomalyvae.scoring.columns import (
    EMPTY,
    MISSING,
    READ,
    Cut,
    from_objects,
    gaps,
    matrix,
    missing_in,
    quoted,
    refuse_infinite,
    refuse_missing,
    table_of,
    taken_from,
)
from anomalyvae.scoring.onnx_file import CUDA, MATRIX, open_onnx
from anomalyvae.tables.arrays import refuse_other_names, unmasked, unreal
from anomalyvae.tables.names import nearest

_BLOCK, _COMPARING_BLOCK, _CUDA_BLOCK = 1024, 256, 65536  # rows at a time, so that on a CPU they stay in its cache
_BATCH = 16384  # rows of a table that a thread converts at once, so that memory is bounded
_COMPARING = ("memory", "near", "crowd", "linear", "novelty")  # criteria that compare with stored rows
_OUTPUTS_OF_2 = {
    "anomaly_score": "anomaly_score", "p_value": "p_value", "is_outlier": "label", "feature_scores": "feature_scores"
}  # fmt: skip

Floats = NDArray[np.float64]
Feeds = dict[str, NDArray[Any]]


class Scorer:
    """Score rows with an exported detector, without the packages that trained it.

    Parameters
    ----------
    path : path
        An ONNX file of `export_onnx`, or a bundle.
    providers : "auto" or sequence of str, default="auto"
        Execution providers, by onnxruntime's names. ``"auto"`` takes CUDA if this onnxruntime has it, and falls back to
        the CPU, with a warning, if there is no usable device.
    threads : int, default=None
        For one call on the CPU; one per core by default.

    Attributes
    ----------
    metadata : dict
        The model's description: ``model_id``, ``columns`` (names, or None), ``units``, ``windowing`` (how recordings
        become rows, or None), ``criterion``, ``objective``, ``offset``, ``calibration``, ``training``, ``precision``,
        ``parity`` (the result of the check at export), ``versions``.
    sha256 : str
        Of the file.
    caution : str or None
        What the p-values cannot show, where few rows or groups calibrate: `anomalyvae.calibration.few_calibrate`.
    outputs : list of str
        The names of the scores that the file has for each row.

    Raises
    ------
    FileNotFoundError, ValueError
        For a path without a file, and for a file of another origin or a newer format.

    Notes
    -----
    Rows come as a 2-D array, a DataFrame (pandas or polars), an Arrow table, or a dict of columns. If the model has
    column names, a table must have the same names, in any order; otherwise its columns count by their place, as in
    scikit-learn. Missing cells are NaN, None or null.
    """

    def __init__(
        self, path: str | os.PathLike[str], providers: str | Sequence[str] = "auto", threads: int | None = None
    ) -> None:
        if threads is not None and threads < 1:
            raise ValueError(f"Got threads={threads}, expected at least 1. Pass that, or None for one per core.")
        file = open_onnx(Path(path), providers)
        self._path, self._session = file.path, file.session
        self.sha256, self.metadata = file.sha256, file.metadata
        names = [output.name for output in self._session.get_outputs()]
        self._source = _OUTPUTS_OF_2 if "label" in names else {name: name for name in names}
        self.outputs = [name for name, source in self._source.items() if source in names]
        self._columns: list[str] | None = self.metadata["columns"]
        self._width: int = self.metadata["n_features"]
        self._kinds: dict[str, str] = self.metadata["kinds"]
        # An empty text is a missing cell, unless training had it. For the transformers of a pipeline it is text.
        empty = EMPTY if self.metadata.get("pipeline") else MISSING
        self._empty = {name: empty for name, texts in self.metadata.get("missing_text", {}).items() if "" in texts}
        self._ignored = set(self.metadata.get("ignored", ()))
        self._required = list(self.metadata.get("required", ()))
        self._complete = list(self.metadata.get("complete", ()))  # columns without a missing cell in training
        self.caution = caution_of(self.metadata)
        self._block = _COMPARING_BLOCK if self.metadata["criterion"] in _COMPARING else _BLOCK
        self._threads = threads or os.cpu_count() or 1
        if CUDA in self._session.get_providers():
            self._block, self._threads = _CUDA_BLOCK, 1

    def __repr__(self) -> str:
        model, width, where = self.metadata["model_id"], self._width, self._session.get_providers()[0]
        return f"Scorer(model_id={model!r}, {width} columns, criterion={self.metadata['criterion']!r}, {where})"

    def score(
        self, rows: Any, outputs: str | Sequence[str] | None = None, *, keep: Sequence[str] = ()
    ) -> dict[str, NDArray[Any]]:
        """All scores of the file, by name.

        Parameters
        ----------
        rows : array-like of shape (n, d), DataFrame, Arrow table or dict of columns
        outputs : str or sequence of str, optional
            Some of `outputs`; all by default. ``"new_gaps"`` may be among them; see `new_gaps`.
        keep : sequence of str, optional
            Columns of a table, such as an identifier, that are returned beside its scores. The model need not know
            them.

        Returns
        -------
        dict of ndarray
            ``anomaly_score`` (high = anomalous), ``p_value`` and ``is_outlier`` (bool), each of shape ``(n,)``;
            ``feature_scores`` of shape ``(n, d)``, if they were exported; and the columns to keep, before these.

        Raises
        ------
        ValueError
            For other columns than the model's, for cells that are infinite or of another type, and for an output that
            the file lacks.

        Warns
        -----
        UserWarning
            If rows have new gaps, and ``outputs`` does not ask for them.
        """
        outputs = self.outputs if outputs is None else [outputs] if isinstance(outputs, str) else list(outputs)
        known = [*self.outputs, "new_gaps"]
        for name in outputs:
            if name not in known:
                raise ValueError(f"Got {name!r} among the outputs, which the file lacks. {nearest(name, known)}")
        if not keep:
            return self._run(outputs, rows)
        kept, others = taken_from(rows, [keep] if isinstance(keep, str) else keep, self._columns)
        clash = [name for name in kept if name in (*self.outputs, "new_gaps")]
        if clash:
            raise ValueError(f"Got the column {clash[0]!r} to keep, but a score has that name. Rename it in the table.")
        return kept | self._run(outputs, others)

    def anomaly_score(self, rows: Any) -> Floats:
        """The anomaly score of each row, high = anomalous, shape ``(n,)``."""
        return self._only("anomaly_score", rows)

    def decision_function(self, rows: Any) -> Floats:
        """Negative for outliers, as in scikit-learn, shape ``(n,)``."""
        found = self._run(["anomaly_score", "is_outlier"], rows)
        decision = -found["anomaly_score"] - self.metadata["offset"]
        at_threshold = (decision < 0) != found["is_outlier"]  # equal to the threshold, up to rounding
        return np.where(at_threshold, 0.0, decision)

    def predict(self, rows: Any) -> NDArray[np.int64]:
        """+1 for normal rows, -1 for outliers, shape ``(n,)``."""
        return np.where(self._only("is_outlier", rows), -1, 1)

    def p_values(self, rows: Any) -> Floats:
        """The chance that a normal row has at least this score, in (0, 1], shape ``(n,)``."""
        return self._only("p_value", rows)

    def feature_scores(self, rows: Any) -> Floats:
        """The contribution of each column to the reconstruction term, in nats, shape ``(n, d)``."""
        if "feature_scores" not in self.outputs:
            raise ValueError(
                "The file has no feature scores. Export it again with feature_scores=True (--feature-scores)."
            )
        return self._only("feature_scores", rows)

    def new_gaps(self, rows: Any) -> NDArray[np.object_]:
        """For each row, the names of columns with a missing cell that had none in training, shape ``(n,)``.

        They are text, as in ``"speed, rpm"``; None for a row without. Scores of rows with new gaps are not calibrated.
        It is empty for a pipeline, and for files of earlier versions.
        """
        return self._run(["new_gaps"], rows)["new_gaps"]

    def _only(self, output: str, rows: Any) -> NDArray[Any]:
        return self._run([output], rows)[output]

    def _run(self, outputs: list[str], rows: Any) -> dict[str, NDArray[Any]]:
        """Some outputs for rows, which threads score batch by batch."""
        count, part = self._parts(rows)
        share = -(-count // (2 * self._threads * self._block)) * self._block  # in whole blocks, for all threads
        step = min(max(share, self._block), max(_BATCH, self._block))
        starts = range(0, max(count, 1), step)
        named = [name for name in outputs if name != "new_gaps"]
        sources = [self._source[name] for name in named]

        def score(start: int) -> tuple[list[list[NDArray[Any]]], NDArray[np.object_] | None]:
            feeds, size = part(start, min(start + step, count)), min(step, count - start)
            blocks = [
                self._run_block(sources, {name: cells[i : i + self._block] for name, cells in feeds.items()})
                for i in range(0, max(size, 1) if sources else 0, self._block)
            ]
            return blocks, self._gaps(feeds)

        if self._threads == 1 or len(starts) == 1:
            batches = list(map(score, starts))
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                batches = list(pool.map(score, starts))
        blocks = [block for scored, _ in batches for block in scored]
        found = {name: np.concatenate(parts) for name, parts in zip(named, zip(*blocks, strict=True), strict=False)}
        if self._source.get("is_outlier") == "label" and "is_outlier" in found:
            found["is_outlier"] = found["is_outlier"] < 0
        new_gaps = [(start, texts) for start, (_, texts) in zip(starts, batches, strict=True) if texts is not None]
        if "new_gaps" in outputs:
            found["new_gaps"] = np.full(count, None, dtype=object)
            for start, texts in new_gaps:
                found["new_gaps"][start : start + len(texts)] = texts
        elif new_gaps:
            _warn_of_gaps([text for _, texts in new_gaps for text in texts if text is not None], count)
        return found

    def _gaps(self, feeds: Feeds) -> NDArray[np.object_] | None:
        """`new_gaps` of a batch; None if no row has one."""
        if not self._complete:
            return None
        if self.metadata["inputs"] == "matrix":
            cells = [feeds[MATRIX][:, i] for i in self._complete]
        else:
            cells = [feeds[(self._columns or [])[i]][:, 0] for i in self._complete]
        names = [f"column {i}" if self._columns is None else self._columns[i] for i in self._complete]
        return gaps(names, cells)

    def _run_block(self, sources: list[str], feeds: Feeds) -> list[NDArray[Any]]:
        try:
            return list(self._session.run(sources, feeds))
        except Exception as error:  # onnxruntime has an own class for every failure
            raise ValueError(
                f"onnxruntime cannot score with {self._path}. Export the model again. (It says: {error})"
            ) from error

    # From rows to the inputs of the graph

    def _parts(self, rows: Any) -> tuple[int, Callable[[int, int], Feeds]]:
        """The number of rows, and a function that gives a slice of them as inputs of the graph."""
        if hasattr(type(rows), "toarray"):
            raise ValueError(
                f"Got a sparse {type(rows).__name__}, expected dense rows. Convert it by .toarray(); a cell that it "
                "does not store is 0."
            )
        table = table_of(rows)
        if table is None:
            return self._array(rows)
        names, count, cut = table
        return count, self._by_name(names, cut) if self._columns else self._by_place(names, cut)

    def _array(self, rows: ArrayLike) -> tuple[int, Callable[[int, int], Feeds]]:
        if self._kinds:
            raise ValueError(
                f"Got rows of type {type(rows).__name__}, expected a table: the columns {quoted(list(self._kinds))} "
                "are categories. Pass a DataFrame, an Arrow table or a dict with the columns of the training rows."
            )
        x = np.asarray(unmasked(rows))
        if x.ndim != 2 or x.shape[1] != self._width:
            raise ValueError(
                f"Got rows of shape {x.shape}, expected (n, {self._width}). Pass a 2-D array with the columns of the "
                "training rows."
            )
        if x.dtype == object:
            x = from_objects(x)
        if x.dtype.kind not in "fiub":
            kind = unreal(x) or x.dtype
            raise ValueError(f"Got rows of dtype {kind}, expected numbers. Convert them by .astype(float).")
        return len(x), lambda start, stop: self._numbers(np.ascontiguousarray(x[start:stop], dtype=np.float64))

    def _by_place(self, names: list[Any], cut: Cut) -> Callable[[int, int], Feeds]:
        if len(names) != self._width:
            raise ValueError(
                f"Got {len(names)} columns, expected {self._width}. Pass the columns of the training rows, in their "
                "order, since the model has no column names."
            )
        refuse_other_names(names, self.metadata["training"].get("names"))
        return lambda start, stop: self._numbers(matrix(names, cut(start, stop), stop - start))

    def _by_name(self, names: list[Any], cut: Cut) -> Callable[[int, int], Feeds]:
        columns = self._columns or []
        names = [name for name in names if name not in self._ignored]
        if sorted(map(str, names)) != sorted(columns):
            missing = [name for name in columns if name not in names]
            unknown = [name for name in names if name not in columns]
            differences = [
                f"{what} {quoted(which)}" for what, which in (("lacks", missing), ("has also", unknown)) if which
            ]
            raise ValueError(
                f"The table {' and '.join(differences)}, expected the {len(columns)} columns of the training rows. "
                "Rename or select them; Scorer.metadata['columns'] lists their names."
            )
        if self._kinds:
            return lambda start, stop: self._cells(cut(start, stop))
        return lambda start, stop: self._numbers(matrix(columns, cut(start, stop), stop - start))

    def _numbers(self, x: Floats) -> Feeds:
        """Rows of numbers as inputs of the graph, without infinite and required cells that are missing."""
        with np.errstate(over="ignore", invalid="ignore"):
            finite = bool(np.isfinite(x.sum()))  # the common case needs one pass
        if not finite and np.isinf(x).any():
            refuse_infinite([(self._columns or range(self._width))[i] for i in np.flatnonzero(np.isinf(x).any(axis=0))])
        if not finite and self._required:
            indices = [name if self._columns is None else self._columns.index(name) for name in self._required]
            refuse_missing([name for i, name in zip(indices, self._required, strict=True) if np.isnan(x[:, i]).any()])
        if self.metadata["inputs"] == "matrix":
            return {MATRIX: x}
        return {name: np.ascontiguousarray(x[:, [i]]) for i, name in enumerate(self._columns or [])}

    def _cells(self, column: Callable[[Any], Any]) -> Feeds:
        """Columns with text or booleans as inputs of the graph."""
        feeds = {
            name: READ[self._kinds.get(name, "number")](name, column(name))[:, None] for name in self._columns or []
        }
        for name, text in self._empty.items():
            feeds[name][feeds[name] == ""] = text
        infinite = [name for name, cells in feeds.items() if cells.dtype == np.float64 and np.isinf(cells).any()]
        if infinite:
            refuse_infinite(infinite)
        refuse_missing([name for name in self._required if missing_in(feeds[name]).any()])
        return feeds


def _warn_of_gaps(texts: list[str], count: int) -> None:
    """Warn of the rows with new gaps, each described by a text."""
    some = ", ".join(texts[0].split(", ")[:5])
    warnings.warn(
        f"{len(texts)} of {count} rows have missing cells in columns that had none in training, such as {some}. Their "
        "p-values and flags are not calibrated. Scorer.new_gaps names them by row.",
        stacklevel=5,
    )
