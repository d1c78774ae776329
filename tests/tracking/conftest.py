import pytest

from anomalyvae.tracking.server import import_mlflow

SETTINGS = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """MLflow's empty database, which takes seconds to create."""
    file = tmp_path_factory.mktemp("template") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(file.parent)  # where it makes a folder for artifacts
        import_mlflow().MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def no_settings(monkeypatch):
    """No setting of MLflow in the environment."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
