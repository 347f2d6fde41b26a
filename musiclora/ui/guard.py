"""ASGI middleware that answers requests of the page itself only."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class SameOriginGuard:
    """Refuse requests that another page makes a browser send, and requests under another host name.

    A browser states the page that sends a request in `Origin`, and in `Sec-Fetch-Site`. A host name that is not the
    page's own comes from DNS rebinding: a foreign name that points to this machine.
    """

    def __init__(self, app: App, hosts: Sequence[str] = ()) -> None:
        """Wrap an application.

        Args:
            app: ASGI application.
            hosts: host names that are answered; empty answers all.
        """
        self.app, self.hosts = app, tuple(hosts)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer with 403, or pass the request on."""
        if scope["type"] not in ("http", "websocket") or self._is_own(scope):
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        text = b"musiclora answers its own page only"
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    def _is_own(self, scope: Message) -> bool:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        if self.hosts and _host_name(host) not in self.hosts:
            return False
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return False
        if headers.get(b"sec-fetch-site") == "cross-site" and headers.get(b"sec-fetch-mode") != "navigate":
            return False
        return not _fetches_for_others(scope["path"])


def _host_name(host: str) -> str:
    """Return the name in a Host header, without the port."""
    return (urlsplit(f"//{host}").hostname or "").lower()


def _fetches_for_others(path: str) -> bool:
    """Return True for a path by which Gradio would fetch another address, by `file=https://`."""
    _, found, target = unquote(path).partition("/file=")
    return bool(found) and "://" in target.split("?")[0]
