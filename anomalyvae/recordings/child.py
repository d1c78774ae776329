"""The child process of :mod:`anomalyvae.recordings.guard`: it reads a file for each request, and sends the pieces.

A message is its length, JSON, and numbers; the JSON says how many. So nothing that a child sends is executed.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import json
import os
import queue
import shutil
import signal
import struct
import threading
import traceback
import warnings
from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from anomalyvae.recordings.log import Log, Signal

_LENGTH = struct.Struct("<Q")

# --- messages -------------------------------------------------------------------------------------------


def send(pipe: IO[bytes], kind: str, content: Any = None, numbers: Collection[np.ndarray] = ()) -> None:
    """Write a message."""
    text = json.dumps([kind, content, [len(part) for part in numbers]]).encode()
    pipe.write(_LENGTH.pack(len(text)) + text)
    for part in numbers:
        pipe.write(np.ascontiguousarray(part, dtype=np.float64).data)
    pipe.flush()


def received(pipe: IO[bytes]) -> tuple[str, Any, list[np.ndarray]]:
    """Read a message; EOFError if the pipe ends."""
    (length,) = _LENGTH.unpack(bytes(_exactly(pipe, np.empty(_LENGTH.size, dtype=np.uint8)).data))
    kind, content, lengths = json.loads(bytes(_exactly(pipe, np.empty(length, dtype=np.uint8)).data))
    return kind, content, [_exactly(pipe, np.empty(count)) for count in lengths]


def _exactly(pipe: IO[bytes], array: np.ndarray) -> np.ndarray:
    """Fill an array from a pipe."""
    view, filled = array.data.cast("B") if len(array) else memoryview(b""), 0
    while filled < len(view):
        count = pipe.readinto(view[filled:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        filled += count
    return array


def _packed(piece: Any) -> tuple[Any, list[np.ndarray]]:
    """A log, or a tuple of a signal without samples and numbers, as JSON and numbers."""
    if not isinstance(piece, Log):
        signal_, *counts = piece
        return {
            "signal": [signal_.name, signal_.unit, signal_.source],
            "counts": [float(count) for count in counts],
        }, []
    clocks = {id(signal_.time_s): signal_.time_s for signal_ in piece.signals.values()}
    number_of = {key: number for number, key in enumerate(clocks)}
    signals = [[s.name, s.unit, s.source, number_of[id(s.time_s)]] for s in piece.signals.values()]
    rest = {f.name: getattr(piece, f.name) for f in dataclasses.fields(piece) if f.name not in ("start", "signals")}
    start = None if piece.start is None else piece.start.isoformat()
    values = [signal_.values for signal_ in piece.signals.values()]
    return {"log": rest, "start": start, "signals": signals}, [*clocks.values(), *values]


def unpacked(content: Any, numbers: list[np.ndarray]) -> Any:
    """What `_packed` was given."""
    if "counts" in content:
        name, unit, source = content["signal"]
        samples, *others = content["counts"]
        return (Signal(name, np.empty(0), np.empty(0), unit, source), int(samples), *others)
    start = None if content["start"] is None else pd.Timestamp(content["start"])
    values = numbers[len(numbers) - len(content["signals"]) :]
    signals = {
        name: Signal(name, numbers[clock], samples, unit, source)
        for (name, unit, source, clock), samples in zip(content["signals"], values, strict=True)
    }
    return Log(start=start, signals=signals, **content["log"])


# --- requests -------------------------------------------------------------------------------------------


def answer_requests(scratch: str) -> None:
    """Read a file for each request on stdin, until stdin ends; then remove the folder of temporary files."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    source, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # what readers print is no answer
        os.dup2(nothing, descriptor)
    requests: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def listen() -> None:
        for line in source:
            requests.put(json.loads(line))
        shutil.rmtree(scratch, ignore_errors=True)  # the parent has gone
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    warnings.simplefilter("ignore")
    for kind in (UserWarning, RuntimeWarning):
        warnings.simplefilter("always", kind)
    warnings.showwarning = lambda message, category, *_, **__: send(
        answers, "warning", [_builtin_name(category), str(message)]
    )
    send(answers, "ready")
    while True:
        _answer(requests.get(), answers)


def _answer(request: dict[str, Any], answers: IO[bytes]) -> None:
    try:
        with contextlib.suppress(OSError):  # a folder that is gone matters to relative paths alone
            os.chdir(request["folder"])
        _limit_memory(int(request["memory"]))
        reader = getattr(import_module(request["module"]), request["reader"])
        options = {name: _with_tuples(value) for name, value in request["options"].items()}
        with contextlib.closing(reader(Path(request["path"]), request["wanted"], **options)) as pieces:
            for piece in pieces:
                send(answers, "piece", *_packed(piece))
    except Exception as error:
        errno = error.errno if isinstance(error, OSError) else None
        content = {
            "types": [kind.__name__ for kind in type(error).__mro__],
            "text": str(error),
            "errno": errno,
            "strerror": errno and error.strerror,  # type: ignore[attr-defined]
            "filename": errno and error.filename and os.fsdecode(error.filename),  # type: ignore[attr-defined]
            "traceback": traceback.format_exc(),
        }
        if isinstance(error.__cause__, MemoryError):  # our readers turn any error of a package into their own
            content["types"] = ["MemoryError"]
        send(answers, "error", content)
    else:
        send(answers, "end")


def _builtin_name(kind: type) -> str:
    return next(base.__name__ for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base)


def _with_tuples(value: Any) -> Any:
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _limit_memory(most: int) -> None:
    """Limit the memory that the process writes to; files that are mapped do not count."""
    try:
        import resource
    except ImportError:  # on Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
