import numpy as np
import pytest
from score_tables import thirds

from anomalyvae import save


@pytest.fixture(scope="session")
def bundle(detector, tmp_path_factory):
    return save(detector, tmp_path_factory.mktemp("model") / "bundle", precision="double")


@pytest.fixture
def drives(fresh, tmp_path):
    """Tables in two formats, in folders, one of them named like a partition, with a column more than the model has."""
    source = tmp_path / "drives"
    for name, rows in zip(["b.parquet", "day=1/a b.csv", "day=1/ü.parquet"], thirds(fresh), strict=True):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        table = rows.assign(note="x")
        table.to_csv(source / name, index=False) if name.endswith("csv") else table.to_parquet(source / name)
    (source / "readme.txt").write_text("not a table")
    (source / "day=1" / "_SUCCESS").touch()
    (source / ".hidden.parquet").write_text("neither")
    return source


@pytest.fixture
def troubled(drives, fresh):
    """Good files beside some of each kind of bad one, by what is said of it."""
    (drives / "corrupt.parquet").write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")
    (drives / "empty.csv").touch()
    (drives / "header.csv").write_text(",".join(fresh) + "\n")
    fresh[:0].to_parquet(drives / "no rows.parquet")
    fresh.drop(columns="signal 3").to_parquet(drives / "lacks.parquet")
    fresh.astype({"signal 1": str}).to_parquet(drives / "text.parquet")
    fresh.replace({"signal 1": fresh["signal 1"].iloc[300]}, np.inf).to_parquet(drives / "infinite.parquet")
    (drives / "words.csv").write_text(",".join(fresh) + "\n" + "1,2,3,4,5,six\n")
    (drives / "ragged.csv").write_text(",".join(fresh) + "\n1,2,3,4,5,6\n1,2\n")
    (drives / "binary.csv").write_bytes(bytes(range(256)) * 20)
    (drives / "gone.parquet").symlink_to("nowhere")
    whole = (drives / "b.parquet").read_bytes()
    (drives / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    return {
        "binary.csv": "", "corrupt.parquet": "cannot be read", "cut.parquet": "cannot be read",
        "empty.csv": "no header line", "gone.parquet": "a file that does not exist", "header.csv": "no rows",
        "infinite.parquet": "infinite", "lacks.parquet": "It lacks the columns 'signal 3' of the model. Rename or",
        "no rows.parquet": "no rows", "ragged.csv": "cannot be read", "text.parquet": "signal 1",
        "words.csv": "expected numbers as in training: 0 of 1 cells are numbers; line 2 holds 'six'",
    }  # fmt: skip
