"""Versions of what computes: an edited source is another stage, and so is an edited helper of it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from enginewright.versions import code_version, library_version, stage_versions


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "enginewright_sample"
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('read, not imported')\n")
    (folder / "stage.py").write_text(
        "from enginewright_sample.helper import x\n"
        "def work():\n"
        "    from enginewright_sample.deep import late\n"
        "    import os, numpy, no_such_library\n"
    )
    (folder / "helper.py").write_text("import enginewright_sample.stage\nx = 1\n")
    (folder / "deep" / "late.py").write_text("y = 1\n")
    (folder / "stranger.py").write_text("z = 1\n")
    code_version.cache_clear()
    return folder


def version(name: str) -> str:
    code_version.cache_clear()
    return code_version(name)


@pytest.mark.parametrize("edited", ["stage.py", "helper.py", "deep/late.py"])
def test_an_edit_anywhere_below_a_stage_changes_its_version(package: Path, edited: str) -> None:
    first = version("enginewright_sample.stage")
    assert "enginewright_sample" not in sys.modules
    (package / edited).write_text((package / edited).read_text() + "# edited\n")
    assert version("enginewright_sample.stage") != first


def test_an_edit_elsewhere_does_not(package: Path) -> None:
    module, whole = version("enginewright_sample.stage"), version("enginewright_sample")
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "stage.pyc").write_bytes(b"x")
    assert version("enginewright_sample") == whole
    (package / "stranger.py").write_text("z = 2\n")
    assert version("enginewright_sample.stage") == module
    assert version("enginewright_sample") != whole


def test_modules_and_libraries_by_name() -> None:
    versions = stage_versions(code=("enginewright.units",), libraries=("pydantic", "no-such-thing"))
    assert versions["no-such-thing"] == "absent"
    assert versions["pydantic"] == library_version("pydantic") != "absent"
    assert len(versions["enginewright.units"]) == 16
    with pytest.raises(ModuleNotFoundError):
        code_version("enginewright.no_such_module")
