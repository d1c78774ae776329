"""CAN logs: BLF and ASC (Vector), TRC (PEAK) and candump files, decoded with databases.

Rules:

- **Time.** Zero is the start in the file's header (UTC if it has no zone); otherwise the first frame, if its stamp is
  a unix time; otherwise the zero of the file's own stamps.
- **Order.** Frames that are up to a second late are sorted in. If the clock jumps back further, the file is refused:
  sorting would mix two recordings.
- **Frames.** Every frame is read, or the file is refused: see :mod:`anomalyvae.recordings.bus.blf` and
  :mod:`anomalyvae.recordings.bus.lines`. Error frames and remote frames hold no data and are skipped. A last line
  without its end may be cut and is left out.
- :mod:`anomalyvae.recordings.bus.decode` says what a frame means.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pandas as pd

from anomalyvae.options import Databases
from anomalyvae.recordings.bus.blf import blf_frames
from anomalyvae.recordings.bus.decode import Decoder
from anomalyvae.recordings.bus.frames import FRAME
from anomalyvae.recordings.bus.lines import text_frames
from anomalyvae.recordings.log import Log, moment
from anomalyvae.recordings.stamps import LATE_S, UNIX_FROM_S

_ROWS = 1 << 15  # frames of a piece


def can_pieces(
    path: Path, wanted: list[str] | None = None, *, databases: Databases = None, identifiers: bool = False
) -> Iterator[Log]:
    """Read a CAN log in pieces of about 32,000 frames; with ``identifiers``, as if nothing could be decoded."""
    decoder = Decoder(databases, wanted, str(path), identifiers=identifiers)
    decoder.check([])
    if decoder.lists_identifiers:
        with _opened(path) as (_, _, pieces), warnings.catch_warnings(action="ignore"):
            decoder.list_buses(pieces)
    with _opened(path) as (start, buses, pieces):
        decoder.bus_names = buses
        count = 0
        for frames in in_order(pieces, str(path)):
            count += len(frames)
            yield Log(path.stem, start, decoder.completed(decoder.decode(frames)), decoder.left_out)
    if not count:
        raise ValueError(f"{path} has no CAN frame with data. Check that the right channel was recorded.")
    decoder.finish(others=False)


def in_order(pieces: Iterable[np.ndarray], source: str) -> Iterator[np.ndarray]:
    """Sort late rows, of arrays with a field ``time_s``, into those before; rows with the same stamp stay together.

    Raises ValueError if the clock jumps back by more than a second; ``source`` names the file in it.
    """
    newest, passed = -np.inf, 0
    waiting: np.ndarray | None = None
    for piece in pieces:
        stamps = piece["time_s"]
        if not np.isfinite(stamps).all():
            raise ValueError(f"{source} has a time stamp that is not finite. Repair the file, or record it again.")
        reach = np.maximum.accumulate(np.concatenate(([newest], stamps)))
        late = np.flatnonzero(reach[1:] - stamps > LATE_S)
        if len(late):
            raise ValueError(
                f"The clock in {source} jumps back by {reach[late[0] + 1] - stamps[late[0]]:g} s after "
                f"{passed + late[0]} rows; a recording is in order of time. Split the file there."
            )
        newest, passed = reach[-1], passed + len(piece)
        rows = piece if waiting is None else np.concatenate((waiting, piece))
        if (rows["time_s"][1:] < rows["time_s"][:-1]).any():
            rows = rows[np.argsort(rows["time_s"], kind="stable")]
        # Rows with the stamp newest - LATE_S may still follow.
        ready = int(np.searchsorted(rows["time_s"], newest - LATE_S))
        yield rows[:ready]
        waiting = rows[ready:]
    if waiting is not None:
        yield waiting


@contextmanager
def _opened(path: Path) -> Iterator[tuple[pd.Timestamp | None, list[str] | None, Iterator[np.ndarray]]]:
    """Open a CAN log: its start, the names of its buses if they have some, and its frames in pieces, in their order."""
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty, not a CAN log. Record it again.")
    buses: list[str] | None = None
    if path.suffix.lower() == ".blf":
        start_s, pieces = blf_frames(path)
    else:
        start_s, buses, pieces = text_frames(path)
    zero_s, head = 0.0, list(islice(pieces, 1))
    stamps = head[0]["time_s"] if head else np.empty(0)
    if not start_s and len(stamps) and stamps[0] >= UNIX_FROM_S:
        start_s = zero_s = float(stamps[0])
    elif path.suffix.lower() == ".log":
        _check_that_stamps_grow(path, stamps)
    start = moment(start_s) if start_s else None
    with closing(pieces):
        yield start, buses, (_from(zero_s, frames, bool(start_s)) for frames in _regrouped(chain(head, pieces)))


def _regrouped(pieces: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the rows again in pieces of ``_ROWS``, at least one."""
    held: list[np.ndarray] = []
    for piece in pieces:
        held.append(piece)
        while sum(map(len, held)) > _ROWS:
            rows = np.concatenate(held)
            held = [rows[_ROWS:]]
            yield rows[:_ROWS]
    yield np.concatenate([np.zeros(0, dtype=FRAME), *held])


def _from(zero_s: float, frames: np.ndarray, rounded: bool) -> np.ndarray:
    """Count stamps from zero; unix times in float64 are good to a quarter of a microsecond."""
    if rounded:
        frames["time_s"] = np.round(frames["time_s"] - zero_s, 6)
    return frames


def _check_that_stamps_grow(path: Path, stamps: np.ndarray) -> None:
    """Refuse stamps of candump that count from the line before, which do not grow."""
    step_s = np.diff(stamps)
    if len(step_s) > 1 and (np.mean(step_s < 0) > 0.1 or np.mean(step_s == 0) > 0.7):
        raise ValueError(
            f"The stamps of {path} do not grow; they seem to count from the line before (candump -t d). Record it with "
            f"candump -L."
        )
