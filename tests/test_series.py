"""Tasks are made of series by rules, from archives that may hold anything."""

import hashlib
import io
import tarfile
import zipfile

import numpy as np
import pytest

from anomalyvae import datasets

TS = "@problemName x\n@Data\n{}\n"


@pytest.fixture
def recipe():
    return datasets.load_recipe("series")


def series_of(count, length, kind, signals=1):
    """Lines of a file .ts."""
    rng = np.random.default_rng(int(kind))
    return [
        ":".join([*(",".join(f"{v:.3f}" for v in rng.normal(size=length)) for _ in range(signals)), kind])
        for _ in range(count)
    ]


def test_files_become_tasks(recipe, tmp_path, monkeypatch):
    """Of three classes, two are large enough to be learned alone; four of five tasks are taken."""
    folder = tmp_path / "sources" / "series"
    folder.mkdir(parents=True)
    monkeypatch.setenv("ANOMALYVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "_source_roots", lambda: iter([tmp_path / "sources"]))
    train, test = (
        TS.format("\n".join(series_of(a, 30, "1", 2) + series_of(b, 30, "2", 2) + series_of(3, 30, "3", 2)))
        for a, b in ((30, 10), (10, 30))
    )
    with zipfile.ZipFile(folder / recipe.AEON, "w") as packed:
        packed.writestr("s_TRAIN.ts", train)
        packed.writestr("s_TEST.ts", test)
    content = (folder / recipe.AEON).read_bytes()
    monkeypatch.setattr(recipe, "SETS", {"s": (recipe.AEON, "s_{}.ts")})
    monkeypatch.setattr(recipe, "ARCHIVES", {recipe.AEON: ("https://x", hashlib.sha256(content).hexdigest())})
    (tmp_path / "out").mkdir()
    recipe.prepare(tmp_path / "out")
    tasks = {path.stem: np.load(path) for path in (tmp_path / "out").glob("*.npz")}
    assert set(tasks) == {"s.one-1", "s.one-2", "s.but-1", "s.but-3"}
    one = tasks["s.one-1"]
    assert one["learned"].shape == (20, 2, 30)
    assert (one["y"] == 0).sum() == 20 == (one["y"] == 1).sum()  # of 46 others, as many as normal ones
    assert tasks["s.but-3"]["learned"].shape == (40, 2, 30)
    assert tasks["s.but-3"]["y"].sum() == 6
    learned = {row.tobytes() for row in one["learned"]}
    assert learned.isdisjoint(row.tobytes() for row in one["scored"])


def test_longer_signals_become_means_and_shorter_ones_are_interpolated(recipe):
    np.testing.assert_allclose(recipe.resized(np.arange(300.0), 100), np.arange(100) * 3 + 1)
    np.testing.assert_allclose(recipe.resized(np.arange(3.0), 5), [0, 0.5, 1, 1.5, 2])
    windows = recipe.of_one_length([[np.ones(n)] for n in (30, 40, 90)])
    assert windows.shape == (3, 1, 40)
    assert recipe.of_one_length([[np.ones(400)]]).shape == (1, 1, 100)


def test_lines_of_text_and_arrays_are_read(recipe):
    ((signals, kind),) = recipe.read("x.txt", b"  2.0e+00 0.5 -1.5\n")
    assert kind == "2"
    np.testing.assert_array_equal(signals, [[0.5, -1.5]])
    file = io.BytesIO()
    x = np.arange(8.0).reshape(2, 4, 1)
    np.savez(file, X_train=x, y_train=[1, 2], X_test=x[:1], y_test=[3])
    read = list(recipe.read("x.npz", file.getvalue()))
    assert [kind for _, kind in read] == ["1", "2", "3"]
    np.testing.assert_array_equal(read[1][0], [[4, 5, 6, 7]])


def test_objects_and_links_in_archives_are_refused(recipe, tmp_path):
    file = io.BytesIO()
    np.savez(file, X_train=np.array([{}], dtype=object), y_train=[1], X_test=[], y_test=[])
    with pytest.raises(ValueError, match="allow_pickle=False"):
        list(recipe.read("x.npz", file.getvalue()))
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("other"))
        member = tarfile.TarInfo("folder")
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    with pytest.raises(ValueError, match=r"folder in .* is no file"):
        recipe.content(tmp_path / "x.tar.gz", "folder")
