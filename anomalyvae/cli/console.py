"""What all verbs share: their options, exit codes, progress bars, messages, models and tables."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from anomalyvae.folders import in_words, refuse_unwritable, replacing_file
from anomalyvae.options import TABLE_OPTIONS, ReadOptions, TableOptions, given
from anomalyvae.untrusted import printable, spreadsheet_text

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from anomalyvae.scoring.batch import Progress as BatchProgress

DONE, FAILED, SOME_FAILED, REFUSED, INTERRUPTED = 0, 1, 3, 4, 130  # argparse itself exits with 2
_EXPECTED = (ValueError, OSError, ImportError, ArithmeticError, MemoryError)  # any other error is a bug of ours
_DISTRIBUTION = {"sklearn": "scikit-learn"}  # where a module has another name than what installs it
_LINE_S = 5.0
SOURCE = "a folder, files, or a quoted pattern such as 'drives/2026-*/*.parquet'"

# --- options --------------------------------------------------------------------------------------------


def names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE. The value is TOML, as in a job file, or else text."""
    import tomllib

    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=VALUE")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


_OPTIONS: dict[str, dict[str, Any]] = {
    "--experiment": {"metavar": "NAME", "help": "MLflow experiment (default: MLFLOW_EXPERIMENT_NAME)"},
    "--run-name": {"metavar": "NAME", "help": "name of the run"},
    "--model": {
        "metavar": "MODEL", "required": True,
        "help": "folder of a fitted model, or its name in MLflow's registry, such as models:/NAME@champion",
    },
    "--columns": {"type": names, "metavar": "A,B", "help": "columns of the table to use (default: all)"},
    "--set": {
        "action": "append", "default": [], "type": setting, "metavar": "NAME=VALUE", "dest": "settings",
        "help": "set an argument of VAEOutlierDetector, such as beta=0.5; repeat for more",
    },
    "--alarms": {
        "type": lambda text: dict([setting(text)]), "metavar": "TARGET",
        "help": "flag by a false-alarm target instead of the model's threshold: alpha=0.01 (share of the normal rows), "
        "per_hour=6 (only for windows)",
    },
    "--tail": {
        "choices": ("conformal", "pareto"), "default": "conformal",
        "help": "how p-values are computed; pareto extrapolates below the smallest one that the calibration rows allow",
    },
    "--queue": {
        "metavar": "QUEUE", "required": True, "help": "the review queue: a SQLite file, or the URL of PostgreSQL"
    },
    "--source": {"metavar": "FOLDER", "help": "folder of the recordings, if they have moved"},
    "--quiet": {"action": "store_true", "help": "print errors only"},
    "--debug": {"action": "store_true", "help": "show the traceback of an error"},
}  # fmt: skip


def option(parser: "argparse.ArgumentParser | argparse._ArgumentGroup", name: str, **changes: Any) -> None:
    """Add an option that several verbs have, with changes to its usual settings."""
    parser.add_argument(name, **_OPTIONS[name] | changes)


def reading_arguments(parser: argparse.ArgumentParser, *, time: bool = True, buses: bool = True) -> None:
    """Add the options of reading files, which all verbs that read files share."""
    group = parser.add_argument_group("options for reading files", "Most files need none of them.")
    group.add_argument(
        "--sep", metavar="CHARACTER", type=lambda text: text.replace("\\t", "\t"),
        help="between the cells of a CSV file; tab is '\\t'",
    )  # fmt: skip
    group.add_argument(
        "--decimal", choices=(".", ","), metavar="MARK", help="before the decimals in a CSV file: . or ,"
    )
    group.add_argument("--encoding", metavar="NAME", help="of a CSV file, such as cp1252 or utf-16")
    group.add_argument("--exclude", action="append", metavar="COLUMN", help="leave out a column; repeat for more")
    group.add_argument(
        "--na", action="append", metavar="TEXT", help="cell of a CSV file that says that a value is missing; repeat"
    )
    if time:
        group.add_argument("--time", metavar="COLUMN", help="time column of a table, with its unit: 'ticks [ms]'")
    if buses:
        group.add_argument(
            "--dbc", nargs="+", metavar="[BUS=]FILE", type=_database, dest="databases",
            help="DBC, ARXML or KCD files that define the messages in MF4 and CAN logs; with BUS= of one bus, such as "
            "can0=engine.dbc, and then only the named buses are read",
        )  # fmt: skip
        group.add_argument(
            "--timeout-s", type=float, metavar="S",
            help="give up a file other than CSV and Parquet if reading it makes no progress for so long (default: 300)",
        )  # fmt: skip
        group.add_argument(
            "--memory-gib", type=float, metavar="GIB",
            help="most memory for reading such a file, on Linux (default: 4, or half of the machine's)",
        )  # fmt: skip


def _database(text: str) -> tuple[str, str]:
    """A bus ("" for any) and the path of its database."""
    bus, equals, file = text.partition("=")
    return (bus, os.path.abspath(file)) if equals and not os.path.exists(text) else ("", os.path.abspath(text))


def table_options(args: argparse.Namespace) -> TableOptions:
    """The options of `reading_arguments` for tables, as functions take them."""
    return cast("TableOptions", {name: getattr(args, name, None) for name in TABLE_OPTIONS})


def reading_options(args: argparse.Namespace) -> ReadOptions:
    """The options of `reading_arguments`, as functions take them."""
    return cast("ReadOptions", {name: getattr(args, name, None) for name in ReadOptions.__annotations__})


def add_command(commands: Any, name: str, what: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


# --- progress -------------------------------------------------------------------------------------------


@contextmanager
def steps_shown(quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Show the progress of a task in steps."""
    with _progress_shown(quiet, every_s=0) as show:
        yield lambda done, steps, what: show(done / steps, f"{done}/{steps} {what}")


@contextmanager
def files_shown(quiet: bool) -> "Iterator[Callable[[BatchProgress], None]]":
    """Show how many files are scored, the rows per second, and the remaining time."""
    with _progress_shown(quiet, every_s=_LINE_S) as show:
        yield lambda p: show(p.files_done / max(p.files, 1), f"{p.files_done:,}/{p.files:,} files, {_pace(p)}")


@contextmanager
def _progress_shown(quiet: bool, every_s: float) -> Iterator[Callable[[float, str], None]]:
    """Show a share done and a text: as a bar on a terminal, elsewhere as a line at most every so many seconds."""
    if quiet:
        yield lambda share, text: None
    elif not sys.stderr.isatty():
        shown = time.monotonic()

        def line(share: float, text: str) -> None:
            nonlocal shown
            if time.monotonic() - shown >= every_s:
                shown = time.monotonic()
                tell(text)

        yield line
    else:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("loading", total=None)
            yield lambda share, text: bar.update(task, completed=share, total=1, description=printable(text))


def _pace(p: "BatchProgress") -> str:
    share = (p.files_done - p.files_kept) / max(p.files - p.files_kept, 1)
    left = f", {p.seconds * (1 - share) / share:,.0f} s left" if share > 0 else ""
    return f"{p.rows_scored / max(p.seconds, 1e-9):,.0f} rows/s{left}"


# --- messages -------------------------------------------------------------------------------------------


def say(text: object, flush: bool = False) -> None:
    """Print a result. Names from files cannot control the terminal."""
    print(printable(str(text), lines=True), flush=flush)


def tell(text: str) -> None:
    print(f"anomalyvae: {printable(text)}", file=sys.stderr)


def tell_failed(failed: Mapping[str, str], what: str = "") -> int:
    """Name the files that failed, and why; return the exit code."""
    for file, why in failed.items():
        tell(f"failed: {file}{what}: {why}")
    return SOME_FAILED if failed else DONE


def one_line(text: str) -> str:
    return " ".join(text.split())


def message_of(error: Exception) -> str:
    text = one_line(in_words(error)) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and text.startswith("No module named") and error.name:
        name = error.name.partition(".")[0]
        return (
            f"{name} is not installed, and this needs it. Install it with: pip install "
            f"{_DISTRIBUTION.get(name, name)}. What all verbs need comes with: pip install anomalyvae."
        )
    if isinstance(error, _EXPECTED):
        return text
    return f"{type(error).__name__}: {text}. This is a bug; --debug shows the traceback."


# --- models ---------------------------------------------------------------------------------------------


@contextmanager
def local_model(source: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield the path of a model; one in MLflow's registry (models:/NAME@champion) is downloaded first."""
    quiet_mlflow()
    from anomalyvae.tracking.registry import fetched

    with fetched(source) as path:
        yield path


def quiet_mlflow() -> None:
    """Let MLflow log warnings only: it would also print to stdout."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")


# --- tables ---------------------------------------------------------------------------------------------


def files_of(sources: Sequence[str], recordings: bool = False) -> list[str]:
    """The files that are given: folders and patterns stand for the files in them, as for `score`."""
    from glob import has_magic

    found: list[str] = []
    for source in sources:
        path = Path(source)
        if (path.is_dir() and not (path / "metadata.yaml").is_file()) or (has_magic(source) and not path.exists()):
            from anomalyvae.scoring.inputs import find_inputs

            root, names, _, unread = find_inputs(source, recordings, Path(os.devnull))
            if unread:
                raise ValueError("; ".join(f"{name} in {source}: {why}" for name, why in sorted(unread.items())))
            found += [str(root / name) for name in names]
        else:
            found.append(source)
    return list(dict.fromkeys(found))


def read_tables(
    files: Sequence[str], columns: Sequence[str] | None, options: ReadOptions, keep: Sequence[str] = ()
) -> "pd.DataFrame":
    """Read tables one below the other; without `columns`, those from which nothing can be learned are left out.

    Columns to `keep` have a role of their own.
    """
    from anomalyvae.tables.rows import read_rows
    from anomalyvae.tables.useful import useful_columns

    how = given(options, [name for name in TABLE_OPTIONS if name != "time"])
    wanted = None if columns is None else [*dict.fromkeys([*columns, *keep])]
    table = read_rows([Path(file) for file in files_of(files)], wanted, **how)
    return table if columns is not None else useful_columns(table, keep)


def _write_csv(table: "pd.DataFrame | pa.Table", path: Path) -> None:
    """Write a table that opens in a spreadsheet; no text from a file becomes a formula there."""
    import csv

    names = getattr(table, "column_names", None)
    if names is None:
        names, columns = list(table), [column.tolist() for _, column in table.items()]
    else:  # of Arrow: a worker that only scores has no pandas
        columns = [_arrow_cells(column) for column in table.columns]
    columns = [[None if cell != cell else spreadsheet_text(cell) for cell in cells] for cells in columns]  # NaN: empty
    ends = any("\r" in cell for cells in columns for cell in cells if isinstance(cell, str))  # it forgets a lone \r
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        lines = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if ends else csv.QUOTE_MINIMAL)
        lines.writerow([spreadsheet_text(name) for name in names])
        lines.writerows(zip(*columns, strict=True))


def _arrow_cells(column: "pa.ChunkedArray") -> list[Any]:
    """The cells of a column; single precision stays, so that it is not written with the digits of double."""
    import pyarrow as pa

    return list(column.to_numpy()) if pa.types.is_floating(column.type) else column.to_pylist()


def _write_parquet(table: "pd.DataFrame | pa.Table", path: Path) -> None:
    if not hasattr(table, "column_names"):
        table.to_parquet(path, index=False)
        return
    import pyarrow.parquet as pq

    pq.write_table(table, path)


WRITERS: "dict[str, Callable[[pd.DataFrame | pa.Table, Path], None]]" = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
}


def writer(out: str | None) -> "Callable[[pd.DataFrame | pa.Table], None]":
    """Check the name of a file before any work; return the function that writes a table there, if there is a name."""
    if out is None:
        return lambda table: None
    path = Path(out)
    if path.suffix.lower() not in WRITERS:
        raise ValueError(f"{path} is not a {' or '.join(WRITERS)} file. Rename it.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: its folder does not exist. Create the folder.")
    refuse_unwritable(path)

    def write(table: "pd.DataFrame | pa.Table") -> None:
        with replacing_file(path) as fresh:
            WRITERS[path.suffix.lower()](table, fresh)

    return write
