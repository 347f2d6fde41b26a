"""The documentation site: it builds without a warning, and reading it asks no other host for anything."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from require import require

ROOT = Path(__file__).parents[1]
# Addresses that a browser loads by itself; a link that a reader may click is an <a>.
LOADED = re.compile(r"<(?!a\b)[a-z]+\b[^>]*\s(?:src|href|srcset|data|action)=[\"']?(?:https?:)?//", re.IGNORECASE)
IN_STYLES = re.compile(r"@import|url\(\s*[\"']?(?:https?:)?//", re.IGNORECASE)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def packages():
    for name in ("sphinx", "myst_parser", "furo"):
        require(name)


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([root / "scripts" / "docs", out], capture_output=True, text=True, check=False)


def test_the_site_has_every_page_and_asks_no_other_host(tmp_path):
    done = build(ROOT, tmp_path)
    assert done.returncode == 0, done.stderr
    pages = {page.stem for page in (tmp_path / "docs").glob("*.html")}
    assert pages == {page.stem for page in (ROOT / "docs").glob("*.md")}
    for page in tmp_path.rglob("*.html"):
        assert not LOADED.search(page.read_text(encoding="utf-8")), page
    for style in tmp_path.rglob("*.css"):
        assert not IN_STYLES.search(style.read_text(encoding="utf-8")), style
    sidebar = (tmp_path / "docs" / "symbolic.html").read_text(encoding="utf-8").split('class="sidebar-tree"', 1)[1]
    assert {"first-steps.html", "acestep.html", "../CHANGELOG.html"} <= set(re.findall(r'href="([^"#]+)"', sidebar))


@pytest.mark.parametrize("link", ["nowhere.md", "other.md#no-such-heading"])
def test_a_broken_link_ends_the_build(tmp_path, link):
    for name in ("scripts/docs", "docs/conf.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / "docs" / "other.md").write_text("# Other\n")
    (tmp_path / "docs" / "index.md").write_text(
        f"# Start\n\n## Pages\n\n* [Other](other.md): a page, [here]({link}).\n"
    )
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert (link.partition("#")[2] or link) in done.stderr
