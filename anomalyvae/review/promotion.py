"""Promotion: a challenger replaces the champion as a whole, and a rollback restores it."""

import json
import os
import re
import shlex
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pandas as pd

from anomalyvae.bundle import read_card, read_manifest
from anomalyvae.bundle.card import CARD, model_in, refuse_foreign, refuse_replaced
from anomalyvae.bundle.manifest import Paths, write_manifest
from anomalyvae.folders import is_scratch, locked, read_whole, replacing, write_text
from anomalyvae.review.gate import Decision
from anomalyvae.review.retraining import formers
from anomalyvae.untrusted import read_json

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
    """Carry out the gate's decision, and record it.

    The decision is written to ``gate.json`` in the challenger's folder. If it is promoted, the challenger is copied to
    the champion's folder, which is replaced as a whole, with the decision and the frozen hold-out, ``holdout.json``.
    The former champion is kept in ``<champion>-former/<model_id>``.

    Parameters
    ----------
    challenger, champion : path
    decision : Decision
    holdout : DataFrame
        The hold-out of the decision.
    dry_run : bool, default=False
        Do nothing.
    register : str, optional
        A registered model of MLflow, updated last: its alias ``champion`` moves to a promoted model, and
        ``challenger`` to a refused one. If the registry does not answer, the promotion stays.
    again : str, optional
        The remedy in that message; by default the command that updates the registry later.

    Returns
    -------
    bool
        False if the registry could not be updated.

    Raises
    ------
    ValueError
        If the champion or the challenger is another model than that of the decision: another process has replaced it.
    """
    if dry_run:
        return True
    if decision.champion == decision.challenger:  # promoted before: its decision is how a rollback finds the former one
        return register is None or bool(again) or record_champion(champion, register)  # a killed call did not record it
    rival = None if decision.champion is None else Path(champion)
    with _alone(champion):
        refuse_replaced(challenger, decision.challenger)
        if decision.promoted:  # a killed call may have done so already
            refuse_replaced(champion, decision.champion, decision.challenger)
        text = json.dumps(decision.to_dict(), indent=2, allow_nan=False) + "\n"
        write_text(Path(challenger) / GATE, text)
        if decision.promoted:
            write_manifest(holdout, Path(challenger) / HOLDOUT)
            if decision.champion is not None:
                rival = _former(champion, decision.champion)
                if model_in(champion) == decision.champion:
                    _copy(Path(champion), rival)
            _copy(Path(challenger), Path(champion))
    if register is None:
        return True
    from anomalyvae.tracking.registry import record

    remedy = again or (f"Run later: {_command(champion, register)}" if decision.promoted else "Promote it again later.")
    return record(register, challenger, decision.to_dict(), _kept(rival), remedy=remedy)


def record_champion(champion: Paths, register: str) -> bool:
    """Register the champion in a folder with MLflow, with its decision; returns whether that succeeded.

    Use it to begin with a registry, and to update one that was down.
    """
    from anomalyvae.tracking.registry import record

    gate = _decision(champion)
    earned = gate.get("promoted") is True and gate.get("challenger") == read_card(champion)["model_id"]
    former = _replaced(gate) if earned else None
    rival = None if former is None else _kept(_former(champion, former))
    remedy = f"Run later: {_command(champion, register)}"
    return record(register, champion, gate if earned else None, rival, remedy=remedy)


def roll_back(champion: Paths, *, register: str | None = None) -> str:
    """Restore the previous champion; returns its model id.

    Each call goes back one more promotion. The replaced model is kept with the former ones. If a registered model of
    MLflow is named, its alias ``champion`` moves back as well; see `record_champion`. FileNotFoundError or ValueError
    if there is no champion, or no previous one.
    """
    read_card(champion)
    with _alone(champion):
        present = read_card(champion)["model_id"]
        former = _replaced(_decision(champion))
        if former is None:
            raise ValueError(f"{champion} has no earlier champion to roll back to.")
        if read_card(_former(champion, former))["model_id"] != former:
            raise ValueError(f"{_former(champion, former)} is not the model {former}. Promote a bundle instead.")
        _copy(Path(champion), _former(champion, present))
        _copy(_former(champion, former), Path(champion))
    if register is not None:
        record_champion(champion, register)
    return former


def frozen_holdout(champion: Paths, given: pd.DataFrame | None) -> pd.DataFrame:
    """The hold-out that a champion was promoted on; for the first champion, the given one.

    ValueError if there is none, or the given one differs from the frozen one.
    """
    file = Path(champion) / HOLDOUT
    if not file.is_file():
        if given is None:
            raise ValueError(f"{champion} has no {HOLDOUT}, so there are no recordings to judge on. Pass --holdout.")
        return given
    frozen = read_manifest(file)
    if given is not None and not _same(frozen, given):
        raise ValueError(
            f"The hold-out differs from the one that {champion} was promoted on; champions are compared on the same "
            f"one. Leave --holdout out, or delete {file} to start with another."
        )
    return frozen


def _same(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    columns = ["sha256", "start_s", "end_s", "role"]
    first, second = (table[columns].sort_values(columns).reset_index(drop=True) for table in (a, b))
    return first.equals(second)


def _alone(champion: Paths) -> AbstractContextManager[None]:
    """Let no other process replace a champion meanwhile."""
    return locked(Path(os.path.realpath(champion)).parent)


def _former(champion: Paths, model_id: str) -> Path:
    return formers(champion) / model_id


def _kept(bundle: Path | None) -> Path | None:
    """A bundle, if it is in its folder: a champion of the registry has none."""
    return bundle if bundle is not None and (bundle / CARD).is_file() else None


def _decision(bundle: Paths) -> dict[str, Any]:
    """The gate's decision in a bundle; empty without one."""
    file = Path(bundle) / GATE
    if not file.is_file():
        return {}
    try:
        return dict(read_json(file.read_bytes()))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{file} is not a decision of the gate ({error}). Delete it; then nothing is known."
        ) from error


def _replaced(decision: dict[str, Any]) -> str | None:
    """The previous champion's model id. It becomes part of a path, so nothing else passes."""
    former = decision.get("champion")
    return former if isinstance(former, str) and re.fullmatch("[0-9a-f]{12}", former) else None


def _command(champion: Paths, register: str) -> str:
    return f"anomalyvae promote --champion {shlex.quote(str(champion))} --register {shlex.quote(register)}"


def _copy(bundle: Path, folder: Path) -> None:
    refuse_foreign(folder)

    def copy(source: Path) -> None:
        shutil.rmtree(fresh)
        for parent, folders, names in os.walk(source, followlinks=True):
            folders[:] = (name for name in folders if not is_scratch(Path(name)))
            inner = fresh / os.path.relpath(parent, source)
            inner.mkdir(exist_ok=True)
            for name in names:
                if not is_scratch(Path(name)):
                    shutil.copy2(Path(parent, name), inner / name)
        read_card(fresh)  # fails if the copy is incomplete, or of two models

    with replacing(folder) as fresh:
        read_whole(bundle, copy)
