"""Requests of foreign pages and host names are refused."""

from __future__ import annotations

import asyncio

import pytest

from musiclora.ui.guard import SameOriginGuard

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def answer(headers, path="/", hosts=LOOPBACK, kind="http"):
    """Status of the answer; None where the websocket is closed."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "path": path, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    asyncio.run(SameOriginGuard(app, hosts)(scope, None, send))
    return sent[0].get("status")


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1:7860"},
        {"host": "localhost:7860", "origin": "http://localhost:7860"},
        {"host": "[::1]:7860", "origin": "http://[::1]:7860"},
        {"host": "127.0.0.1:7860", "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},  # a link to the page
        {"host": "127.0.0.1:7860", "sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"},
    ],
    ids=["plain", "own origin", "IPv6", "a link", "own script"],
)
def test_the_page_s_own_requests_are_answered(headers):
    assert answer(headers) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "127.0.0.1:7860", "origin": "http://evil.example"},
        {"host": "127.0.0.1:7860", "origin": "null"},
        {"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:9999"},  # another page of this machine
        {"host": "evil.example:7860", "origin": "http://evil.example:7860"},  # DNS rebinding
        {"host": "evil.example"},
        {},
        {"host": "127.0.0.1:7860", "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},  # <img src>
    ],
    ids=["foreign origin", "sandboxed frame", "other port", "rebinding", "foreign host", "no host", "image"],
)
def test_requests_of_others_are_refused(headers):
    assert answer(headers) == 403
    assert answer(headers, kind="websocket") is None


def test_under_a_chosen_address_any_host_name_is_answered_but_no_foreign_origin():
    assert answer({"host": "studio.local:7860"}, hosts=()) == 200
    assert answer({"host": "studio.local:7860", "origin": "http://evil.example"}, hosts=()) == 403


@pytest.mark.parametrize("target", ["https://example.org/x", "http://169.254.169.254/", "https%3A//example.org"])
def test_no_address_is_fetched_for_others(target):
    assert answer({"host": "127.0.0.1"}, f"/gradio_api/file={target}") == 403
