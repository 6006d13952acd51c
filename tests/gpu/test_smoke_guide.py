"""The guide for a GPU cannot rot: its commands parse, its plan is today's, its container the pinned one."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from enginewright.app import app, build_engine_app
from enginewright_trtllm.versions import container_image
from gpu import measure, score_answer

GUIDE = Path(__file__).with_name("smoke.md").read_text(encoding="utf-8")
ROOT = Path(__file__).parent.parent.parent


def commands() -> list[list[str]]:
    """The words of each command after a prompt, up to a pipe or a redirection."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            assert line.startswith("$ "), line
            words = shlex.split(line[2:])
            ends = [index for index, word in enumerate(words) if word in ("|", ">", "<")]
            found.append(words[: ends[0]] if ends else words)
    return found


def ours(program: str) -> list[list[str]]:
    return [words[1:] for words in commands() if words[0] == program]


def parse(program: typer.Typer, words: list[str]) -> None:
    """Raises click's error for a command, flag or value that is not there; runs nothing."""
    command: Any = typer.main.get_command(program)
    if hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    command.make_context(command.name, words)


@pytest.mark.parametrize("words", ours("enginewright"), ids=" ".join)
def test_enginewright_takes_each_command_of_the_guide(words: list[str]) -> None:
    parse(app, words)


@pytest.mark.parametrize("words", ours("build-engine"), ids=" ".join)
def test_build_engine_takes_each_command_of_the_guide(words: list[str]) -> None:
    parse(build_engine_app, words)


@pytest.mark.parametrize("program", [app, build_engine_app], ids=["enginewright", "build-engine"])
def test_a_flag_that_is_not_there_would_be_found(program: typer.Typer) -> None:
    command = ["check"] if program is app else []
    with pytest.raises(Exception, match=r"(?i)no such option: --contaner"):
        parse(program, [*command, "qwq-32b-fp8-h100", "--contaner"])


def test_the_scripts_and_recipes_of_the_guide_are_there_and_take_its_arguments() -> None:
    scripts = ours("python")
    assert {words[0] for words in scripts} == {"tests/gpu/score_answer.py"}
    for words in scripts:
        score_answer.parser().parse_args(words[1:])
    [arguments] = re.findall(r'make gpu GPU_ARGS="([^"]*)"', GUIDE)
    measure.parser().parse_args(shlex.split(arguments))
    assert (ROOT / "build/recipes/qwq-32b-fp8-h100.yaml").is_file()


def test_the_plan_of_the_guide_is_today_s() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("enginewright"), "check", "qwq-32b-fp8-h100"],
        capture_output=True,
        text=True,
        check=True,
    )
    [quoted] = re.findall(r"These lines are today's:\n\n```\n(.*?)```", GUIDE, re.DOTALL)
    assert set(quoted.splitlines()) <= set(checked.stdout.splitlines())
    # What the prose derives from it.
    assert "132,768, up to 165,792" in quoted
    assert f"Allocated {165_792 * 256 / 2**20:.2f} GiB" in GUIDE


def test_the_container_is_the_pinned_one() -> None:
    assert {word for words in commands() for word in words if "nvcr.io" in word} == {container_image()}
