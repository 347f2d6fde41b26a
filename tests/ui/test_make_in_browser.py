"""The tabs Make and Adapters in Chromium: a pair is made, heard, downloaded and found again; Cancel; a rename."""

from __future__ import annotations

import shutil
import time

import numpy as np
import pytest
from local_page import local_page, visiting_browser
from require import require

from musiclora.convert.adapters.lora import LoraSpec
from musiclora.convert.adapters.peft import write_peft

WAIT_MS = 120_000


@pytest.fixture
def root(tmp_path, tiny_base):
    """A page's folder with a base and an adapter that changes it."""
    root = tmp_path / "root"
    (root / "adapters").mkdir(parents=True)
    shutil.copytree(tiny_base, root / "base")
    rng = np.random.default_rng(1)
    shapes = {"lora_A": (4, 32), "lora_B": (96, 4)}
    state = {
        f"transformer.h.{layer}.attn.c_attn.{name}.weight": rng.standard_normal(shape).astype(np.float32)
        for layer in range(2)
        for name, shape in shapes.items()
    }
    write_peft(
        root / "adapters" / "one",
        LoraSpec(4, 8.0, 0.0, ("c_attn",)),
        state,
        base_model="",
        record={"family": "symbolic", "songs": 8},
        readme="# Card of one\n",
        task_type="CAUSAL_LM",
        fan_in_fan_out=True,
    )
    return root


def open_tab(page, url, name):
    page.set_default_timeout(WAIT_MS)
    page.goto(url)
    page.get_by_role("tab", name=name).click()


def wait_for_text(page, selector, text):
    page.wait_for_function(
        "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)", arg=[selector, text]
    )


def fill(page, name, value):
    page.fill(f"#{name} input, #{name} textarea", value)


def sounds(page, what):
    """A value of both recordings of the A/B player."""
    script = "what => Object.values(document.querySelector('#ab-player .ab').parentElement.sounds).map(s => s[what])"
    return page.evaluate(script, what)


def make_pair(page):
    page.wait_for_selector("#adapters :text('adapters/one')")
    box = page.locator("#make-base input")
    box.fill("base")
    box.press("Enter")
    fill(page, "make-option-max-new-tokens", "60")
    fill(page, "make-option-seed", "3")
    page.click("#make")
    wait_for_text(page, "#make-status", "made: pieces/one-1")
    page.wait_for_selector("#ab-player .ab-base")
    page.wait_for_function("document.querySelector('#ab-player .ab-time').innerText.match(/0:00 .* 0:[0-9]*[1-9]/)")


@pytest.mark.slow
def test_a_pair_is_made_heard_downloaded_and_found_again(root):
    require("midirenderer")
    made = root / "pieces" / "one-1"
    with local_page(root) as url, visiting_browser(viewport={"width": 1440, "height": 900}) as context:
        page = context.new_page()
        requested = []
        page.on("request", lambda request: requested.append(request.url))
        open_tab(page, url, "Make")
        make_pair(page)
        base, adapted = ((made / f"one-1{mark}.mid").read_bytes() for mark in ("-base", ""))
        assert base != adapted

        page.locator("#ab-player .ab-adapted").focus()
        page.evaluate("document.querySelector('#ab-player .ab').parentElement.sounds.adapted.currentTime = 0.5")
        page.keyboard.press("a")
        assert page.get_attribute("#ab-player .ab-base", "aria-pressed") == "true"
        assert sounds(page, "currentTime")[0] == pytest.approx(0.5, abs=0.1)
        page.keyboard.press("b")
        assert page.get_attribute("#ab-player .ab-base", "aria-pressed") == "false"
        assert all(length > 0 for length in sounds(page, "duration"))

        page.click("#download")
        with page.expect_download() as download:
            page.locator("#download-file a").first.click()
        with open(download.value.path(), "rb") as file:  # noqa: PTH123 - Playwright gives a text
            assert file.read() == adapted

        fill(page, "make-option-count", "500")
        page.click("#make")
        wait_for_text(page, "#make-status", "making")
        page.click("#cancel")
        wait_for_text(page, "#make-status", "cancelled")
        page.wait_for_selector("#make:enabled")
        end = time.monotonic() + 20
        while [path.name for path in (root / "pieces").iterdir()] != ["one-1"]:
            assert time.monotonic() < end
            time.sleep(0.1)

        fill(page, "make-option-count", "1")
        fill(page, "make-option-temperature", "-1")
        page.click("#make")
        page.wait_for_selector("#make-status [role=alert]:has-text('--temperature')")

        open_tab(page, url, "Make")
        page.wait_for_function("document.querySelector('#piece input').value === 'pieces/one-1'")
        page.wait_for_selector("#piece-base-roll img")
        assert [address for address in requested if not address.startswith((url, "data:", "blob:"))] == []


@pytest.mark.slow
def test_an_adapter_s_card_is_read_and_its_folder_renamed(root):
    with local_page(root) as url, visiting_browser(viewport={"width": 390, "height": 800}) as context:
        page = context.new_page()
        open_tab(page, url, "Adapters")
        page.locator("#adapters-table").get_by_text("adapters/one").last.click()
        wait_for_text(page, "#adapter-card", "Card of one")
        page.locator("#rename-group > button").first.click()
        wait_for_text(page, "#rename-note", "renames the folder adapters/one")
        fill(page, "rename-name", "two")
        page.click("#rename")
        wait_for_text(page, "#adapters-status", "renamed to adapters/two")
        assert [path.name for path in (root / "adapters").iterdir()] == ["two"]
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
