"""Read and check a job file: TOML that says what to learn from which recordings, and how to evaluate it.

Each section becomes a frozen dataclass::

    [data]         which recordings, and their known events                     `Data`
    [windows]      how recordings become rows                                   `WindowRecipe`
    [detector]     arguments of the constructor                                 `VAEOutlierDetector`
    [evaluation]   which recordings are left out in turn, at what alarm rate    `Evaluation`
    [health]       grade the sensors; physical ranges, if known                 `Health`
    [output]       the folder of the result                                     `Output`
    [tracking]     record the run with MLflow                                   `Tracking`

pydantic checks the keys and values. Relative paths start in the current directory.
"""

import inspect
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from glob import glob
from pathlib import Path
from typing import Any, cast

import pandas as pd
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from anomalyvae.datasets import get_dataset
from anomalyvae.events import read_events, refuse_negative
from anomalyvae.folders import refuse_unwritable
from anomalyvae.options import TABLE_OPTIONS, ReadOptions
from anomalyvae.recordings import WindowRecipe
from anomalyvae.tables.names import nearest

Patterns = str | tuple[str, ...]
"""One pattern of names, or several; ``*`` matches anything."""


@dataclass(frozen=True)
class Data:
    """The recordings of a job: those of a public data set, or your own files.

    Parameters
    ----------
    name : str, optional
        A data set that `anomalyvae data list` names. It is downloaded and prepared if necessary.
    recordings : str or tuple of str
        Patterns. With `name`: of recording names in the data set (default: all), or, with a slash, of files in its
        folder, such as ``raw/LOG/*/*.MF4``. Without `name`: of files.
    databases : str, tuple of str, or dict of them
        DBC, ARXML or KCD files that define the messages of MF4 and CAN logs. With `name`, in the data set's folder. A
        table names the files of each bus: ``databases = { can0 = "engine.dbc" }``.
    time, sep, decimal, encoding, exclude, na : str, or tuple of str for the last two
        How tables are read, as in `anomalyvae.options.ReadOptions`.
    events : str, optional
        CSV or Parquet with ``recording`` and ``time_s`` (or ``start_s``, ``end_s``). Default: the data set's own.
    kinds : str or tuple of str, optional
        Patterns. Use only the events whose ``kind`` matches one.
    tolerance_s : float
        A window within this many seconds of an event counts as anomalous: it is not learned, and it should be flagged.
    """

    name: str | None = None
    recordings: Patterns | None = None
    databases: Patterns | dict[str, Patterns] = ()
    time: str | None = None
    sep: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    exclude: Patterns | None = None
    na: Patterns | None = None
    events: str | None = None
    kinds: Patterns | None = None
    tolerance_s: float = 0.5

    def __post_init__(self) -> None:
        refuse_negative("tolerance_s", self.tolerance_s)


@dataclass(frozen=True)
class Evaluation:
    """How the detector is evaluated.

    Parameters
    ----------
    leave_out : str or tuple of str
        Patterns of recording names. Each recording that matches is left out in turn.
    alarms_per_hour : float
        False alarms per hour at which event recall is measured.
    """

    leave_out: Patterns = "*"
    alarms_per_hour: float = 30.0

    def __post_init__(self) -> None:
        refuse_negative("alarms_per_hour", self.alarms_per_hour)


@dataclass(frozen=True)
class Health:
    """Grade the sensors; see `anomalyvae.health.profile`.

    Parameters
    ----------
    range : dict of str to [low, high]
        Physical ranges of signals, in their units, instead of learned ones. Values outside are graded bad, and are
        missing values for the detector.
    drift : bool
        Also learn how far signals usually are from their reconstruction. This fits two more networks.
    """

    range: dict[str, tuple[float, float]] = field(default_factory=dict)
    drift: bool = True


@dataclass(frozen=True)
class Output:
    """Where the result goes: a folder, which the next run replaces."""

    folder: str


@dataclass(frozen=True)
class Tracking:
    """Record the run with MLflow. MLflow's own settings apply to what is not given here.

    Parameters
    ----------
    experiment : str, optional
    run_name : str, optional
        Default: the name of the job.
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
    """A job file, read and checked. ``extra`` holds the additional sections that the caller of `read_job` names."""

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
"""Called with the number of steps done, the number of all steps, and a description of the last one."""


# --- reading --------------------------------------------------------------------------------------------

_SECTIONS: dict[str, type[Any]] = {
    "data": Data,
    "windows": WindowRecipe,
    "evaluation": Evaluation,
    "output": Output,
    "tracking": Tracking,
    "health": Health,
}


def read_job(path: str | Path, extra: Mapping[str, type[Any]] | None = None, *, skip: Iterable[str] = ()) -> Job:
    """Read and check a job file.

    Parameters
    ----------
    path : path
    extra : mapping of str to dataclass, optional
        Additional sections by name. The file must have each of them.
    skip : iterable of str, optional
        Sections to leave unread.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is not TOML, a section or key is unknown (the message names the nearest known one), a section or a
        required key is missing, or a value has the wrong type.
    """
    path, extra = Path(path), extra or {}
    if not path.is_file():
        raise FileNotFoundError(f"There is no job file {path}. Check the path.")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a valid TOML file: {error}. Correct the file.") from error

    tables = {name: values for name, values in tables.items() if name not in set(skip)}
    kinds = _SECTIONS | dict(extra)
    for name, values in tables.items():
        _refuse_unknown(name, [*kinds, "detector"], f"Section [{name}] of {path}")
        if not isinstance(values, dict):
            raise ValueError(f"{path} has {name} = {values!r}, but {name} is a section. Write [{name}] above its keys.")
    for name in extra:
        if name not in tables:
            raise ValueError(f"{path} has no section [{name}], which this job needs. Add it.")
    tables = {"data": {}, "windows": {}} | tables
    tables["output"] = {"folder": f"runs/{path.stem}"} | tables.get("output", {})
    detector = detector_arguments(tables.pop("detector", {}), f"[detector] of {path}")
    read = {name: _section(kinds[name], values, f"[{name}] of {path}") for name, values in tables.items()}
    return Job(name=path.stem, detector=detector, extra={name: read.pop(name) for name in extra}, **read)


def _section(kind: type[Any], values: Mapping[str, Any], where: str) -> Any:
    """Build a section's dataclass from its keys."""
    try:
        # In JSON, pydantic's strict mode takes a list for a tuple, but neither "60" nor true for a number.
        text = to_json(values, inf_nan_mode="constants")
        return TypeAdapter(kind).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        problems = error.errors()
    for key in values:
        _refuse_unknown(key, [item.name for item in fields(kind)], f"Key {key!r} in {where}")
    missing = [str(each["loc"][0]) for each in problems if each["type"] == "missing" and len(each["loc"]) == 1]
    if missing:
        raise ValueError(f"{where} has no {', '.join(missing)}, but needs a value for each. Add them.")
    if problems[0]["type"] == "value_error":  # raised by the dataclass itself
        raise ValueError(f"In {where}: {problems[0]['ctx']['error']}")
    key = str(problems[0]["loc"][0])
    reasons = dict.fromkeys(problem["msg"] for problem in problems if problem["loc"][0] == key)
    raise ValueError(f"{where} has {key} = {values[key]!r}. {'; '.join(reasons)}. Correct it.")


def detector_arguments(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check the detector's arguments, as read from TOML, so that a misspelt one fails before any work.

    Lists become tuples. ``where`` says, for the ValueError, what holds the arguments.
    """
    from anomalyvae.detector import VAEOutlierDetector, check_parameters

    for key in values:
        _refuse_unknown(key, inspect.signature(VAEOutlierDetector).parameters, f"Key {key!r} in {where}")
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
    }
    try:
        check_parameters(VAEOutlierDetector(**arguments))
    except ValueError as error:
        raise ValueError(f"In {where}: {error}") from error
    return arguments


def _refuse_unknown(name: str, known: Iterable[str], what: str) -> None:
    if name not in known:
        raise ValueError(f"{what} is unknown. The known ones are {', '.join(known)}. {nearest(name, known)}")


# --- recordings -----------------------------------------------------------------------------------------


def find_recordings(data: Data) -> tuple[list[Path], pd.DataFrame]:
    """Find the recordings of a job, in order of name, and their known events.

    Events have ``recording`` and ``time_s`` (or ``start_s``, ``end_s``). Without known events, the table has no rows.
    """
    patterns = _as_tuple(data.recordings)
    events_file = None if data.events is None else Path(data.events)
    if data.name is None:
        if not patterns:
            raise ValueError("[data] has neither name nor recordings. Name a data set, or a pattern of files.")
        paths = sorted({Path(found) for pattern in patterns for found in glob(pattern, recursive=True)})
    else:
        home = get_dataset(data.name)
        everything = sorted((home / "recordings").glob("*.parquet"))
        paths = [path for path in everything if matches(path.stem, patterns or ("*",))]
        paths += sorted({found for pattern in patterns if "/" in pattern for found in home.glob(pattern)})
        if events_file is None and (home / "events.parquet").is_file():
            events_file = home / "events.parquet"
    if not paths:
        raise ValueError(f"No file matches recordings = {data.recordings!r}. Correct [data].")
    if events_file is None:
        events = pd.DataFrame({"recording": pd.Series(dtype=str), "time_s": pd.Series(dtype=float)})
    else:
        events = read_events(events_file)
    if data.kinds is not None:
        events = _of_kinds(events, data.kinds)
    if data.name is not None and data.events is None:  # those of the data set's other recordings are no errors
        events = events[events["recording"].isin([path.stem for path in paths])]
    return paths, events.reset_index(drop=True)


def _of_kinds(events: pd.DataFrame, kinds: Patterns) -> pd.DataFrame:
    """Return the events of these kinds; refuse kinds that no event has."""
    if "kind" not in events:
        raise ValueError(f"[data] has kinds = {kinds!r}, but the events have no column kind. Leave kinds out.")
    wanted = [matches(str(kind), kinds) for kind in events["kind"]]
    if not any(wanted):
        found = ", ".join(map(repr, sorted(events["kind"].astype(str).unique())))
        raise ValueError(f"No event has a kind that matches kinds = {kinds!r}; there are {found}. Correct [data].")
    return events[wanted]


def options_of(data: Data) -> ReadOptions:
    """How a job's recordings are read."""
    home = Path() if data.name is None or not data.databases else get_dataset(data.name)
    by_bus = data.databases if isinstance(data.databases, dict) else {"": data.databases}
    databases = [(bus, str(home / file)) for bus, files in by_bus.items() for file in _as_tuple(files)]
    return cast("ReadOptions", {"databases": databases} | {name: getattr(data, name) for name in TABLE_OPTIONS})


def _as_tuple(patterns: Patterns | None) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else patterns or ()


def matches(name: str, patterns: str | Iterable[str]) -> bool:
    """Whether a name matches a pattern, or one of several."""
    return any(fnmatchcase(name, pattern) for pattern in ([patterns] if isinstance(patterns, str) else patterns))


# --- the result -----------------------------------------------------------------------------------------


def refuse_foreign(folder: Path, results: Iterable[str]) -> None:
    """Refuse, before any work, to replace a folder that holds anything else than results (patterns of names)."""
    refuse_unwritable(folder)
    entries = [entry.name for entry in folder.iterdir()] if folder.exists() else []
    foreign = sorted(name for name in entries if not matches(name, results))
    if foreign:
        raise FileExistsError(
            f"The output folder {folder} holds {', '.join(foreign[:3])}, which no earlier run wrote. A run replaces "
            "the whole folder. Choose another one (--out, or [output] of the job file)."
        )
