"""A job file: TOML that says what to learn from which recordings, and how it is put to the test.

Each section becomes a frozen dataclass here, or the thing that it builds::

    [data]         which recordings, and the events that are known in them      `Data`
    [windows]      how recordings become rows                                   `WindowRecipe`
    [detector]     arguments of the constructor                                 `VAEOutlierDetector`
    [evaluation]   which recordings are left out in turn, at what alarm rate    `Evaluation`
    [health]       what is known of the sensors, and that they are graded       `Health`
    [output]       where the result goes                                        `Output`
    [tracking]     that MLflow records the run, and where                       `Tracking`

Relative paths start where the command is run.
"""

import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import pandas as pd

from anomalyvae.metrics import read_events
from anomalyvae.recordings import WindowRecipe
from anomalyvae.recordings.log import nearest


@dataclass(frozen=True)
class Data:
    """The recordings of a job: those of a known data set, or files of one's own.

    Parameters
    ----------
    name : str, optional
        A data set that `anomalyvae data list` names; it is prepared if need be.
    recordings : str or tuple of str
        Patterns. With `name`, of recording names in the set (all by default); without, of files.
        Of a data set, patterns with a slash are of files in its folder: ``raw/LOG/*/*.MF4``.
    databases : str or tuple of str
        DBC, ARXML or KCD files that say what the messages of MF4 and CAN logs mean; of a data set, in its folder.
    events : str, optional
        CSV or Parquet with ``recording`` and ``time_s`` (or ``start_s``, ``end_s``). A data set has its own.
    kinds : str or tuple of str, optional
        Patterns: of the events, those count whose ``kind`` fits one.
    tolerance_s : float
        A window within this many seconds of an event is strange: never learned, and right to flag.
    """

    name: str | None = None
    recordings: str | tuple[str, ...] | None = None
    databases: str | tuple[str, ...] = ()
    events: str | None = None
    kinds: str | tuple[str, ...] | None = None
    tolerance_s: float = 0.5


@dataclass(frozen=True)
class Evaluation:
    """How the detector is put to the test.

    Parameters
    ----------
    leave_out : str or tuple of str
        Patterns of recording names; each recording that fits is left out in turn.
    alarms_per_hour : float
        False alarms per hour at which event recall is stated.
    """

    leave_out: str | tuple[str, ...] = "*"
    alarms_per_hour: float = 30.0


@dataclass(frozen=True)
class Health:
    """That sensors are graded; see `anomalyvae.health.grades`.

    Parameters
    ----------
    range : dict of str to [low, high]
        Physical ranges of signals, in their units, in place of learned ones. What lies outside is bad, and is missing
        where a model learns.
    drift : bool
        Also learn how far signals leave their reconstruction. It takes two more networks.
    """

    range: dict[str, tuple[float, float]] = field(default_factory=dict)
    drift: bool = True


@dataclass(frozen=True)
class Output:
    """Where the result goes: a folder that a later run replaces."""

    folder: str


@dataclass(frozen=True)
class Tracking:
    """Where MLflow records the run; what is left out is for MLflow's own settings to say.

    Parameters
    ----------
    experiment, run_name : str, optional
        The run is named after the job, if not otherwise.
    uri : str, optional
        The tracking server or store.
    registered_model : str, optional
        Also register the model under this name.
    """

    experiment: str | None = None
    run_name: str | None = None
    uri: str | None = None
    registered_model: str | None = None


@dataclass(frozen=True)
class Job:
    """A job file, read and checked. ``extra`` holds the sections that only the caller of `read_job` knows."""

    name: str
    data: Data
    windows: WindowRecipe
    output: Output
    detector: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Evaluation = field(default_factory=Evaluation)
    tracking: Tracking | None = None
    health: Health | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


Progress = Callable[[int, int, str], None]
"""Called with steps done, steps in all, and what has just been done."""


# --- reading --------------------------------------------------------------------------------------------


def read_job(path: str | Path, extra: Mapping[str, type[Any]] | None = None) -> Job:
    """Read and check a job file.

    Parameters
    ----------
    path : path
    extra : mapping of str to dataclass, optional
        Further sections, by name. Each must be in the file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not TOML, a section or key is unknown (the nearest right one is named), a section is missing,
        or a value has the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"Got {path}, expected a job file. Check the path.")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"Got {path}, expected TOML: {error}. Correct the file.") from error

    sections: dict[str, type[Any]] = {"data": Data, "windows": WindowRecipe, "evaluation": Evaluation, "output": Output}
    sections |= {name: kind for name, kind in _OPTIONAL.items() if name in tables}
    extra = extra or {}
    _refuse_unknown(tables, [*sections, "detector", *_OPTIONAL, *extra], f"section {{}} in {path}")
    absent = [name for name in extra if name not in tables]
    if absent:
        raise ValueError(f"Got {path} without [{absent[0]}], expected that section. Add it.")
    for name, values in tables.items():
        if not isinstance(values, dict):
            raise ValueError(f"Got {name} = {values!r} in {path}, expected a section. Write [{name}] above keys.")
    tables["output"] = {"folder": f"runs/{path.stem}"} | tables.get("output", {})
    read = {name: _section(kind, tables.get(name, {}), f"[{name}] of {path}") for name, kind in sections.items()}
    detector = detector_arguments(tables.get("detector", {}), f"[detector] of {path}")
    more = {name: _section(kind, tables[name], f"[{name}] of {path}") for name, kind in extra.items()}
    return Job(name=path.stem, detector=detector, extra=more, **read)


def _section(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """Build a section's dataclass from its keys, each checked against the annotation of its field."""
    hints = get_type_hints(kind)
    _refuse_unknown(values, hints, f"key {{}} in {where}")
    missing = [item.name for item in fields(kind) if item.default is MISSING and item.name not in values]
    if missing:
        raise ValueError(f"Got {where} without {', '.join(missing)}, expected a value for each. Add them.")
    given = _tuples(values)
    for key, value in given.items():
        kinds = get_args(hints[key]) if isinstance(hints[key], UnionType) else (hints[key],)
        if not any(_is_a(value, wanted) for wanted in kinds):
            words = " or ".join(_TOML_WORDS[get_origin(wanted) or wanted] for wanted in kinds if wanted is not NoneType)
            raise ValueError(f"Got {key} = {values[key]!r} in {where}, expected {words}. Correct it.")
    try:
        return kind(**given)
    except ValueError as error:
        raise ValueError(f"In {where}: {error}") from error


_OPTIONAL: dict[str, type[Any]] = {"tracking": Tracking, "health": Health}
_TOML_WORDS = {
    str: "text in quotes",
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    tuple: "a list of texts",
    dict: "NAME = [low, high], each",
}


def _is_a(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(_is_pair(item) for item in value.values())
    if kind in (float, int):
        return isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return isinstance(value, kind)


def _is_pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(_is_a(number, float) for number in value)


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def detector_arguments(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check arguments of the detector by name and by value, so that no job ends late in a misspelt word.

    Parameters
    ----------
    values : mapping
        As read from TOML; lists become tuples.
    where : str
        Where they stand, for the message.

    Raises
    ------
    ValueError
        For a name or a value that the constructor does not know.
    """
    from anomalyvae.detector import VAEOutlierDetector

    allowed = inspect.signature(VAEOutlierDetector).parameters
    _refuse_unknown(values, allowed, f"key {{}} in {where}")
    arguments = _tuples(values)
    try:
        VAEOutlierDetector(**arguments)._validate_params()
    except ValueError as error:
        raise ValueError(f"In {where}: {error}") from error
    return arguments


def _refuse_unknown(given: Iterable[str], allowed: Iterable[str], what: str) -> None:
    for name in given:
        if name not in allowed:
            known = ", ".join(allowed)
            raise ValueError(f"Got {what.format(name)}, expected one of {known}. {nearest(name, allowed)}")


# --- recordings -----------------------------------------------------------------------------------------


def find_recordings(data: Data) -> tuple[list[Path], pd.DataFrame]:
    """Find the recordings of a job, and the events that are known in them.

    Returns
    -------
    paths : list of Path
        One file per recording, in order of name.
    events : DataFrame
        ``recording`` and ``time_s`` (or ``start_s``, ``end_s``); no rows where nothing is known.
    """
    patterns = (data.recordings,) if isinstance(data.recordings, str) else data.recordings or ()
    events_file = None if data.events is None else Path(data.events)
    if data.name is None:
        if not patterns:
            raise ValueError("Got neither name nor recordings in [data], expected one. Say which recordings.")
        paths = sorted({Path(found) for pattern in patterns for found in glob(pattern, recursive=True)})
    else:
        from anomalyvae.datasets import get_dataset

        home = get_dataset(data.name)
        everything = sorted((home / "recordings").glob("*.parquet"))
        paths = [path for path in everything if any(fnmatchcase(path.stem, p) for p in patterns or ("*",))]
        paths += sorted({found for pattern in patterns if "/" in pattern for found in home.glob(pattern)})
        if events_file is None and (home / "events.parquet").is_file():
            events_file = home / "events.parquet"
    if not paths:
        raise ValueError(f"Got recordings = {data.recordings!r}, which fits no file. Correct [data].")
    if events_file is None:
        events = pd.DataFrame({"recording": pd.Series(dtype=str), "time_s": pd.Series(dtype=float)})
    else:
        events = read_events(events_file)
    if data.kinds is not None:
        kinds = (data.kinds,) if isinstance(data.kinds, str) else data.kinds
        if "kind" not in events:
            raise ValueError(f"Got kinds = {data.kinds!r} with events that have no column kind. Leave it out.")
        events = events[[any(fnmatchcase(str(kind), p) for p in kinds) for kind in events["kind"]]]
    return paths, events.reset_index(drop=True)


def databases_of(data: Data) -> list[Path] | None:
    """The databases of a job's recordings, None where it names none."""
    names = (data.databases,) if isinstance(data.databases, str) else data.databases
    home = Path()
    if names and data.name is not None:
        from anomalyvae.datasets import get_dataset

        home = get_dataset(data.name)
    return [home / name for name in names] or None


# --- the result -----------------------------------------------------------------------------------------


def refuse_foreign(folder: Path, results: Iterable[str]) -> None:
    """Refuse, before any work, to replace a folder that holds other things than results (patterns of names)."""
    entries = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    foreign = sorted(name for name in entries if not any(fnmatchcase(name, pattern) for pattern in results))
    if foreign:
        raise FileExistsError(
            f"Got the output folder {folder}, which holds {', '.join(foreign[:3])}, expected an earlier "
            "result or nothing, since a run replaces the folder. Choose another in [output]."
        )
