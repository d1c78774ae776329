"""The review page: what it returns, accepts and refuses, and how it behaves in a real browser."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import uvicorn
from browser import CHROMIUM, Browser

from anomalyvae import VAEOutlierDetector, WindowRecipe, load, save, score_folder
from anomalyvae.calibration import few_calibrate
from anomalyvae.cli import main
from anomalyvae.recordings import read_windows
from anomalyvae.review import Queue, serve
from anomalyvae.review import server as server_module
from anomalyvae.review.evidence import Evidence
from anomalyvae.review.server import create_app

HOSTILE = "<img src=x onerror=document.body.dataset.ran=1>"
SIGNALS = ("speed", HOSTILE)
FILES = ["plain.csv", "sub/$(id)&lt;b> '\"" + HOSTILE + ".csv"]
RECIPE = WindowRecipe(SIGNALS, rate_hz=5, length_s=2, stride_s=1, max_gap_s=1)
MISSING = "no chromium is installed here"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of drives, a model of them, their scores, and a secret beside them."""
    root = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    time_s = np.arange(0, 120, 0.2)
    for file in FILES:
        path = root / "drives" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        drive = {"time_s": time_s, "speed": np.sin(time_s) + 0.1 * rng.normal(size=time_s.size)}
        pd.DataFrame({**drive, HOSTILE: np.cos(time_s)}).to_csv(path, index=False)
    pd.DataFrame({"time_s": time_s, "speed": 42.0, HOSTILE: 42.0}).to_csv(root / "secret.csv", index=False)
    (root / "drives/link.csv").symlink_to(root / "secret.csv")
    rows = read_windows([root / "drives" / file for file in FILES], RECIPE).rows
    model = VAEOutlierDetector(latent_dim=2, max_epochs=2, hidden=(16,), random_state=0).fit(rows)
    save(model, root / "model", recipe=RECIPE.to_dict(), units={"speed": "m/s"})
    score_folder(root / "model", [str(root / "drives" / file) for file in FILES], root / "scores")
    shutil.copy(root / "scores/plain.csv.parquet", root / "secret.csv.parquet")
    return root


def events_of(files, n=4, **columns):
    """Events, the most anomalous first, one every four seconds."""
    start_s = 4.0 * (1 + np.arange(n))
    latent = np.random.default_rng(1).normal(size=(n, 2)).tolist()
    event = {
        "model_id": "m", "source": str(files / "drives"), "file": [FILES[i % 2] for i in range(n)],
        "recording": [FILES[i % 2].removesuffix(".csv") for i in range(n)], "start_s": start_s, "end_s": start_s + 2,
        "peak_start_s": start_s, "peak_end_s": start_s + 2, "peak_score": 9.0 - np.arange(n) / 10, "p_value": 0.01,
        "windows": 1, "signals": [list(SIGNALS[::-1])] * n, "shares": [[0.75, 0.25]] * n,
        "outside": [{HOSTILE: 0.5}] * n, "nearest": None, "nearest_distance": np.nan, "latent": latent,
    }  # fmt: skip
    return pd.DataFrame(event | columns)


@pytest.fixture(scope="module")
def evidence(files):
    return Evidence(files / "model", [files / "drives"], files / "scores")


@pytest.fixture(scope="module")
def serving(evidence, tmp_path_factory):
    """Call it with events to get a page that is served, its queue beside it."""
    running = []

    def start(events, token=None, host="127.0.0.1"):
        queue = Queue(tmp_path_factory.mktemp("queue") / "queue.db")
        queue.add(events)
        app = create_app(queue, evidence, host=host, token=token)
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))
        thread = threading.Thread(target=server.run)
        thread.start()
        running.append((server, thread, queue))
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        ids = list(queue.events()["event_id"])
        return SimpleNamespace(port=port, queue=queue, ids=ids, address=f"http://127.0.0.1:{port}/")

    yield start
    for server, _, _ in running:
        server.should_exit = True
    for _, thread, queue in running:
        thread.join()
        queue.close()


def ask(page, path, body=None, headers=None):
    """Status, headers and JSON of an answer; a body is sent as the page itself sends it, unless headers say else."""
    named = {} if body is None else {"Origin": page.address.rstrip("/"), "Content-Type": "application/json"}
    named = {name: value for name, value in (named | (headers or {})).items() if value is not None}
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
    text = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("GET" if body is None else "POST", path, text, named)
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    is_json = answer.headers.get("Content-Type") == "application/json"
    return answer.status, answer.headers, json.loads(data) if is_json else data.decode()


# --- what it returns --------------------------------------------------------------------------------------


def test_the_list_has_all_events_most_anomalous_first_with_exact_names(files, serving):
    page = serving(events_of(files))
    status, _, told = ask(page, "/api/events")
    assert status == 200
    assert [event["event_id"] for event in told["events"]] == page.ids
    assert told["events"][1]["recording"] == FILES[1].removesuffix(".csv")
    assert told["events"][0]["signals"] == [HOSTILE, "speed"]


def test_the_list_says_what_few_recordings_cannot_show(files, serving, evidence, monkeypatch):
    page = serving(events_of(files))
    assert ask(page, "/api/events")[2]["caution"] is None
    monkeypatch.setattr(evidence, "caution", few_calibrate(3, "recordings"))
    assert ask(page, "/api/events")[2]["caution"].startswith("3 recordings can show no p-value below 0.25")


def kinds(files, n=12):
    """Events of two kinds, two of each in turn; and the places of the second kind."""
    other = np.arange(n) // 2 % 2
    codes = np.random.default_rng(2).normal(scale=0.1, size=(n, 2)) + 8.0 * other[:, None]
    return events_of(files, n, latent=codes.tolist()), np.flatnonzero(other)


def test_a_verdict_changes_the_order_of_the_open_events_at_once_and_no_score(files, serving):
    events, places = kinds(files)
    page = serving(events)
    other = {page.ids[place] for place in places}
    before = ask(page, "/api/events")[2]
    assert before["ordered_by"] == 0
    said = {"verdict": "noise", "reviewer": "ada"}
    standing = ask(page, f"/api/events/{page.ids[0]}/verdict", said)[2]
    told = ask(page, "/api/events")[2]
    assert told["ordered_by"] == 1
    order = [event["event_id"] for event in told["events"]]
    assert order[0] == page.ids[0]
    assert set(order[1:4]) < other
    assert not set(order[-3:]) & other
    was = {event["event_id"]: event for event in before["events"]}
    for event in told["events"][1:]:
        assert event == was[event["event_id"]]
    assert list(page.queue.events()["event_id"]) == page.ids

    ask(page, f"/api/events/{page.ids[0]}/undo", said | {"reviewed_at": standing["reviewed_at"]})
    assert ask(page, "/api/events")[2]["events"] == before["events"]


@pytest.mark.parametrize("which", [0, 1])
def test_signals_are_the_recording_and_the_mean_reconstruction_of_its_windows(files, serving, which):
    page = serving(events_of(files))
    _, _, view = ask(page, f"/api/events/{page.ids[which]}/signals?around_s=3")
    drive = pd.read_csv(files / "drives" / FILES[which])
    start_s = 4.0 * (1 + which)
    shown = drive[(drive["time_s"] > start_s - 3 - 1e-6) & (drive["time_s"] < start_s + 5 - 1e-6)]
    assert view["time_s"] == pytest.approx(shown["time_s"])
    assert [signal["name"] for signal in view["signals"]] == list(SIGNALS)
    for told in view["signals"]:
        assert told["values"] == pytest.approx(shown[told["name"]])

    windows = read_windows(files / "drives" / FILES[which], RECIPE)
    rebuilt = np.asarray(load(files / "model").reconstruct(windows.rows)).reshape(-1, 2, 10)
    at_s, begins = start_s + 0.4, windows.spans["start_s"].to_numpy()
    cover = [(i, round((at_s - begin) * 5)) for i, begin in enumerate(begins) if 0 <= round((at_s - begin) * 5) < 10]
    assert len(cover) == 2
    place = int(np.argmin(np.abs(np.array(view["time_s"]) - at_s)))
    for place_of, told in enumerate(view["signals"]):
        expected = np.mean([rebuilt[window, place_of, sample] for window, sample in cover])
        assert told["reconstruction"][place] == pytest.approx(expected)


def test_a_long_interval_is_thinned_but_keeps_its_extremes(files, tmp_path):
    time_s = np.arange(0, 3600, 0.2)
    drive = pd.DataFrame({"time_s": time_s, "speed": 0.0, HOSTILE: 0.0})
    drive.loc[[5001, 9002], "speed"] = [77.0, -77.0]
    drive.to_parquet(tmp_path / "long.parquet")
    [event] = events_of(files, 1, file="long.parquet", end_s=3000.0).to_dict("records")
    view = Evidence(files / "model", [tmp_path]).signals(event, 0.0)
    speed = [value for value in view["signals"][0]["values"] if value is not None]
    assert len(speed) < 4000
    assert (max(speed), min(speed)) == (77, -77)


def test_the_timeline_shows_the_scores_of_the_recording(files, serving):
    page = serving(events_of(files))
    _, _, told = ask(page, f"/api/events/{page.ids[0]}/timeline")
    scores = pd.read_parquet(files / "scores" / "plain.csv.parquet")
    assert told["score"] == pytest.approx(scores["anomaly_score"])
    assert told["threshold"] == pytest.approx(-load(files / "model").offset_)


def test_the_timeline_is_not_that_of_a_file_of_the_same_name_elsewhere(files, evidence):
    scores = pd.read_parquet(files / "scores" / "plain.csv.parquet")
    event = events_of(files, 1, model_id=evidence.model_id).to_dict("records")[0]
    window = scores.iloc[3]
    event |= {"peak_start_s": window["start_s"], "peak_end_s": window["end_s"]}
    assert evidence.timeline(event | {"peak_score": window["anomaly_score"]}) is not None
    assert evidence.timeline(event | {"peak_score": window["anomaly_score"] + 1}) is None


def test_the_map_keeps_distances_in_a_latent_plane(files, serving):
    events = events_of(files)
    page = serving(events)
    _, _, told = ask(page, "/api/map")
    drawn = np.array([told["events"][name] for name in page.ids])
    latent = np.array(events["latent"].tolist())
    distances = np.linalg.norm(latent[:, None] - latent, axis=2)
    assert np.linalg.norm(drawn[:, None] - drawn, axis=2) == pytest.approx(distances, rel=1e-6, abs=1e-6)
    assert told["explained"] == pytest.approx(1)
    assert len(told["training"]) > 100


def test_codes_of_another_model_are_not_in_the_map(files, serving):
    page = serving(events_of(files, 2, latent=[[1.0, 2.0, 3.0], [0.5, 0.5]]))
    assert list(ask(page, "/api/map")[2]["events"]) == page.ids[1:]


# --- what it accepts --------------------------------------------------------------------------------------


def test_verdicts_are_saved_with_name_and_note_and_can_be_undone(files, serving):
    page = serving(events_of(files))
    place = f"/api/events/{page.ids[0]}"
    said = {"verdict": "fault", "reviewer": " ada ", "note": HOSTILE}
    status, _, standing = ask(page, f"{place}/verdict", said)
    assert status == 200
    event = page.queue.event(page.ids[0])
    assert (event["verdict"], event["reviewer"], event["note"]) == ("fault", "ada", HOSTILE)
    assert standing["reviewed_at"] == event["reviewed_at"]
    assert [listed["agreeing"] for listed in ask(page, "/api/events")[2]["events"]] == [["ada"], [], [], []]
    assert [entry["note"] for entry in ask(page, place)[2]["history"]] == [HOSTILE]
    assert ask(page, f"{place}/undo", {"reviewer": "ada", "reviewed_at": standing["reviewed_at"]})[0] == 200
    assert page.queue.event(page.ids[0])["verdict"] is None
    assert len(page.queue.history(page.ids[0])) == 2


def test_undo_keeps_a_later_verdict_of_somebody_else(files, serving):
    page = serving(events_of(files))
    _, _, mine = ask(page, f"/api/events/{page.ids[0]}/verdict", {"verdict": "new_normal", "reviewer": "ada"})
    page.queue.give(page.ids[0], "fault", "bob")
    undo = {"reviewer": "ada", "reviewed_at": mine["reviewed_at"]}
    status, _, told = ask(page, f"/api/events/{page.ids[0]}/undo", undo)
    assert status == 409
    assert "Somebody has given another verdict" in told["error"]
    assert page.queue.event(page.ids[0])["verdict"] == "fault"


def test_a_verdict_names_a_verdict_it_overrules_that_the_page_had_not_shown(files, serving):
    page = serving(events_of(files))
    place = f"/api/events/{page.ids[0]}/verdict"

    def overruled(reviewer, verdict, seen):
        said = {"verdict": verdict, "reviewer": reviewer, "reviewed_at": seen}
        status, _, told = ask(page, place, said)
        assert status == 200
        return told["overruled"]

    assert overruled("bob", "noise", "") is None
    first = page.queue.event(page.ids[0])["reviewed_at"]
    assert overruled("ada", "new_normal", "") == {"verdict": "noise", "reviewer": "bob", "reviewed_at": first}
    assert overruled("eve", "new_normal", "") is None  # they agree
    assert overruled("eve", "fault", "") is None  # one's own
    third = page.queue.event(page.ids[0])["reviewed_at"]
    assert overruled("bob", "noise", third) is None  # seen, and overruled all the same
    assert overruled("ada", "new_normal", third)["verdict"] == "noise"
    assert len(page.queue.history(page.ids[0])) == 6  # nothing is lost


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"[" * 60000, 400),
        (["fault"], 400),
        ({"verdict": 1, "reviewer": "ada"}, 400),
        ({"verdict": "guilty", "reviewer": "ada"}, 422),
        ({"verdict": "fault", "reviewer": "  "}, 422),
        ({"verdict": "fault", "reviewer": "a" * 81}, 422),
        ({"verdict": "fault", "reviewer": "ada", "note": "x" * 4001}, 422),
        (b" " * 70000, 413),
    ],
)
def test_invalid_verdicts_are_refused_and_not_saved(files, serving, body, status):
    page = serving(events_of(files))
    answer, _, _ = ask(page, f"/api/events/{page.ids[0]}/verdict", body)
    assert answer == status
    assert page.queue.history(page.ids[0]).empty


def raw(page, text, end=True):
    """What the server answers to bytes on the wire; "" if it only closes."""
    with socket.create_connection(("127.0.0.1", page.port), timeout=30) as client:
        client.sendall(text.encode("latin-1"))
        if not end:
            return ""
        parts = []
        with suppress(OSError):  # the server may have closed the connection
            client.shutdown(socket.SHUT_WR)
            while part := client.recv(65536):
                parts.append(part)
        return b"".join(parts).decode("latin-1")


def posted(page, headers, body=""):
    return (
        f"POST /api/events/{page.ids[0]}/verdict HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n"
        f"Origin: http://127.0.0.1:{page.port}\r\nContent-Type: application/json\r\n{headers}\r\n{body}"
    )


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Content-Length: -1\r\n", "{}"),
        ("Content-Length: many\r\n", "{}"),
        ("Content-Length: 2\r\nContent-Length: 3\r\n", "{}"),
        ("Content-Length: 999999999999\r\n", "{}"),
        ("Content-Length: 50\r\n", '{"verdict": "fault"'),  # and leaves
        ("Transfer-Encoding: chunked\r\n", "zz\r\n{}"),
        ("Transfer-Encoding: chunked\r\n", "8\r\n{}"),
        ("X: " + "x" * 200_000 + "\r\n", ""),
        ("Content-Length: 2\r\n", "\xff\xfe"),
    ],
)
def test_a_client_that_sends_nonsense_or_leaves_harms_nobody(files, serving, capfd, headers, body):
    page = serving(events_of(files))
    assert not raw(page, posted(page, headers, body)).startswith("HTTP/1.1 200")
    raw(page, posted(page, headers, body), end=False)
    assert ask(page, "/api/events")[0] == 200
    assert page.queue.history(page.ids[0]).empty
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_slow_client_is_given_up_and_others_are_served_meanwhile(files, serving, monkeypatch):
    monkeypatch.setattr(server_module, "_BODY_S", 0.2)
    page = serving(events_of(files))
    with socket.create_connection(("127.0.0.1", page.port), timeout=30) as slow:
        slow.sendall(posted(page, "Content-Length: 90\r\n", "{").encode())
        assert ask(page, "/api/events")[0] == 200
        assert slow.recv(65536).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (BlockingIOError("Another process keeps the review queue q.db locked. Try again."), 503),
        (OSError("The disk of the review queue q.db is full. Nothing was saved."), 503),
        (PermissionError("The review queue q.db is read-only."), 403),
        (RuntimeError("a bug \x1b[2J"), 500),
        (KeyError("bug"), 500),
    ],
)
def test_a_failure_is_one_answer_and_at_most_one_line(files, serving, monkeypatch, capfd, error, status):
    page = serving(events_of(files))

    def fails(*_):
        raise error

    monkeypatch.setattr(page.queue, "give", fails)
    answer, headers, told = ask(page, f"/api/events/{page.ids[0]}/verdict", {"verdict": "fault", "reviewer": "ada"})
    assert answer == status
    assert told["error"] == (str(error) if status != 500 else "The page failed at this request; its terminal says why.")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed
    assert "\x1b[2J" not in printed
    assert ask(page, "/api/events")[0] == 200


def test_an_unknown_event_is_not_found(files, serving):
    page = serving(events_of(files))
    for what in ("", "/signals", "/timeline"):
        assert ask(page, f"/api/events/nothing{what}")[0] == 404
    assert ask(page, "/api/events/nothing/verdict", {"verdict": "fault", "reviewer": "ada"})[0] == 404


# --- what it refuses --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", ["../secret.csv", "sub/../../secret.csv", "{root}/secret.csv", "link.csv", "\0", "sub", "gone.csv"]
)
def test_nothing_outside_the_folders_is_read(files, serving, file):
    page = serving(events_of(files, 1, file=file.format(root=files)))
    for what in ("signals", "timeline"):
        status, _, told = ask(page, f"/api/events/{page.ids[0]}/{what}")
        assert told is None or (status in (403, 404, 422) and "error" in told)


def test_a_queue_cannot_name_further_folders(files):
    event = events_of(files, 1, source=str(files), file="secret.csv").to_dict("records")[0]
    evidence = Evidence(files / "model", [files / "drives", files / "scores"])
    with pytest.raises(PermissionError, match="which this page may not read"):
        evidence.signals(event)
    assert Evidence(files / "model", [files / "scores", files]).signals(event)["signals"][0]["values"][0] == 42


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": None},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Content-Type": "text/plain"},
        {"Content-Type": None},
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ],
)
def test_only_the_page_itself_may_write(files, serving, headers):
    page = serving(events_of(files))
    said = {"verdict": "new_normal", "reviewer": "mallory"}
    assert ask(page, f"/api/events/{page.ids[0]}/verdict", said, headers)[0] in (403, 415, 421)
    assert page.queue.history(page.ids[0]).empty


@pytest.mark.parametrize(
    ("host", "name", "welcome"),
    [
        ("127.0.0.1", "localhost:9000", True),  # as through a tunnel
        ("127.0.0.1", "[::1]:8765", True),
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "127.0.0.1.evil.example", False),
        ("127.0.0.1", "192.168.0.7", False),
        ("127.0.0.1", "[", False),
        ("127.0.0.1", "", False),
        ("0.0.0.0", "192.168.0.7:8765", True),  # noqa: S104
        ("0.0.0.0", "evil.example", False),  # noqa: S104
        ("drives.example", "Drives.Example:8765", True),
    ],
)
def test_a_foreign_host_name_is_refused(files, serving, host, name, welcome):
    page = serving(events_of(files), host=host)
    assert (ask(page, "/api/events", headers={"Host": name})[0] == 200) is welcome


def test_the_token_opens_the_page_once_and_the_cookie_from_then_on(files, serving):
    page = serving(events_of(files), token="right", host="0.0.0.0")  # noqa: S104, S106
    for path in (
        "/",
        "/review.js",
        "/api/events",
        "/?token=wrong",
        "/?token=",
        "/?token=%C3%A9",
        "/api/map?token=right",
    ):
        assert ask(page, path)[0] == 401
    said = {"verdict": "new_normal", "reviewer": "mallory"}
    assert ask(page, f"/api/events/{page.ids[0]}/verdict", said)[0] == 401
    status, headers, _ = ask(page, "/?token=right")
    assert (status, headers["Location"]) == (303, "/")
    cookie = headers["Set-Cookie"]
    assert "httponly" in cookie.lower()
    assert "samesite=lax" in cookie.lower()
    for path in ("/", "/api/events"):
        assert ask(page, path, headers={"Cookie": cookie.split(";")[0]})[0] == 200
    assert ask(page, "/api/events", headers={"Cookie": cookie.split("=")[0] + "=wrong"})[0] == 401


def test_every_answer_forbids_foreign_and_inline_scripts(files, serving):
    page = serving(events_of(files))
    for path, status in (("/", 200), ("/review.js", 200), ("/api/events", 200), ("/nothing", 404)):
        answer, headers, text = ask(page, path)
        assert answer == status
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert not re.search(r"https?://(?!www\.w3\.org/)", str(text))  # nothing comes from elsewhere


# --- started from the command line ------------------------------------------------------------------------


def test_a_queue_that_is_not_there_is_not_made(files, tmp_path, capsys):
    assert main(["review", "--queue", str(tmp_path / "no.db"), "--model", str(files / "model"), "--port", "0"]) == 1
    assert "no.db does not exist" in capsys.readouterr().err
    assert not (tmp_path / "no.db").exists()


def test_a_model_of_rows_and_a_port_that_is_taken_are_refused(files, serving, normal, detector, tmp_path):
    page = serving(events_of(files))
    save(detector, tmp_path / "rows")
    with pytest.raises(ValueError, match="scores plain rows, expected windows"):
        Evidence(tmp_path / "rows", [])
    with pytest.raises(OSError, match=f"Cannot listen on host .*, port {page.port} "):
        serve(page.queue.url, files / "model", port=page.port)


def test_the_command_prints_an_address_with_a_token_and_ends_by_ctrl_c(files, tmp_path):
    with Queue(tmp_path / "queue.db") as queue:
        queue.add(events_of(files))
    arguments = ["--queue", tmp_path / "queue.db", "--model", files / "model", "--host", "0.0.0.0", "--port", "0"]  # noqa: S104
    command = [sys.executable, "-m", "anomalyvae", "review", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            address = re.search(r"http://[^/]+:(\d+)(/\?token=\S{43})", process.stdout.readline())
            page = SimpleNamespace(port=int(address[1]))
            assert ask(page, "/")[0] == 401
            assert ask(page, address[2])[0] == 303
        finally:
            os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 0


# --- in a browser -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(shared_browser):
    shared_browser.console.clear()
    return shared_browser


SELECTED = "document.querySelector('[aria-selected=\"true\"]')?.dataset.event"
SETTLED = "document.querySelector('#signals svg') && document.querySelector('#map svg')"
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason=MISSING)


def meet(browser, page, reviewer="ada"):
    """Open the page as somebody."""
    tab = browser.open(page.address)
    tab.until(SETTLED)
    tab.click("#reviewer")
    tab.write(reviewer)
    tab.press("Enter")
    return tab


def shown(tab):
    return tab.run("[...document.querySelectorAll('.item')].map((item) => item.dataset.event)")


@in_chromium
def test_the_page_shows_what_few_recordings_cannot_show(files, serving, evidence, browser, monkeypatch, tmp_path):
    page = serving(events_of(files))
    assert meet(browser, page).run("document.querySelector('#caution').hidden")
    monkeypatch.setattr(evidence, "caution", few_calibrate(3, "recordings"))
    tab = meet(browser, page)
    assert tab.run("document.querySelector('#caution').innerText").startswith("3 recordings can show no p-value below")
    tab.screenshot(tmp_path / "page.png")


@in_chromium
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800), (1440, 900)])
def test_the_timeline_is_in_sight_and_its_labels_are_whole(files, serving, browser, width, height):
    tab = browser.open(serving(events_of(files)).address, width, height)
    tab.until(f"{SETTLED} && document.querySelector('#timeline svg')")
    beyond = tab.run(
        "(() => { const right = (item) => item.getBoundingClientRect().right;"
        "const svg = document.querySelector('#timeline svg');"
        "return [...svg.querySelectorAll('text')].filter((t) => right(t) > right(svg)).map((t) => t.textContent); })()"
    )
    assert beyond == []
    bottom = tab.run("document.querySelector('#timeline-panel').getBoundingClientRect().bottom")
    assert width == 390 or bottom <= height


@in_chromium
def test_verdicts_by_keyboard_are_found_again_after_a_reload(files, serving, browser):
    page = serving(events_of(files, 6, model_id=[f"m{i}" for i in range(6)]))  # so that the order stays
    tab = meet(browser, page)
    assert shown(tab) == page.ids
    for key, left in (("f", 5), ("n", 4)):
        tab.press(key)
        tab.until(f"document.querySelectorAll('.item').length === {left}")
    assert tab.run(SELECTED) == page.ids[2]
    tab.press("j")
    tab.press("ArrowDown")
    tab.press("k")
    tab.until(f"{SELECTED} === '{page.ids[3]}'")
    tab.press("t")
    tab.write("a tram, n f x u z")  # letters in a note are letters
    tab.press("Escape")
    tab.press("x")
    tab.press("u")
    tab.until("document.querySelector('#done').textContent === '4 of 6 reviewed'")
    tab.press("z")
    tab.until("document.querySelector('#done').textContent === '3 of 6 reviewed'")
    tab.until(f"location.hash === '#{page.ids[4]}'")

    tab.reload()
    tab.until(SETTLED)
    assert tab.run("document.querySelector('#reviewer').value") == "ada"
    assert shown(tab) == [page.ids[2], page.ids[4], page.ids[5]]
    tab.click("[data-status=reviewed]")
    tab.until(f"document.querySelector('.item')?.dataset.event === '{page.ids[0]}'")
    assert shown(tab) == [page.ids[0], page.ids[1], page.ids[3]]
    tab.press("/")
    tab.write("TRAM")
    tab.until("document.querySelectorAll('.item').length === 1")
    tab.press("Enter")
    tab.until(f"{SELECTED} === '{page.ids[3]}'")
    assert tab.run("document.querySelector('#note').value") == "a tram, n f x u z"
    assert "ada" in tab.run("document.querySelector('#verdict').textContent")

    told = page.queue.events().set_index("event_id")["verdict"]
    assert [told[name] for name in page.ids] == ["fault", "new_normal", None, "noise", None, None]
    assert browser.console == []


@in_chromium
def test_after_a_verdict_events_of_another_kind_rise_and_are_offered(files, serving, browser):
    events, places = kinds(files)
    page = serving(events)
    other = {page.ids[place] for place in places}
    tab = meet(browser, page)
    below = "document.querySelector('#shown').textContent"
    assert "verdict" not in tab.run(below)
    score = f"document.querySelector('[data-event=\"{page.ids[10]}\"] .score').textContent"
    before = tab.run(score)
    tab.press("x")
    tab.until(f"{below}.endsWith(', by score and 1 verdict')")
    order = shown(tab)
    assert set(order[:3]) < other
    assert not set(order[-3:]) & other
    assert tab.run(score) == before
    here = order.index(page.ids[1])  # it opened before the answer came
    assert here > 0
    tab.until(f"{SELECTED} === '{page.ids[1]}'")
    tab.press("f")
    tab.until(f"{SELECTED} === '{order[0]}'")  # it has risen
    tab.until(f"{below}.endsWith('2 verdicts')")
    tab.press("z")
    tab.until(f"{below}.endsWith('1 verdict')")
    assert browser.console == []


@in_chromium
def test_second_look_lists_new_normals_of_one_other_reviewer(files, serving, browser):
    page = serving(events_of(files, 6, model_id=[f"m{i}" for i in range(6)]))
    for place, reviewer in ((0, "ada"), (1, "ada"), (3, "bob"), (4, "ada")):
        page.queue.give(page.ids[place], "new_normal", reviewer)
    page.queue.give(page.ids[2], "fault", "ada")
    page.queue.give(page.ids[4], "new_normal", "bob")
    tab = meet(browser, page, "bob")
    button = "document.querySelector('[data-status=second]').textContent"
    tab.until(f"{button} === '2nd look (2)'")
    tab.click("[data-status=second]")
    tab.until("document.querySelectorAll('.item').length === 2")
    tab.until(f"document.querySelector('.item')?.dataset.event === '{page.ids[0]}'")
    assert shown(tab) == page.ids[:2]  # neither his own, nor what two have said
    tab.until(f"{SELECTED} === '{page.ids[0]}'")
    tab.press("n")
    tab.until(f"{SELECTED} === '{page.ids[1]}'")
    tab.press("f")
    tab.until("document.querySelectorAll('.item').length === 0")
    deadline = time.monotonic() + 30
    while page.queue.event(page.ids[1])["verdict"] != "fault" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert page.queue.confirmed("new_normal") == {page.ids[0], page.ids[4]}
    assert set(page.queue.events("unconfirmed")["event_id"]) == {page.ids[3]}
    tab.until(f"{button} === '2nd look'")
    tab.click("#reviewer")  # another person sits down
    tab.run("document.querySelector('#reviewer').select()")
    tab.write("eve")
    tab.until(f"{button} === '2nd look (1)'")
    assert shown(tab) == [page.ids[3]]


@in_chromium
def test_names_and_notes_are_text_and_never_markup(files, serving, browser):
    events = events_of(files, 2, recording=[HOSTILE, "</script><svg onload=document.body.dataset.ran=1>"])
    page = serving(events)
    page.queue.give(page.ids[0], "fault", HOSTILE, f"{HOSTILE}\n</textarea>{HOSTILE}")
    tab = meet(browser, page)
    tab.click("[data-status=all]")
    tab.until("document.querySelectorAll('.item').length === 2")
    for name in page.ids:
        tab.run(f"location.hash = '#{name}'")
        tab.click(f"[data-event='{name}']")
        tab.until(f"{SELECTED} === '{name}' && {SETTLED} && document.querySelector('#timeline svg')")
    tab.click(f"[data-event='{page.ids[0]}']")
    tab.until("document.querySelector('#history q')")
    assert tab.run("document.querySelector('#name').textContent") == HOSTILE
    assert tab.run("document.querySelector('#history q').textContent") == f"{HOSTILE}\n</textarea>{HOSTILE}"
    assert tab.run("document.querySelector('#reasons .share').textContent").startswith(HOSTILE)
    assert tab.run("document.querySelectorAll('img, iframe, [onload], [onerror]').length") == 0
    assert tab.run("document.body.dataset.ran") is None
    assert browser.console == []


@in_chromium
def test_a_long_queue_is_listed_in_parts_and_every_event_is_reached(files, serving, browser):
    start_s = 4.0 * (1 + np.arange(600) % 25)
    spans = {"start_s": start_s, "end_s": start_s + 2, "peak_start_s": start_s, "peak_end_s": start_s + 2}
    page = serving(events_of(files, 600, model_id=[f"m{i}" for i in range(600)], **spans))
    tab = meet(browser, page)
    below = "document.querySelector('#shown').textContent"
    assert tab.run(below) == "600 of 600 events, 300 listed, by score"
    assert tab.run("document.querySelector('#list').lastChild.textContent") == "… 300 more"
    tab.run(f"document.querySelector('[data-event=\"{page.ids[299]}\"]').click()")
    tab.until(f"{SELECTED} === '{page.ids[299]}'")
    for place in (300, 301):  # beyond what the page had
        tab.press("j")
        tab.until(f"{SELECTED} === '{page.ids[place]}'")
    assert tab.run("document.querySelector('.gap').textContent") == "… 49 more"
    tab.press("f")
    tab.until(
        f"document.querySelector('#done').textContent === '1 of 600 reviewed' && {SELECTED} === '{page.ids[302]}'"
    )
    deadline = time.monotonic() + 30
    while page.queue.event(page.ids[301])["verdict"] != "fault" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert page.queue.event(page.ids[301])["reviewer"] == "ada"
    tab.press("/")
    tab.write("sub/")
    tab.until(f"{below}.startsWith('299 of 600 events')")
    assert browser.console == []


@pytest.mark.slow  # the pages ask every five seconds
@in_chromium
def test_two_browsers_at_once_lose_nothing(files, serving, browser, tmp_path):
    page = serving(events_of(files, 24))
    second = Browser(tmp_path)
    tabs = [meet(browser, page, "ada"), meet(second, page, "bob")]
    start = threading.Barrier(2)

    def review(tab, keys):
        start.wait()
        for key in keys:
            tab.press(key)

    threads = [threading.Thread(target=review, args=pair) for pair in zip(tabs, ("fnxu" * 2, "unfx" * 2), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def entries():
        return pd.concat([page.queue.history(name) for name in page.ids])

    deadline = time.monotonic() + 30
    while len(entries()) < 16 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert entries().groupby("reviewer")["verdict"].value_counts().to_dict() == {
        (name, verdict): 2 for name in ("ada", "bob") for verdict in ("fault", "new_normal", "noise", "unsure")
    }
    reviewed = page.queue.events("reviewed")
    for tab in tabs:  # each comes to see what the other has done
        tab.until(f"document.querySelector('#done').textContent === '{len(reviewed)} of 24 reviewed'")
        tab.click("[data-status=reviewed]")
        chips = "[...document.querySelectorAll('.item .chip')].map((chip) => chip.className.slice(5))"
        tab.until(f"JSON.stringify({chips}) === '{json.dumps(list(reviewed['verdict']), separators=(',', ':'))}'")
    second.close()


@in_chromium
def test_a_verdict_that_was_not_saved_is_not_shown_as_given(files, serving, browser):
    page = serving(events_of(files))
    tab = meet(browser, page)
    tab.run("window.fetch = ((fetch) => (url, request) => request?.method === 'POST'"
            " ? Promise.reject(new Error('down')) : fetch(url, request))(window.fetch)")  # fmt: skip
    tab.press("f")
    tab.until("document.querySelector('#message').textContent.startsWith('Not saved')")
    tab.until(f"{SELECTED} === '{page.ids[0]}'")
    assert shown(tab) == page.ids
    assert tab.run("document.querySelector('#done').textContent") == "0 of 4 reviewed"


@in_chromium
def test_overruling_an_unseen_verdict_is_reported_and_can_be_undone(files, serving, browser):
    page = serving(events_of(files))
    tab = meet(browser, page)
    tab.run("fetch('api/events').then((answer) => answer.text()).then((text) => { window.before = text })")
    tab.run("window.fetch = ((fetch) => (url, request) => url.startsWith('api/events?') && window.before"
            " ? Promise.resolve(new Response(window.before)) : fetch(url, request))(window.fetch)")  # fmt: skip
    page.queue.give(page.ids[0], "noise", HOSTILE)
    tab.press("n")
    tab.until("document.querySelector('#overruled p')")
    told = tab.run("document.querySelector('#overruled p').textContent")
    assert told.startswith(f"You overruled {HOSTILE}, ")
    assert "Noise → New normal" in told
    assert page.queue.event(page.ids[0])["verdict"] == "new_normal"
    tab.run("window.before = null; document.querySelector('#overruled button').click()")
    tab.until("!document.querySelector('#overruled p')")
    deadline = time.monotonic() + 30
    while page.queue.event(page.ids[0])["verdict"] != "noise" and time.monotonic() < deadline:
        time.sleep(0.05)
    event = page.queue.event(page.ids[0])
    assert (event["verdict"], event["reviewer"]) == ("noise", HOSTILE)
    tab.until(f"location.hash === '#{page.ids[0]}'")
    assert tab.run("document.querySelectorAll('img').length") == 0


def test_an_interrupt_closes_the_page_as_soon_as_it_is_open(files, serving):
    """Also where Python raises it in code that ignores it, such as a callback during an import."""

    def ready(_):
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)

    late = threading.Timer(30, os.kill, (os.getpid(), signal.SIGINT))
    late.start()
    serve(serving(events_of(files)).queue.url, files / "model", port=0, ready=ready)
    assert late.is_alive()
    late.cancel()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # the handler of before is there again
