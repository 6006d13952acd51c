"""Disks that are full and folders that cannot be written: one clear line, and nothing half-written."""

from __future__ import annotations

import ctypes
import os
import resource
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from build_runs import Run
from enginewright.cache import Cache
from enginewright.output import OutputFolder
from enginewright_errors import DoesNotFit, StageFailed, UsageError
from kill_points import trial


@pytest.fixture(scope="module")
def checkpoint(tiny: Callable[..., Path]) -> Path:
    return tiny(arch="qwen2", hidden=64, intermediate=128, layers=1, heads=2, kv_heads=1)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Every write beyond `size` bytes of a file fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("settings", "stage"),
    [
        ((), "quantize"),
        (("engine.max_batch_size=2",), "compile"),
        (("serving.max_queue=7",), "package"),
    ],
)
def test_a_disk_that_fills_up_in_a_stage(
    checkpoint: Path, tmp_path: Path, settings: tuple[str, ...], stage: str
) -> None:
    run = Run(tmp_path)
    if settings:
        run(checkpoint)
        before = run.manifest
    with largest_file(4096):
        error = run.fails(StageFailed, checkpoint, *settings)
    assert error.code == "disk-full"
    assert error.message.startswith(f"{stage}: the disk of {tmp_path / 'cache'} is full")
    assert "--output" in error.hint
    if settings:
        assert run.manifest == before, "the last good build stays"
    assert run(checkpoint, *settings).changed


def test_a_disk_that_fills_up_at_the_very_end(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything is in the cache, and there is no room for the manifest."""
    run = Run(tmp_path)
    run(checkpoint)
    run.out.rename(tmp_path / "moved")
    with largest_file(1000):
        error = run.fails(StageFailed, checkpoint)
    assert error.code == "disk-full"
    assert error.message.startswith(f"output: the disk of {run.out} is full")
    assert not run.out.exists()
    run(checkpoint)
    assert run.manifest == (tmp_path / "moved" / "manifest.json").read_bytes()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB, where this user may mount one."""
    libc, folder = ctypes.CDLL(None, use_errno=True), tmp_path / "disk"
    folder.mkdir()
    if libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, b"size=2m") != 0:
        pytest.skip("mounting needs root")
    yield folder
    libc.umount2(os.fsencode(folder), 2)


def test_a_small_disk_is_seen_by_the_plan_and_ends_in_one_line(
    checkpoint: Path, tmp_path: Path, small_disk: Path
) -> None:
    run = Run(tmp_path)
    run.out = small_disk / "out"
    run(checkpoint)  # another disk than the cache's: the repository is copied there
    before = run.manifest
    (small_disk / "ballast").write_bytes(bytes(800_000))
    other = "serving.max_queue=7"
    assert "of disk for the output" in run.fails(DoesNotFit, checkpoint, other).message
    error = run.fails(StageFailed, checkpoint, other, force=True)
    assert error.code == "disk-full"
    assert str(run.out) in error.message
    assert sorted(path.name for path in small_disk.iterdir()) == ["ballast", "out"]
    assert run.manifest == before
    assert not run(checkpoint).changed, "a build that is there needs no room"


def test_folders_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    """As an ordinary user: root may write anywhere."""
    parent = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        parent.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH)

        def attempt() -> None:
            if os.getuid() == 0:
                os.setresuid(65534, 65534, 65534)
            with pytest.raises(UsageError, match="out cannot be written: Permission denied") as caught:
                OutputFolder(parent / "out").__enter__()
            assert caught.value.exit_code == 2
            assert "--output" in caught.value.hint
            with pytest.raises(UsageError, match="cache cannot be written: Permission denied"):
                Cache(parent / "cache", warn=print)

        assert trial(attempt)[0] == "done"
        assert list(parent.iterdir()) == []
    finally:
        parent.rmdir()
