"""Whole recordings: how unlike the training recordings one is, and whether new ones have left what the model knows.

A recording is a row of figures: how high its scores are, of all signals together and of each. What a model knows about
whole recordings is a `Fleet`: the figures of its training recordings, each scored by a model that had not learned it.
Numpy only.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

MEASURES = ("brief", "lasting")
REASONS = ("a short event", "a long oddness", "a signal")  # what makes a recording unlike the others
FEWEST = 3  # recordings; a p-value of fewer says nothing
FALSE_ALARMS = 0.01  # chance that a monitor ever alarms while nothing has changed
_BRIEF = 3  # windows
_TAIL = 2.0  # as `_scale`: 1.5 for exponential scores, and room for the error of an estimate from few recordings
_SURER = np.array([0.0, math.log(3), math.log(3)])  # nats; the reasons after the first speak where they are surer
_MOST_FIGURES = 500_000  # on a card
_DIGITS = 8
SAME = 1e-3  # scores this close are equal: those of an ONNX file may differ by a tenth of it
_MANY = 1000  # recordings
_STAKES = (0.1, 0.3, 0.6, 0.9)  # shares of a bet's capital

Floats = NDArray[np.float64]


class Tally:
    """The figures of one recording, gathered while its windows are scored.

    ``figures`` has two for all signals together, then two for each signal: ``brief``, the mean of the three highest
    scores, which a short event raises, and ``lasting``, the mean of all, which a long mild oddness raises. Missing
    scores do not count; a figure of nothing is NaN.

    Parameters
    ----------
    signals : int
        How many signals have scores of their own.
    """

    def __init__(self, signals: int = 0) -> None:
        self.windows = self.flagged = 0
        self.peak_s: float | None = None  # when the window with the highest score starts
        self._peak = -math.inf
        self._top = np.full((_BRIEF, 1 + signals), -np.inf)
        self._sum, self._count = np.zeros(1 + signals), np.zeros(1 + signals, dtype=np.int64)

    def add(self, scores: Floats, flagged: ArrayLike, start_s: ArrayLike) -> None:
        """Take windows: their scores ``(n, 1 + signals)``, that of all signals first, and when each starts."""
        if not len(scores):
            return
        self.windows, self.flagged = self.windows + len(scores), self.flagged + int(np.sum(flagged))
        known = ~np.isnan(scores)
        kept = np.where(known, scores, -np.inf)
        highest = int(kept[:, 0].argmax())
        if kept[highest, 0] > self._peak:
            self._peak, self.peak_s = float(kept[highest, 0]), float(np.asarray(start_s)[highest])
        self._top = np.sort(np.concatenate([self._top, kept]), axis=0)[-_BRIEF:]
        self._sum += np.where(known, scores, 0.0).sum(axis=0)
        self._count += known.sum(axis=0)

    @property
    def figures(self) -> Floats:
        """Shape ``(2 + 2 signals,)``."""
        nothing = self._count == 0
        top = np.where(np.isfinite(self._top), self._top, 0.0).sum(axis=0)
        brief = top / np.clip(self._count, 1, _BRIEF)
        lasting = self._sum / np.maximum(self._count, 1)
        return np.where(nothing[:, None], np.nan, np.column_stack([brief, lasting])).ravel()

    def to_dict(self) -> dict[str, Any]:
        """``windows``, ``flagged``, ``peak_s`` and ``figures``."""
        return {"windows": self.windows, "flagged": self.flagged, "peak_s": self.peak_s, "figures": self.figures}


def _nats(of: Floats, among: Floats) -> Floats:
    """Figures ``(n, k)`` on one scale, set by others ``(m, k)``: an estimate of ``-log P(another has at least v)``.

    It is ``log(2) + (v - q) / e``, with q their median and e the mean excess above it. A missing figure counts as q, as
    all do where none of the others is known.
    """
    if not among.shape[1]:
        return np.empty((len(of), 0))
    middle, unit = _scale(among)
    of = np.where(np.isnan(of) | np.isnan(among).all(axis=0), middle, of)
    return np.asarray(math.log(2) + (of - middle) / unit)


def _scale(among: Floats) -> tuple[Floats, Floats]:
    """The median of figures ``(m, k)``, and their mean excess above it, each ``(k,)``."""
    nothing = np.isnan(among).all(axis=0)
    middle = np.nanmedian(np.where(nothing, 0.0, among), axis=0)
    among = np.where(np.isnan(among) | nothing, middle, among)
    above = among >= middle
    excess = np.where(above, among - middle, 0.0).sum(axis=0) / above.sum(axis=0)
    return middle, np.maximum(excess, 1e-9 * np.maximum(np.abs(middle), 1.0))


def reasons(of: Floats, among: Floats) -> Floats:
    """How unlike others recordings are, and why, in nats, from their figures ``(n, k)`` and those of others ``(m, k)``.

    The three `REASONS`, shape ``(n, 3)``: ``brief``, ``lasting``, and the most unlike figure of a signal; without
    signals it is -inf. The largest of the three says how unlike a recording is. It is a weighted Bonferroni test, as
    the views of a row are: recordings of a fleet differ lastingly for many reasons, so what lasts counts where it is
    three times as sure as a short event.
    """
    whole, signal = _nats(of[:, :2], among[:, :2]), np.full(len(of), -np.inf)
    if of.shape[1] > 2 and among.shape[1] > 2:
        most, usual = (signal_nats(x, among).max(axis=1)[:, None] for x in (of, among))
        signal = _nats(most, usual)[:, 0]
    return np.column_stack([whole, signal]) - _SURER


def signal_nats(of: Floats, among: Floats) -> Floats:
    """How unlike others each signal of recordings is: the larger of its two figures in nats, ``(n, signals)``."""
    return np.asarray(_nats(of[:, 2:], among[:, 2:]).reshape(len(of), -1, 2).max(axis=2))


@dataclass(frozen=True, eq=False)
class Fleet:
    """The training recordings of a model, each measured by a model that had not learned it.

    Parameters
    ----------
    recordings : tuple of str
        Names, without repetition.
    windows : ndarray of int, shape (m,)
        How many windows were measured.
    signals : tuple of str
        Those with scores of their own; may be empty.
    figures : ndarray, shape (m, 2 + 2 signals)
        Of `Tally`; NaN where a recording has no score of a signal.
    own : ndarray of shape (m, 2), optional
        ``brief`` and ``lasting`` by the model itself, which tell a recording from others of its name.
    """

    recordings: tuple[str, ...]
    windows: NDArray[np.int64]
    signals: tuple[str, ...]
    figures: Floats
    own: Floats | None = None

    def __len__(self) -> int:
        return len(self.recordings)

    @classmethod
    def of(
        cls, tallies: Mapping[str, Tally], signals: tuple[str, ...], own: Mapping[str, Tally] | None = None
    ) -> Self | None:
        """Keep the tallies of the training recordings, by name; None for fewer than three, too few to rank new ones.

        ``own`` are the tallies by the model itself, which has learned all of them.
        """
        known = {name: tally for name, tally in tallies.items() if not np.isnan(tally.figures[:2]).any()}
        if len(known) < FEWEST:
            return None
        figures = np.stack([tally.figures for tally in known.values()])
        if figures.size > _MOST_FIGURES:
            signals, figures = (), figures[:, :2]
        windows = np.array([tally.windows for tally in known.values()])
        itself = None if own is None else np.stack([own[name].figures[:2] for name in known])
        return cls(tuple(known), windows, signals, figures, itself)

    @classmethod
    def from_dict(cls, plain: Any) -> Self:
        """Check and take what `to_dict` gave; ValueError for anything else."""
        try:
            names, signals = tuple(plain["recordings"]), tuple(plain["signals"])
            windows = np.array(plain["windows"], dtype=np.int64)
            figures = np.array(plain["figures"], dtype=np.float64)  # null is NaN
            own = None if "own" not in plain else np.array(plain["own"], dtype=np.float64)
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"its training recordings cannot be read: {error}") from error
        texts = all(isinstance(name, str) for name in (*names, *signals))
        fits = windows.shape == (len(names),) and figures.shape == (len(names), 2 + 2 * len(signals))
        fits = fits and (own is None or own.shape == (len(names), 2))
        if not (texts and fits and len(set(names)) == len(names) >= FEWEST and (windows > 0).all()):
            raise ValueError("its training recordings do not fit together")
        if np.isinf(figures).any() or np.isnan(figures[:, :2]).any():
            raise ValueError("its training recordings have figures that are no numbers")
        return cls(names, windows, signals, figures, own)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        own = {} if self.own is None else {"own": [json_figures(row) for row in self.own]}
        return own | {
            "recordings": list(self.recordings),
            "windows": self.windows.tolist(),
            "signals": list(self.signals),
            "figures": [json_figures(row) for row in self.figures],
        }

    @property
    def fewest(self) -> int:
        """The windows that a recording needs to be compared: half of the shortest. The mean of fewer varies more."""
        return math.ceil(self.windows.min() / 2)

    def index_of(self, recording: str, windows: int, figures: Floats) -> int | None:
        """The index of a recording among the learned ones; None if it is not the one of this name.

        Loggers give the same names, and lengths, again and again. So the model's own ``figures`` of it must be those of
        the learned one, as nearly as an ONNX file gives them.
        """
        name = recording.rsplit("/", 1)[-1]
        index = self.recordings.index(name) if name in self.recordings else None
        if index is None or int(self.windows[index]) != windows:
            return None
        if self.own is not None and not np.allclose(figures[:2], self.own[index], rtol=SAME, atol=SAME):
            return None
        return index

    def fitting(self, figures: Floats, windows: int) -> Floats:
        """The figures of a new recording, with as many signals as this fleet; unknown ones are NaN.

        The highest scores of k times as many windows as the longest recording of the fleet has are higher: by log k
        times their mean excess, if scores have an exponential tail. So figures of short events are lowered by as much.
        """
        known = np.full(self.figures.shape[1], np.nan)
        common = len(known) if len(figures) == len(known) else 2
        known[:common] = figures[:common]
        longer = max(1.0, windows / float(self.windows.max()))
        known[::2] -= math.log(longer) * _TAIL * _scale(self.figures)[1][::2]
        return known

    def p_value(self, figures: Floats, index: int | None = None) -> float:
        """The chance that a recording like the training ones is at least as unlike the others, in (0, 1].

        Parameters
        ----------
        figures : ndarray of shape (k,)
            Of a new recording.
        index : int, optional
            Of a learned recording, which is compared with the others.

        Notes
        -----
        The recording is among those that set the scale, so all are treated alike: if they are exchangeable, the
        p-value is valid however few they are (V. Vovk, A. Gammerman, G. Shafer 2005, Algorithmic Learning in a Random
        World).
        """
        among = np.vstack([self.figures, figures]) if index is None else self.figures
        found = reasons(among, among).max(axis=1)
        return float(np.mean(found >= found[-1 if index is None else index]))


def json_figures(figures: Floats) -> list[float | None]:
    """Figures for JSON: eight digits, None for NaN."""
    return [None if math.isnan(figure) else float(f"{figure:.{_DIGITS}g}") for figure in figures.tolist()]


# --- when to retrain ------------------------------------------------------------------------------------


class Watched(NamedTuple):
    """What a `Monitor` says after a recording."""

    recordings: int  # seen so far
    evidence: float  # decimal logarithm of the capital: above `Monitor.alarm_at`, they have left what the model knows
    by: dict[str, float]  # the same for each measure and signal alone, the largest first


class Monitor:
    """Say when new recordings have left what a model knows, with a bound on false alarms over all time.

    It is a test martingale (Vovk et al. 2021, Retrain or not retrain: conformal test martingales for change-point
    detection) whose reference stays fixed, so new recordings cannot hide each other. Bettors stake a share of their
    capital on this: the next recording measures more than all but j of the training recordings. While nothing has
    changed, such a bet gains nothing on average, so by Ville's inequality the capital of all together ever grows
    200-fold with a chance of at most 1 in 200. The capital is divided among bets that begin at each time, so that a
    late change is noticed as well.

    How often a clean recording measures more than all but j of m is not known exactly, because m is finite. It has the
    distribution Beta(j + 1, m - j); bets pay by its upper bound, and the bounds of all bets hold together with a
    chance of 199 in 200. Both errors together are at most `FALSE_ALARMS`.

    Only changes towards high scores count: data that are more usual than before are no reason to retrain.

    Parameters
    ----------
    fleet : Fleet
        Its recordings and the new ones must be independent of each other; windows of one recording are not, which is
        why a recording counts once. Half of the capital bets on signals.
    """

    alarm_at = math.log10(2 / FALSE_ALARMS)

    def __init__(self, fleet: Fleet) -> None:
        self.names = (*MEASURES, *fleet.signals)
        own = len(fleet.signals)
        weight = np.full(2 + 2 * own, 0.25 / max(own, 1))
        weight[:2] = 0.25 if own else 0.5
        known = np.where(np.isnan(fleet.figures), np.inf, fleet.figures)  # so that nothing is won by what is unknown
        ordered, m = np.sort(known, axis=0), len(known)
        allowed = [2**level - 1 for level in range(m.bit_length()) if 2**level - 1 <= (m - 1) / 2]
        risk = FALSE_ALARMS / 2 / (len(allowed) * known.shape[1])
        self._limits = np.stack([ordered[m - 1 - j] for j in allowed], axis=1)  # (columns, bets)
        self._odds = 1 / np.array([_most_likely(m, j, risk) for j in allowed])
        bets = (known.shape[1], len(allowed), len(_STAKES))
        self._share = np.log(np.broadcast_to(weight[:, None, None] / (bets[1] * bets[2]), bets))
        self._capital = np.full(bets, -np.inf)  # natural logarithms, without the shares
        self.seen = 0
        self.highest = 0.0  # evidence so far

    def add(self, figures: Floats) -> Watched:
        """Take the figures of the next recording, shape ``(k,)``; those that are NaN win nothing."""
        self.seen += 1
        won = (figures[:, None] > self._limits)[:, :, None]  # ties are lost
        stake = np.array(_STAKES)
        pays = np.where(won, 1 - stake + stake * self._odds[:, None], 1 - stake)
        begun = -math.log(self.seen * (self.seen + 1))
        self._capital = np.logaddexp(self._capital, begun) + np.log(pays)
        now = self.now
        self.highest = max(self.highest, now.evidence)
        return now

    @classmethod
    def fewest(cls, fleet: Fleet) -> int:
        """How many recordings it takes to alarm, all of them as unlike the training recordings as can be."""
        monitor = cls(fleet)
        while monitor.seen < _MANY and monitor.add(np.full(fleet.figures.shape[1], np.inf)).evidence < cls.alarm_at:
            pass
        return monitor.seen

    @property
    def now(self) -> Watched:
        """What it said last."""
        total = np.logaddexp(self._capital, -math.log(self.seen + 1))  # of bets that have not begun
        evidence = float(np.logaddexp.reduce((total + self._share).ravel()) / math.log(10))
        return Watched(self.seen, evidence, self._by(total))

    def to_dict(self) -> dict[str, Any]:
        """What it has seen as plain values, for JSON; it must have seen a recording."""
        return {"seen": self.seen, "highest": self.highest, "capital": self._capital.tolist()}

    @classmethod
    def from_dict(cls, fleet: Fleet, plain: Any) -> Self:
        """A monitor that goes on from what `to_dict` gave; ValueError for anything else."""
        monitor = cls(fleet)
        try:
            seen, highest = int(plain["seen"]), float(plain["highest"])
            capital = np.array(plain["capital"], dtype=np.float64)
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise ValueError(f"its capital cannot be read: {error}") from error
        if seen < 1 or capital.shape != monitor._capital.shape or not np.isfinite([highest, *capital.ravel()]).all():
            raise ValueError("its capital is not that of this model")
        monitor.seen, monitor.highest, monitor._capital = seen, highest, capital
        return monitor

    def _by(self, total: Floats) -> dict[str, float]:
        alone = np.logaddexp.reduce(total.reshape(len(total), -1), axis=1) - math.log(total[0].size)
        signals = np.logaddexp.reduce(alone[2:].reshape(-1, 2), axis=1) - math.log(2)
        evidence = dict(zip(self.names, (np.append(alone[:2], signals) / math.log(10)).tolist(), strict=True))
        return dict(sorted(evidence.items(), key=lambda item: -item[1]))


def _most_likely(m: int, j: int, risk: float) -> float:
    """The bound that a Beta(j + 1, m - j) exceeds with probability ``risk``, at most 1.

    The probability that it exceeds b is that of at most j successes in m trials of probability b.
    """
    low, high = 0.0, 1.0
    choices = [math.lgamma(m + 1) - math.lgamma(i + 1) - math.lgamma(m - i + 1) for i in range(j + 1)]
    for _ in range(60):
        b = (low + high) / 2
        terms = [c + i * math.log(b) + (m - i) * math.log1p(-b) for i, c in enumerate(choices)]
        low, high = (b, high) if math.fsum(map(math.exp, terms)) > risk else (low, b)
    return high
