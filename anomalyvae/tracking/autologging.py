"""``autolog()``: every fit of a detector becomes a run of MLflow, by the rules of its own autologging."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomalyvae.tracking.entries import PARENT, Result
from anomalyvae.tracking.reach import import_mlflow
from anomalyvae.tracking.runs import Step, TrackedRun, tracked_run

if TYPE_CHECKING:
    from anomalyvae.detector import VAEOutlierDetector

FLAVOR = "anomalyvae"

_searches: list[Any] = []  # that are running, whose fits are no runs; they may make them in threads of their own
_taken: set[str] = set()  # runs of the user that have a fit: the next one in them becomes a child


def autolog(
    *,
    log_models: bool = True,
    registered_model_name: str | None = None,
    max_tuning_runs: int | None = 5,
    extra_tags: dict[str, str] | None = None,
    exclusive: bool = False,
    disable: bool = False,
    silent: bool = False,
) -> None:
    """Track every `VAEOutlierDetector.fit` with MLflow, until ``autolog(disable=True)``.

    A fit goes into the active run, or into one of its own; a further fit in the same run becomes a child of it. A
    search (`GridSearchCV` and its like) around a detector, or around a Pipeline that ends in one, becomes one run with
    the best model, and a child for each of the best candidates; the fits that it makes leave none. A study of Optuna
    becomes one run, too, or goes into the active one; each trial is a child that holds what is fitted in it.

    Parameters
    ----------
    log_models : bool, default=True
        Or only parameters, figures and losses.
    registered_model_name : str, optional
        Also register each model under this name.
    max_tuning_runs : int or None, default=5
        Of a search, the number of candidates that become children, best first; None for all. ``cv_results.csv`` has
        all of them.
    extra_tags : dict, optional
        Of each new run.
    exclusive : bool, default=False
        Do nothing in runs that the user has opened.
    disable : bool, default=False
    silent : bool, default=False
        Keep MLflow's messages and warnings back.

    Notes
    -----
    Where ``mlflow.sklearn.autolog()`` is on, searches and Pipelines are left to it. Fits in other processes
    (``n_jobs``) are not seen; those of a search need not be.

    Raises
    ------
    ImportError
        If mlflow is missing.
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
        max_tuning_runs=max_tuning_runs,
        extra_tags=extra_tags,
        exclusive=exclusive,
    )


def _fit(original: Callable[..., Any], self: "VAEOutlierDetector", *args: Any, **kwargs: Any) -> None:
    if _tracked_as_a_whole():
        original(self, *args, **kwargs)
        return
    with _run(listen=True) as run:
        original(self, *args, **kwargs)
        _send(run, self, {})


def _search(original: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> None:
    if _tracked_as_a_whole() or not _ends_in_detector(self.estimator):
        original(self, *args, **kwargs)
        return
    _searches.append(self)
    try:
        with _run(listen=False) as run:
            original(self, *args, **kwargs)
            candidates = partial(_send_candidates, search=self, most=_setting("max_tuning_runs"))
            _send(run, getattr(self, "best_estimator_", None), {"the candidates": candidates})
    finally:
        _searches.remove(self)


def _study(original: Callable[..., Any], self: Any, func: Callable[[Any], Any], *args: Any, **kwargs: Any) -> None:
    if _tracked_as_a_whole():
        original(self, func, *args, **kwargs)
        return
    with _run(listen=False) as run:
        original(self, partial(_trial, func, run.run_id), *args, **kwargs)
        missing = run.send(None, {"the best trial": partial(_send_best, study=self)})
        if missing:
            run.warn(missing, "this study", "Optuna itself has it")


def _trial(func: Callable[[Any], Any], study_run: str | None, trial: Any) -> Any:
    """Run a trial in a child of the study's run, which in another thread (``n_jobs``) is not the active one."""
    from optuna import TrialPruned

    tags = {"mlflow.autologging": FLAVOR} | ({} if study_run is None else {PARENT: study_run})
    pruned, value = None, None
    with tracked_run(run_name=f"trial {trial.number}", nested=True, listen=False, tags=tags) as run:
        try:
            value = func(trial)
        except TrialPruned as error:  # which is no failure
            pruned = error
        missing = run.send(None, {"the trial": partial(_send_trial, trial=trial, value=value)})
        if missing:
            run.warn(missing, f"trial {trial.number}", "Optuna itself has it")
    if pruned is not None:
        raise pruned
    return value


def _tracked_as_a_whole() -> bool:
    """Whether a fit is a part of something else: a search, a `tracked_run`, what mlflow.sklearn tracks."""
    from mlflow.utils.autologging_utils import _has_active_training_session

    from anomalyvae.detector.fitting import listener

    return bool(_searches) or listener.get() is not None or _has_active_training_session()


@contextmanager
def _run(listen: bool) -> Iterator[TrackedRun]:
    import mlflow

    active = mlflow.active_run()
    with tracked_run(
        nested=active is not None and active.info.run_id in _taken,
        listen=listen,
        registered_model=_setting("registered_model_name"),
        tags={"mlflow.autologging": FLAVOR} | (_setting("extra_tags") or {}),
    ) as run:
        _taken.add(str(run.run_id))
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
        missing = run.send(None if model is None else _result(model, Path(scratch) / "bundle"), more)
    if missing:
        run.warn(missing, "this fit", "save(detector, FOLDER), and send it later: anomalyvae track FOLDER")


def _result(model: Any, folder: Path) -> Result:
    """The bundle of a model; a card alone where no model is to be logged, or where it cannot be saved."""
    from anomalyvae import models as bundle
    from anomalyvae.bundle import preprocessing
    from anomalyvae.bundle.card import describe

    if _setting("log_models"):
        with suppress(TypeError):  # such as a body of the user's own
            return Result.read(bundle.save(model, folder))
    before, detector = preprocessing.split(model)
    card = describe(detector, bundle.arrays_of(detector), preprocessing=preprocessing.description(before))
    return Result(folder, folder, card | {"parts": {}})


def _send_candidates(client: Any, run_id: str, search: Any, most: int | None) -> None:
    """A child for each of the best candidates of a search, and a table of all."""
    import numpy as np
    import pandas as pd
    from mlflow.entities import Metric, Param, RunTag

    found, now = search.cv_results_, int(1000 * time.time())
    best = [Metric("best_score", float(search.best_score_), now, 0)] if hasattr(search, "best_score_") else []
    client.log_batch(run_id, metrics=best, tags=[RunTag("search", type(search).__name__)], synchronous=True)
    with tempfile.TemporaryDirectory() as scratch:
        pd.DataFrame(found).to_csv(Path(scratch) / "cv_results.csv", index=False)
        client.log_artifact(run_id, str(Path(scratch) / "cv_results.csv"))
    experiment, tags = client.get_run(run_id).info.experiment_id, {PARENT: run_id, "mlflow.autologging": FLAVOR}
    figures = [name for name in found if name.startswith(("mean_", "std_", "rank_"))]
    rank = next(name for name in figures if name.startswith("rank_"))
    for number in np.argsort(found[rank], kind="stable")[:most]:
        child = client.create_run(experiment, tags=tags, run_name=f"candidate {number}").info.run_id
        client.log_batch(
            child,
            params=[Param(name, str(value)) for name, value in found["params"][number].items()],
            metrics=[Metric(name, float(found[name][number]), now, 0) for name in figures],
            synchronous=True,
        )
        client.set_terminated(child)


def _send_trial(client: Any, run_id: str, trial: Any, value: Any) -> None:
    """What Optuna suggested, and what came of it."""
    from mlflow.entities import Metric, Param, RunTag

    now = int(1000 * time.time())
    client.log_batch(
        run_id,
        params=[Param(f"trial.{name}", str(suggested)) for name, suggested in trial.params.items()],
        metrics=[Metric(name, figure, now, 0) for name, figure in _values(value).items()],
        tags=[RunTag("pruned", "true")] if value is None else [],
        synchronous=True,
    )


def _send_best(client: Any, run_id: str, study: Any) -> None:
    from mlflow.entities import Metric, Param, RunTag

    now, tags = int(1000 * time.time()), [RunTag("study", study.study_name), RunTag("search", "Study")]
    if len(study.directions) > 1 or not any(trial.state.name == "COMPLETE" for trial in study.trials):
        client.log_batch(run_id, tags=tags, synchronous=True)  # there is no one best
        return
    best = [Param(f"best.{name}", str(suggested)) for name, suggested in study.best_params.items()]
    score = [Metric("best_value", float(study.best_value), now, 0)]
    client.log_batch(run_id, params=best, metrics=score, tags=tags, synchronous=True)


def _values(value: Any) -> dict[str, float]:
    """What an objective has returned: a number, or several."""
    if value is None:
        return {}
    if isinstance(value, list | tuple):
        return {f"value {number}": float(each) for number, each in enumerate(value)}
    return {"value": float(value)}
