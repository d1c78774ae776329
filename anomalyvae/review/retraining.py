"""Retrains a model from verdicts: only reviewed events are added to what it learned."""

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import pandas as pd

from anomalyvae.bundle import read_card, read_manifest
from anomalyvae.bundle.card import refuse_foreign, refuse_replaced
from anomalyvae.bundle.manifest import ROLES, Paths, manifest_of, next_manifest
from anomalyvae.options import ReadOptions
from anomalyvae.review.reasons import Reasons
from anomalyvae.train import TrainingSet, ranges_of, recipe_of, train, unfitted

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

_REFIT_SEED = 0x0DD5EED  # the first seed of refits, unlike seeds that people choose


@dataclass(frozen=True)
class Retrained:
    """The challenger that `retrain` made.

    ``normal`` and ``faults`` count the windows that were learned as such, ``verdicts`` the events by verdict
    (``"open"`` without one).
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
    **options: Unpack[ReadOptions],
) -> Retrained:
    """Fit a challenger to the champion's training data and the new normals, without noise, and against the faults.

    Parameters
    ----------
    events : DataFrame
        All events of a queue with their verdicts (``Queue.events()``).
    champion : path
        A bundle. The challenger has its settings, windowing recipe and manifest. It is not changed.
    out : path
        Folder for the challenger's bundle, with the manifest of its training data.
    learned : iterable of path, optional
        For a champion without a manifest: the recordings that it learned.
    source : path, optional
        Folder of the recordings, if they have moved.
    **options
        How files are read: see `anomalyvae.options.ReadOptions`.

    Returns
    -------
    Retrained

    Raises
    ------
    FileNotFoundError, ValueError
        If the champion has no windowing recipe or manifest, a recording is missing or has changed, or the verdicts
        change nothing that the champion has learned.

    Notes
    -----
    Windows that only partly overlap a fault are left out. New normals are the most anomalous windows of their
    recordings: they are learned, but only the other windows set the threshold.
    """
    if Path(out).resolve() == Path(champion).resolve():
        raise ValueError(f"Got {out} as champion and as out, expected two folders: only promotion replaces a champion.")
    refuse_foreign(Path(out))
    recipe, card, ranges, detector = recipe_of(champion), read_card(champion), ranges_of(champion), unfitted(champion)
    old = read_manifest(champion) if learned is None else manifest_of(learned, recipe, **options)
    new = next_manifest(old, events, source)
    refuse_changed(champion, card["model_id"], events[~events["event_id"].isin(old["event_id"])], source, **options)
    refuse_replaced(champion, card["model_id"])
    counts = {str(verdict): int(n) for verdict, n in events["verdict"].fillna("open").value_counts().items()}
    if _taught(new) == _taught(old):
        found = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items()) or "no events"
        raise ValueError(
            f"Got {found}, expected verdicts that change what {champion} has learned: without them, the challenger "
            "would be the champion again. Review events first (anomalyvae review)."
        )
    data = TrainingSet.of_manifest(new, recipe, ranges=ranges, source=source, **options)
    data = replace(data, samples=replace(data.samples, units=card["units"] | data.samples.units))
    train(data, recipe, detector, out, drift=card["training"].get("drift", False))
    normal, faults = (int((data.role == role).sum()) for role in ("normal", "fault"))
    return Retrained(Path(out), read_card(out)["model_id"], normal, faults, counts)


def refuse_changed(
    champion: Paths, model_id: str, events: pd.DataFrame, source: Paths | None, **options: Unpack[ReadOptions]
) -> None:
    """Refuse events to learn whose recordings have changed since the champion, or a former one, scored them."""
    if "model_id" not in events:
        return
    bundles = {path.name: path for path in formers(champion).glob("*")} | {model_id: Path(champion)}
    for scored_by, flagged in events[events["verdict"].isin(list(ROLES))].groupby("model_id"):
        bundle = bundles.get(str(scored_by))
        if bundle is not None:
            Reasons(bundle, **options).windows(flagged if source is None else flagged.assign(source=str(source)))


def formers(champion: Paths) -> Path:
    """The folder of the champions before this one, each by its model id."""
    folder = Path(os.path.abspath(champion))  # "." has no name
    return folder.with_name(f"{folder.name}-former")


def _taught(manifest: pd.DataFrame) -> set[tuple[Any, ...]]:
    """The intervals that decide what is learned: those of recordings of which anything is learned."""
    of_learned = manifest["sha256"].isin(manifest.loc[manifest["role"] != "excluded", "sha256"])
    intervals = manifest.loc[of_learned, ["sha256", "start_s", "end_s", "role"]]
    return set(intervals.itertuples(index=False, name=None))


def refits(
    champion: Paths, count: int, *, source: Paths | None = None, **options: Unpack[ReadOptions]
) -> Iterator["VAEOutlierDetector"]:
    """Fit the champion again with other seeds, to see how much a fit varies by chance.

    Parameters
    ----------
    champion : path
        A bundle with a manifest.
    count : int
    source, **options
        As for `retrain`.

    Yields
    ------
    VAEOutlierDetector
        With the champion's parameters, except ``random_state``.
    """
    data = TrainingSet.of_bundle(champion, source=source, **options)
    for number in range(count):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the champion's own fit has given them
            model = train(data, data.recipe, unfitted(champion).set_params(random_state=_REFIT_SEED + number))
        if model.stop_reason_ == "interrupted":  # it would differ by that, and not by its seed
            raise KeyboardInterrupt
        yield model
