"""The cache: a complete result is never made twice, a damaged or unfinished one is never accepted."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from enginewright.cache import Cache, Entry, Made, StageRequest, default_cache_folder
from enginewright_errors import EnginewrightError, StageFailed, UsageError
from kill_points import trial


def request(**parameters: object) -> StageRequest:
    return StageRequest("stage", {"source": "0" * 64}, parameters, {"code": "1"})


class Stage:
    """Writes two files and counts how often it ran."""

    def __init__(self, content: bytes = b"weights") -> None:
        self.content = content
        self.runs = 0

    def __call__(self, folder: Path) -> Made:
        self.runs += 1
        (folder / "deep").mkdir()
        (folder / "deep" / "a.bin").write_bytes(self.content * 1000)
        (folder / "b.json").write_bytes(b"{}")
        return Made({"fact": 1}, {"seconds": 0.5})


def obtain(root: Path, stage: Stage, warnings: list[str] | None = None, **parameters: object) -> Entry:
    with Cache(root, warn=(warnings if warnings is not None else []).append) as cache:
        return cache.obtain(request(**parameters), stage)


def leftovers(root: Path) -> list[str]:
    return sorted(str(path) for name in ("tmp", "locks") for path in (root / name).rglob("*"))


def test_a_result_is_made_once_and_survives_as_it_was(tmp_path: Path) -> None:
    stage = Stage()
    first, second = obtain(tmp_path, stage, x=1), obtain(tmp_path, stage, x=1)
    assert stage.runs == 1
    assert (first.reused, second.reused) == (False, True)
    assert (first.digest, first.facts, first.report) == (second.digest, second.facts, second.report)
    assert sorted(second.files) == ["b.json", "deep/a.bin"]
    assert leftovers(tmp_path) == []


def test_anything_that_decides_the_result_makes_another_one(tmp_path: Path) -> None:
    base = request(x=1)
    others = [
        StageRequest("other", base.inputs, base.parameters, base.versions),
        StageRequest(base.stage, {"source": "1" * 64}, base.parameters, base.versions),
        StageRequest(base.stage, base.inputs, {"x": 2}, base.versions),
        StageRequest(base.stage, base.inputs, base.parameters, {"code": "2"}),
        StageRequest(base.stage, base.inputs, base.parameters, base.versions, machine="other"),
    ]
    assert len({base.key, *(other.key for other in others)}) == 6
    assert request(x=1).key == base.key


@pytest.mark.parametrize("where", ["files/deep/a.bin", "files/b.json", "entry.json"])
def test_one_flipped_byte_is_noticed_and_the_result_made_again(tmp_path: Path, where: str) -> None:
    stage = Stage()
    entry = obtain(tmp_path, stage)
    victim = entry.folder.parent / where
    content = bytearray(victim.read_bytes())
    times = victim.stat()
    for position in (0, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[position] ^= 1
        victim.chmod(0o644)
        victim.write_bytes(changed)
        os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))  # a disk does not announce it
        warnings: list[str] = []
        again = obtain(tmp_path, stage, warnings)
        assert not again.reused
        assert len(warnings) == 1
        assert "damaged" in warnings[0]
        assert (again.digest, again.facts) == (entry.digest, entry.facts)
    assert stage.runs == 4
    assert (tmp_path / "damaged" / "stage" / request().key / "entry.json").exists()
    assert leftovers(tmp_path) == []


def test_a_missing_an_added_and_a_linked_file_are_noticed(tmp_path: Path) -> None:
    stage = Stage()
    entry = obtain(tmp_path, stage)
    (entry.folder / "b.json").unlink()
    assert not obtain(tmp_path, stage).reused
    (entry.folder / "extra").write_bytes(b"")
    assert not obtain(tmp_path, stage).reused
    (entry.folder / "b.json").unlink()
    (entry.folder / "b.json").symlink_to("deep/a.bin")
    assert not obtain(tmp_path, stage).reused
    assert obtain(tmp_path, stage).reused


def test_a_stage_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> Made:
        (folder / "half").write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    def link(folder: Path) -> Made:
        (folder / "link").symlink_to("/etc/passwd")
        return Made()

    with Cache(tmp_path, warn=print) as cache:
        with pytest.raises(OSError, match="No space"):
            cache.obtain(request(), fail)
        with pytest.raises(StageFailed, match="link"):
            cache.obtain(request(), link)
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "stage").exists() or list((tmp_path / "stage").iterdir()) == []


def test_kill_at_every_change_then_the_same_result_and_nothing_half(tmp_path: Path) -> None:
    def work(root: Path) -> Mapping[str, object]:
        entry = obtain(root, Stage())
        return entry.facts

    state, changes = trial(lambda: work(tmp_path / "count"))
    assert state == "done"
    assert changes > 15
    whole = obtain(tmp_path / "count", Stage())
    for nth in range(1, changes + 1):
        root = tmp_path / str(nth)
        state, _ = trial(lambda root=root: work(root), nth)  # type: ignore[misc]
        assert state == "killed", nth
        place = root / "stage" / request().key
        complete = place.exists()
        stage, warnings = Stage(), list[str]()
        entry = obtain(root, stage, warnings)
        assert warnings == [], nth
        assert entry.digest == whole.digest
        assert stage.runs == (0 if complete else 1), nth  # what was complete is not repeated
        assert leftovers(root) == [], nth


def test_kill_while_a_damaged_entry_is_replaced(tmp_path: Path) -> None:
    def prepare(root: Path) -> None:
        entry = obtain(root, Stage())
        (entry.folder / "b.json").chmod(0o644)
        (entry.folder / "b.json").write_bytes(b"[]")

    prepare(tmp_path / "count")
    state, changes = trial(lambda: obtain(tmp_path / "count", Stage()))
    assert state == "done"
    for nth in range(1, changes + 1):
        root = tmp_path / str(nth)
        prepare(root)
        trial(lambda root=root: obtain(root, Stage()), nth)  # type: ignore[misc]
        assert obtain(root, Stage()).files["b.json"].bytes == 2
        assert obtain(root, Stage()).reused
        assert leftovers(root) == [], nth


def test_two_builds_of_the_same_thing_make_it_once(tmp_path: Path) -> None:
    started, release = threading.Event(), threading.Event()
    runs, warnings = [], list[str]()
    waiting = threading.Event()

    def slow(folder: Path) -> Made:
        runs.append(1)
        (folder / "x").write_bytes(b"x")
        started.set()
        assert release.wait(30)
        return Made()

    def warn(line: str) -> None:
        warnings.append(line)
        waiting.set()

    entries = []

    def build() -> None:
        with Cache(tmp_path, warn=warn) as cache:
            entries.append(cache.obtain(request(), slow))

    first = threading.Thread(target=build)
    first.start()
    assert started.wait(30)
    second = threading.Thread(target=build)
    second.start()
    assert waiting.wait(30)
    release.set()
    first.join(30)
    second.join(30)
    assert len(runs) == 1
    assert sorted(entry.reused for entry in entries) == [False, True]
    assert warnings == [f"process {os.getpid()} is busy with the same stage; waiting for it"]


def test_an_entry_in_use_is_not_swept_and_not_replaced(tmp_path: Path) -> None:
    with Cache(tmp_path, warn=print) as cache:
        entry = cache.obtain(request(), Stage())
        with Cache(tmp_path, warn=print) as other:
            assert other.obtain(request(), Stage()).reused
        assert entry.folder.exists()
    assert leftovers(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UsageError) as caught:
        Cache(tmp_path / "file" / "cache", warn=print)
    assert str(tmp_path / "file" / "cache") in caught.value.message
    assert "ENGINEWRIGHT_CACHE" in caught.value.hint
    assert isinstance(caught.value, EnginewrightError)
    monkeypatch.setenv("ENGINEWRIGHT_CACHE", str(tmp_path / "there"))
    assert default_cache_folder() == tmp_path / "there"
