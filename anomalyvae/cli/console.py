"""What the verbs of the command line share: how options are read, and how a person is told."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomalyvae.scoring.batch import Progress as BatchProgress

DONE, FAILED, SOME_FAILED, REFUSED, INTERRUPTED = 0, 1, 3, 4, 130  # argparse itself exits with 2
QUIET, DEBUG = "print nothing but errors", "show the traceback of an error"
DATABASES = "what the messages in MF4 and CAN logs mean: DBC, ARXML or KCD files"
_EXPECTED = (ValueError, OSError, ImportError, ArithmeticError, MemoryError)  # anything else is a bug of ours


def names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def setting(text: str) -> tuple[str, Any]:
    """Read NAME=VALUE, the value as in a job file; what is no TOML is text."""
    import tomllib

    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=VALUE")
    try:
        return name.strip(), tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name.strip(), value.strip()


@contextmanager
def steps_shown(quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    """Show steps as a bar on a terminal, as lines elsewhere, or not at all."""
    if quiet:
        yield lambda done, steps, what: None
    elif not sys.stderr.isatty():
        yield lambda done, steps, what: tell(f"{done}/{steps} {what}")
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        what = TextColumn("{task.description}", markup=False)
        columns = (MofNCompleteColumn(), BarColumn(bar_width=24), TimeElapsedColumn(), what)
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("loading", total=None)
            yield lambda done, steps, what: bar.update(task, completed=done, total=steps, description=what)


@contextmanager
def files_shown(quiet: bool) -> "Iterator[Callable[[BatchProgress], None]]":
    """Show files, rows per second and the time that is left: a bar on a terminal, now and then a line elsewhere."""
    told = time.monotonic()

    def line(p: "BatchProgress") -> None:
        nonlocal told
        if not quiet and time.monotonic() - told > _LINE_S:
            told = time.monotonic()
            tell(f"{p.files_done:,}/{p.files:,} files, {_pace(p)}")

    if quiet or not sys.stderr.isatty():
        yield line
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %  {task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("loading", total=None)
        yield lambda p: bar.update(
            task, completed=p.bytes_done, total=p.bytes, description=f"{p.files_done:,}/{p.files:,} files, {_pace(p)}"
        )


_LINE_S = 5.0


def _pace(p: "BatchProgress") -> str:
    share = (p.bytes_done - p.bytes_kept) / max(p.bytes - p.bytes_kept, 1)
    left = f", {p.seconds * (1 - share) / share:,.0f} s left" if share > 0 else ""
    return f"{p.rows_scored / max(p.seconds, 1e-9):,.0f} rows/s{left}"


def said_by(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = one_line(str(error)) or type(error).__name__
    if isinstance(error, _EXPECTED):
        return text
    return f"{type(error).__name__}: {text}. This should not happen; --debug shows where it did."


def one_line(text: str) -> str:
    return " ".join(text.split())


def tell(text: str) -> None:
    print(f"anomalyvae: {text}", file=sys.stderr)


def command_of(commands: Any, name: str, what: str, example: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=what,
        description=f"{what[0].upper()}{what[1:]}.",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


@contextmanager
def bundle_at(place: str | os.PathLike[str]) -> Iterator[Path]:
    """The path of a model: itself, or a copy of what MLflow has at models:/NAME@champion and its like."""
    hush_mlflow()
    from anomalyvae.tracking.registry import fetched

    with fetched(place) as path:
        yield path


def hush_mlflow() -> None:
    """Let MLflow tell of what goes wrong only; what it tells would go to stdout, too."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
