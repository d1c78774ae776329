"""Promotion: a challenger takes the champion's place as a whole, and gives it back on demand."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from anomalyvae.bundle.card import CARD, read_card
from anomalyvae.bundle.manifest import Paths, read_manifest, write_manifest
from anomalyvae.folders import replacing
from anomalyvae.review.gate import Decision

GATE, HOLDOUT = "gate.json", "holdout.json"


def promote(
    challenger: Paths,
    champion: Paths,
    decision: Decision,
    holdout: pd.DataFrame,
    *,
    dry_run: bool = False,
    register: str | None = None,
    again: str = "",
) -> bool:
    """Do as the gate says: put a promoted challenger in the champion's place, and write down why in any case.

    The decision is written to ``gate.json`` in the challenger's folder. A promoted one is copied to the champion's,
    which is swapped as a whole; it carries the decision and the frozen hold-out, ``holdout.json``. The former champion
    is kept beside it, in ``<champion>-former/<model_id>``.

    Parameters
    ----------
    challenger, champion : path
    decision : Decision
    holdout : DataFrame
        Which it was decided by.
    dry_run : bool, default=False
        Do nothing.
    register : str, optional
        A registered model of MLflow, which is told last: its alias ``champion`` moves with a promotion, and
        ``challenger`` to what was refused. A registry that does not answer undoes nothing.
    again : str, optional
        Said if it does not: what tells it later (by default, the command that does as `record_champion`).

    Returns
    -------
    bool
        Whether everybody was told who was to be: false if the registry was not.
    """
    if dry_run:
        return True
    text = json.dumps(decision.to_dict(), indent=2, allow_nan=False) + "\n"
    (Path(challenger) / GATE).write_text(text, encoding="utf-8")
    rival = None if decision.champion is None else Path(champion)
    if decision.promoted:
        write_manifest(holdout, Path(challenger) / HOLDOUT)
        if decision.champion is not None:
            rival = _former(champion, decision.champion)
            _copy(Path(champion), rival)
        _copy(Path(challenger), Path(champion))
    if register is None:
        return True
    from anomalyvae.tracking.registry import record

    remedy = again or (f"Run later: {_command(champion, register)}" if decision.promoted else "Promote it again later.")
    return record(register, challenger, decision.to_dict(), rival, remedy=remedy)


def record_champion(champion: Paths, register: str) -> bool:
    """Tell MLflow that the champion in a folder is the ``champion`` of a registered model; returns whether it knows.

    What the gate said of it goes along. It is the way to begin with a registry, and to catch up with one that was down.
    """
    from anomalyvae.tracking.registry import record

    gate = _decision(champion)
    earned = gate.get("promoted") is True and gate.get("challenger") == read_card(champion)["model_id"]
    former = _replaced(gate) if earned else None
    rival = None if former is None else _former(champion, former)
    kept = rival if rival is not None and (rival / CARD).is_file() else None
    remedy = f"Run later: {_command(champion, register)}"
    return record(register, champion, gate if earned else None, kept, remedy=remedy)


def roll_back(champion: Paths, *, register: str | None = None) -> str:
    """Put the champion before this one back in its place; returns its model id.

    Each call goes one promotion further back. The one that is taken back is kept with the former ones.

    Parameters
    ----------
    champion : path
    register : str, optional
        A registered model of MLflow, whose alias ``champion`` goes back as well; see `record_champion`.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no champion, or none before it.
    """
    present = read_card(champion)["model_id"]
    former = _replaced(_decision(champion))
    if former is None:
        raise ValueError(f"Got {champion}, which took the place of no other model. There is nothing to roll back to.")
    if read_card(_former(champion, former))["model_id"] != former:
        raise ValueError(f"Got {_former(champion, former)}, which is another model than {former}. Promote a bundle.")
    _copy(Path(champion), _former(champion, present))
    _copy(_former(champion, former), Path(champion))
    if register is not None:
        record_champion(champion, register)
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


def _decision(bundle: Paths) -> dict[str, Any]:
    """What the gate has written into a bundle; nothing if it has not."""
    file = Path(bundle) / GATE
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def _replaced(decision: dict[str, Any]) -> str | None:
    """The model id of the champion before, if that is what it says: it becomes part of a path."""
    former = decision.get("champion")
    return former if isinstance(former, str) and Path(former).name == former else None


def _command(champion: Paths, register: str) -> str:
    return f"anomalyvae promote --champion {shlex.quote(str(champion))} --register {shlex.quote(register)}"


def _copy(bundle: Path, folder: Path) -> None:
    if folder.exists() and not (folder / CARD).exists():
        raise FileExistsError(f"Got {folder}, which holds other files than a bundle. Choose another folder.")
    with replacing(folder) as fresh:
        shutil.copytree(bundle, fresh, dirs_exist_ok=True)
        read_card(fresh)  # whole, or not at all
