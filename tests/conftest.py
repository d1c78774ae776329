import os
import signal

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings

os.environ.setdefault("SCIPY_ARRAY_API", "1")
os.environ["OMP_NUM_THREADS"] = "1"  # tests fork, and a fork of a process whose OpenMP has threads can hang

from anomalyvae import VAEOutlierDetector

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell in the background ignores it, and so would children
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("quick", max_examples=10, deadline=None)
settings.register_profile("thorough", max_examples=200, deadline=None)


def pytest_configure(config):
    """Try few examples of a property where slow tests are left out, and many where they run."""
    settings.load_profile("quick" if "not slow" in config.option.markexpr else "thorough")


def correlated(n, seed):
    """Six columns that two hidden causes explain, in units that differ by a million."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(n, 2))
    mixing = np.random.default_rng(0).normal(size=(2, 6))
    return (causes @ mixing + 0.2 * rng.normal(size=(n, 6))) * 10.0 ** np.arange(-3, 3) + 5.0


@pytest.fixture
def write(tmp_path):
    """Write a text to a file, and give its path."""

    def write_file(text, name="drive.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write_file


NAMES = [f"signal {i}" for i in range(6)]


@pytest.fixture(scope="session")
def normal():
    return pd.DataFrame(correlated(600, seed=1), columns=NAMES)


@pytest.fixture(scope="session")
def fresh():
    """Rows of the same kind that no detector here was fitted to."""
    return pd.DataFrame(correlated(400, seed=2), columns=NAMES)


@pytest.fixture(scope="session")
def strange(fresh):
    """The same columns with their dependence broken: each cell is ordinary, the rows are not."""
    rng = np.random.default_rng(3)
    return pd.DataFrame({name: rng.permutation(fresh[name]) for name in fresh})


@pytest.fixture(scope="session")
def detector(normal):
    return VAEOutlierDetector(random_state=0, max_epochs=60).fit(normal)


@pytest.fixture(scope="session")
def autoencoder(normal):
    return VAEOutlierDetector(objective="reconstruction", random_state=0, max_epochs=60).fit(normal)
