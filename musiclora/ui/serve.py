"""Server of the page: address, password, and what may be read through it."""

from __future__ import annotations

import ipaddress
import os
import socket
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from musiclora.errors import ConfigError
from musiclora.formats import expand_home
from musiclora.ui.options import OptionField
from musiclora.ui.runs import Launcher
from musiclora.ui.workspace import Workspace

if TYPE_CHECKING:
    import gradio as gr

FIRST_PORT, LAST_PORT = 7860, 7899
USER_NAME = "musiclora"
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
_MOST_UPLOAD = "2gb"  # of one file: recordings of an album


def is_loopback(host: str) -> bool:
    """Return True for an address that this machine alone reaches."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def serve_page(
    root: Path,
    fields: Mapping[str, Sequence[OptionField]],
    host: str,
    port: int | None,
    password: str | None,
    *,
    browser: bool,
    say: Callable[[str], None],
    wait: Callable[[], Any] | None = None,
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        root: folder that the page works in.
        fields: options of each command by its name.
        host: address to listen on.
        port: port to listen on; None takes the first free one from 7860.
        password: password for the user `musiclora`; None only on a loopback address.
        browser: open the page in a browser.
        say: told the address, as the last line before the page waits.
        wait: returns when the page shall end; None waits for Ctrl-C.

    Raises:
        ConfigError: Gradio is missing, the folder is none, the port is taken, or the password is missing.
    """
    root = _existing_folder(root)
    _check_gradio()
    if not is_loopback(host) and not password:
        raise ConfigError(f"--host {host}: other machines can open the page; set MUSICLORA_UI_PASSWORD")
    port = find_port(host, port)
    with tempfile.TemporaryDirectory(prefix="musiclora-ui-") as cache:
        _set_environment(Path(cache))
        blocks, address = _launch(Path(cache), root, fields, host, port, password)
        try:
            if browser:
                webbrowser.open(address)
            say(f"musiclora ui: {address}")
            (wait or _wait_for_interrupt)()
        finally:
            blocks.close(verbose=False)
            for line in _live_trainings(Workspace(root)):
                say(line)


def _live_trainings(workspace: Workspace) -> list[str]:
    """Describe the trainings that go on without the page."""
    launcher = Launcher(workspace)
    live = [label for label in workspace.run_folders() if launcher.read(workspace.root / label).is_live]
    return [f"{label}: the training goes on; open the page again to see or to stop it" for label in live]


def _launch(
    cache: Path,
    root: Path,
    fields: Mapping[str, Sequence[OptionField]],
    host: str,
    port: int,
    password: str | None,
) -> tuple[gr.Blocks, str]:
    """Start the server in threads of its own and return the application and its address."""
    from starlette.middleware import Middleware

    from musiclora.ui.guard import SameOriginGuard
    from musiclora.ui.look import STYLE_SHEET, page_theme
    from musiclora.ui.page import build_page
    from musiclora.ui.state import Page

    blocks = build_page(Page(Workspace(root), fields, cache))
    hosts = _LOOPBACK_NAMES if is_loopback(host) else ()
    try:
        blocks.queue(default_concurrency_limit=8).launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            show_error=True,
            auth=(USER_NAME, password) if password else None,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            strict_cors=True,
            max_file_size=_MOST_UPLOAD,
            app_kwargs={"middleware": [Middleware(SameOriginGuard, hosts=hosts)]},
            theme=page_theme(),
            css=STYLE_SHEET,
        )
    except OSError as error:
        raise ConfigError(f"--port {port}: the page cannot listen there: {error}") from error
    name = f"[{host}]" if ":" in host else "127.0.0.1" if host == "localhost" else host
    return blocks, f"http://{name}:{port}"


def find_port(host: str, port: int | None) -> int:
    """Return the port to listen on: the given one, or the first free one.

    Raises:
        ConfigError: it is taken, out of range, or the address is not this machine's.
    """
    if port is not None:
        if not 1 <= port <= 65535:
            raise ConfigError(f"--port is {port}; it must lie between 1 and 65535")
        if reason := _why_not_free(host, port):
            raise ConfigError(f"--port {port}: {reason}; choose another, or leave --port out")
        return port
    reasons = ""
    for candidate in range(FIRST_PORT, LAST_PORT + 1):
        reasons = _why_not_free(host, candidate)
        if not reasons:
            return candidate
    raise ConfigError(f"--host {host}: no port from {FIRST_PORT} to {LAST_PORT} can be used: {reasons}")


def _why_not_free(host: str, port: int) -> str:
    """Return why a port cannot be listened on; empty where it can."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as probe:
            if os.name != "nt":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        return str(error.strerror or error).lower()
    return ""


def _existing_folder(root: Path) -> Path:
    path = expand_home(root)
    if not path.is_dir():
        raise ConfigError(f"--dir {root}: there is no such folder; make it first")
    if not os.access(path, os.W_OK):
        raise ConfigError(f"--dir {root}: cannot be written to; the page keeps songs and runs there")
    return path.resolve()


def _check_gradio() -> None:
    from importlib.util import find_spec

    if find_spec("gradio") is None:
        raise ConfigError("the page needs Gradio: pip install 'musiclora[ui]'")


def _set_environment(cache: Path) -> None:
    """Set what Gradio reads at import: no telemetry, no request to other hosts, its files in our cache."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(cache / "gradio")
    for name in ("GRADIO_SHARE", "GRADIO_ALLOWED_PATHS", "GRADIO_LOCAL_DEV_MODE", "GRADIO_SERVER_NAME"):
        os.environ.pop(name, None)


def _wait_for_interrupt() -> None:
    threading.Event().wait()
