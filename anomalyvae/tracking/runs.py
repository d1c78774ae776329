"""Fits and jobs as runs of MLflow, by its own conventions.

The bundle on disk is what counts, and MLflow gets a copy. A thread of its own carries the losses of epochs while
training goes on; everything else follows when the bundle is written. So a server that is down, slow or dies costs a
bounded time and nothing else: what it lacks is said in one line, noted in the bundle, and `track` sends it later.
"""

import json
import os
import shlex
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from anomalyvae.tracking import entries
from anomalyvae.tracking.entries import Result
from anomalyvae.tracking.reach import Courier, attempt, hurry, reaching_mlflow, reason, without_password
from anomalyvae.tracking.registry import register

NOTE = "untracked.json"  # in a bundle: where it was to be tracked, until it is

_PATIENCE_S = 60.0  # for all that is sent when the bundle is written
_LAST_LOSSES_S = 5.0  # for them to arrive, where no bundle follows
_PLAN = ("experiment", "run_name", "registered_model", "tags", "run_id", "parent", "source")  # of a run, and in a note

Step = Callable[[Any, str], Any]  # sends something, given MLflow's client and the identity of a run


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
    """Open a run of MLflow around a fit; it is MLflow's active run while the block runs.

    Where it goes is MLflow's to say: an active run is joined, ``MLFLOW_RUN_ID`` is resumed, and the tracking URI and
    the experiment are those that code or environment has set (by default ``sqlite:///mlflow.db``).

    Parameters
    ----------
    experiment : str, optional
        By name; made if there is none.
    run_name : str, optional
    uri : str, optional
        A tracking server or store, for as long as the block runs.
    registered_model : str, optional
        Also register the model under this name; see `anomalyvae.tracking.registry.register`.
    tags : dict, optional
        Of a new run.
    nested : bool, default=False
        Open a child of the active run in place of joining it.
    listen : bool, default=True
        Send the losses of the block's fit as they come: of the first, if there are several.

    Yields
    ------
    TrackedRun
        Its ``log(folder)`` sends what `save` wrote.

    Raises
    ------
    ImportError
        If mlflow is missing. Nothing that a server does makes it raise.

    Examples
    --------
    ::

        with tracked_run(experiment="pumps") as run:
            detector = VAEOutlierDetector().fit(rows)
            run.log(save(detector, "models/pump"), source="normal.csv")
    """
    with reaching_mlflow(uri) as mlflow:
        plan = {"experiment": experiment, "run_name": run_name, "registered_model": registered_model}
        run, active, status = TrackedRun(**plan, tags=_commit() | (tags or {})), mlflow.active_run(), "FAILED"
        joins = active is not None and not nested
        try:
            run.join(active) if joins else run.open(active)
        except Exception as error:  # it is said when the bundle is written
            run.failure = error
        try:
            with run.listening() if listen else nullcontext():
                yield run
            status = "FINISHED" if run.failure is None else "FAILED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            run.close(None if joins else status)


class TrackedRun:
    """A run of MLflow, which a server may have heard of or not; see `tracked_run`.

    Attributes
    ----------
    failure : Exception or None
        What has kept something from being sent.
    """

    def __init__(self, **plan: Any) -> None:
        self._plan: dict[str, Any] = dict.fromkeys(_PLAN) | plan
        self._reached, self._experiment_id = False, ""
        self._courier: Courier | None = None
        self._told = False
        self.failure: Exception | None = None

    @property
    def run_id(self) -> str | None:
        """MLflow's identity of the run; None as long as no server has answered."""
        return self._plan["run_id"] if self._reached else None

    @property
    def url(self) -> str:
        """Where the run is to be seen."""
        where = _where()
        if where.startswith("http"):
            return f"{where}/#/experiments/{self._experiment_id}/runs/{self.run_id}"
        return f"run {self.run_id} in {where}"

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Send the losses of the fit in this block as they come; no other fit is heard."""
        from anomalyvae.detector.fitting import listener

        self._courier = courier = Courier(self.run_id)
        token = listener.set(courier.hear)
        try:
            yield
        finally:
            listener.reset(token)
            courier.finish()

    def log(self, folder: str | os.PathLike[str], *, source: str | None = None) -> bool:
        """Send a bundle, or the result of a job, and its model, if it has an ONNX file.

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
            If there is no bundle, or if it is damaged.

        Warns
        -----
        UserWarning
            If something was not sent: what, why, and the command that sends it later.
        """
        result = Result.read(Path(folder), source)
        self._plan["source"] = source
        self._write_note(result)  # first, so that it is there if this process is killed
        missing = self.send(result)
        if not missing:
            with suppress(OSError):
                (result.bundle / NOTE).unlink()
            return True
        self._write_note(result)  # by now the run may be known
        command = f"anomalyvae track {shlex.quote(str(folder))}"
        self.warn(missing, str(folder), f"the model is whole on disk. Send the rest later: {command}")
        return False

    def send(self, result: Result | None, more: dict[str, Step] | None = None) -> list[str]:
        """Send everything within a minute; returns what has not arrived, and never raises.

        Parameters
        ----------
        result : Result or None
        more : dict of str to callable, optional
            What else to send, by what it is.
        """
        missing, gave_up = ["everything"], threading.Event()
        self.failure = attempt(lambda: self.deliver(result, missing, more or {}, gave_up), _PATIENCE_S)
        gave_up.set()
        return list(missing) if self.failure is not None else []

    def warn(self, missing: list[str], what: str, remedy: str) -> None:
        """Say in one line what MLflow has not got, why, and what to do about it."""
        self._told = True
        why = reason(self.failure) if self.failure is not None else "it has been left"
        warnings.warn(f"MLflow at {_where()} lacks {_listed(missing)} of {what} ({why}); {remedy}", stacklevel=3)

    def join(self, active: Any) -> None:
        """Go into a run that is open."""
        self._plan["run_id"], self._experiment_id, self._reached = active.info.run_id, active.info.experiment_id, True

    def open(self, parent: Any = None) -> None:
        """Start or resume the run, which becomes the active run of this thread."""
        import mlflow

        plan = self._plan
        if parent is not None:
            plan["parent"] = parent.info.run_id
        if plan["run_id"] is None:
            plan["run_id"] = os.environ.pop("MLFLOW_RUN_ID", None)  # which MLflow, too, uses but once
        if plan["run_id"] is not None:
            active = mlflow.start_run(plan["run_id"], nested=parent is not None)
        else:
            active = mlflow.start_run(
                run_name=plan["run_name"],
                experiment_id=None if plan["experiment"] is None else _experiment(plan["experiment"]),
                nested=parent is not None,
                parent_run_id=plan["parent"],
                tags=plan["tags"],
            )
        self.join(active)

    def deliver(
        self, result: Result | None, missing: list[str], more: dict[str, Step], gave_up: threading.Event
    ) -> None:
        """Send part by part; ``missing`` is what is left. Where a server answers that it cannot, the rest is tried."""
        import mlflow

        if not self._reached:
            self.open()
        steps = ({} if result is None else self._steps(result)) | more
        client, failures = mlflow.MlflowClient(), []
        missing[:] = steps
        for what, step in steps.items():
            if gave_up.is_set():
                return
            try:
                step(client, self._plan["run_id"])
                missing.remove(what)
            except Exception as error:
                failures.append(error)
                if getattr(error, "error_code", "INTERNAL_ERROR") == "INTERNAL_ERROR":
                    break
        if failures:
            raise failures[0]

    def close(self, status: str | None) -> None:
        """End the run, if it is given a status; a server that has failed is not waited for."""
        import mlflow

        if self._courier is not None:
            self._courier.wait(_LAST_LOSSES_S)
        if self.failure is not None:
            hurry()
            if not self._told:
                self.warn(["everything"], "this run", "save the model, and send it later: anomalyvae track FOLDER")
        if status is None or not self._reached:
            return
        with suppress(Exception):
            active = mlflow.active_run()
            if active is not None and active.info.run_id == self.run_id:
                mlflow.end_run(status)
            else:  # it was opened when the bundle was sent, by another thread
                mlflow.MlflowClient().set_terminated(self._plan["run_id"], status)

    def _steps(self, result: Result) -> dict[str, Step]:
        steps: dict[str, Step] = {
            "the parameters and figures": partial(entries.send_values, result=result),
            "the losses": partial(self._send_losses, result=result),
            "the data set": partial(entries.send_dataset, result=result),
            "the model": partial(entries.send_model, result=result),
        }
        if result.is_job:
            steps["the files"] = partial(entries.send_files, result=result)
            steps["the folds"] = partial(entries.send_folds, result=result)
        if self._plan["registered_model"] is not None:
            steps["the registered version"] = partial(self._register, result=result)
        return steps

    def _send_losses(self, client: Any, run_id: str, result: Result) -> None:
        courier, began, prefix = self._courier, None, ""
        if courier is not None and courier.heard:
            courier.finish()
            courier.wait(_PATIENCE_S)
            same = courier.heard == result.history[: len(courier.heard)]
            began, prefix = (courier.began_ms, "") if same else (None, "model.")  # the run has heard another fit
        entries.send_missing_losses(client, run_id, result, began, prefix)

    def _register(self, client: Any, run_id: str, result: Result) -> None:
        model = entries.send_model(client, run_id, result)
        if model is not None:
            register(model, self._plan["registered_model"], result.card["model_id"])

    def _write_note(self, result: Result) -> None:
        import mlflow

        where = mlflow.get_tracking_uri()
        plan = self._plan | {"uri": where if where == without_password(where) else None}
        with suppress(OSError):
            (result.bundle / NOTE).write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")


def track(
    folder: str | os.PathLike[str],
    *,
    experiment: str | None = None,
    run_name: str | None = None,
    uri: str | None = None,
    registered_model: str | None = None,
    source: str | None = None,
) -> str:
    """Track a bundle, or the result of a job, that is on disk: for the first time, or to send what is missing.

    Where a note in the bundle says where it was to go, it goes there, unless an argument says otherwise. What a run has
    got already is left as it is.

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
        Where the run is to be seen.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no bundle, or if it is damaged.
    ConnectionError
        If something could not be sent, with the reason.
    """
    note = _read_note(Result.read(Path(folder)).bundle / NOTE)
    if uri is not None and uri != note.get("uri"):
        note |= {"run_id": None, "parent": None}  # these are another server's
    given = {"experiment": experiment, "run_name": run_name, "uri": uri, "registered_model": registered_model}
    given |= {"source": source}
    plan = note | {name: value for name, value in given.items() if value is not None}
    result, missing = Result.read(Path(folder), plan.get("source")), ["everything"]
    with reaching_mlflow(plan.pop("uri", None)) as mlflow:
        run, active = TrackedRun(**{name: plan.get(name) for name in _PLAN}), None
        try:
            active = mlflow.active_run()
            run.open() if active is None else run.join(active)
            run.deliver(result, missing, {}, threading.Event())
        except Exception as error:
            run.failure, run._told = error, True
            raise ConnectionError(
                f"Got {folder}, of which {_listed(missing)} cannot be sent ({reason(error)}), expected an MLflow that "
                f"takes it at {_where()}. Run it again when there is one."
            ) from error
        finally:
            run.close(None if active is not None else "FINISHED" if run.failure is None else "FAILED")
        (result.bundle / NOTE).unlink(missing_ok=True)
        return run.url


def _read_note(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _experiment(name: str) -> str:
    """The identity of an experiment, which is made if there is none."""
    import mlflow

    known = mlflow.get_experiment_by_name(name)
    return str(mlflow.create_experiment(name) if known is None else known.experiment_id)


def _commit() -> dict[str, str]:
    from mlflow.utils.git_utils import get_git_commit

    commit = get_git_commit(".")
    return {"mlflow.source.git.commit": commit} if commit else {}


def _where() -> str:
    import mlflow

    return without_password(mlflow.get_tracking_uri())


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
