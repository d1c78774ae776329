"""Windows of a recording that overlap: which do, and stretches of time that hardly do.

A window that overlaps with a learned one is half learned. Windows say by their samples where they lie, so that nobody
has to tell, in whatever order they come.
"""

import numpy as np
from numpy.typing import NDArray

from anomalyvae.detector.rows import fingerprint

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_STRETCH = 5  # windows beside each other that fit into the shortest stretch; only those at its ends overlap others
_FEWEST, _MOST_STRETCHES = 3, 100
_OFTEN = 1.1  # windows that cover a moment, on average; below, hardly any overlap
_LOOKED_AT = 32  # rows, and columns
_FARTHEST = 512  # columns between a cell and the same one in the row before
_MOST = 0.75
_EXACT = 1e-6  # relative, for rounding

Floats = NDArray[np.float64]


def starts_of(x: Floats, input_shape: tuple[int, ...]) -> NDArray[np.int64]:
    """When each of the windows ``(n, signals * samples)`` begins, in samples of one line of time, ``(n,)``.

    A window follows another if all its samples but the last p are the last samples of that one; the smallest p counts.
    So two windows overlap if their starts differ by less than ``samples``. Windows that overlap with no other have
    places of their own. Samples that come more than once, as of a signal that stands still, do not tell.
    """
    windows, (signals, samples) = len(x), input_shape
    ticks = np.ascontiguousarray(x.reshape(-1, signals, samples).transpose(0, 2, 1)).reshape(-1, signals)
    marks = fingerprint(ticks.view(np.uint64)).reshape(windows, samples) + np.uint64(_BASE)  # that of zeros is not 0
    powers = _powers(_BASE, samples)
    sums = np.cumsum(marks * powers, axis=1, dtype=np.uint64)  # hashes of the first samples: they wrap around
    inverse = _powers(pow(_BASE, -1, 2**64), samples)

    parent, step = np.arange(windows), np.zeros(windows, dtype=np.int64)
    _, known, content = np.unique(sums[:, -1], return_index=True, return_inverse=True)  # a window of each content
    left = known
    for p in range(1, samples):
        head, tail = sums[left, samples - p - 1], (sums[known, -1] - sums[known, p - 1]) * inverse[p]
        order = np.argsort(tail, kind="stable")
        begin, end = (np.searchsorted(tail, head, side, order) for side in ("left", "right"))
        place = known[order[begin.clip(max=len(known) - 1)]]
        found = np.flatnonzero((end - begin == 1) & (place != left))
        followers = np.bincount(place[found], minlength=windows)
        found = found[followers[place[found]] == 1]
        parent[left[found]], step[left[found]] = place[found], p
        left = np.delete(left, found)
    return _on_one_line(parent, step, samples)[known][content]


def stretches_of(starts: NDArray[np.int64], samples: int) -> NDArray[np.int64] | None:
    """A number for each window, the same in a stretch of time; None if windows hardly overlap or time is too short."""
    order = np.argsort(starts, kind="stable")
    covered = np.minimum(np.diff(starts[order]), samples).sum() + samples
    if len(starts) * samples < _OFTEN * covered or covered < 2 * _FEWEST * samples:
        return None
    count = int(np.clip(covered // (_STRETCH * samples), _FEWEST, _MOST_STRETCHES))
    stretch = np.empty(len(starts), dtype=np.int64)
    stretch[order] = np.arange(len(starts)) * count // len(starts)
    return stretch


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    return np.array([pow(base, i, 2**64) for i in range(count)], dtype=np.uint64)


def _on_one_line(parent: NDArray[np.int64], step: NDArray[np.int64], samples: int) -> NDArray[np.int64]:
    """Starts of windows that begin ``step`` samples after their parents, chain after chain."""
    root, start = parent.copy(), step.copy()
    for _ in range(len(parent).bit_length()):
        start, root = start + start[root], root[root]
    endless = parent[root] != root  # a period repeats: each follows another
    root[endless], start[endless] = np.flatnonzero(endless), 0
    _, chain = np.unique(root, return_inverse=True)
    length = np.zeros(chain.max() + 1, dtype=np.int64)
    np.maximum.at(length, chain, start + 2 * samples)
    return start + (np.cumsum(length) - length)[chain]


def slides(x: Floats) -> bool:
    """Whether successive rows ``(n, d)`` look like windows that overlap: cells come again in a column before.

    A step that changes each column by itself, such as `StandardScaler`, leaves them proportional: the ratio of their
    differences from one row to the next is constant.
    """
    if len(x) < _LOOKED_AT:
        return False
    place = np.linspace(0, len(x) - 3, _LOOKED_AT).astype(int)
    before, after = x[place] - x[place + 1], x[place + 1] - x[place + 2]
    for shift in range(1, min(x.shape[1], _FARTHEST + 1)):
        columns = np.unique(np.linspace(0, x.shape[1] - shift - 1, _LOOKED_AT).astype(int))
        columns = columns[(after[:, columns] != 0).mean(0) > _MOST]
        if not len(columns):
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = after[:, columns] / before[:, columns + shift]
            same = np.abs(ratio / np.median(ratio, axis=0) - 1) < _EXACT
        if (same.mean(axis=0) > _MOST).mean() > _MOST / 2:
            return True
    return False
