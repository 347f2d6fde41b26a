"""The page of a listening test in Chromium: keyboard, reload, export, width, contrast, names for screen readers."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from chromium import Page, open_browser
from click.testing import CliRunner
from listening_music import write_folders
from require import require

from musiclora.cli import main
from musiclora.evaluation.listening.key import RATINGS_KIND, ratings_checksum

require("soundfile")
require("soxr")
pytestmark = pytest.mark.slow
TAB, ENTER, SPACE, DOWN = ("Tab", 9), ("Enter", 13, "\r"), (" ", 32, " "), ("ArrowDown", 40)
# WCAG 2.1, relative luminance and contrast of every element that holds text of its own
CONTRAST = """(() => {
  const linear = x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
  const light = c => { const v = c.map(x => linear(x / 255));
    return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const paper = e => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
  const found = [];
  document.querySelectorAll('main *').forEach(e => {
    if (!e.checkVisibility() || ![...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())) return;
    const pair = [light(parse(getComputedStyle(e).color).slice(0, 3)), light(paper(e))].sort((a, b) => b - a);
    found.push([(pair[0] + .05) / (pair[1] + .05), e.textContent.trim().slice(0, 30)]);
  });
  return found; })()"""


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("page")
    output = folder / "test.html"
    options = [*write_folders(folder, count=1, seconds=3), "--output", str(output), "--seconds", "2", "--seed", "1"]
    done = CliRunner().invoke(main, ["listen", "make", *options])
    assert done.exit_code == 0, done.output
    return output.as_uri()


@pytest.fixture
def page(address, tmp_path):
    with open_browser(tmp_path / "profile") as page:
        page.open(address)
        yield page
        assert page.errors == []
        assert [url[:60] for url in page.requests if url != address and not url.startswith(("data:", "blob:"))] == []


def focused(page: Page) -> str:
    return page.run("(e => e.id || e.name || e.tagName)(document.activeElement)")


def tab_to(page: Page, name: str) -> None:
    for _ in range(40):
        if focused(page) == name:
            return
        page.press(*TAB)
    raise AssertionError(f"Tab does not reach {name}")


def begin(page: Page) -> None:
    tab_to(page, "begin")
    page.press(*ENTER)


def listen(page: Page) -> None:
    """Play the excerpt to its end, by the keyboard."""
    page.wait_for("document.getElementById('player').readyState === 4")  # a key before that is lost
    tab_to(page, "player")
    page.press(*SPACE)
    page.wait_for("!document.getElementById('player').paused || document.getElementById('player').ended")
    page.wait_for("document.getElementById('player').ended")
    page.wait_for("document.getElementById('problem').textContent === ''")


def rate(page: Page, musicality: int, style: int) -> None:
    """Choose a degree on each scale: Space takes the first, arrows go on."""
    for name, degree in (("musicality", musicality), ("style_accuracy", style)):
        tab_to(page, name)
        page.press(*SPACE)
        for _ in range(degree - 1):
            page.press(*DOWN)
    tab_to(page, "next")
    page.press(*ENTER)


def shown(page: Page) -> str:
    return page.run("document.activeElement.textContent")


def test_a_whole_test_by_keyboard_gives_ratings_with_a_right_checksum(page):
    begin(page)
    assert shown(page) == "Practice"
    listen(page)
    rate(page, 1, 1)
    for number in range(1, 4):
        assert shown(page) == f"Excerpt {number} of 3"
        listen(page)
        rate(page, number, 5)
    assert shown(page).startswith("Thank you")
    found = json.loads(page.run("document.getElementById('text').value"))
    assert RATINGS_KIND.problems(found, "") == []
    assert [(row["musicality"], row["style_accuracy"]) for row in found["ratings"]] == [(1, 5), (2, 5), (3, 5)]
    assert found["checksum"] == ratings_checksum(found["test"], found["listener"], found["ratings"])


def test_an_excerpt_must_be_heard_and_rated(page):
    begin(page)
    page.run("document.getElementById('next').click()")
    problem = "document.getElementById('problem').textContent"
    assert page.run(problem) == "Please listen to the excerpt to its end first."
    listen(page)
    page.run("document.getElementById('next').click()")
    assert page.run(problem) == "Please answer both questions."
    assert focused(page) == "musicality"


def test_a_reload_loses_nothing(page, address):
    begin(page)
    listen(page)
    rate(page, 3, 3)
    listen(page)
    tab_to(page, "musicality")
    page.press(*SPACE)
    before = page.run("JSON.parse(localStorage.getItem(localStorage.key(0)))")
    page.open(address)
    assert page.run("document.getElementById('heading').textContent") == "Excerpt 1 of 3"
    assert page.run("document.querySelector('[name=musicality]:checked').value") == "1"
    assert page.run("JSON.parse(localStorage.getItem(localStorage.key(0)))") == before
    rate(page, 4, 4)  # heard before the reload
    assert page.run("document.getElementById('heading').textContent") == "Excerpt 2 of 3"


def test_the_saved_file_is_what_score_reads(page, address, tmp_path):
    begin(page)
    for _ in range(4):
        page.run("document.getElementById('player').dispatchEvent(new Event('ended'))")
        rate(page, 2, 4)
    folder = tmp_path / "saved"
    folder.mkdir()
    page.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    page.run("document.getElementById('save').click()")
    name = page.run("document.getElementById('told').textContent").removeprefix("Saved as ").removesuffix(".")
    page.wait_for("new Promise(done => setTimeout(() => done(true), 1000))")
    assert Path(folder / name).read_text(encoding="utf-8") == page.run("document.getElementById('text').value")
    key = Path(unquote(urlsplit(address).path)).with_suffix(".key.json")
    done = CliRunner().invoke(main, ["listen", "score", str(key), str(folder), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["questions"]
    assert [found[name]["means"]["real"]["mean"] for name in ("musicality", "style_accuracy")] == [2, 4]


def test_each_listener_has_an_order_of_their_own(page, address):
    orders = set()
    for _ in range(12):
        begin(page)
        orders.add(tuple(page.run("JSON.parse(localStorage.getItem(localStorage.key(0))).order")))
        page.run("localStorage.clear()")
        page.open(address)
    assert len(orders) > 1  # twelve equal draws of six orders: one case in 300 million


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_every_screen_fits_and_is_legible(page, width, dark):
    page.resize(width, 844, dark=dark)
    for step in ("intro", "practice", "rate", "done"):
        assert page.run("document.documentElement.scrollWidth") == width, step
        assert [found for found in page.run(CONTRAST) if found[0] < 4.5] == [], step
        if step == "intro":
            page.run("document.getElementById('begin').click()")
        for _ in range({"practice": 1, "rate": 3}.get(step, 0)):
            page.run("document.getElementById('player').dispatchEvent(new Event('ended'))")
            page.run("document.querySelectorAll('input[value=\"4\"]').forEach(input => input.click())")
            page.run("document.getElementById('next').click()")
    assert page.run("document.getElementById('done').hidden") is False


def test_every_control_has_a_name_for_screen_readers(page):
    begin(page)
    tree = page.send("Accessibility.getFullAXTree")["nodes"]
    named = {
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in tree
        if not node.get("ignored", False)
    }
    assert ("radio", "1 Bad") in named
    assert ("radio", "5 Fully") in named
    assert ("group", "Musicality: how good is this as music?") in named
    assert ("Audio", "The excerpt to rate") in named
    assert not [role for role, name in named if role in ("radio", "button", "Audio", "textbox") and not name]
