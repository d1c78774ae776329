"""Ctrl-C ends a verb at once, with exit code 130, and leaves what was there."""

import importlib
import os
import signal
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

from anomalyvae import VAEOutlierDetector, WindowRecipe
from anomalyvae.cli import main
from anomalyvae.review import Queue
from anomalyvae.train import train

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
RECIPE = WindowRecipe(("a", "b"), rate_hz=5, length_s=2, stride_s=1, max_gap_s=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder of drives, a model of them, and their scores."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "drives").mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        time_s = np.arange(0, 60, 0.1)
        drive = pd.DataFrame({"time_s": time_s, "a": np.sin(time_s), "b": rng.normal(size=600)})
        drive.to_csv(folder / "drives" / f"{name}.csv", index=False)
    detector = VAEOutlierDetector(random_state=0, max_epochs=2, hidden=(8,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        train([*(folder / "drives").iterdir()], RECIPE, detector, folder / "model")
        assert main(["score", *map(str, (folder / "drives", folder / "scores", "--model", folder / "model"))]) == 0
    return folder


def interrupted(place, arguments, calls=1):
    """The exit code, and what is said, of a verb that gets SIGINT within a function, in its call of this number.

    The function goes on for ever otherwise. It is named as ``module:attribute``.
    """
    module, _, attribute = place.partition(":")
    owner = importlib.import_module(module)
    *path, name = attribute.split(".")
    for part in path:
        owner = getattr(owner, part)
    honest, left = getattr(owner, name), [calls]
    reached, tell = os.pipe()
    said, say = os.pipe()
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside threads
        child = os.fork()
    if child == 0:

        def hanging(*args, **options):
            left[0] -= 1
            if left[0]:
                return honest(*args, **options)
            os.write(tell, b"!")
            while True:
                signal.pause()

        setattr(owner, name, hanging)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(say, 2)
        sys.stderr = os.fdopen(2, "w")
        try:
            code = main([*map(str, arguments)])
            sys.stderr.flush()
        except BaseException:
            code = 99
        os._exit(code)
    os.close(tell)
    os.close(say)
    assert os.read(reached, 1) == b"!"
    os.kill(child, signal.SIGINT)
    with os.fdopen(said) as stream:
        text = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("place", "calls"),
    [
        ("anomalyvae.train:read_windows", 1),
        ("anomalyvae.nets.training:_epoch", 1),
        ("anomalyvae.nets.training:_epoch", 3),  # in Python, the weights so far are kept
        ("anomalyvae.models:write_card", 1),
    ],
)
def test_an_interrupted_fit_leaves_the_model_that_was_there(world, place, calls):
    before = content(world)
    windows = ("--signals", "a,b", "--rate-hz", 5, "--length-s", 2, "--stride-s", 1, "--max-gap-s", 1)
    settings = ("--set", "max_epochs=9", "--set", "hidden=[8]", "--quiet")
    fit = ("fit", world / "drives/one.csv", "--model", world / "model", *windows, *settings)
    assert interrupted(place, fit, calls) == (130, "anomalyvae: interrupted\n")
    assert content(world) == before


def test_an_interrupted_fit_of_rows_writes_no_model(world, tmp_path):
    pd.read_csv(world / "drives/one.csv")[["a", "b"]].to_csv(tmp_path / "rows.csv", index=False)
    fit = ("fit", tmp_path / "rows.csv", "--model", tmp_path / "model", "--set", "hidden=[8]")
    code, said = interrupted("anomalyvae.nets.training:_epoch", fit, 2)
    assert (code, said.splitlines()[-1]) == (130, "anomalyvae: interrupted")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


@pytest.mark.parametrize("place", ["anomalyvae.recordings:read_log", "anomalyvae.health:Sensors.grade"])
def test_an_interrupted_health_writes_no_table(world, tmp_path, place):
    health = ("health", world / "drives", "--model", world / "model", "--out", tmp_path / "health.csv")
    assert interrupted(place, health) == (130, "anomalyvae: interrupted\n")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    "place", ["anomalyvae.review.flagging:pick_events", "anomalyvae.review.reasons:Reasons.explain"]
)
def test_an_interrupted_flag_adds_no_event(world, tmp_path, place):
    queue = tmp_path / "queue.db"
    flag = ("flag", world / "scores", "--model", world / "model", "--queue", queue, "--alarms", "alpha=0.5")
    code, said = interrupted(place, flag)
    assert (code, said.splitlines()[-1]) == (130, "anomalyvae: interrupted")
    with Queue(queue) as opened:
        assert not len(opened.events())
    assert main([*map(str, flag), "--quiet"]) == 0
    with Queue(queue) as opened:
        assert len(opened.events())
