"""The output folder: replaced in one step, by one build at a time, and only if it is a build."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from enginewright import output as output_module
from enginewright.durable import exchange, json_bytes, link_or_copy
from enginewright.output import OutputFolder, link_tree
from enginewright_errors import StageFailed, UsageError
from kill_points import trial


def fill(version: str) -> object:
    def write(folder: Path) -> None:
        (folder / "manifest.json").write_text(version)
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text(version * 100)

    return write


def build(path: Path, version: str) -> None:
    with OutputFolder(path) as output:
        output.publish(fill(version))  # type: ignore[arg-type]


def version(path: Path) -> str:
    """The version in `path`, which must be whole."""
    text = (path / "manifest.json").read_text()
    assert (path / "model" / "weights").read_text() == text * 100
    return text


def test_a_build_appears_and_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    build(out, "1")
    assert version(out) == "1"
    build(out, "2")
    assert version(out) == "2"
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    (tmp_path / "empty").mkdir()
    build(tmp_path / "empty", "3")
    assert version(tmp_path / "empty") == "3"


def test_without_exchange_in_the_file_system_it_works_through_a_third_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "exchange", lambda first, second: False)
    build(tmp_path / "out", "1")
    build(tmp_path / "out", "2")
    assert version(tmp_path / "out") == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failed_or_interrupted_build_leaves_the_old_one(tmp_path: Path) -> None:
    build(tmp_path / "out", "1")
    for error in (ValueError, KeyboardInterrupt):

        def fail(folder: Path, error: type[BaseException] = error) -> None:
            (folder / "manifest.json").write_text("half")
            raise error

        with pytest.raises(error), OutputFolder(tmp_path / "out") as output:
            output.publish(fail)
        assert version(tmp_path / "out") == "1"
        assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("at_once", [True, False])
def test_kill_at_every_change_leaves_a_whole_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    if not at_once:
        monkeypatch.setattr(output_module, "exchange", lambda first, second: False)
    build(tmp_path / "count", "1")
    state, changes = trial(lambda: build(tmp_path / "count", "2"))
    assert state == "done"
    for nth in range(1, changes + 1):
        out = tmp_path / str(nth) / "out"
        build(out, "1")
        assert trial(lambda out=out: build(out, "2"), nth)[0] == "killed"  # type: ignore[misc]
        if at_once:
            assert version(out) in ("1", "2")
        with OutputFolder(out):  # starting again is enough to have a whole version back
            assert version(out) in ("1", "2")
        build(out, "3")
        assert version(out) == "3"
        assert [path.name for path in out.parent.iterdir()] == ["out"], nth


def test_what_is_no_build_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("x")
    for name, says in (("home", "holds something that is no build"), ("file", "is a file")):
        with pytest.raises(UsageError, match=says) as caught, OutputFolder(tmp_path / name):
            pass
        assert "--output" in caught.value.hint
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "home"]


def test_two_builds_into_one_output_the_second_names_the_first(tmp_path: Path) -> None:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        with OutputFolder(tmp_path / "out"):
            os.write(write, b"x")
            signal.pause()
    os.read(read, 1)
    with (
        pytest.raises(StageFailed, match=f"is being written by process {child}"),
        OutputFolder(tmp_path / "out"),
    ):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    build(tmp_path / "out", "1")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    os.close(read)
    os.close(write)


def test_an_output_that_cannot_be_written_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"out cannot be written: .*file") as caught:
        build(tmp_path / "file" / "out", "1")
    assert caught.value.code == "output-not-writable"


@pytest.mark.parametrize("name", ["/", "loop/out", "~nobody-of-that-name/out"])
def test_an_output_that_no_folder_can_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    path = Path(name) if name.startswith("~") else tmp_path / name
    with pytest.raises(UsageError, match="the output") as caught, OutputFolder(path):
        pass
    assert caught.value.code == "output-not-writable"


def test_links_share_bytes_and_fall_back_to_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source" / "deep").mkdir(parents=True)
    (tmp_path / "source" / "deep" / "a").write_bytes(b"a" * 1000)
    for name in ("linked", "copied"):
        (tmp_path / name).mkdir()
    link_tree(tmp_path / "source", tmp_path / "linked")
    assert (tmp_path / "linked" / "deep" / "a").samefile(tmp_path / "source" / "deep" / "a")

    def refuse(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    link_tree(tmp_path / "source", tmp_path / "copied")
    assert (tmp_path / "copied" / "deep" / "a").read_bytes() == b"a" * 1000
    assert not (tmp_path / "copied" / "deep" / "a").samefile(tmp_path / "source" / "deep" / "a")
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "nowhere", tmp_path / "copied")
    with pytest.raises(OSError, match="No such file"):
        link_or_copy(tmp_path / "nowhere", tmp_path / "x")


def test_json_files_have_one_form() -> None:
    assert json_bytes({"b": 1, "a": "é"}) == b'{\n  "a": "\\u00e9",\n  "b": 1\n}\n'
