"""The page of `musiclora ui` as a process, and a browser that visits it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chromium import PROGRAMS
from require import missing, require

START_SECONDS = 120.0  # a busy machine imports Gradio in seconds


@contextmanager
def local_page(root: Path, *options: str) -> Iterator[str]:
    """Start `musiclora ui` on a free port and yield its address; it is interrupted at the end."""
    require("gradio")
    command = [sys.executable, "-m", "musiclora", "ui", f"--dir={root}", "--no-browser", *options]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("musiclora ui: http://"), line
            yield line.split()[-1]
        finally:
            process.terminate()


@contextmanager
def visiting_browser(**settings: Any) -> Iterator[Any]:
    """Yield a Playwright browser context of the installed Chromium."""
    driver = require("playwright.sync_api")
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        missing("chromium")
    with driver.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--mute-audio"])
        try:
            yield browser.new_context(**settings)
        finally:
            browser.close()
