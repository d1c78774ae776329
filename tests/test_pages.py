"""The pages at the width of a phone and of a small laptop: words stay whole, and nothing is cut off.

Chromium measures them where it is installed; what rules of CSS must say is tested everywhere.
"""

import json
import re
import shutil
import subprocess
from html import escape
from importlib.resources import files

import pytest

from anomalyvae.audit.report import PAGE

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium, which measures the pages")
MEASURE = """<script>
const box = (item) => { const r = item.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom]; };
const lines = (item) => Math.round(item.clientHeight / parseFloat(getComputedStyle(item).lineHeight));
parent.document.title = JSON.stringify({
  width: document.documentElement.scrollWidth,
  buttons: [...document.querySelectorAll("button, input, select")].filter((b) => b.offsetWidth).map(box),
  words: [...document.querySelectorAll(".word")].map(lines),
  timeline: [...document.querySelectorAll("#timeline")].map(box),
});
</script>"""
NAMES = ["mahalanobis", "anomalyvae", "isolation_forest"]


def report_page():
    """The styles of the report around one of its tables and a chart."""
    template = files("anomalyvae.evaluate").joinpath("report.html.jinja").read_text(encoding="utf-8")
    style = re.search(r"<style>.*</style>", template, re.DOTALL)[0]
    cells = '<td class="n">0.888</td>' * 3
    heads = '<th class="n">average precision</th>' * 3
    rows = "".join(f'<tr><td><span class="word">{name}</span></td>{cells}</tr>' for name in NAMES)
    table = f'<div class="scroll"><table><tr><th>mean over 5 recordings</th>{heads}</tr>{rows}</table></div>'
    chart = '<div class="drive"><div class="scroll"><img alt=""></div></div>'
    return f"<!doctype html><html><head>{style}</head><body><main>{table}{chart}</main></body></html>"


def audit_page():
    cells = "".join(f"<td>{name}</td>" for name in NAMES * 4)
    body = f'<div class="scroll"><table><tr><td><span class="word">mahalanobis</span></td>{cells}</tr></table></div>'
    return PAGE.format(title="Bias audit", body=body)


def review_page():
    """The review page with an event, as the script fills it."""
    pages = files("anomalyvae.review").joinpath("pages")
    text = pages.joinpath("review.html").read_text(encoding="utf-8")
    style = pages.joinpath("review.css").read_text(encoding="utf-8")
    text = re.sub(r"<link[^>]*>|<script.*?</script>|<meta http-equiv[^>]*>", "", text, flags=re.DOTALL)
    verdicts = "".join(f'<button class="{v}">{v} <kbd>n</kbd></button>' for v in ("New normal", "Fault", "Noise"))
    fills = {
        "name": '<span class="word">simulated3</span>', "caution": "A sentence of some length. " * 9,
        "verdict": "Not reviewed", "verdicts": verdicts, "done": "0 of 2 reviewed",
        "reasons": '<div class="share"><span>acc_x_g</span><span></span><span>1 %</span></div>' * 6
        + f'<p class="reason">Outside the training range: {"gyro_z_radps by 0.3 of its width, " * 3}</p>',
        "map": '<svg viewBox="0 0 260 150"></svg>', "timeline": '<svg viewBox="0 0 900 130" height="130"></svg>',
    }  # fmt: skip
    for name, content in fills.items():
        text = re.sub(rf'(id="{name}"[^>]*>)', lambda found, content=content: found[1] + content, text, count=1)
    text = text.replace('<article id="event" hidden>', '<article id="event">').replace(
        'class="muted" hidden></p>\n      </div>', 'class="muted"></p></div>'
    )
    return text.replace("</head>", f"<style>{style}</style></head>")


def measured(tmp_path, page, width, height):
    path = tmp_path / "page.html"
    inner = escape(page.replace("</body>", f"{MEASURE}</body>"))
    frame = f'<iframe style="border: 0; width: {width}px; height: {height}px" srcdoc="{inner}"></iframe>'
    path.write_text(f"<!doctype html><body>{frame}</body>", encoding="utf-8")  # a window is no narrower than 500 px
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    command = [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,900"]
    done = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120)
    title = re.search(r"<title>(\{.*?\})</title>", done.stdout)[1]
    return json.loads(title)


@needs_chromium
@pytest.mark.parametrize("page", [report_page, audit_page, review_page])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_words_stay_whole_and_nothing_is_cut_off(tmp_path, page, width, height):
    found = measured(tmp_path, page(), width, height)
    assert found["width"] <= width
    assert set(found["words"]) <= {0, 1}  # lines
    assert all(left >= 0 and right <= width for left, right, _, _ in found["buttons"])
    if page is review_page and width == 1280:
        [[_, _, top, bottom]] = found["timeline"]
        assert 0 < top < bottom <= height


@pytest.mark.parametrize("page", [report_page, audit_page, review_page])
def test_tables_scroll_and_do_not_break_words(page):
    """Where a page may break words anywhere, its narrowest columns are of one letter."""
    style = page()
    assert re.search(r"(body|\.scroll) \{[^}]*overflow-wrap: (break-word|normal)", style)


def test_the_review_page_has_a_layout_for_phones():
    assert "@media (max-width: 640px)" in review_page()
