"""The page's address: ports, hosts, passwords, folders."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest
from click.testing import CliRunner
from local_page import local_page
from require import require

from musiclora.cli import main
from musiclora.errors import ConfigError
from musiclora.ui.serve import find_port, is_loopback, serve_page


def refused(*arguments):
    """The line and the exit code of `musiclora ui` with bad arguments."""
    require("gradio")
    found = CliRunner().invoke(main, ["ui", "--no-browser", *arguments], env={"MUSICLORA_UI_PASSWORD": ""})
    assert "Traceback" not in found.output
    return found.exit_code, found.stderr.strip().splitlines()[-1]


def test_a_port_that_is_taken_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, line = refused(f"--dir={tmp_path}", f"--port={port}")
    assert (code, line) == (
        2,
        f"musiclora: --port {port}: address already in use; choose another, or leave --port out",
    )


@pytest.mark.parametrize("port", [0, 65536, -1])
def test_a_port_that_is_none_is_one_line(tmp_path, port):
    assert refused(f"--dir={tmp_path}", f"--port={port}")[0] == 2


def test_a_folder_that_is_gone_is_one_line(tmp_path):
    code, line = refused(f"--dir={tmp_path / 'gone'}")
    assert code == 2
    assert line.endswith("there is no such folder; make it first")


def test_another_address_needs_a_password(tmp_path):
    with pytest.raises(ConfigError, match="set MUSICLORA_UI_PASSWORD"):
        serve_page(tmp_path, {}, "0.0.0.0", None, None, browser=False, say=print)


def test_an_address_of_another_machine_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"--host 192\.0\.2\.1: no port"):
        find_port("192.0.2.1", None)


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_loopback_addresses_are_known(host, own):
    assert is_loopback(host) is own


def status(url, headers=()):
    request = urllib.request.Request(url, headers=dict(headers))
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_no_file_is_read_through_the_page_and_no_foreign_page_is_answered(tmp_path):
    root, secret = tmp_path / "root", tmp_path / "secret.txt"
    root.mkdir()
    secret.write_text("secret")
    (root / "notes.txt").write_text("not shown on the page")
    with local_page(root) as url:
        assert status(url) == 200
        for path in (secret, root / "notes.txt", "/etc/passwd", "../secret.txt", root / ".." / "secret.txt", __file__):
            for route in ("gradio_api/file=", "file="):
                assert status(f"{url}/{route}{path}") in (403, 404), path
        assert status(f"{url}/gradio_api/file=https://example.org") == 403
        assert status(url, {"Origin": "http://evil.example"}) == 403
        assert status(url, {"Host": "evil.example"}) == 403
        assert status(f"{url}/gradio_api/info") in (200, 403, 404)
        assert b"fonts.googleapis" not in urllib.request.urlopen(url, timeout=60).read()


@pytest.mark.slow
def test_a_password_is_asked_for_under_another_address(tmp_path, monkeypatch):
    monkeypatch.setenv("MUSICLORA_UI_PASSWORD", "open sesame")
    with local_page(tmp_path, "--host=0.0.0.0") as url:
        assert status(f"{url}/config") == 401
        assert status(f"{url}/gradio_api/file=/etc/passwd") == 401
