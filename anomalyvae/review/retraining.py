"""Learn from verdicts: what was reviewed makes the next model, and nothing else does."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomalyvae import models as bundle
from anomalyvae.bundle.card import read_card
from anomalyvae.bundle.manifest import (
    Paths,
    begun_with,
    manifest_of,
    next_manifest,
    read_manifest,
    windows_by_role,
)
from anomalyvae.recordings import WindowRecipe
from anomalyvae.recordings.bus.messages import Databases
from anomalyvae.train import save_traced

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

_FEWEST, _SMALL = 3, 0.25  # recordings that can be groups: so many, and none below this share of the average
_STRETCHES = 9  # groups otherwise
_OTHERS = 0x0DD5EED  # of fits that are repeated: no seed that people choose


@dataclass(frozen=True)
class Retrained:
    """What a retraining made.

    Parameters
    ----------
    folder : Path
        The bundle of the challenger.
    model_id : str
    normal, faults : int
        Windows learned, and windows pushed away.
    verdicts : dict of str to int
        Events in the queue by verdict; ``"open"`` those without one.
    """

    folder: Path
    model_id: str
    normal: int
    faults: int
    verdicts: dict[str, int]


def retrain(
    events: pd.DataFrame,
    champion: Paths,
    out: Paths,
    *,
    learned: Iterable[Paths] | None = None,
    source: Paths | None = None,
    databases: Databases = None,
    warm_start: bool = False,
) -> Retrained:
    """Fit a challenger to what the champion learned, with novel events, without noise, and against faults.

    Parameters
    ----------
    events : DataFrame
        All events of a queue with their verdicts (``Queue.events()``).
    champion : path
        The bundle whose settings, windowing recipe and manifest are taken over. It is not changed.
    out : path
        The challenger's bundle, with the manifest of what it learned.
    learned : iterable of path, optional
        For a champion that has no manifest: the recordings that it learned, as a whole.
    source : path, optional
        Where the recordings of events and manifest lie now, if elsewhere than before.
    databases : path or paths, optional
        What the messages of a vehicle bus mean, as for `anomalyvae.read_log`.
    warm_start : bool, default=False
        Go on from the champion's weights. This is sound where nothing is to be forgotten, so it is refused if a
        recording's interval that the champion learned is a fault or noise now; and it is a saving of time alone: the
        rows that set the threshold are then held out of this fit, yet may be among those that shaped the champion's
        weights, which makes the threshold a little low. The default begins anew.

    Returns
    -------
    Retrained

    Raises
    ------
    FileNotFoundError, ValueError
        If the champion has no windowing recipe or manifest, a recording is gone or changed, or there is nothing to
        learn.

    Notes
    -----
    Windows that touch a fault without lying inside it are neither learned nor pushed away. Windows that came by a
    verdict are the strangest of their recordings: they are learned, and the others alone set the threshold.
    """
    if Path(out).resolve() == Path(champion).resolve():
        raise ValueError(f"Got {out} as champion and as out, expected two folders: only promotion moves a champion.")
    recipe = _recipe(champion)
    old = read_manifest(champion) if learned is None else manifest_of(learned, recipe, databases=databases)
    manifest = next_manifest(old, events, source)
    model = _unfitted(champion, old, manifest, warm_start)
    lesson = _read(manifest, recipe, source, databases)
    lesson.teach(model)
    card = read_card(champion)
    units = card["units"] | lesson.units
    save_traced(model, out, manifest, recipe=recipe.to_dict(), units=units, health=card.get("health"))
    said = {str(verdict): int(n) for verdict, n in events["verdict"].fillna("open").value_counts().items()}
    return Retrained(Path(out), read_card(out)["model_id"], len(lesson.rows), len(lesson.faults), said)


def refitted(
    champion: Paths, count: int, *, source: Paths | None = None, databases: Databases = None
) -> Iterator["VAEOutlierDetector"]:
    """Fit what a champion learned again, with other random numbers: what the choice of these alone makes of it.

    Parameters
    ----------
    champion : path
        A bundle with a manifest.
    count : int
    source, databases
        As for `retrain`.

    Yields
    ------
    VAEOutlierDetector
        Of the champion's settings but for ``random_state``.
    """
    manifest = read_manifest(champion)
    lesson = _read(manifest, _recipe(champion), source, databases)
    for number in range(count):
        model = _unfitted(champion, manifest, manifest, warm_start=False).set_params(random_state=_OTHERS + number)
        lesson.teach(model)
        yield model


def _recipe(champion: Paths) -> WindowRecipe:
    card = read_card(champion)
    if card["windowing"] is None or card.get("preprocessing") is not None:
        raise ValueError(
            f"Got {champion}, a model of plain rows or a Pipeline, expected one that `anomalyvae fit` made from "
            "recordings. Pass rows, and outliers=, to its own fit instead."
        )
    return WindowRecipe.from_dict(card["windowing"])


@dataclass(frozen=True)
class _Lesson:
    """What a manifest has to teach: rows to learn, which of them set the threshold, and rows to push away."""

    rows: pd.DataFrame
    groups: NDArray[Any]
    begun: NDArray[np.bool_]
    faults: pd.DataFrame
    units: dict[str, str]

    def teach(self, model: Any) -> None:
        outliers = self.faults if len(self.faults) else None
        model.fit(self.rows, groups=self.groups, outliers=outliers, selected=~self.begun)


def _read(manifest: pd.DataFrame, recipe: WindowRecipe, source: Paths | None, databases: Databases) -> _Lesson:
    """Read the windows that a manifest names."""
    windows, role = windows_by_role(manifest, recipe, source, databases=databases)
    normal, fault = role == "normal", role == "fault"
    if not normal.any():
        raise ValueError("Got no normal window to learn from. Review more events, or pass learned recordings.")
    rows, spans = windows.rows[normal], windows.spans[normal]
    begun = begun_with(spans, manifest)
    if not begun.any():
        raise ValueError(
            "Got novel events alone to learn from, expected recordings that set the threshold. Pass them as learned."
        )
    groups = np.full(len(rows), -1)
    groups[begun] = groups_of(spans[begun])
    return _Lesson(rows, groups, begun, windows.rows[fault], windows.units)


def groups_of(spans: pd.DataFrame) -> NDArray[Any]:
    """Groups by which windows are held out: recordings, or stretches of time where recordings are too unlike in size.

    A drive of an hour and one of a minute are no two groups: a network that has learned the one says little of how
    unlearned windows of the other score. If the smallest recording is below a quarter of
    the average, or there are fewer than three, long ones are therefore cut, and short ones joined, to stretches of
    about equal size. (Windows overlap across such a cut, which flatters the threshold by very little.)

    Parameters
    ----------
    spans : DataFrame, n rows
        Windows, by recording and time.

    Returns
    -------
    ndarray of shape (n,)
    """
    recording = spans["recording"].to_numpy()
    sizes = spans["recording"].value_counts()
    if len(sizes) >= _FEWEST and sizes.min() >= _SMALL * sizes.mean():
        return pd.factorize(recording, sort=True)[0]
    parts = max(_STRETCHES, len(sizes))
    place = np.arange(len(recording))
    middle = spans.assign(place=place).groupby("recording")["place"].transform("mean").to_numpy()
    long = sizes.loc[recording].to_numpy() * parts > 2 * len(recording)
    return np.floor(np.where(long, place, middle) * parts / len(recording)).astype(np.int64)


def _unfitted(champion: Paths, old: pd.DataFrame, manifest: pd.DataFrame, warm_start: bool) -> "VAEOutlierDetector":
    from sklearn.base import clone

    model: Any = bundle.load(champion)
    if not warm_start:
        return clone(model).set_params(warm_start=False)
    gone = manifest[(manifest["role"] != "normal") & ~manifest["event_id"].isin(old["event_id"])]
    known = old[old["role"] == "normal"]
    pairs = gone.merge(known, on="sha256", suffixes=("", "_old"))
    overlap = (pairs["start_s"] < pairs["end_s_old"]) & (pairs["start_s_old"] < pairs["end_s"])
    if overlap.any() or not set(known["event_id"]) <= set(manifest["event_id"]):
        raise ValueError(
            "Got warm_start=True, but some of what the champion learned was judged otherwise since: its weights "
            "cannot forget it. Retrain without warm_start."
        )
    return model.set_params(warm_start=True)
