"""Fits and jobs as runs of MLflow.

The bundle on disk is what counts; MLflow gets a copy. A thread sends the losses of epochs during training, and
everything else is sent once the bundle is written, within a time limit. So a server that is down, slow or dies costs a
bounded time and nothing else: a warning lists what is missing, a note in the bundle says where it belongs, and `track`
sends it later.
"""

import json
import os
import shlex
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from anomalyvae.folders import write_text
from anomalyvae.tracking import entries
from anomalyvae.tracking.entries import Result
from anomalyvae.tracking.server import mlflow_session, reason, run_with_timeout, where, without_password

NOTE = "untracked.json"  # in a bundle: the run that it belongs to, until all has been sent

_TIMEOUT_S = 60.0  # for all that is sent once the bundle is written
_LAST_LOSSES_S = 5.0  # for losses still to be sent at the end of a fit
_BATCH_S = 2.0  # between batches of losses
_SETTINGS = ("experiment", "run_name", "registered_model", "tags", "run_id", "source")  # of a run and a note

Step = Callable[[Any, str], Any]  # sends one part, given MLflow's client and the id of the run


@contextmanager
def tracked_run(
    *,
    experiment: str | None = None,
    run_name: str | None = None,
    uri: str | None = None,
    registered_model: str | None = None,
    tags: dict[str, str] | None = None,
    nested: bool = False,
    listen: bool = True,
) -> "Iterator[TrackedRun]":
    """Open a run of MLflow around a fit; it is MLflow's active run during the block.

    MLflow's own settings decide where it goes: an active run is joined, ``MLFLOW_RUN_ID`` is resumed, and tracking URI
    and experiment are those set by code or environment (by default ``sqlite:///mlflow.db``).

    Parameters
    ----------
    experiment : str, optional
        By name; created if it does not exist.
    run_name : str, optional
    uri : str, optional
        A tracking server or store, for this block only.
    registered_model : str, optional
        Also register the model under this name. Its first version becomes the champion, each later one the challenger.
    tags : dict, optional
        Of a new run.
    nested : bool, default=False
        Open a child of the active run instead of joining it.
    listen : bool, default=True
        Send the losses of the first fit in the block during training.

    Yields
    ------
    TrackedRun
        Its ``log(folder)`` sends what `save` wrote.

    Raises
    ------
    ImportError
        If mlflow is not installed. A failing server raises nothing.

    Examples
    --------
    ::

        with tracked_run(experiment="pumps") as run:
            detector = VAEOutlierDetector().fit(rows)
            run.log(save(detector, "models/pump"), source="normal.csv")
    """
    with mlflow_session(uri) as mlflow:
        settings = {"experiment": experiment, "run_name": run_name, "registered_model": registered_model}
        run, status = TrackedRun(**settings, tags=_commit() | (tags or {})), "FAILED"
        active = mlflow.active_run()
        joined = active is not None and not nested
        try:
            run.start(active, joined)
        except Exception as error:  # `log` tries again, and warns
            run.failure = error
        try:
            with run.listening() if listen else nullcontext():
                yield run
            status = "FINISHED" if run.failure is None else "FAILED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            run.close(None if joined else status)


class TrackedRun:
    """A run of MLflow, known to the server or not yet; see `tracked_run`.

    Attributes
    ----------
    failure : Exception or None
        Why something was not sent.
    """

    def __init__(self, **settings: Any) -> None:
        self._settings: dict[str, Any] = dict.fromkeys(_SETTINGS) | settings
        tags = self._settings["tags"] or {}
        self._settings["tags"] = {name: str(value) for name, value in tags.items()}  # a database would make 1 of True
        self._run: Any = None  # MLflow's, once a server has answered
        self._sender: MetricSender | None = None
        self._warned = False
        self.failure: Exception | None = None

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None as long as no server has answered."""
        return None if self._run is None else str(self._run.info.run_id)

    @property
    def url(self) -> str:
        """Where to see the run."""
        address = where()
        if address.startswith("http"):
            return f"{address}/#/experiments/{self._run.info.experiment_id}/runs/{self.run_id}"
        return f"run {self.run_id} in {address}"

    def start(self, active: Any = None, join: bool = False) -> None:
        """Join the active run; or resume or start one, as its child if there is an active run."""
        import mlflow

        settings, nested = self._settings, active is not None
        resumed = settings["run_id"] or (None if join else os.environ.pop("MLFLOW_RUN_ID", None))
        if join:
            self._run = active
        elif resumed is not None:
            self._run = mlflow.start_run(resumed, nested=nested)
        else:
            name, experiment = settings["run_name"], settings["experiment"]
            number = None if experiment is None else _experiment(experiment)
            self._run = mlflow.start_run(run_name=name, experiment_id=number, nested=nested, tags=settings["tags"])
        settings["run_id"] = self.run_id

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Send the losses of the first fit in this block during training."""
        from anomalyvae.detector.fitting import epoch_callback

        self._sender = sender = MetricSender(self.run_id)
        token = epoch_callback.set(sender)
        try:
            yield
        finally:
            epoch_callback.reset(token)
            sender.finish(_LAST_LOSSES_S)

    def log(self, folder: str | os.PathLike[str], *, source: str | None = None) -> bool:
        """Send a bundle, or the output of a job, and its model if it has an ONNX file.

        Parameters
        ----------
        folder : path
            What `save` or `run_job` wrote.
        source : str, optional
            Where the rows came from: a file, a folder, an address.

        Returns
        -------
        bool
            Whether all was sent within a minute.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no bundle, or a damaged one.

        Warns
        -----
        UserWarning
            If something was not sent: what, why, and the command that sends it later.
        """
        result = Result.read(Path(folder), source)
        self._settings["source"] = source
        self._write_note(result)  # before sending, in case this process is killed
        missing = self.send(self.steps(result))
        if missing:
            self._write_note(result)  # again: the run may have started meanwhile
            command = f"anomalyvae track {shlex.quote(str(folder))}"
            self.warn(missing, str(folder), f"The model is complete on disk. Send the rest later: {command}")
        else:
            with suppress(OSError):
                (result.bundle / NOTE).unlink()
        return not missing

    def steps(self, result: Result) -> dict[str, Step]:
        """What to send of a result, in order."""
        steps: dict[str, Step] = {
            "the parameters and figures": partial(entries.send_card, result=result),
            "the losses": partial(self._send_losses, result=result),
            "the data set": partial(entries.send_dataset, result=result),
            "the model": partial(entries.send_model, result=result),
        }
        if result.is_job:
            steps["the files"] = partial(entries.send_files, result=result)
            steps["the folds"] = partial(entries.send_folds, result=result)
        if (name := self._settings["registered_model"]) is not None:
            steps["the registered version"] = partial(entries.send_version, result=result, name=name)
        return steps

    def send(self, steps: dict[str, Step], timeout_s: float | None = _TIMEOUT_S) -> list[str]:
        """Send parts in order until one fails; returns those not sent, and raises nothing."""
        missing, stop = ["everything"], threading.Event()

        def work() -> None:
            import mlflow

            if self._run is None:
                self.start()
            missing[:] = steps
            for what, step in steps.items():
                if stop.is_set():
                    return
                step(mlflow.MlflowClient(), str(self.run_id))
                missing.remove(what)

        self.failure = run_with_timeout(work, timeout_s)
        stop.set()
        return [] if self.failure is None else list(missing)

    def warn(self, missing: list[str], what: str, remedy: str) -> None:
        """Warn in one line: what MLflow lacks, why, and what to do."""
        self._warned = True
        why = "it was left" if self.failure is None else reason(self.failure)
        warnings.warn(f"MLflow at {where()} lacks {_listed(missing)} of {what} ({why}). {remedy}", stacklevel=3)

    def close(self, status: str | None, warn: bool = True) -> None:
        """End the run; with None leave it open."""
        import mlflow

        if self.failure is not None and warn and not self._warned:
            self.warn(["everything"], "this run", "Save the model, and send it later: anomalyvae track FOLDER")
        if status is None or self._run is None:
            return
        with suppress(Exception):
            active = mlflow.active_run()
            if active is not None and active.info.run_id == self.run_id:
                mlflow.end_run(status)
            else:  # another thread started it, in `send`
                mlflow.MlflowClient().set_terminated(str(self.run_id), status)

    def _send_losses(self, client: Any, run_id: str, result: Result) -> None:
        if self._sender is not None:
            self._sender.finish(_TIMEOUT_S)
        entries.send_missing_losses(client, run_id, result)

    def _write_note(self, result: Result) -> None:
        import mlflow

        uri = mlflow.get_tracking_uri()
        note = self._settings | {"uri": uri if uri == without_password(uri) else None}
        with suppress(OSError):
            write_text(result.bundle / NOTE, json.dumps(note, indent=2) + "\n")


class MetricSender:
    """Called with the record of each epoch of a fit, sends the losses from a thread, in batches.

    It does not delay the fit. After an error it sends no more: `TrackedRun.log` sends what is missing. Without a
    ``run_id``, as if no server has answered, nothing is sent.
    """

    def __init__(self, run_id: str | None) -> None:
        self._records: SimpleQueue[dict[str, float]] = SimpleQueue()
        self._fits, self._start_ms, self._finished = 0, 0.0, threading.Event()
        self._thread = threading.Thread(target=self._send, args=(run_id,), name="anomalyvae-losses", daemon=True)
        if run_id is not None:
            self._thread.start()

    def __call__(self, record: dict[str, float]) -> None:
        """Queue the record of an epoch; those of a second fit are ignored."""
        if record["epoch"] == 1:
            self._fits += 1
            self._start_ms = self._start_ms or 1000 * (time.time() - record["seconds"])
        if self._fits == 1:
            self._records.put(record)

    def finish(self, seconds: float) -> None:
        """Wait at most this long until all is sent."""
        self._finished.set()
        if self._thread.ident is not None:
            self._thread.join(seconds)

    def _send(self, run_id: str) -> None:
        import mlflow

        client, finished = mlflow.MlflowClient(), False
        with suppress(Exception):
            while not finished:
                finished = self._finished.wait(_BATCH_S)
                records = [self._records.get() for _ in range(self._records.qsize())]
                entries.send_losses(client, run_id, records, self._start_ms)


def track(
    folder: str | os.PathLike[str],
    *,
    experiment: str | None = None,
    run_name: str | None = None,
    uri: str | None = None,
    registered_model: str | None = None,
    source: str | None = None,
) -> str:
    """Track a bundle, or the output of a job, that is on disk: for the first time, or to send what is missing.

    If a note in the bundle names its run and server, they are used unless an argument says otherwise.

    Parameters
    ----------
    folder : path
    experiment, run_name, uri, registered_model
        See `tracked_run`.
    source : str, optional
        See `TrackedRun.log`.

    Returns
    -------
    str
        Where to see the run.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no bundle, or a damaged one.
    ConnectionError
        If something could not be sent, with the reason.
    """
    note = _read_note(Result.read(Path(folder)).bundle / NOTE)
    if uri is not None and uri != note.get("uri"):
        note["run_id"] = None  # it is on another server
    given = {"experiment": experiment, "run_name": run_name, "uri": uri, "registered_model": registered_model}
    settings = note | {name: value for name, value in (given | {"source": source}).items() if value is not None}
    result = Result.read(Path(folder), settings.get("source"))
    with mlflow_session(settings.pop("uri", None)) as mlflow:
        run, active = TrackedRun(**{name: settings.get(name) for name in _SETTINGS}), mlflow.active_run()
        if active is not None:
            run.start(active, join=True)
        missing = run.send(run.steps(result), timeout_s=None)
        run.close(None if active is not None else "FAILED" if missing else "FINISHED", warn=False)
        if run.failure is not None:
            run._write_note(result)  # so that the same command goes on in this run
            raise ConnectionError(
                f"MLflow at {where()} did not take {_listed(missing)} of {folder} ({reason(run.failure)}). Correct "
                "what it names, or wait until it answers, and run the same command again; --uri names another server."
            ) from run.failure
        (result.bundle / NOTE).unlink(missing_ok=True)
        return run.url


def _read_note(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _experiment(name: str) -> str:
    """The id of an experiment, created if it does not exist."""
    import mlflow

    known = mlflow.get_experiment_by_name(name)
    return str(mlflow.create_experiment(name) if known is None else known.experiment_id)


def _commit() -> dict[str, str]:
    from mlflow.utils.git_utils import get_git_commit

    commit = get_git_commit(".")
    return {"mlflow.source.git.commit": commit} if commit else {}


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
