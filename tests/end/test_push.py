"""`hardsight push` against a stub of the hub on loopback: what is sent, and what is refused before anything is sent."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner

from hardsight.cli import app
from hardsight.core.hub import NEEDED

pytest.importorskip("huggingface_hub")


class Hub(BaseHTTPRequestHandler):
    """The few requests of an upload. Files are taken as they are, never by LFS."""

    private: ClassVar[bool | None] = None
    """None: there is no such repository."""
    sent: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []
    refuses: ClassVar[bool] = False

    def log_message(self, *_: Any) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _answer(self, content: Any, code: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self) -> None:
        Hub.asked.append(f"GET {self.path}")
        if re.fullmatch(r"/api/models/[^/]+/[^/]+(/revision/main)?(\\?.*)?", self.path) and Hub.private is not None:
            self._answer({"id": "lab/net", "private": Hub.private, "sha": "0" * 40, "siblings": []})
        else:
            self._answer({"error": "not here"}, 404)

    def do_POST(self) -> None:
        Hub.asked.append(f"POST {self.path}")
        body, url = self._body(), "http://{}:{}".format(*self.server.server_address[:2])
        if self.headers.get("Authorization") != "Bearer a-token" or Hub.refuses:
            self._answer({"error": "no"}, 403)
        elif self.path == "/api/repos/create":
            if Hub.private is not None:
                self._answer({"error": "exists", "url": f"{url}/lab/net"}, 409)
                return
            asked = json.loads(body)
            Hub.private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self._answer({"url": f"{url}/lab/net"})
        elif self.path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in json.loads(body)["files"]
            ]
            self._answer({"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                one = json.loads(line)
                if one["key"] == "file":
                    Hub.sent[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            self._answer({"commitUrl": f"{url}/lab/net/commit/1", "commitOid": "1", "success": True})
        else:
            self._answer({"error": "not here"}, 404)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    Hub.private, Hub.sent, Hub.asked, Hub.refuses = None, {}, [], False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "a-token")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    yield Hub
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "out"
    place.mkdir()
    for name in NEEDED:
        (place / name).write_text(f"---\nlicense: mit\n---\n{name}\n" if name == "README.md" else f"of {name}")
    return place


def push(*words: str, **more: Any):
    return CliRunner().invoke(app, ["push", *words], **more)


def test_everything_is_sent_and_it_is_private(hub: type[Hub], folder: Path) -> None:
    done = push(str(folder), "--to", "lab/net")
    assert done.exit_code == 0, (done.output, done.exception, hub.asked)
    assert hub.private is True and hub.sent == {name: (folder / name).read_bytes() for name in NEEDED}
    assert done.stdout.strip().endswith("/lab/net") and "hf:lab/net" in done.stderr


def test_public_only_after_a_yes(hub: type[Hub], folder: Path) -> None:
    refused = push(str(folder), "--to", "lab/net", "--public", input="n\n")
    assert refused.exit_code == 1 and hub.asked == [] and "Anybody will be able to read" in refused.output
    done = push(str(folder), "--to", "lab/net", "--public", input="y\n")
    assert done.exit_code == 0 and hub.private is False and set(hub.sent) == set(NEEDED)


def test_a_public_repository_gets_nothing_that_was_to_be_private(hub: type[Hub], folder: Path) -> None:
    Hub.private = False
    done = push(str(folder), "--to", "lab/net")
    assert "is there already, and public" in str(done.exception) and hub.sent == {}


def test_what_is_wrong_is_said_before_anything_is_sent(
    hub: type[Hub], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "is no repository; it is ORG/NAME" in str(push(str(folder), "--to", "net").exception)
    assert "has no README.md" in str(push(str(tmp_path), "--to", "lab/net").exception)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "no token of the hub is known; set HF_TOKEN" in str(push(str(folder), "--to", "lab/net").exception)
    assert hub.asked == []


def test_a_refusal_is_one_sentence(hub: type[Hub], folder: Path) -> None:
    Hub.refuses = True
    done = push(str(folder), "--to", "lab/net")
    assert "the hub refuses lab/net" in str(done.exception) and hub.sent == {}
