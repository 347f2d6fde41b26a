"""The page in Chromium: songs dropped and examined, a training that outlives its tab, stopped and resumed."""

from __future__ import annotations

import json
import shutil
import time

import pytest
from local_page import local_page, visiting_browser

WAIT_MS = 120_000


@pytest.fixture
def root(tmp_path, tiny_base, tunes):
    root = tmp_path / "root"
    root.mkdir()
    shutil.copytree(tiny_base, root / "base")
    shutil.copytree(tunes, tmp_path / "dropped")
    return root


def visit(context, url):
    """Open the page in a new tab; every request of it is noted."""
    tab = context.new_page()
    tab.set_default_timeout(WAIT_MS)
    tab.requested = []
    tab.on("request", lambda request: tab.requested.append(request.url))
    tab.goto(url)
    tab.wait_for_selector("#examine")
    return tab


def choose(tab, element, value):
    box = tab.locator(f"#{element} input")
    box.fill(value)
    box.press("Enter")


def wait_for_text(tab, selector, text):
    tab.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)", arg=[selector, text]
    )


def drop_songs(tab, folder):
    tab.set_input_files("#drop-songs input[type=file]", str(folder))
    tab.wait_for_selector("#drop-songs a, #drop-songs .file-preview")
    tab.fill("#songs-name input, #songs-name textarea", "mine")
    tab.click("#add-songs")
    tab.wait_for_selector("#bases table")
    wait_for_text(tab, "#songs-status", "8 kept")


def start_training(tab, base):
    tab.get_by_role("tab", name="Train").click()
    assert tab.locator("#train-songs input").input_value() == "songs/mine"
    assert tab.locator("#base input").input_value() == "bundled"  # it holds single melodies best
    choose(tab, "base", base)
    choose(tab, "preset", "none")
    choose(tab, "option-backend", "torch")
    tab.fill("#option-epochs input, #option-epochs textarea", "100000")
    tab.fill("#option-sample-every input, #option-sample-every textarea", "50")
    tab.get_by_role("button", name="More options").click()
    tab.fill("#option-max-seq-len input, #option-max-seq-len textarea", "64")
    tab.click("#train")
    wait_for_text(tab, "#train-status", "started: musiclora train --data-dir=songs/mine")


def steps_of(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return max(json.loads(line)["step"] for line in lines)


@pytest.mark.slow
def test_a_training_outlives_its_tab_and_is_stopped_and_resumed(root, tmp_path):
    run = root / "runs" / "mine-1"
    with local_page(root) as url, visiting_browser(viewport={"width": 1440, "height": 900}) as context:
        tab = visit(context, url)
        drop_songs(tab, tmp_path / "dropped")
        start_training(tab, "base")
        tab.wait_for_selector("#curve canvas, #curve svg")
        first = steps_of(run)
        tab.close()

        tab = visit(context, url)
        tab.get_by_role("tab", name="Train").click()
        wait_for_text(tab, "#run-status", "runs/mine-1: training")
        assert tab.locator("#run input").input_value() == "runs/mine-1"
        end = time.monotonic() + WAIT_MS / 1000
        while steps_of(run) <= first:
            assert time.monotonic() < end
            time.sleep(0.1)

        tab.click("#stop")
        wait_for_text(tab, "#run-status", "stopped")
        stopped = steps_of(run)
        assert json.loads((run / "state" / "progress.json").read_text())["step"] == stopped
        tab.click("#resume")
        wait_for_text(tab, "#run-status", "training")
        tab.click("#stop")
        wait_for_text(tab, "#run-status", "stopped")
        assert steps_of(run) >= stopped
        assert [request for request in tab.requested if not request.startswith((url, "data:", "blob:"))] == []


@pytest.mark.slow
def test_every_tab_fits_a_telephone_in_the_dark_and_is_reached_by_keyboard(root):
    phone = {"viewport": {"width": 390, "height": 800}, "color_scheme": "dark"}
    with local_page(root) as url, visiting_browser(**phone) as context:
        tab = visit(context, url)
        assert tab.evaluate("document.body.classList.contains('dark')")
        tab.get_by_role("tab", name="Songs").focus()
        for name in ("Songs", "Train", "Make", "Adapters"):
            chosen = tab.get_by_role("tab", name=name)
            chosen.focus()
            tab.keyboard.press("Enter")
            assert chosen.get_attribute("aria-selected") == "true"
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390
