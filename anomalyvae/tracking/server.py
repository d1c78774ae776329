"""MLflow without telemetry, and without long waits for a server that does not answer."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from anomalyvae.lazy import not_installed

_SETTINGS = {  # MLflow's own defaults are 120 s and seven retries per request
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def import_mlflow() -> Any:
    """MLflow, with telemetry only if the user has set ``MLFLOW_DISABLE_TELEMETRY`` to false."""
    imported = "mlflow" in sys.modules
    silenced = "MLFLOW_DISABLE_TELEMETRY" not in os.environ
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow
    except ModuleNotFoundError as error:
        raise not_installed(error, "tracking models", "anomalyvae[mlflow]") from error
    if imported and silenced:
        mlflow.telemetry.set_telemetry_client()  # reads that setting again
    return mlflow


@contextmanager
def mlflow_session(uri: str | None = None) -> Iterator[Any]:
    """MLflow with short timeouts unless the user has set others; ``uri`` replaces the server or store in this block."""
    mlflow = import_mlflow()
    ours = {name: text for name, text in _SETTINGS.items() if name not in os.environ}
    os.environ.update(ours)
    retries = logging.getLogger("urllib3.connectionpool")  # logs every retry
    level, before = retries.level, mlflow.get_tracking_uri() if mlflow.tracking.is_tracking_uri_set() else None
    retries.setLevel(logging.ERROR)
    if uri is not None:
        mlflow.set_tracking_uri(uri)
    try:
        yield mlflow
    finally:
        if uri is not None:
            mlflow.set_tracking_uri(before)
        retries.setLevel(level)
        for name in ours:
            os.environ.pop(name, None)


def run_with_timeout(work: Callable[[], None], seconds: float | None) -> Exception | None:
    """Do work in a thread and wait for it at most this long; returns its error, a TimeoutError, or None."""
    outcome: list[Exception | None] = []

    def thread() -> None:
        try:
            work()
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    worker = threading.Thread(target=thread, name="anomalyvae-mlflow", daemon=True)
    worker.start()
    worker.join(seconds)
    return outcome[0] if outcome else TimeoutError(f"not finished after {seconds} s")


def reason(error: BaseException) -> str:
    """The first cause of an error, in a few words."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        if isinstance(deeper, LookupError):  # it names a key only
            break
        error = deeper
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def where() -> str:
    """The present tracking server or store, as it may be shown."""
    import mlflow

    return without_password(mlflow.get_tracking_uri())


def without_password(uri: str) -> str:
    """An address that may be shown or written down."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri
