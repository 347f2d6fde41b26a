"""A small Hub on this machine: repositories in memory, spoken to by huggingface_hub itself through HF_ENDPOINT."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "a" * 34
READ_ONLY = "hf_" + "r" * 34


class Hub:
    """State of the server.

    Attributes:
        repositories: files by repository; None where there is none.
        commits: number of commits of each repository.
        private: repositories made private.
        requests: method and path of each request.
        uploaded: large files by SHA-256.
        faults: status that a path answers with, by a part of the path; 0 breaks the connection.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.commits: dict[str, int] = {}
        self.private: set[str] = set()
        self.requests: list[tuple[str, str]] = []
        self.uploaded: dict[str, bytes] = {}
        self.faults: dict[str, int] = {}
        self.url = ""

    def sha(self, repository: str) -> str:
        return hashlib.sha1(f"{repository} {self.commits.get(repository, 0)}".encode()).hexdigest()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Environment of a process that takes this for the Hub."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE"))}
        own = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        return {**kept, **own, "NO_PROXY": "127.0.0.1", **({"HF_TOKEN": token} if token else {})}


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for part, status in self.hub.faults.items():
            if part in path:
                if not status:
                    self.close_connection = True
                    self.connection.shutdown(2)
                    return
                self._send(status, {"error": "told to fail"})
                return
        if self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}", f"Bearer {READ_ONLY}"):
            self._send(401, {"error": "Invalid credentials"})
            return
        for method, prefix, handle in (
            ("GET", "/api/whoami-v2", self._whoami),
            ("POST", "/api/validate-yaml", self._validate),
            ("POST", "/api/repos/create", self._create),
            ("PUT", "/upload/", self._upload),
        ):
            if self.command == method and path.startswith(prefix):
                handle(path, body)
                return
        if path.startswith("/api/models/"):
            self._model(path.removeprefix("/api/models/"), body)
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(body)
        elif "/resolve/" in path:
            self._resolve(path)
        else:
            self._send(404, {"error": "no such page"})

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _whoami(self, path: str, body: bytes) -> None:
        self._send(200, {"type": "user", "name": "me", "auth": {"accessToken": {"role": "write"}}})

    def _validate(self, path: str, body: bytes) -> None:
        content = json.loads(body)["content"]
        good = content.startswith("---\n") and "license:" in content
        self._send(200 if good else 400, {"errors": [], "warnings": []})

    def _create(self, path: str, body: bytes) -> None:
        asked = json.loads(body)
        repository = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if not self._may_write() or asked.get("organization") not in (None, "me"):
            self._send(403, {"error": "You don't have the rights to create a model under this namespace"})
            return
        url = f"{self.hub.url}/{repository}"
        if repository in self.hub.repositories:
            self._send(409, {"error": "You already created this model repo", "url": url})
            return
        self.hub.repositories[repository] = {".gitattributes": b""}
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(repository)
        self._send(200, {"url": url, "name": repository, "id": repository})

    def _model(self, rest: str, body: bytes) -> None:
        owner, name, *more = rest.split("/")
        repository = f"{owner}/{name}"
        files = self.hub.repositories.get(repository)
        if files is None:
            self._send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        elif not more or more[0] == "revision":
            siblings = [{"rfilename": file} for file in sorted(files)]
            sha = self.hub.sha(repository)
            facts = {"id": repository, "modelId": repository, "sha": sha, "siblings": siblings, "tags": []}
            self._send(200, {**facts, "private": repository in self.hub.private, "downloads": 0, "likes": 0})
        elif more[0] == "tree":
            self._send(200, [self._entry(file, content) for file, content in sorted(files.items())])
        elif more[0] == "preupload":
            modes = [
                {"path": f["path"], "uploadMode": "regular" if _is_text(f["path"]) else "lfs", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._send(200, {"files": modes})
        elif more[0] == "commit":
            self._commit(repository, files, body)
        else:
            self._send(404, {"error": "no such page"})

    def _entry(self, file: str, content: bytes) -> dict[str, Any]:
        oid = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "path": file, "size": len(content), "oid": oid}
        if _is_text(file):
            return entry
        pointer = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        return {**entry, "lfs": pointer}

    def _commit(self, repository: str, files: dict[str, bytes], body: bytes) -> None:
        if not self._may_write():
            self._send(403, {"error": "no write access"})
            return
        added = {}
        for line in body.decode().splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                added[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
            elif item["key"] == "lfsFile":
                added[item["value"]["path"]] = self.hub.uploaded[item["value"]["oid"]]
        files.update(added)
        self.hub.commits[repository] = self.hub.commits.get(repository, 0) + 1
        sha = self.hub.sha(repository)
        self._send(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repository}/commit/{sha}"})

    def _batch(self, body: bytes) -> None:
        objects = []
        for item in json.loads(body)["objects"]:
            href = f"{self.hub.url}/upload/{item['oid']}"
            action = {} if item["oid"] in self.hub.uploaded else {"actions": {"upload": {"href": href, "header": {}}}}
            objects.append({"oid": item["oid"], "size": item["size"], **action})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _upload(self, path: str, body: bytes) -> None:
        if hashlib.sha256(body).hexdigest() != path.rpartition("/")[2]:
            self._send(400, {"error": "wrong content"})
            return
        self.hub.uploaded[path.rpartition("/")[2]] = body
        self._send(200, {})

    def _resolve(self, path: str) -> None:
        repository, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        content = self.hub.repositories.get(repository, {}).get(file)
        if content is None or revision not in ("main", self.hub.sha(repository)):
            self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        etag = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": self.hub.sha(repository), "ETag": f'"{etag}"'}
        self._send(200, content, headers)

    def _send(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _is_text(file: str) -> bool:
    return file.endswith((".json", ".md", ".txt", ".gitattributes"))


@contextmanager
def local_hub() -> Iterator[Hub]:
    """Serve an empty Hub on a free port."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
