"""The documentation names everything that is public, and its pages lead somewhere."""

import re
from pathlib import Path

import yaml

import anomalyvae
from anomalyvae.cli import VERBS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def in_navigation(entries):
    for entry in entries:
        target = next(iter(entry.values()))
        yield from in_navigation(target) if isinstance(target, list) else [target]


def test_every_page_is_in_the_navigation_once():
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(in_navigation(navigation)) == PAGES


def test_every_public_name_is_in_the_reference():
    text = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    documented = {name.rpartition(".")[2] for name in re.findall(r"^::: (\S+)$", text, flags=re.MULTILINE)}
    assert set(anomalyvae.__all__) - {"__version__"} <= documented


def test_every_verb_is_shown_at_work():
    text = "".join((DOCS / page).read_text(encoding="utf-8") for page in PAGES)
    assert [verb for verb in VERBS if f"anomalyvae {verb}" not in text] == []


def test_links_lead_to_pages_that_are_there():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", (DOCS / page).read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:")):
                assert (DOCS / page).parent.joinpath(target).exists(), f"{page}: {target}"


def test_every_room_is_in_the_map():
    package = Path(anomalyvae.__file__).parent
    rooms = {f"{entry.parent.name}/" for entry in package.glob("*/__init__.py")}
    rooms |= {entry.name for entry in package.glob("*.py") if not entry.name.startswith("__")}
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z_]+(?:/|\.py))` \|", contributing, re.MULTILINE)) == rooms


def test_the_places_to_change_are_there():
    package = Path(anomalyvae.__file__).parent
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = contributing.partition("## Where to change what")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| a")]
    assert len(rows) > 10
    for row in rows:
        what, where = row.strip("| ").split(" | ")
        files = re.findall(r"`([a-z_/]+\.[a-z.]+)`", where)
        text = "".join((package / file).read_text(encoding="utf-8") for file in files)
        assert files, what
        for name in re.findall(r"`([A-Za-z_]+(?:\.[a-z]+)?)`", where):
            assert name in files or re.search(rf"\b{name.rpartition('.')[2]}\b", text), (what, name)
