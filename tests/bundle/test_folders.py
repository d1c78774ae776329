"""What is replaced is replaced as a whole, whatever happens on the way, and whoever reads it meanwhile."""

import os
import threading
from pathlib import Path

import pytest
from killing import killed_at, kills

from anomalyvae import folders
from anomalyvae.folders import in_words, is_scratch, naming, put_file, read_whole, replacing, replacing_file


@pytest.fixture(params=["exchanged", "renamed twice"])
def folder(request, tmp_path, monkeypatch):
    """A folder, with and without a system that can exchange two folders."""
    if request.param == "renamed twice":
        monkeypatch.setattr(folders, "_exchange", lambda a, b: False)
    write(tmp_path / "here" / "result", "first")
    return tmp_path / "here" / "result"


def write(folder, text):
    with replacing(folder) as new:
        (new / "text").write_text(text)
        (new / "inner").mkdir()
        (new / "inner" / "same").write_text(text)


def read(folder):
    text = (folder / "text").read_text()
    if (folder / "inner" / "same").read_text() != text:
        raise ValueError("of two versions")
    return text


def replace_by_half(folder):
    with replacing(folder) as new:
        (new / "text").write_text("half")
        raise ZeroDivisionError


def test_the_new_takes_the_place_of_the_old(folder):
    with replacing(folder) as new:
        (new / "other").write_text("second")
        assert (folder / "text").read_text() == "first"
    assert [path.name for path in folder.iterdir()] == ["other"]
    assert list(folder.parent.iterdir()) == [folder]


def test_an_error_on_the_way_leaves_the_old(folder):
    with pytest.raises(ZeroDivisionError):
        replace_by_half(folder)
    assert read(folder) == "first"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_kill_at_any_moment_loses_nothing(folder):
    for _ in kills(lambda: write(folder, "second"), folder.parent):
        assert read_whole(folder, read) in ("first", "second")
        with pytest.raises(ZeroDivisionError):
            replace_by_half(folder)
        assert read(folder) in ("first", "second")
        write(folder, "first")
    assert read(folder) == "second"


def test_a_kill_at_the_first_writes_leaves_no_folder(folder):
    other = folder.with_name("other")
    for _ in kills(lambda: write(other, "second"), folder.parent):
        assert not other.exists() or read(other) == "second"
        write(other, "third")
        assert read(other) == "third"
        folders.shutil.rmtree(other)


def test_a_reader_always_meets_one_version(folder):
    ended = threading.Event()

    def swap():
        for number in range(60):
            write(folder, str(number))
        ended.set()

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    while not ended.is_set():
        seen.add(read_whole(folder, read))
    thread.join()
    assert read(folder) == "59"
    assert len(seen) > 1


def test_a_writer_may_remove_its_scratch_folder_while_a_reader_looks_into_it(folder, monkeypatch):
    gone = folder.with_name(".result-x.scratch")
    monkeypatch.setattr(folders, "_left", lambda target: [gone])
    monkeypatch.setattr(Path, "is_dir", lambda path: True)  # it was still there
    assert folders._set_aside(folder) == []


def test_a_writer_may_complete_while_a_reader_looks_for_what_is_set_aside(folder, monkeypatch):
    moved = folder.rename(folder.with_name("moved"))

    def completed(path):
        moved.rename(path)
        return []

    monkeypatch.setattr(folders, "_set_aside", completed)
    assert read_whole(folder, read) == "first"


def test_two_writers_at_once_leave_the_whole_of_one(folder):
    errors = []

    def swap(name):
        try:
            for number in range(25):
                write(folder, f"{name}{number}")
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=swap, args=[name]) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert read(folder) in ("a24", "b24")
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_that_does_not_exist_is_reported_at_once(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_whole(tmp_path / "none", read)


def test_a_reader_without_a_writer_is_told_what_is_wrong(folder):
    (folder / "text").write_text("edited")
    with pytest.raises(ValueError, match="of two versions"):
        read_whole(folder, read)


def test_what_a_killed_process_left_is_cleared_in_time(folder):
    assert killed_at(4, lambda: write(folder, "second"), folder.parent)
    (left,) = filter(is_scratch, folder.parent.iterdir())
    write(folder, "third")
    assert left.exists()  # it may be another process at work
    os.utime(left, (0, 0))
    write(folder, "fourth")
    assert list(folder.parent.iterdir()) == [folder]


def test_what_cannot_be_put_in_place_is_reported(folder, monkeypatch):
    def refused(source, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(PermissionError):
        write(folder, "second")
    monkeypatch.undo()
    assert read(folder) == "first"


@pytest.mark.parametrize("name", ["x" * 250, "\u00e4" * 125, "[a]*?", "caf\udce9", "a b\n=c"], ids=ascii)
def test_any_name_that_the_system_allows(name, tmp_path):
    write(tmp_path / name, "first")
    assert killed_at(5, lambda: write(tmp_path / name, "second"), tmp_path)
    write(tmp_path / name, "third")
    assert read(tmp_path / name) == "third"
    file = tmp_path / name / name
    with replacing_file(file) as fresh:
        fresh.write_text("text")
    assert file.read_text() == "text"


def test_a_link_stays_and_what_it_points_to_is_replaced(folder):
    link = folder.with_name("link")
    link.symlink_to(folder)
    write(link, "second")
    assert link.is_symlink()
    assert read(folder) == "second"
    with replacing_file(link / "text") as fresh:
        fresh.write_text("third")
    assert (folder / "text").read_text() == "third"


def test_a_result_is_on_the_disk_before_it_is_in_place(folder, monkeypatch):
    """A power failure cannot leave an empty file under the final name."""
    done = []
    inodes = {}
    sync, rename, replace = os.fsync, os.rename, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(os.fstat(handle).st_ino), sync(handle)))

    def note(source, target):
        if os.fspath(target) in (os.fspath(folder), os.fspath(folder / "text")):
            places = [source, *source.rglob("*")] if os.path.isdir(source) else [source]
            assert {os.stat(place).st_ino for place in places} <= set(done)
            inodes[os.fspath(target)] = os.stat(os.path.dirname(target)).st_ino

    monkeypatch.setattr(os, "rename", lambda a, b: (note(a, b), rename(a, b)))
    monkeypatch.setattr(os, "replace", lambda a, b: (note(a, b), replace(a, b)))
    write(folder, "second")
    fresh = folder / "fresh"
    fresh.write_text("third")
    put_file(fresh, folder / "text")
    assert set(inodes.values()) <= set(done)  # the folders that hold the names, too
    assert (folder / "text").read_text() == "third"


def test_a_file_does_not_take_the_place_of_a_folder(folder):
    with (
        pytest.raises(IsADirectoryError, match=r"is a folder, expected the name of a file\. Add a name"),
        replacing_file(folder),
    ):
        pass


def test_a_full_disk_is_named_by_what_is_written(tmp_path, monkeypatch):
    file = tmp_path / "table.csv"
    with pytest.raises(OSError, match="No space") as raised, replacing_file(file):
        Path("/dev/full").write_bytes(b"row")
    assert in_words(raised.value) == f"{file}: No space left on device. Make room on this disk, and try again."
    with pytest.raises(OSError, match="space") as raised, naming(file):
        raise OSError(28, "Error writing bytes to file. Detail: [errno 28] No space left on device")  # as Arrow says it
    assert in_words(raised.value).startswith(f"{file}: No space left on device. Make")

    def refused(prefix, suffix, **options):
        raise OSError(30, "Read-only file system", f"{options['dir']}/{prefix}x{suffix}")

    monkeypatch.setattr(folders.tempfile, "mkdtemp", refused)
    with pytest.raises(OSError, match="Read-only") as raised, replacing_file(file):
        pass
    assert in_words(raised.value) == f"{file}: Read-only file system. Choose another place."


def test_an_error_of_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as raised, replacing_file(tmp_path / "table.csv"):
        (tmp_path / "none").read_bytes()
    assert in_words(raised.value) == f"{tmp_path / 'none'}: No such file or directory. Check the path."
    with (
        pytest.raises(ConnectionError, match=r"^the server is gone$") as raised,
        replacing_file(tmp_path / "table.csv"),
    ):
        raise ConnectionError("the server is gone")
    assert in_words(raised.value) == "the server is gone"


def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path, monkeypatch):
    folders.refuse_unwritable(tmp_path / "new" / "folder" / "model")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match=r"file'$"):
        folders.refuse_unwritable(tmp_path / "file" / "model")
    with pytest.raises(PermissionError, match=r"^/proc is a mounted disk, expected a folder .*Name one in it\.$"):
        folders.refuse_unwritable(Path("/proc"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=rf"model cannot be written: {tmp_path} is read-only\. Change its perm"):
        folders.refuse_unwritable(tmp_path / "new" / "model")


def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path):
    file = tmp_path / "table.csv"

    def write_file(text="second"):
        with replacing_file(file) as fresh:
            fresh.write_text(text)

    write_file("first")
    for _ in kills(write_file, tmp_path):
        assert file.read_text() in ("first", "second")
        write_file("first")
    assert file.read_text() == "second"
