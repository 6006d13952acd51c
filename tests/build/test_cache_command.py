"""The cache as a user sees and shrinks it, by the commands."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from enginewright import cli
from enginewright.cache import Cache, Entry, Made, StageRequest

Run = Callable[..., tuple[int, str, str]]
KIB = 1024


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENGINEWRIGHT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`run("list")`: exit code, stdout, stderr of `enginewright cache list`."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["enginewright", "cache", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, errors = capfd.readouterr()
        return int(caught.value.code or 0), out, errors

    return call


@contextmanager
def using(root: Path, request: StageRequest, size: int = 0) -> Any:
    """A build that holds the entry for `request`, of one file of `size` bytes."""

    def make(folder: Path) -> Made:
        (folder / "weights").write_bytes(request.key.encode()[:1] * size)
        return Made()

    with Cache(root, warn=print) as cache:
        yield cache.obtain(request, make)


def made(root: Path, request: StageRequest, size: int, *, days: float = 0) -> Entry:
    """An entry that was last used `days` ago."""
    holding: AbstractContextManager[Entry] = using(root, request, size)
    with holding as entry:
        then = time.time() - days * 86_400
        os.utime(entry.folder.parent / "entry.json", (then, then))
        return entry


def stage(number: int, name: str = "quantize", **inputs: str) -> StageRequest:
    return StageRequest(name, inputs, {"number": number}, {})


def listed(run: Run) -> list[dict[str, Any]]:
    code, out, _ = run("list", "--json")
    assert code == 0
    entries: list[dict[str, Any]] = json.loads(out.splitlines()[-1])["entries"]
    return entries


def keys(run: Run) -> list[str]:
    return [entry["key"] for entry in listed(run)]


def test_the_list_names_the_models_that_an_entry_was_made_for(run: Run, root: Path) -> None:
    weights = made(root, stage(1), 5 * KIB, days=3)
    engine = made(root, stage(2, "compile", checkpoint=weights.digest), 3 * KIB, days=2)
    alone = made(root, stage(3), KIB, days=9)
    for name in ("qwq", "qwq-long"):
        package = StageRequest("package", {"engine": engine.digest}, {"name": name}, {})
        made(root, package, 2 * KIB, days=1)
    models = {entry["key"]: entry["models"] for entry in listed(run)}
    assert models[weights.request.key] == models[engine.request.key] == ["qwq", "qwq-long"]
    assert models[alone.request.key] == []
    code, out, errors = run("list")
    assert (code, errors) == (0, "")
    rows = [line.split() for line in out.splitlines() if line.startswith((" quantize", " compile"))]
    assert [row[0] for row in rows] == ["compile", "quantize", "quantize"]  # the latest first
    assert rows[1][1:3] == ["qwq,", "qwq-long"] and rows[1][5:7] == ["3", "d"]
    assert rows[2][1] == "-" and rows[2][-1] == alone.request.key[:12]
    assert "5 entries, " in out.splitlines()[-1]


def test_an_empty_or_absent_cache_has_nothing_to_list_or_to_remove(run: Run, root: Path) -> None:
    assert run("list")[1] == f"{root}: 0 entries, 0 B\n"
    assert run("prune", "--keep", "1GB")[:2] == (0, "removed: 0 entries, 0 B of the disk\n")
    assert not root.exists()


def test_keep_removes_what_was_used_longest_ago(run: Run, root: Path) -> None:
    old, middle, new = (made(root, stage(days), 40 * KIB, days=days) for days in (3, 2, 1))
    before = keys(run)
    code, out, _ = run("prune", "--keep", "100KiB", "--dry-run")
    assert (code, keys(run)) == (0, before)
    assert old.request.key[:12] in out and "would remove: 1 entries, 4" in out
    assert run("prune", "--keep", "100KiB")[0] == 0
    assert keys(run) == [new.request.key, middle.request.key]
    assert not old.folder.exists()


def test_a_build_that_reuses_an_entry_makes_it_the_latest(run: Run, root: Path) -> None:
    old, new = made(root, stage(3), 40 * KIB, days=3), made(root, stage(1), 40 * KIB, days=1)
    reusing: AbstractContextManager[Entry] = using(root, old.request)
    with reusing as entry:
        assert entry.reused
    assert run("prune", "--keep", "60KiB")[0] == 0
    assert keys(run) == [old.request.key]
    assert not new.folder.exists()


def test_older_than_goes_by_the_last_use(run: Run, root: Path) -> None:
    made(root, stage(1), KIB, days=31)
    kept = made(root, stage(2), KIB, days=29)
    assert run("prune", "--older-than", "30d")[0] == 0
    assert keys(run) == [kept.request.key]


def test_what_a_running_build_holds_stays_and_is_named(run: Run, root: Path) -> None:
    other = made(root, stage(2), KIB)
    holding: AbstractContextManager[Entry] = using(root, stage(1), KIB)
    with holding as entry:
        code, _, errors = run("prune", "--keep", "0")
        assert code == 0
        assert f"quantize {entry.request.key[:12]} stays: a build is using it" in errors
        assert (entry.folder / "weights").exists() and not other.folder.exists()
    assert run("prune", "--keep", "0")[0] == 0
    assert keys(run) == []


def test_files_that_a_repository_links_are_not_counted_as_freed(run: Run, root: Path, tmp_path: Path) -> None:
    entry = made(root, stage(1), 64 * KIB)
    os.link(entry.folder / "weights", tmp_path / "served")
    _, out, _ = run("prune", "--keep", "0", "--json")
    assert json.loads(out.splitlines()[-1])["freed_bytes"] < 4 * KIB
    assert (tmp_path / "served").stat().st_size == 64 * KIB


@pytest.mark.parametrize("damage", ["cut", "gone", "not json", "other request", "set aside"])
def test_a_damaged_entry_is_listed_and_goes_first(run: Run, root: Path, damage: str) -> None:
    good, bad = made(root, stage(1), KIB, days=5), made(root, stage(2), KIB)
    record = bad.folder.parent / "entry.json"
    match damage:
        case "cut":
            (bad.folder / "weights").chmod(0o644)
            os.truncate(bad.folder / "weights", 7)
        case "gone":
            (bad.folder / "weights").unlink()
        case "not json":
            record.write_text("[" * 100_000)
        case "other request":
            record.write_text(record.read_text().replace('"number": 2', '"number": 3'))
        case _:
            aside = root / "damaged" / "quantize" / bad.request.key
            aside.parent.mkdir(parents=True)
            bad.folder.parent.rename(aside)
    found = {entry["key"]: entry["damaged"] for entry in listed(run)}
    assert found[good.request.key] is None and found[bad.request.key]
    assert "damaged: " in run("list")[1]
    assert run("prune", "--keep", "1GB")[0] == 0
    assert keys(run) == [good.request.key]


def test_what_is_not_the_caches_own_is_named_and_never_touched(run: Run, root: Path, tmp_path: Path) -> None:
    made(root, stage(1), KIB)
    (root / "models" / "demo").mkdir(parents=True)
    (root / "quantize" / "notes.txt").write_text("mine")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    (root / "quantize" / ("a" * 64)).symlink_to(elsewhere)
    assert "not entries, never touched: " in run("list")[1]
    assert run("prune", "--keep", "0")[0] == 0
    assert (elsewhere / "precious").exists() and (root / "models" / "demo").is_dir()
    assert (root / "quantize" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--dry-run",), "how much is to stay"),
        (("--keep", "20 apples"), "--keep"),
        (("--older-than", "yesterday"), "--older-than 'yesterday'"),
        (("--older-than", "-3d"), "--older-than '-3d'"),
    ],
)
def test_a_command_that_does_not_say_what_stays_removes_nothing(
    run: Run, root: Path, arguments: tuple[str, ...], says: str
) -> None:
    entry = made(root, stage(1), KIB, days=400)
    code, _, errors = run("prune", *arguments)
    assert (code, entry.folder.exists()) == (2, True)
    assert says in errors and "hint: " in errors
