"""``autolog()``: every fit of a detector becomes a run of MLflow, by the rules of MLflow's own autologging."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyvae.tracking.entries import PARENT, Result, send_values
from anomalyvae.tracking.runs import Step, TrackedRun, tracked_run
from anomalyvae.tracking.server import import_mlflow

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

FLAVOR = "anomalyvae"

_searches: list[Any] = []  # running searches, whose fits are no runs; a list, since they may fit in other threads
_used: set[str] = set()  # runs that have a fit: the next fit in them becomes a child


def autolog(
    *,
    log_models: bool = True,
    registered_model_name: str | None = None,
    extra_tags: dict[str, str] | None = None,
    exclusive: bool = False,
    disable: bool = False,
    silent: bool = False,
) -> None:
    """Track every `VAEOutlierDetector.fit` with MLflow, until ``autolog(disable=True)``.

    A fit goes into the active run, or into a new one; a further fit in the same run becomes a child of it. A search
    such as `GridSearchCV`, around a detector or a Pipeline that ends in one, becomes one run with the best model and
    ``cv_results.csv``. A study of Optuna becomes one run, or goes into the active one; each trial is a child run that
    holds its fit. A study with Optuna's own ``MLflowCallback`` is left to that: it makes a run per trial, and the fits
    in them are no runs. Leave the callback out to have the losses and models of the fits.

    Parameters
    ----------
    log_models : bool, default=True
        False for parameters, figures and losses only.
    registered_model_name : str, optional
        Also register each model under this name.
    extra_tags : dict, optional
        Of each new run.
    exclusive : bool, default=False
        Do nothing in runs that the user has opened.
    disable : bool, default=False
    silent : bool, default=False
        Suppress MLflow's messages and warnings.

    Notes
    -----
    If ``mlflow.sklearn.autolog()`` is on, it tracks searches and Pipelines; it makes a child run per candidate. Fits in
    other processes (``n_jobs``) are not seen.

    Raises
    ------
    ImportError
        If mlflow is not installed.
    """
    import_mlflow()
    from mlflow.utils.autologging_utils import autologging_integration, safe_patch
    from mlflow.utils.import_hooks import register_post_import_hook

    @autologging_integration(FLAVOR)
    def integrate(disable: bool = False, silent: bool = False, **settings: Any) -> None:
        from sklearn.model_selection._search import BaseSearchCV

        from anomalyvae.detector import VAEOutlierDetector

        safe_patch(FLAVOR, VAEOutlierDetector, "fit", _fit)
        safe_patch(FLAVOR, BaseSearchCV, "fit", _search)
        register_post_import_hook(
            lambda optuna: safe_patch(FLAVOR, optuna.Study, "optimize", _study), "optuna", overwrite=True
        )

    integrate(
        disable=disable,
        silent=silent,
        log_models=log_models,
        registered_model_name=registered_model_name,
        extra_tags=extra_tags,
        exclusive=exclusive,
    )


def _fit(original: Callable[..., Any], self: "VAEOutlierDetector", *args: Any, **kwargs: Any) -> None:
    if _inside_another():
        original(self, *args, **kwargs)
        return
    with _run(listen=True) as run:
        original(self, *args, **kwargs)
        _send(run, self, {})


def _search(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> None:
    if _inside_another() or not _ends_in_detector(self.estimator):
        original(self, *args, **kwargs)
        return
    with _without_runs(self), _run(listen=False) as run:
        original(self, *args, **kwargs)
        _send(run, getattr(self, "best_estimator_", None), {"the candidates": partial(_send_search, search=self)})


def _study(original: Callable[..., Any], self: Any, func: Callable[[Any], Any], *args: Any, **kwargs: Any) -> None:
    if _inside_another():
        original(self, func, *args, **kwargs)
        return
    if _has_own_callback(*args, *kwargs.values()):
        with _without_runs(self):
            original(self, func, *args, **kwargs)
        return
    with _run(listen=False) as run:
        original(self, partial(_trial, func, run.run_id), *args, **kwargs)
        _send(run, None, {"the best trial": partial(_send_study, study=self)})


@contextmanager
def _without_runs(search: Any) -> Iterator[None]:
    """The fits of a search in this block are no runs."""
    _searches.append(search)
    try:
        yield
    finally:
        _searches.remove(search)


def _has_own_callback(*arguments: Any) -> bool:
    """Whether Optuna's ``MLflowCallback`` is among the callbacks of a study."""
    callbacks = [one for argument in arguments if isinstance(argument, list | tuple) for one in argument]
    return any(kind.__name__ == "MLflowCallback" for one in callbacks for kind in type(one).__mro__)


def _trial(func: Callable[[Any], Any], parent: str | None, trial: Any) -> Any:
    """Run a trial in a child of the study's run, which is not the active run of other threads (``n_jobs``)."""
    from optuna import TrialPruned

    tags = {"mlflow.autologging": FLAVOR} | ({} if parent is None else {PARENT: parent})
    pruned, value = None, None
    with tracked_run(run_name=f"trial {trial.number}", nested=True, listen=False, tags=tags) as run:
        try:
            value = func(trial)
        except TrialPruned as error:  # not a failure of the run
            pruned = error
        _send(run, None, {"the trial": partial(_send_trial, trial=trial, value=value)})
    if pruned is not None:
        raise pruned
    return value


def _inside_another() -> bool:
    """Whether a fit belongs to a search, a `tracked_run`, or to what mlflow.sklearn tracks."""
    from mlflow.utils.autologging_utils import _has_active_training_session

    from anomalyvae.detector.fitting import epoch_callback

    return bool(_searches) or epoch_callback.get() is not None or _has_active_training_session()


@contextmanager
def _run(listen: bool) -> Iterator[TrackedRun]:
    import mlflow

    active = mlflow.active_run()
    with tracked_run(
        nested=active is not None and active.info.run_id in _used,
        listen=listen,
        registered_model=_setting("registered_model_name"),
        tags={"mlflow.autologging": FLAVOR} | (_setting("extra_tags") or {}),
    ) as run:
        _used.add(str(run.run_id))
        yield run


def _setting(name: str) -> Any:
    from mlflow.utils.autologging_utils import get_autologging_config

    return get_autologging_config(FLAVOR, name)


def _ends_in_detector(estimator: Any) -> bool:
    from anomalyvae.detector import VAEOutlierDetector

    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    return isinstance(estimator, VAEOutlierDetector)


def _send(run: TrackedRun, model: Any, more: dict[str, Step]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        steps = {} if model is None else run.steps(_result(model, Path(scratch) / "bundle"))
        missing = run.send(steps | more)
    if missing:
        run.warn(missing, "this run", "Save the model, and send it later: anomalyvae track FOLDER")


def _result(model: Any, folder: Path) -> Result:
    """The bundle of a model; only its card if models are not logged, or if it cannot be saved."""
    from anomalyvae import models
    from anomalyvae.bundle import preprocessing
    from anomalyvae.bundle.arrays import arrays_of
    from anomalyvae.bundle.card import describe

    if _setting("log_models"):
        with suppress(TypeError):  # for example a body of the user's own
            return Result.read(models.save(model, folder))
    before, detector = preprocessing.split(model)
    card = describe(detector, arrays_of(detector), preprocessing=preprocessing.description(before))
    # Lists, as in a file; a body of the user's own by its name.
    text = json.dumps(card | {"parts": {}}, default=lambda part: getattr(part, "__qualname__", type(part).__name__))
    return Result(folder, folder, json.loads(text))


def _send_search(client: Any, run_id: str, search: Any) -> None:
    """The best score of a search, and the table of its candidates."""
    import pandas as pd

    best = {"best_score": search.best_score_} if hasattr(search, "best_score_") else {}
    send_values(client, run_id, metrics=best, tags={"search": type(search).__name__})
    with tempfile.TemporaryDirectory() as scratch:
        pd.DataFrame(search.cv_results_).to_csv(Path(scratch) / "cv_results.csv", index=False)
        client.log_artifact(run_id, str(Path(scratch) / "cv_results.csv"))


def _send_trial(client: Any, run_id: str, trial: Any, value: Any) -> None:
    """Suggested parameters and returned values of a trial; a pruned one has no value."""
    values = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    names = ["value"] if len(values) == 1 else [f"value {number}" for number in range(len(values))]
    params = {f"trial.{name}": suggested for name, suggested in trial.params.items()}
    tags = {"pruned": "true"} if value is None else {}
    send_values(client, run_id, params=params, metrics=dict(zip(names, values, strict=True)), tags=tags)


def _send_study(client: Any, run_id: str, study: Any) -> None:
    """The best trial of a study with one objective."""
    params, metrics = {}, {}
    if len(study.directions) == 1 and any(trial.state.name == "COMPLETE" for trial in study.trials):
        params = {f"best.{name}": suggested for name, suggested in study.best_params.items()}
        metrics = {"best_value": study.best_value}
    send_values(client, run_id, params=params, metrics=metrics, tags={"study": study.study_name, "search": "Study"})
