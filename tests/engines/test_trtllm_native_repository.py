"""A repository packaged for /models, served from where it is."""

from __future__ import annotations

from pathlib import Path

import pytest
from enginewright_errors import UsageError
from enginewright_trtllm.native_repository import place_repository
from enginewright_trtllm.readable import unreadable
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc.model_config_pb2 import ModelConfig
from trtllm_built import write_built


def engine_path(folder: Path) -> str:
    config = text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), ModelConfig())
    return str(config.parameters["gpt_model_path"].string_value)


@pytest.mark.parametrize("name", ["plain", 'wi"th quote', "with \\ and \t", "ümlaut"])
def test_configs_name_engines_where_they_are(name: str, tmp_path: Path) -> None:
    built = write_built(tmp_path / "built", recipe="qwq-32b-int4-awq-yarn")
    placed = place_repository(built, tmp_path / name)
    assert {path.name for path in placed.iterdir()} == {"llm", "tensorrt_llm", "tensorrt_llm_long"}
    for model in ("tensorrt_llm", "tensorrt_llm_long"):
        engine = Path(engine_path(placed / model))
        assert engine == placed / model / "1" / "engine"
        assert (engine / "rank0.engine").read_bytes() == b"engine"
    assert (placed / "llm").resolve() == built / "llm"
    assert engine_path(built / "tensorrt_llm") == "/models/tensorrt_llm/1/engine"


def test_the_place_has_to_be_new(tmp_path: Path) -> None:
    built = write_built(tmp_path / "built")
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError):
        place_repository(built, tmp_path / "there")


@settings(deadline=None)
@given(uid=st.integers(0, 5), gid=st.integers(0, 5), mode=st.integers(0, 0o777))
def test_who_may_read_a_file_is_told_by_owner_group_and_others(
    uid: int, gid: int, mode: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("modes")
    file = folder / "file"
    file.touch()
    file.chmod(mode)
    owner, group = file.stat().st_uid, file.stat().st_gid
    folder.chmod(0o755)
    bit = 0o400 if uid == owner else 0o040 if gid == group else 0o004
    assert unreadable(folder, f"{uid}:{gid}") == (None if mode & bit else file)


def test_a_folder_that_cannot_be_entered_is_named(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir(mode=0o700)
    tmp_path.chmod(0o755)
    assert unreadable(tmp_path, "1000:1000") == tmp_path / "inner"


def test_ports_leave_one_for_probes_and_are_two() -> None:
    from enginewright_trtllm.launch import make_ports

    assert make_ports(8001, 8002).http == 8000
    assert make_ports(8000, 8003).http == 8004
    with pytest.raises(UsageError, match="are both 9000"):
        make_ports(9000, 9000)
