"""Several processes that train together end with what one process learns, and end together.

Run as a script, this file is one of those processes: ``test_distributed.py SCENES RANK STORE``.
"""

import gc
import os
import pickle
import signal
import subprocess
import sys
import time
import warnings
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from anomalyvae import VAEOutlierDetector, load
from anomalyvae.nets.bodies import MLP

PROCESSES = 2
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}
NO_ANSWER = "Got no answer from the processes that train along"
PATIENCE_S = 120  # of a test, on a busy machine; the processes themselves would wait for ten minutes

# Sums in another order differ in the last bits of float32. In these short fits that came to 4e-7 in weights and 6e-7 in
# scores; the room above is for other processors. (Long fits can drift apart, as two do that start 1e-7 apart.)
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(600, 2)) @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(600, 6))


def holed():
    x = rows()
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan
    return x


def table():
    return pd.DataFrame(rows(), columns=list("abcdef")).assign(
        gear=np.random.default_rng(2).choice(["1", "2", "R"], 600)
    )


SMALL = {"hidden": (16,), "max_epochs": 6, "random_state": 0}
SPLIT = {**SMALL, "validation_fraction": 0.2, "max_epochs": 12}
WEIGHT = np.random.default_rng(3).integers(0, 4, size=600)

# Fits that one process and several make alike: the detector's arguments, the rows, fit's further arguments.
ALIKE = {
    "elbo": (SMALL, rows, {}),
    "elbo, holes, weights": (SPLIT, holed, {"sample_weight": WEIGHT}),
    "elbo, contamination": (SMALL | {"contamination": 0.1}, rows, {}),
    "elbo, categories": (SPLIT, table, {}),
    "elbo, early stop": (SPLIT | {"max_epochs": 400, "patience": 3}, rows, {}),
    "reconstruction": (SPLIT | {"objective": "reconstruction"}, rows, {"sample_weight": WEIGHT}),
    "reconstruction, contamination, holes": (SPLIT | {"objective": "reconstruction", "contamination": 0.1}, holed, {}),
    "elbo, outliers": (SMALL, rows, {"outliers": holed()[:40] + 1}),
    "reconstruction, outliers, odd parts": (
        SMALL | {"objective": "reconstruction", "batch_size": 7, "max_epochs": 2}, lambda: rows()[:61],
        {"outliers": rows()[:3] + 1},
    ),
    "adversarial, contamination, holes": (SPLIT | {"objective": "adversarial", "contamination": 0.1}, holed, {}),
    "adversarial, outliers, odd parts": (
        SMALL | {"objective": "adversarial", "batch_size": 7, "max_epochs": 2}, lambda: rows()[:61],
        {"sample_weight": WEIGHT[:61], "outliers": rows()[:3] + 1},
    ),
    "odd parts": (SMALL | {"batch_size": 7, "max_epochs": 2}, lambda: rows()[:61], {}),
    "fewer rows than processes": (SPLIT | {"batch_size": 1, "contamination": 0.1}, lambda: rows()[:33], {}),
}  # fmt: skip


def outcome(detector, x):
    return {
        "weights": {name: value.numpy() for name, value in detector.network_.state_dict().items()},
        "scores": detector.anomaly_score(x),
        "offset": detector.offset_,
        "history": detector.history_.to_numpy(),
        "reason": detector.stop_reason_,
    }


def fitted(settings, make, extra):
    x = make()
    return outcome(VAEOutlierDetector(**settings).fit(x, **extra), x)


def body_that(acts, at):
    """A body that does something in its so-and-so-many-th encoding."""

    class Body(MLP):
        encodings = 0

        def encode(self, x):
            Body.encodings += 1
            if Body.encodings == at:
                acts()
            return super().encode(x)

    return lambda shape, latent_dim: Body(shape, latent_dim, hidden=(16,))


def error_of(settings, x):
    try:
        VAEOutlierDetector(**settings).fit(x)
    except (ValueError, FloatingPointError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def nothing():
    pass


def interrupt():
    signal.raise_signal(signal.SIGINT)


def fail():
    raise OSError("the disk is gone")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


# What the processes do


def scenes(rank):
    """Everything after which the processes go on together."""
    yield from ((name, fitted(*fit)) for name, fit in ALIKE.items())
    yield "no seed", fitted(SPLIT | {"random_state": None, "max_epochs": 2}, rows, {})
    yield "max_time", fitted(SPLIT | {"max_epochs": 100_000, "patience": 100_000, "max_time": 0.5}, rows, {})
    body = body_that(interrupt if rank == 1 else nothing, at=25)
    yield "interrupt", fitted(SPLIT | {"max_epochs": 100_000, "patience": 100_000, "body": body}, rows, {})
    yield "divergence", error_of(SMALL | {"learning_rate": 1e30}, rows())
    yield "other rows", error_of(SMALL, rows()[rank * 300 :][:300])
    yield "failure of one", error_of(SMALL | {"body": body_that(fail if rank == 1 else nothing, at=20)}, rows())


def death(rank):
    yield "death of one", error_of(SMALL | {"body": body_that(die if rank == 1 else nothing, at=20)}, rows())


def launched(play, folder, rank):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a process started in the background ignores it
    warnings.simplefilter("ignore", UserWarning)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES, timeout=timedelta(minutes=10)
    )
    Path(folder, f"{rank}.pkl").write_bytes(pickle.dumps(dict(play(rank))))
    torch.distributed.destroy_process_group()
    gc.collect()  # what a failed fit leaves in cycles holds gloo's threads, which may abort the end of the interpreter


def ended(play, folder):
    """Start the processes, wait for them, and return their exit codes and what they wrote to stderr."""
    command = [sys.executable, __file__, play.__name__, str(folder)]
    processes = [
        subprocess.Popen([*command, str(rank)], env=ALONE, stderr=subprocess.PIPE, text=True)
        for rank in range(PROCESSES)
    ]
    until = time.monotonic() + PATIENCE_S
    try:
        said = [process.communicate(timeout=max(0.1, until - time.monotonic()))[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


# What they promise


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each of the processes got, by the name of the scene."""
    folder = tmp_path_factory.mktemp("together")
    codes, said = ended(scenes, folder)
    assert codes == [0] * PROCESSES, said
    return [pickle.loads((folder / f"{rank}.pkl").read_bytes()) for rank in range(PROCESSES)]  # noqa: S301


@pytest.mark.slow
@pytest.mark.parametrize("name", ALIKE)
def test_several_processes_learn_what_one_learns(together, name):
    one, several = fitted(*ALIKE[name]), together[0][name]
    assert several["reason"] == one["reason"]
    for key, value in one["weights"].items():
        if not key.startswith("memorised"):  # its large distances are compared as scores
            np.testing.assert_allclose(several["weights"][key], value, **CLOSE, err_msg=key)
    np.testing.assert_allclose(several["scores"], one["scores"], **CLOSE)
    np.testing.assert_allclose(several["offset"], one["offset"], **CLOSE)
    seconds = 1
    np.testing.assert_allclose(
        np.delete(several["history"], seconds, 1), np.delete(one["history"], seconds, 1), atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ALIKE, "no seed", "max_time", "interrupt"])
def test_all_processes_end_with_the_same_detector(together, name):
    first, other = (outcomes[name] for outcomes in together)
    assert other["reason"] == first["reason"]
    np.testing.assert_equal(other, first)


@pytest.mark.slow
def test_an_end_of_one_is_the_end_of_all(together):
    assert together[0]["elbo, early stop"]["reason"] == "patience"
    assert together[0]["max_time"]["reason"] == "max_time"
    assert together[0]["interrupt"]["reason"] == "interrupted"
    assert len(together[0]["interrupt"]["history"]) == 4  # of five encodings each, one of them of held-out rows


@pytest.mark.slow
def test_errors_are_raised_by_all_alike(together):
    for outcomes in together:
        assert outcomes["divergence"].startswith("FloatingPointError: Got a loss or weight of")
        assert "differ between the 2 processes" in outcomes["other rows"]
        assert "X must not be divided" in outcomes["other rows"]


@pytest.mark.slow
def test_a_process_that_fails_leaves_no_other_waiting(together):
    assert together[1]["failure of one"] == "OSError: the disk is gone"
    assert together[0]["failure of one"].startswith(f"ConnectionError: {NO_ANSWER}")


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_other_waiting(tmp_path):
    codes, _ = ended(death, tmp_path)
    assert codes == [0, -signal.SIGKILL]
    assert pickle.loads((tmp_path / "0.pkl").read_bytes())["death of one"].startswith(f"ConnectionError: {NO_ANSWER}")  # noqa: S301


@pytest.mark.slow
def test_torchrun_fits_one_model(tmp_path):
    pd.DataFrame(rows(), columns=list("abcdef")).to_csv(tmp_path / "rows.csv", index=False)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(PROCESSES)]
    settings = [f"--set={name}={value}" for name, value in {"hidden": [16], "max_epochs": 2, "random_state": 0}.items()]
    command = [*torchrun, "-m", "anomalyvae", "fit", "rows.csv", "--model", "model", *settings]
    done = subprocess.run(
        command, cwd=tmp_path, env=ALONE, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Learned 600 rows") == 1
    x = pd.read_csv(tmp_path / "rows.csv")
    one = VAEOutlierDetector(hidden=(16,), max_epochs=2, random_state=0).fit(x)
    np.testing.assert_allclose(load(tmp_path / "model").anomaly_score(x), one.anomaly_score(x), **CLOSE)


if __name__ == "__main__":
    launched(globals()[sys.argv[1]], sys.argv[2], int(sys.argv[3]))
