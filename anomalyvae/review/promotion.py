"""Promotion: a challenger takes the champion's place as a whole, and gives it back on demand."""

import json
import shutil
from pathlib import Path

import pandas as pd

from anomalyvae.deploy.card import CARD, read_card
from anomalyvae.folders import replacing
from anomalyvae.review.gate import Decision
from anomalyvae.review.manifest import Paths, read_manifest, write_manifest

GATE, HOLDOUT = "gate.json", "holdout.json"


def promote(
    challenger: Paths, champion: Paths, decision: Decision, holdout: pd.DataFrame, *, dry_run: bool = False
) -> None:
    """Do as the gate says: put a promoted challenger in the champion's place, and write down why in any case.

    The decision is written to ``gate.json`` in the challenger's folder. A promoted one is copied to the champion's,
    which is swapped as a whole; it carries the decision and the frozen hold-out, ``holdout.json``. The former champion
    is kept beside it, in ``<champion>-former/<model_id>``.
    """
    if dry_run:
        return
    text = json.dumps(decision.to_dict(), indent=2, allow_nan=False) + "\n"
    (Path(challenger) / GATE).write_text(text, encoding="utf-8")
    if not decision.promoted:
        return
    write_manifest(holdout, Path(challenger) / HOLDOUT)
    if decision.champion is not None:
        _copy(Path(champion), _former(champion, decision.champion))
    _install(Path(challenger), Path(champion))


def roll_back(champion: Paths) -> str:
    """Put the champion before this one back in its place; returns its model id.

    Each call goes one promotion further back. The one that is taken back is kept with the former ones.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no champion, or none before it.
    """
    present = read_card(champion)["model_id"]
    gate = Path(champion) / GATE
    former = json.loads(gate.read_text(encoding="utf-8"))["champion"] if gate.is_file() else None
    if not isinstance(former, str) or Path(former).name != former:
        raise ValueError(f"Got {champion}, which took the place of no other model. There is nothing to roll back to.")
    if read_card(_former(champion, former))["model_id"] != former:
        raise ValueError(f"Got {_former(champion, former)}, which is another model than {former}. Promote a bundle.")
    _copy(Path(champion), _former(champion, present))
    _install(_former(champion, former), Path(champion))
    return former


def frozen_holdout(champion: Paths, given: pd.DataFrame | None) -> pd.DataFrame:
    """The hold-out that a champion was promoted on or, for the first, the one that is given.

    Raises
    ------
    ValueError
        If there is none, or another is given than the frozen one.
    """
    file = Path(champion) / HOLDOUT
    if not file.is_file():
        if given is None:
            raise ValueError(f"Got {champion} without {HOLDOUT}, expected recordings to judge by. Pass --holdout.")
        return given
    frozen = read_manifest(file)
    if given is not None and not _same(frozen, given):
        raise ValueError(
            f"Got another hold-out than the one that {champion} was promoted on, expected the same, so that champions "
            f"can be compared. Leave --holdout out, or delete {file} to begin with another."
        )
    return frozen


def _same(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    told = ["sha256", "start_s", "end_s", "role"]
    first, second = (table[told].sort_values(told).reset_index(drop=True) for table in (a, b))
    return first.equals(second)


def _former(champion: Paths, model_id: str) -> Path:
    folder = Path(champion)
    return folder.with_name(f"{folder.name}-former") / model_id


def _install(bundle: Path, champion: Path) -> None:
    """Make a bundle the champion: the one place where an alias in a model registry would be moved as well."""
    _copy(bundle, champion)


def _copy(bundle: Path, folder: Path) -> None:
    if folder.exists() and not (folder / CARD).exists():
        raise FileExistsError(f"Got {folder}, which holds other files than a bundle. Choose another folder.")
    with replacing(folder) as fresh:
        shutil.copytree(bundle, fresh, dirs_exist_ok=True)
        read_card(fresh)  # whole, or not at all
