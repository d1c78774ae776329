"""Windows of a recording that overlap: which do, and stretches of time that hardly do.

A window that overlaps with a learned one is half learned. The samples of windows show where they lie in time, in
whatever order the windows come.
"""

import numpy as np
from numpy.typing import NDArray

from anomalyvae.detector.rows import fingerprint

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_STRETCH = 5  # windows beside each other that fit into a stretch of a long time; only those at its ends overlap others
_FEWEST, _MOST_STRETCHES = 3, 100
_OFTEN = 1.1  # windows that cover a moment, on average; below, hardly any overlap
_BITS = 20  # of a hash that are looked up before hashes are compared

Floats = NDArray[np.float64]


def starts_of(x: Floats, input_shape: tuple[int, ...]) -> NDArray[np.int64]:
    """When each of the windows ``(n, signals * samples)`` begins, in samples of one line of time, ``(n,)``.

    A window follows another if all its samples but the last p are the last samples of that one; the smallest p counts,
    and one window at most follows another. So two windows overlap if their starts differ by less than ``samples``.
    A window that overlaps with no other begins far from all others. Where several could follow, as when a signal
    stands still, none does. Equal windows begin at once. The starts depend on the order of the windows.
    """
    windows, (signals, samples) = len(x), input_shape
    ticks = np.ascontiguousarray(x.reshape(-1, signals, samples).transpose(0, 2, 1)).reshape(-1, signals)
    marks = fingerprint(ticks.view(np.uint64)).reshape(windows, samples) + np.uint64(_BASE)  # that of zeros is not 0
    powers = _powers(_BASE, samples)
    sums = np.empty((samples, windows), dtype=np.uint64)  # hashes of the first samples: they wrap around
    np.cumsum((marks * powers).T, axis=0, out=sums)
    inverse = _powers(pow(_BASE, -1, 2**64), samples)

    parent, step, followed = np.arange(windows), np.zeros(windows, dtype=np.int64), np.zeros(windows, dtype=bool)
    _, known, content = np.unique(sums[-1], return_index=True, return_inverse=True)  # a window of each content
    left = known
    for p in range(1, samples):
        head, tail = sums[samples - p - 1, left], (sums[-1, known] - sums[p - 1, known]) * inverse[p]
        some, few = _may_be_in(head, tail), _may_be_in(tail, head)
        late, early, head, tail = left[some], known[few], head[some], tail[few]
        order = np.argsort(tail, kind="stable")
        begin, end = (np.searchsorted(tail, head, side, order) for side in ("left", "right"))
        once = end - begin == 1
        late, before = late[once], early[order[begin[once]]]
        new = (before != late) & ~followed[before]
        new &= np.bincount(before[new], minlength=windows)[before] == 1
        late, before = late[new], before[new]
        parent[late], step[late], followed[before] = before, p, True
        left = left[step[left] == 0]
    _open_circles(parent, step)
    return _on_one_line(parent, step, samples)[known][content]


def stretches_of(starts: NDArray[np.int64], samples: int) -> NDArray[np.int64] | None:
    """A number for each window, the same in a stretch of time; None if windows hardly overlap.

    Three stretches of a short time overlap, but less than windows held out at random would.
    """
    order = np.argsort(starts, kind="stable")
    covered = np.minimum(np.diff(starts[order]), samples).sum() + samples
    if len(starts) < _FEWEST or len(starts) * samples < _OFTEN * covered:
        return None
    count = int(np.clip(covered // (_STRETCH * samples), _FEWEST, _MOST_STRETCHES))
    stretch = np.empty(len(starts), dtype=np.int64)
    stretch[order] = np.arange(len(starts)) * count // len(starts)
    return stretch


def _may_be_in(some: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether hashes may be among others, by their first bits: most are not, which saves sorting them."""
    there = np.zeros(1 << _BITS, dtype=bool)
    there[others >> np.uint64(64 - _BITS)] = True
    return there[some >> np.uint64(64 - _BITS)]


def _powers(base: int, count: int) -> NDArray[np.uint64]:
    return np.array([pow(base, i, 2**64) for i in range(count)], dtype=np.uint64)


def _open_circles(parent: NDArray[np.int64], step: NDArray[np.int64]) -> None:
    """Let windows that follow each other in a circle begin with the one that shares the fewest samples with its parent.

    A signal with a period makes circles. So do few levels, whose first samples come again by chance.
    """
    ancestor = parent
    for _ in range(len(parent).bit_length()):
        ancestor = ancestor[ancestor]
    circles = np.unique(ancestor[parent[ancestor] != ancestor])
    before, seen = parent.tolist(), set()
    for first in circles[np.argsort(-step[circles], kind="stable")].tolist():
        if first not in seen:
            parent[first], step[first] = first, 0
        while first not in seen:
            seen.add(first)
            first = before[first]


def _on_one_line(parent: NDArray[np.int64], step: NDArray[np.int64], samples: int) -> NDArray[np.int64]:
    """Starts of windows that begin ``step`` samples after their parents, chain after chain."""
    root, start = parent, step
    for _ in range(len(parent).bit_length()):
        start, root = start + start[root], root[root]
    _, chain = np.unique(root, return_inverse=True)
    length = np.zeros(chain.max() + 1, dtype=np.int64)
    np.maximum.at(length, chain, start + 2 * samples)
    return start + (np.cumsum(length) - length)[chain]
