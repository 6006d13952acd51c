"""The README tells the truth: its commands are run here, its recipe and its Python are the real ones."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from enginewright_serve.ports import choose_ports
from runtime.commands import Command

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
REPOSITORY = "models/smollm2-135m-int4-awq"

# What each command of the README must say when it is run; `make` itself runs these tests.
RUN_HERE = {
    "build-engine smollm2-135m-int4-awq": "built: ",
    "build-engine smollm2-135m-int4-awq --plan": "one stream decodes",
    "build-engine ./Qwen2.5-0.5B-Instruct --qformat fp8": "built: ",
    "enginewright check qwq-32b-fp8-h100": "preflight: no findings",
    f"enginewright verify {REPOSITORY}": "",
    f"enginewright report {REPOSITORY} --html report.html --markdown card.md": "The gate held.",
    "enginewright compare ./Qwen2.5-0.5B-Instruct --formats int4_awq,fp8,none --html formats.html": "fp8",
}
LOAD = "--concurrency 1,8 --input-tokens 128 --output-tokens 64"
BENCH = f"enginewright bench --repository {REPOSITORY} {LOAD}"
RUN_ELSEWHERE = {
    "make demo": "test_demo_builds_serves_asks_and_stops",
    "build-engine my-model.yaml": "test_a_misspelt_field_is_answered_as_shown",
    f"enginewright serve {REPOSITORY}": "test_serve_ask_and_the_python_example",
    'enginewright ask "What is the capital of France?"': "test_serve_ask_and_the_python_example",
    BENCH: "test_the_benchmark_has_the_columns_that_are_shown",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> set[str]:
    """What follows the prompt in the console blocks, without comments."""
    lines = (line for block in blocks("console") for line in block.splitlines())
    return {line[2:].partition("  #")[0].rstrip() for line in lines if line.startswith("$ ")}


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program, *arguments = command.split()
    return subprocess.run(
        [BIN / program, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Path]) -> Path:
    """A user's working folder with a checkpoint in it, and the demo's repository built."""
    folder = tmp_path_factory.mktemp("user")
    # Random weights lose more than a trained model does: one layer of them keeps the default gate.
    shutil.copytree(tiny(arch="qwen2", layers=1, tied=True), folder / "Qwen2.5-0.5B-Instruct")
    built = run("build-engine smollm2-135m-int4-awq", folder)
    assert built.returncode == 0, built.stderr
    return folder


def test_every_command_of_the_readme_is_run_by_a_test() -> None:
    assert commands() == {*RUN_HERE, *RUN_ELSEWHERE}
    assert all(name in globals() for name in RUN_ELSEWHERE.values())


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", RUN_HERE)
def test_the_command_does_what_the_readme_says(command: str, folder: Path) -> None:
    ended = run(command, folder)
    assert ended.returncode == 0, ended.stderr
    # A repository that is there already is unchanged.
    assert RUN_HERE[command] in ended.stdout.replace("unchanged: ", "built: ")


def test_the_recipe_is_the_bundled_one() -> None:
    assert (ROOT / "build/recipes/smollm2-135m-int4-awq.yaml").read_text() in blocks("yaml")


def test_a_misspelt_field_is_answered_as_shown(tmp_path: Path) -> None:
    text = "name: my-model\ncheckpoint: {source: org/name}\nquantisation: {format: fp8}\n"
    (tmp_path / "my-model.yaml").write_text(text)
    ended = run("build-engine my-model.yaml", tmp_path)
    assert ended.returncode == 2
    answer = ended.stderr.replace(f"{tmp_path}/", "")
    assert f"$ build-engine my-model.yaml\n{answer}" in blocks("console")


@pytest.mark.timeout(1800)
def test_demo_builds_serves_asks_and_stops(folder: Path) -> None:
    ended = run("enginewright demo", folder)
    assert ended.returncode == 0, ended.stderr
    assert "Paris" in ended.stdout
    assert re.search(r"^stop +done", ended.stdout, re.MULTILINE)


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[str]:
    """The gRPC address of `enginewright serve`, on ports of its own instead of 8001 and 8002."""
    port, metrics = choose_ports("127.0.0.1", {"--grpc-port": None, "--metrics-port": None})
    arguments = ("serve", REPOSITORY, "--grpc-port", str(port), "--metrics-port", str(metrics))
    with Command(folder, *arguments) as server:
        server.prints("enginewright ask")
        yield f"127.0.0.1:{port}"
        server.interrupt()
        assert server.code() == 130


@pytest.mark.timeout(1800)
def test_serve_ask_and_the_python_example(
    served: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = "What is the capital of France?"
    asked = subprocess.run(
        [BIN / "enginewright", "ask", question, "--server", served, "--temperature", "0"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Paris" in asked.stdout
    [example] = blocks("python")
    exec(example.replace("127.0.0.1:8001", served), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.timeout(1800)
def test_the_benchmark_has_the_columns_that_are_shown(served: str, folder: Path) -> None:
    ended = run(f"{BENCH} --requests 8 --warmup 1 --server {served}", folder)
    assert ended.returncode == 0, ended.stderr
    [header] = re.findall(r"^load .*$", ended.stdout, re.MULTILINE)
    shown = re.findall(r"^load .*$", README, re.MULTILINE)
    assert [header.split()] == [line.split() for line in shown]
    assert "of 8" in ended.stdout
