"""Recordings that are one drive: copies of each other, or parts into which a logger has cut it.

Windows of one drive are alike. If some are learned and others held out, these say little about those of a new drive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from anomalyvae.recordings.windows import WindowRecipe, Windows

_FEWEST, _SMALL = 3, 0.25  # recordings that can be groups: so many, none below this share of the average
_STRETCHES = 9  # groups otherwise; as many recordings are groups whatever their sizes
_LARGEST = 0.6  # of the windows: with more in one recording, the others are too few to learn from
_TOLD = 30  # distinct values of a signal; recordings of fewer, as of an idle machine, may be equal by chance
_SAME = 1e-3  # of the spread of a signal in a recording: a copy may have fewer digits
_COMPARED, _FEWEST_COMPARED = 64, 5  # windows of two recordings at one time
_LITTLE = 0.3  # of the spread of a signal: clocks of two recordings may tick in between
_TICK = 1.5  # ticks of the clock by which a part may begin before the one before it ends

Floats = np.ndarray


def copies_of(windows: Windows, recipe: WindowRecipe) -> dict[str, str]:
    """Recordings with the windows of an earlier one up to rounding, each with the name of that one."""
    cells = _cells(windows, recipe)
    moving: dict[int, list[tuple[str, np.ndarray]]] = {}  # recordings by their number of windows
    for name, index in _indices(windows):
        if max(len(np.unique(signal)) for signal in cells[index].swapaxes(0, 1)) > _TOLD:
            moving.setdefault(len(index), []).append((name, index))
    found: dict[str, str] = {}
    for recordings in moving.values():
        middle = np.nan_to_num([cells[index[len(index) // 2]] for _, index in recordings]).sum((1, 2))
        for number, (name, index) in enumerate(recordings):
            own = cells[index]
            rounding = _SAME * np.nan_to_num(pd.DataFrame(own.swapaxes(1, 2).reshape(-1, own.shape[1])).std())
            near = np.abs(middle[:number] - middle[number]) <= 2 * recipe.samples * rounding.sum()
            for other, known in (recordings[i] for i in np.flatnonzero(near)):
                if other not in found and _are_equal(own, cells[known], rounding[:, None]):
                    found[name] = other
                    break
    return found


def _are_equal(one: Floats, other: Floats, rounding: Floats) -> bool:
    return bool(((np.abs(one - other) <= rounding) | (np.isnan(one) & np.isnan(other))).all())


def _cells(windows: Windows, recipe: WindowRecipe) -> Floats:
    """The samples of windows, shape ``(n, signals, samples)``."""
    return windows.rows.to_numpy().reshape(len(windows), len(recipe.signals), recipe.samples)


class _Part(NamedTuple):
    """A recording that may be a part of a drive: when its windows begin and the last one ends, and their rows."""

    name: str
    starts_s: Floats
    end_s: float
    rows: np.ndarray


def drives_of(windows: Windows, recipe: WindowRecipe) -> dict[str, str]:
    """Recordings that go on where another one ends, or before, each with the name of the first one of that drive.

    A recording follows another one if it begins soon after its end, and no signal jumps in between by more than it
    moves in such a time inside a recording. If several could follow, the one with the smallest jumps does; so the
    recordings of several vehicles are not joined. A recording also belongs to the drive of another one if it begins
    before that one ends, and has nearly the same values in this time. Recordings without a date are in no drive.
    """
    gap_s = recipe.stride_s + recipe.max_gap_s  # the last window ends up to a stride before its recording does
    cells = _cells(windows, recipe)
    every, most = _parts_of(windows, cells, recipe, gap_s)
    begins_s = [part.starts_s[0] for part in every]
    pairs: list[tuple[float, str, str]] = []
    for number, one in enumerate(every):
        end, far = np.searchsorted(begins_s, (one.end_s - _TICK / recipe.rate_hz, one.end_s + gap_s))
        for other in every[number + 1 : end]:
            if _overlap(one, other, cells, recipe):
                pairs.append((0.0, one.name, other.name))
        for other in every[max(end, number + 1) : far]:
            jump = np.nan_to_num(np.abs(cells[other.rows[0], :, 0] - cells[one.rows[-1], :, -1]) / most)
            if jump.max() <= 1:
                pairs.append((float(jump.sum()), one.name, other.name))
    before: dict[str, str] = {}
    followed: set[str] = set()
    for distance, name, following in sorted(pairs):
        if following not in before and (distance == 0 or name not in followed):
            before[following] = name
            followed.add(name)
    drives: dict[str, str] = {}
    for part in every:  # in order of time, so that the drive of the one before is known
        if part.name in before:
            drives[part.name] = drives.get(before[part.name], before[part.name])
    return drives


def _overlap(one: _Part, other: _Part, cells: Floats, recipe: WindowRecipe) -> bool:
    """Whether a recording that begins before another one ends has its values: they differ by little of their spread."""
    at_s = other.starts_s[other.starts_s < one.end_s - _TICK / recipe.rate_hz][:_COMPARED]
    window = np.searchsorted(one.starts_s, at_s + 0.5 / recipe.rate_hz) - 1
    tick = np.round((at_s - one.starts_s[window]) * recipe.rate_hz).astype(np.int64)
    there = (window >= 0) & (tick < recipe.samples)
    values = cells[other.rows[: len(at_s)][there], :, 0]
    known = cells[one.rows[window[there]], :, tick[there]]
    spread = values.std(axis=0)
    moving = spread > 0
    if len(values) < _FEWEST_COMPARED or not moving.any():
        return False
    difference = np.sqrt(np.square(values - known).mean(axis=0))[moving] / spread[moving]  # root mean square
    return bool(np.median(difference) <= _LITTLE)


def _parts_of(windows: Windows, cells: Floats, recipe: WindowRecipe, gap_s: float) -> tuple[list[_Part], Floats]:
    """Recordings in order of time, as far as they say it, and how much each signal moves at most in such a time."""
    every, most = list[_Part](), np.zeros(len(recipe.signals))
    start_s, end_s = (windows.spans[edge].to_numpy() for edge in ("start_s", "end_s"))
    lag = math.ceil((gap_s + recipe.length_s) / recipe.stride_s)  # windows in the longest such time
    for name, index in _indices(windows):
        first = cells[index, :, 0]
        if len(index) > lag:
            most = np.fmax(most, np.fmax.reduce(np.abs(first[lag:] - first[:-lag])))
        if name in windows.starts:
            zero_s = windows.starts[name].timestamp()
            every.append(_Part(name, zero_s + start_s[index], zero_s + end_s[index[-1]], index))
    return sorted(every, key=lambda part: part.starts_s[0]), np.where(most > 0, most, 1.0)


def _indices(windows: Windows) -> Iterator[tuple[str, np.ndarray]]:
    """The name of each recording, and the indices of its windows in order of time."""
    names = windows.spans["recording"].to_numpy()
    code, known = pd.factorize(names)
    order = np.lexsort((windows.spans["start_s"].to_numpy(), code))
    for name, index in zip(known, np.split(order, np.cumsum(np.bincount(code))[:-1]), strict=True):
        yield str(name), index


def parts_in_words(drives: dict[str, str], recordings: int) -> str:
    """What it means that recordings are parts of a drive, in plain words."""
    name, first = next(iter(drives.items()))
    count = "1 recording goes" if len(drives) == 1 else f"{len(drives):,} of {recordings:,} recordings go"
    return (
        f"{count} on where another ends, or before, such as {name} of the drive that begins with {first}. Parts of a "
        "drive are alike: they are held out together, and count as one recording. The p-values of 'anomalyvae rank' "
        "and the bound of 'anomalyvae drift' hold for whole drives: join the parts of each drive in one file."
    )


def are_groups(sizes: pd.Series[int]) -> bool:
    """Whether recordings of these sizes are held out as a whole; see `groups_of`."""
    alike = sizes.min() >= _SMALL * sizes.mean() or len(sizes) >= _STRETCHES
    return bool(alike and len(sizes) >= _FEWEST and sizes.max() <= _LARGEST * sizes.sum())


def groups_of(spans: pd.DataFrame) -> np.ndarray:
    """Groups by which windows are held out: recordings, or stretches of time where few recordings differ much in size.

    A network that learned a drive of a minute says little about how unlearned windows of an hour score. If there are
    fewer than three recordings, or fewer than nine of which the smallest is below a quarter of the average, or one has
    most of the windows, long ones are cut and short ones joined to nine stretches of about equal size. Windows overlap
    across such a cut, which makes the threshold slightly too low. More recordings are never cut: what is learned of a
    drive says too much about the rest of it. ``spans`` are in order of recording (a name) and time; the groups have
    shape ``(n,)``.
    """
    recording = spans["recording"].to_numpy()
    sizes = spans["recording"].value_counts()
    if are_groups(sizes):
        return pd.factorize(recording, sort=True)[0].astype(np.int64)
    parts = _STRETCHES
    position = np.argsort(np.argsort(recording, kind="stable"), kind="stable")  # parts of a drive beside each other
    middle = spans.assign(position=position).groupby("recording")["position"].transform("mean").to_numpy()
    long = sizes.loc[recording].to_numpy() * parts > 2 * len(recording)
    return np.floor(np.where(long, position, middle) * parts / len(recording)).astype(np.int64)
