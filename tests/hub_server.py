"""A hub on this machine: the part of the Hugging Face hub's HTTP interface that downloads use, on a folder of files."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """Repositories by their id, each a folder; `asked` are the paths of all requests, in order."""

    repositories: dict[str, Path]
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def fetched(self) -> set[str]:
        """The files whose content was asked for."""
        return {path.partition(f"/resolve/{COMMIT}/")[2] for path in self.asked if path.startswith("GET ")} - {""}


@contextmanager
def serve(repositories: dict[str, Path]) -> Iterator[Hub]:
    """Serve the repositories until the context ends."""
    hub = Hub(repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            hub.asked.append(f"GET {self.path}")
            self._answer(body=True)

        def do_HEAD(self) -> None:
            hub.asked.append(f"HEAD {self.path}")
            self._answer(body=False)

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _answer(self, *, body: bool) -> None:
            path = self.path.partition("?")[0].removeprefix("/")
            parts = path.removeprefix("api/models/").split("/")
            folder = hub.repositories.get("/".join(parts[:2]))
            if folder is None:
                return self._send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}, body)
            if not path.startswith("api/"):
                return self._file(folder / "/".join(parts[4:]), body)
            if len(parts) > 3 and parts[3] not in ("main", COMMIT):
                return self._send(404, b'{"error": "no"}', {"X-Error-Code": "RevisionNotFound"}, body)
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            answer: Any = [_entry(file, folder) for file in files]
            if parts[2:3] != ["tree"]:
                siblings = [{"rfilename": one["path"]} for one in answer]
                answer = {"id": "/".join(parts[:2]), "sha": COMMIT, "siblings": siblings}
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)

        def _file(self, file: Path, body: bool) -> None:
            if not file.is_file():
                return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
            content = file.read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "X-Linked-Etag": f'"{etag}"'}
            self._send(200, content, headers | {"X-Linked-Size": str(len(content))}, body)

        def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _entry(file: Path, folder: Path) -> dict[str, Any]:
    content = file.read_bytes()
    entry = {"type": "file", "path": file.relative_to(folder).as_posix(), "size": len(content)}
    return entry | {"oid": hashlib.sha1(content).hexdigest()}
