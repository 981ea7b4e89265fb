"""A hub on loopback that speaks what huggingface_hub asks for when it downloads a snapshot and makes a commit."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_writes"
READER = "hf_reads"


@dataclass
class FakeHub:
    """Its repositories, and what it was asked.

    Attributes:
        repositories: ORG/NAME -> path -> content, as of the last commit.
        private, gated: names that only a token, or nobody yet, may read.
        tags: ORG/NAME -> tag -> path -> content.
        cut: path -> how many answers break off in its middle.
        answers: part of an address -> the status and body of every answer to requests with it.
        asked: (method, path, Range) of every request for the content of a file.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    tags: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    endpoint: str = ""

    def files(self, name: str, revision: str) -> dict[str, bytes] | None:
        there = {**self.tags.get(name, {}), "main": self.repositories[name]}
        return {**there, **{commit_of(content): content for content in there.values()}}.get(revision)


def commit_of(content: dict[str, bytes]) -> str:
    return hashlib.sha1(repr(sorted(content.items())).encode()).hexdigest()


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        for part, (status, body) in self.hub.answers.items():
            if part in path:
                return self._send(status, body)
        if path == "/api/whoami-v2":
            role = {TOKEN: "write", READER: "read"}.get(self._token)
            user = {"type": "user", "name": "org", "auth": {"accessToken": {"role": role, "displayName": "x"}}}
            return self._json(user) if role else self._refuse(401, "", "Invalid credentials in Authorization header")
        if re.fullmatch(r"/api/models/[\w.-]+/[\w.-]+", path):
            path += "/revision/main"
        match = re.fullmatch(r"/(?:api/models/)?([\w.-]+/[\w.-]+)/(revision|tree|resolve)/([^/]+)(?:/(.*))?", path)
        if match is None:
            return self._refuse(404, "RepoNotFound")
        name, kind, revision, file = match.groups()
        if name not in self.hub.repositories or (name in self.hub.private and self._token not in (TOKEN, READER)):
            return self._refuse(401, "RepoNotFound")
        if name in self.hub.gated:
            return self._refuse(403, "GatedRepo")
        files = self.hub.files(name, revision)
        if files is None:
            return self._refuse(404, "RevisionNotFound")
        if kind == "revision":
            return self._json(
                {"id": name, "sha": commit_of(files), "siblings": [], "private": name in self.hub.private}
            )
        if kind == "tree":
            rows = [{"type": "file", "path": key, "size": len(data), "oid": _oid(data)} for key, data in files.items()]
            return self._json(rows)
        return self._send_file(file, files, commit_of(files)) if file in files else self._refuse(404, "EntryNotFound")

    def do_POST(self) -> None:
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if path == "/api/validate-yaml":
            wrong = b"license: mine" in body
            found = [{"message": '"license" must be one of [apache-2.0, cc-by-4.0, other]'}] if wrong else []
            return self._json({"errors": found, "warnings": []}, 400 if wrong else 200)
        if self._token != TOKEN:
            return self._refuse(403, "", "you need the right to write")
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'org'}/{wanted['name']}"
            if name in self.hub.repositories:
                return self._refuse(409, "")
            self.hub.repositories[name] = {}
            if wanted.get("private") or wanted.get("visibility") == "private":
                self.hub.private.add(name)
            return self._json({"url": f"{self.hub.endpoint}/{name}"})
        name, kind = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/(preupload|commit)/main", path).groups()
        if kind == "preupload":
            files = [{**one, "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]]
            return self._json({"files": files})
        files = dict(self.hub.repositories[name])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        self.hub.repositories[name] = files
        self._json({"commitUrl": f"{self.hub.endpoint}/{name}/commit/1", "commitOid": commit_of(files)})

    @property
    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _send_file(self, name: str, files: dict[str, bytes], commit: str) -> None:
        data, wanted = files[name], self.headers.get("Range")
        start = int(re.search(r"\d+", wanted)[0]) if wanted else 0
        self.hub.asked.append((self.command, name, wanted))
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{_oid(data)}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cut.get(name):
            self.hub.cut[name] -= 1
            self.wfile.write(data[start : len(data) // 2])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(data[start:])

    def _json(self, content: object, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode())

    def _send(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _refuse(self, status: int, code: str, message: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        for key, value in (("X-Error-Code", code), ("X-Error-Message", message)):
            if value:
                self.send_header(key, value)
        self.end_headers()


def _oid(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()
