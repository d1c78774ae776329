"""MLflow as this package reaches it: without telemetry, and without waiting for a server that does not answer."""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

from anomalyvae.tracking.entries import send_losses

_EVERY_S = 2.0  # between batches of losses
_SETTINGS = {  # of MLflow, whose own patience is 120 s and seven retries a request
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
_HURRY = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "2", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}


def import_mlflow() -> Any:
    """MLflow, which calls home only if the user has set ``MLFLOW_DISABLE_TELEMETRY`` to false.

    Raises
    ------
    ImportError
        If it is missing.
    """
    imported = "mlflow" in sys.modules
    silenced = "MLFLOW_DISABLE_TELEMETRY" not in os.environ
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    try:
        import mlflow
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Got no {error.name}, expected mlflow to track models. Run: pip install 'anomalyvae[mlflow]'."
        ) from error
    if imported and silenced:
        mlflow.telemetry.set_telemetry_client()  # which looks at that setting again
    return mlflow


@contextmanager
def reaching_mlflow(uri: str | None = None) -> Iterator[Any]:
    """MLflow with short patience and without telemetry, where the user has not set these; yields the module.

    Parameters
    ----------
    uri : str, optional
        The tracking server or store, instead of the one that is set; afterwards it is that again.
    """
    mlflow = import_mlflow()
    ours = {name: text for name, text in _SETTINGS.items() if name not in os.environ}
    os.environ.update(ours)
    chatter = logging.getLogger("urllib3.connectionpool")  # which tells of every retry
    level, before = chatter.level, mlflow.get_tracking_uri() if mlflow.tracking.is_tracking_uri_set() else None
    chatter.setLevel(logging.ERROR)
    if uri is not None:
        mlflow.set_tracking_uri(uri)
    try:
        yield mlflow
    finally:
        if uri is not None:
            mlflow.set_tracking_uri(before)
        chatter.setLevel(level)
        for name in ours:
            os.environ.pop(name, None)


def hurry() -> None:
    """Wait for hardly anything until `reaching_mlflow` ends: the server has failed before."""
    os.environ.update({name: text for name, text in _HURRY.items() if os.environ.get(name) == _SETTINGS[name]})


class Courier:
    """Carries the losses of one fit to its run, in a thread of its own, until the fit ends or the server fails."""

    def __init__(self, run_id: str | None) -> None:
        self.heard: list[dict[str, float]] = []
        self.began_ms = 0.0
        self._run_id = run_id
        self._waiting: SimpleQueue[dict[str, float]] = SimpleQueue()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._carry, name="anomalyvae-losses", daemon=True)

    def hear(self, record: dict[str, float]) -> None:
        """Take the record of an epoch; those of a second fit are left."""
        if len(self.heard) + 1 != record["epoch"]:
            return
        if not self.heard:
            self.began_ms = 1000 * (time.time() - record["seconds"])
            if self._run_id is not None:
                self._thread.start()
        self.heard.append(record)
        self._waiting.put(record)

    def finish(self) -> None:
        """No more will come."""
        self._done.set()

    def wait(self, seconds: float) -> None:
        """Wait until all has been sent, but not longer than this."""
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _carry(self) -> None:
        import mlflow

        with suppress(Exception):  # what has not arrived is sent with the bundle
            client, done = mlflow.MlflowClient(mlflow.get_tracking_uri()), False
            while not done:
                done = self._done.wait(_EVERY_S)
                records = []
                with suppress(Empty):
                    while True:
                        records.append(self._waiting.get_nowait())
                send_losses(client, str(self._run_id), records, self.began_ms)


def attempt(work: Callable[[], None], seconds: float) -> Exception | None:
    """Do something in a thread that is not waited for any longer than this; returns what has gone wrong."""
    outcome: list[Exception | None] = []

    def thread() -> None:
        try:
            work()
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    worker = threading.Thread(target=thread, name="anomalyvae-bundle", daemon=True)
    worker.start()
    worker.join(seconds)
    return outcome[0] if outcome else TimeoutError(f"no end after {seconds:g} s")


def reason(error: BaseException) -> str:
    """What lies at the bottom of an error, in a few words."""
    while (deeper := error.__cause__ or error.__context__) is not None:
        error = deeper
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__


def without_password(uri: str) -> str:
    """An address as it may be shown or written down."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl() if "@" in parts.netloc else uri
