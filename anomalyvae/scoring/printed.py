"""Which windows of a growing file were printed, so that a restart goes on after them."""

import json
import os
from pathlib import Path
from typing import NamedTuple

from anomalyvae.recordings.following import GrowingFile
from anomalyvae.recordings.live import numbered
from anomalyvae.untrusted import read_json


class _Last(NamedTuple):
    """The last printed window, and how much of the file had been read by then."""

    model_id: str
    name: str  # of the file, without its suffix
    before: int  # recordings of that name in earlier files
    number: int  # of the recording
    start_s: float
    place: int  # bytes
    digest: str  # of the last of them


class Printed:
    """Keep in a file which windows of a model were printed, in the order of time.

    A window counts when the next one is asked for, so it was printed by then. A kill between the two repeats that one.
    The file is written for each window. It is not forced to the disk, nor are the printed lines.

    Raises FileNotFoundError if the folder of the file does not exist, ValueError if it is damaged, or belongs to
    another model.
    """

    def __init__(self, path: Path, model_id: str) -> None:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path.parent} does not exist, expected a folder for {path.name} (--resume).")
        self._path, self._model_id = path, model_id
        self.last = self._read() if path.exists() else None
        self._until = (0, 0.0)  # number of the recording and start of the last window to leave out
        self._name, self._before = "", 0

    def begin(self, file: GrowingFile, name: str) -> tuple[int, str]:
        """Begin with a file; return how many recordings came before it, and what to say about that.

        Raises ValueError if the windows are those of a file of another name.
        """
        self._file, self._name, last = file, name, self.last
        if last is None:
            return 0, ""
        if last.name != name:
            raise ValueError(
                f"{self._path} has the windows of {last.name}, expected those of {name}. Name another file (--resume) "
                "for each."
            )
        if file.has(last.place, last.digest):
            self._until, self._before = (last.number, last.start_s), last.before
            recording = numbered(name, last.number)
            return self._before, f"it goes on after the window of {recording} that starts at {last.start_s:g} s"
        self._before = last.number
        return self._before, "its earlier windows are of another file, so it is read from its beginning"

    def begin_again(self, before: int) -> None:
        """Begin with the next file of the same name, which follows after so many recordings."""
        self._until, self._before = (0, 0.0), before

    def is_new(self, recording: str, start_s: float) -> bool:
        """Whether a window was not printed before the restart."""
        return (self._number(recording), start_s) > self._until

    def add(self, recording: str, start_s: float) -> None:
        """Note that a window was printed."""
        place, digest = self._file.read_so_far()
        number = self._number(recording)
        self.last = _Last(self._model_id, self._name, self._before, number, start_s, place, digest)
        fresh = self._path.with_name(f".{self._path.name}.scratch")
        fresh.write_text(json.dumps(self.last._asdict()) + "\n", encoding="utf-8")
        os.replace(fresh, self._path)

    def _number(self, recording: str) -> int:
        return int(recording[len(self._name) + 1 :] or 1)

    def _read(self) -> _Last:
        try:
            plain = dict(read_json(self._path.read_bytes()))
            last = _Last(**plain)
            for name, kind in _Last.__annotations__.items():
                if type(plain[name]) is not kind:
                    raise TypeError(f"{name} is {plain[name]!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{self._path} does not say which windows were printed, or is damaged ({error}). Name another "
                "file (--resume), or remove it to begin anew."
            ) from error
        if last.model_id != self._model_id:
            raise ValueError(
                f"{self._path} has the windows of model {last.model_id}, expected those of {self._model_id}. Name "
                "another file (--resume) for each model, or remove it to print all windows again."
            )
        return last
