"""A growing file gives each window once, the newest first, whatever happens to the file."""

import os
import re
from itertools import islice

import numpy as np
import pandas as pd
import pytest

from anomalyvae.recordings import WindowRecipe, following, log_from_frame
from anomalyvae.recordings.following import Feed, Following, GrowingFile
from anomalyvae.recordings.live import LiveWindows

RECIPE = WindowRecipe(("x",), 10, length_s=1, stride_s=0.1, max_gap_s=0.5)


def lines_of(rows, begin=0):
    numbers = np.arange(begin, begin + rows)
    return "".join(f"{number / 10},{(number * 37) % 101}\n" for number in numbers).encode()


def starts_of(rows, begin=0):
    table = pd.DataFrame({"time_s": np.arange(begin, begin + rows) / 10, "x": 1.0})
    return RECIPE.windows(log_from_frame(table, "drive")).spans["start_s"].tolist()


def follow(feed, late=False, **options):
    def begin(header):
        return LiveWindows(header, RECIPE, recording="drive", source="drive.csv", late=late)

    return Following(feed, begin, **options)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "drive.csv"
    path.write_bytes(b"time_s,x\n")
    return path


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


class Script:
    """Runs a step whenever the file is found not to have grown, and ends it after the last."""

    def __init__(self, file, *steps):
        self.file, self.steps = file, list(steps)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def read(self):
        data = self.file.read()
        return data if data or self.steps else None

    def wait(self):
        self.steps.pop(0)()


def starts(windows):
    return [start_s for batch in windows for start_s in batch.spans["start_s"]]


def followed(path, *steps, **options):
    """Follow a file, to which the steps append; return when windows start, what followed it, and what it said."""
    said = []
    with GrowingFile(path) as file:
        watched = follow(Script(file, *steps), notify=said.append, **options)
        return starts(watched), watched, said


def test_what_is_there_already_is_passed_over_for_the_newest(path, monkeypatch):
    monkeypatch.setattr(following, "CHUNK", 500)
    append(path, lines_of(400))
    said = []
    more = [lambda: append(path, lines_of(1, begin=400)), lambda: append(path, lines_of(2, begin=401))]
    with GrowingFile(path) as file:
        watched = follow(Script(file, *more), notify=said.append)
        found = []
        for batch in watched:
            found += batch.spans["start_s"].tolist()
            assert watched.waiting == max(390 - max(len(found) - 1, 0), 0)
    assert found[0] == pytest.approx(39.0)  # the newest of 391
    assert found[1:391] == pytest.approx(starts_of(399))
    assert found[391:] == pytest.approx([39.1, 39.3, 39.2])
    assert said == ["390 windows are skipped for the newest, and follow when there is time"]


def test_in_the_order_of_time_nothing_is_passed_over(path, monkeypatch):
    monkeypatch.setattr(following, "CHUNK", 500)
    append(path, lines_of(400))
    more = [lambda: append(path, lines_of(1, begin=400)), lambda: append(path, lines_of(200, begin=401))]
    found, watched, said = followed(path, *more, newest_first=False)
    assert found == pytest.approx(starts_of(601))
    assert (said, watched.waiting) == ([], 0)


@pytest.mark.parametrize("later", [False, True])
def test_a_clock_that_jumps_back_is_reported_also_in_the_first_bytes(path, later):
    append(path, lines_of(30, begin=50) + (b"" if later else lines_of(30)))
    _, _, said = followed(path, *[lambda: append(path, lines_of(30))] * later)
    assert said == ["the clock jumped back: a new recording begins, drive#2"]


def test_what_comes_goes_before_what_was_passed_over(path, monkeypatch):
    monkeypatch.setattr(following, "CHUNK", 500)
    append(path, lines_of(400))
    with GrowingFile(path) as file:
        windows = iter(follow(Script(file)))
        assert starts(islice(windows, 1)) == pytest.approx([39.0])
        assert starts(islice(windows, 1))[0] == 0.0
        append(path, lines_of(1, begin=400))
        assert starts(islice(windows, 1)) == pytest.approx([39.1])
        rest = starts(windows)
    assert sorted(rest) == rest
    assert rest[-1] == pytest.approx(38.9)


def test_it_may_fall_behind_later_too(path, monkeypatch):
    monkeypatch.setattr(following, "CHUNK", 500)
    more = [lambda: append(path, lines_of(30)), lambda: append(path, lines_of(300, begin=30))]
    found, _, _ = followed(path, *more)
    assert sorted(found) == pytest.approx(starts_of(330))
    assert found[0] == pytest.approx(2.0)  # of the first 30 rows at once, the newest
    assert found[21] == pytest.approx(32.0)


def test_a_line_waits_for_its_end(path):
    whole = lines_of(40)
    steps = [lambda at=at: append(path, whole[at : at + 7]) for at in range(0, len(whole), 7)]
    found, _, _ = followed(path, *steps)
    assert sorted(found) == pytest.approx(starts_of(40))
    assert sorted(found[8:]) == found[8:]  # after those that waited for the 16 ticks of a beginning


def test_a_line_that_is_no_csv_is_left_out_and_counted(path):
    append(path, lines_of(15) + b'1.44,"1"\r2\n' + b'1.45,"' + b"1" * 200_000 + b'"\n' + lines_of(15, begin=15))
    found, watched, said = followed(path)
    assert sorted(found) == pytest.approx(starts_of(30))
    assert watched.live.left_out == 2
    assert said[0].startswith("a row was left out, and so will be others like it")


def test_a_header_alone_has_no_window(path):
    assert followed(path)[0] == []
    path.write_bytes(b"")
    assert followed(path)[0] == []


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        (b"0.1,inf\n", b"3.3,-inf\n", "drive has samples that are infinite, which count as missing: x (1)"),
        (
            b"0.1,3\n0.1,4\n",
            b"3.3,1\n3.3,2\n",
            "rows with the same stamp and different values become their mean: drive",
        ),
    ],
)
def test_odd_samples_are_reported_once(path, first, then, expected):
    append(path, b"0.0,1\n" + first + b"0.2,2\n" + lines_of(30, begin=3))
    _, _, said = followed(path, lambda: append(path, then), late=True)
    assert said == [expected]


@pytest.mark.parametrize("size", [1, 7, 500])
@pytest.mark.parametrize("end", [b"\r", b"\r\n"])
def test_any_end_of_a_line_ends_it(path, monkeypatch, size, end):
    monkeypatch.setattr(following, "CHUNK", size)
    path.write_bytes((b"time_s,x\n" + lines_of(30)).replace(b"\n", end))
    assert sorted(followed(path)[0]) == pytest.approx(starts_of(30))


def test_a_file_that_is_cut_is_reported(path, monkeypatch):
    monkeypatch.setattr(following, "CHUNK", 500)
    append(path, lines_of(400))
    said = []
    with GrowingFile(path) as file:
        watched = follow(file, notify=said.append)
        windows = iter(watched)
        assert len(starts(islice(windows, 2))) < 100
        path.write_bytes(b"time_s,x\n")
        assert starts(windows) == []
    assert watched.change == "cut"
    assert re.fullmatch(r"3\d\d windows of the backlog are lost: the file was cut", said[-1])


def test_of_a_file_that_is_replaced_nothing_is_missed(path):
    append(path, lines_of(30))

    def replace():
        append(path, lines_of(5, begin=30))
        os.rename(path, path.with_suffix(".1"))
        path.write_bytes(b"time_s,x\n")

    found, watched, _ = followed(path, replace, lambda: None)
    assert sorted(found) == pytest.approx(starts_of(35))
    assert watched.change == "replaced"


@pytest.mark.parametrize("rows", [30, 200])
def test_a_file_that_is_overwritten_is_not_taken_for_one_that_has_grown(path, rows):
    append(path, lines_of(30))
    with GrowingFile(path) as file:
        watched = follow(Script(file, lambda: path.write_bytes(b"time_s,x\n" + lines_of(rows, begin=500))))
        assert sorted(starts(watched)) == pytest.approx(starts_of(30))
        assert watched.change == "overwritten"
        file.begin_again()
        assert sorted(starts(follow(Script(file)))) == pytest.approx(starts_of(rows, begin=500))


def test_files_that_take_turns_at_a_name_are_all_read(path):
    append(path, lines_of(30))

    def rotate(begin):
        os.rename(path, path.with_suffix(f".{begin}"))
        path.write_bytes(b"time_s,x\n" + lines_of(30, begin))

    with GrowingFile(path) as file:
        windows = iter(follow(file))
        next(windows)
        for begin in (100, 200, 300):  # while the first is being read
            rotate(begin)
            assert file.change() == "replaced"
        assert len(starts(windows)) == 20
        for begin in (100, 200):
            file.begin_again()
            assert sorted(starts(follow(file))) == pytest.approx(starts_of(30, begin))
        file.begin_again()
        assert sorted(starts(follow(Script(file)))) == pytest.approx(starts_of(30, 300))


def test_silence_is_an_end_if_it_lasts(path):
    append(path, lines_of(30) + b"3.0,1")  # the writer may have died in the middle of a number
    said = []
    with GrowingFile(path) as file:
        watched = follow(file, timeout_s=0.05, notify=said.append)
        assert sorted(starts(watched)) == pytest.approx(starts_of(30))
    assert watched.timed_out
    assert watched.left_out == 1
    assert said == ["the last line is left out: it has no end, so more of it may have been to come"]


@pytest.mark.parametrize("size", [3, 1000])
def test_a_pipe_ends(size):
    data = b"time_s,x\n" + lines_of(40)[:-1]  # its last line need not
    read, write = os.pipe()
    windows = iter(follow(Feed(read)))
    for at in range(0, len(data), size):
        os.write(write, data[at : at + size])
    os.close(write)
    assert sorted(starts(windows)) == pytest.approx(starts_of(40))
    os.close(read)


def test_bytes_without_a_line_are_refused(tmp_path):
    (tmp_path / "drive.csv").write_bytes(bytes(1 << 21))
    with (
        GrowingFile(tmp_path / "drive.csv") as file,
        pytest.raises(ValueError, match="A line has more than 1,048,576 bytes, which is not CSV"),
    ):
        list(follow(file))
