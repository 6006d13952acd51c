"""`verify`: any difference from what was built is found, and named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_call import call_cli
from enginewright.cache import Entry, StageRequest
from enginewright.durable import json_bytes
from enginewright.hashing import FileHash, Hasher, hashes_as_json, tree_digest
from enginewright.verify_repository import verify_repository
from enginewright_errors import GateFailed, UsageError


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A small folder with a chain like that of a build."""
    folder = tmp_path / "repository"
    for name in ("llm/config.pbtxt", "llm/1/model.py", "llm/1/engine/model.onnx", "llm/1/engine/engine.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name * 100)
    source = {"model.safetensors": FileHash("0" * 64, 10)}
    chain: dict[str, Any] = {
        "source": {"files": hashes_as_json(source), "digest": tree_digest(source)},
        "calibration": {"sha256": "1" * 64},
    }

    def link(stage: str, files: dict[str, FileHash], **inputs: str) -> Entry:
        request = StageRequest(stage, inputs, {"x": 1}, {"code": "1"}, "x86_64")
        entry = Entry(request, folder, files, {}, {}, reused=False)
        chain[stage] = {
            "request": request.as_json(),
            "key": request.key,
            "files": hashes_as_json(files),
            "digest": entry.digest,
        }
        return entry

    quantized = link("quantize", source, source=chain["source"]["digest"], calibration="1" * 64)
    engine = link("compile", Hasher().tree(folder / "llm" / "1" / "engine"), checkpoint=quantized.digest)
    inputs = {"checkpoint": quantized.digest, "engine": engine.digest}
    verified = link("verify", {}, **inputs)
    measured = link("report", {}, **inputs, source=chain["source"]["digest"])
    keys = {"verified": verified.request.key, "measured": measured.request.key}
    link("package", Hasher().tree(folder), **inputs, **keys)
    (folder / "manifest.json").write_bytes(json_bytes({"format": 1, "name": "small", "chain": chain}))
    (folder / "report.json").write_text("{}")
    return folder


def differs(folder: Path) -> str:
    with pytest.raises(GateFailed) as caught:
        verify_repository(folder)
    assert caught.value.exit_code == 5
    return caught.value.message


def test_an_untouched_repository_is_verified(repository: Path) -> None:
    (repository / "llm" / "1" / "__pycache__").mkdir()
    (repository / "llm" / "1" / "__pycache__" / "model.pyc").write_bytes(b"by the server")
    found = verify_repository(repository)
    content = (repository / "manifest.json").read_bytes()
    assert (found.name, found.files) == ("small", 4)
    assert found.manifest_sha256 == hashlib.sha256(content).hexdigest()


def test_every_changed_file_is_named(repository: Path) -> None:
    for path in [path for path in repository.rglob("*") if path.is_file()]:
        name = path.relative_to(repository).as_posix()
        if name in ("manifest.json", "report.json"):
            continue
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"!")
        assert f"{name} differs from the manifest" in differs(repository)
        path.unlink()
        assert f"{name} is missing" in differs(repository)
        path.symlink_to("/etc/passwd")
        assert name in differs(repository)
        path.unlink()
        path.write_bytes(content)
    verify_repository(repository)
    (repository / "llm" / "1" / "numpy.py").write_text("import os")
    assert "llm/1/numpy.py does not belong to this build" in differs(repository)


def test_serve_verify_starts_nothing_that_was_changed(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "llm" / "1" / "model.py").write_text("import os")
    code, out, errors = call_cli(monkeypatch, capsys, "serve", repository, "--verify")
    assert code == 5
    assert "llm/1/model.py differs from the manifest" in errors
    assert out == ""


def edits() -> list[tuple[str, Callable[[dict[str, Any]], object], str]]:
    def engine(chain: dict[str, Any]) -> None:
        item = {"sha256": "2" * 64, "bytes": 1}
        chain["compile"]["files"]["model.onnx"] = item
        chain["compile"]["digest"] = tree_digest(
            {name: FileHash(**value) for name, value in chain["compile"]["files"].items()}
        )

    return [
        ("source", lambda c: c["source"]["files"]["model.safetensors"].update(bytes=11), "source.digest"),
        ("source digest", lambda c: c["source"].update(digest="3" * 64), "source.digest"),
        ("calibration", lambda c: c["calibration"].update(sha256="3" * 64), "not made from this calibration"),
        ("parameters", lambda c: c["quantize"]["request"]["parameters"].update(x=2), "quantize.key"),
        ("engine", engine, "verify was not made from this compile"),
        ("files", lambda c: c["compile"]["files"].pop("model.onnx"), "compile.digest"),
        ("verify", lambda c: c["verify"].update(key="4" * 64), "verify.key"),
        ("report", lambda c: c["report"].update(key="4" * 64), "report.key"),
        ("no verify", lambda c: c.pop("verify"), "the chain is incomplete"),
        ("nonsense", lambda c: c.update(package=[]), "the chain is incomplete"),
    ]


@pytest.mark.parametrize(("edit", "says"), [(edit, says) for _, edit, says in edits()])
def test_a_chain_that_does_not_hold_is_named(
    repository: Path, edit: Callable[[dict[str, Any]], object], says: str
) -> None:
    manifest = json.loads((repository / "manifest.json").read_bytes())
    edit(manifest["chain"])
    (repository / "manifest.json").write_bytes(json_bytes(manifest))
    assert says in differs(repository)


def test_an_engine_that_was_swapped_together_with_its_hash_is_found(repository: Path) -> None:
    """Consistent for the repository alone, but not the engine that was verified."""
    (repository / "llm" / "1" / "engine" / "model.onnx").write_text("another")
    manifest = json.loads((repository / "manifest.json").read_bytes())
    package = manifest["chain"]["package"]
    hashes = Hasher().tree(repository)
    package["files"] = hashes_as_json({name: hashes[name] for name in package["files"]})
    package["digest"] = tree_digest({name: hashes[name] for name in package["files"]})
    (repository / "manifest.json").write_bytes(json_bytes(manifest))
    assert "llm/1/engine/model.onnx is not what compile made" in differs(repository)


def test_what_is_no_repository_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"manifest\.json cannot be read"):
        verify_repository(tmp_path)
    (tmp_path / "manifest.json").write_text("not JSON")
    assert "is not JSON" in differs(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(UsageError, match="format 1"):
        verify_repository(tmp_path)
