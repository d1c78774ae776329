"""Of a reader's Python: packages of extras that the page has not told to install are absent."""

import os
import sys
from pathlib import Path

OF_EXTRAS = {
    "compare": {"pyod"},
    "dask": {"dask", "distributed"},
    "logs": {"asammdf", "cantools", "mcap", "mcap_protobuf", "rosbags"},
    "mlflow": {"mlflow"},
    "report": {"jinja2", "matplotlib"},
    "review": {"sqlalchemy", "starlette", "uvicorn"},
}
NEEDED_BY_MLFLOW = {"jinja2", "matplotlib", "sqlalchemy", "starlette", "uvicorn"}


class Absent:
    def find_spec(self, name, path=None, target=None):
        if "." in name or not any(name in names for names in OF_EXTRAS.values()):
            return
        extras = Path(os.environ["READER_EXTRAS"]).read_text().split()  # a later line may install more
        there = set().union(*(OF_EXTRAS.get(extra, ()) for extra in extras))
        if name not in there | (NEEDED_BY_MLFLOW if "mlflow" in extras else set()):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if "READER_EXTRAS" in os.environ:
    sys.meta_path.insert(0, Absent())
