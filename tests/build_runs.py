"""Builds of a tiny model for tests, with what was printed and what a failed one must not leave."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from enginewright.load_recipe import load_recipe, parse_set
from enginewright.pipeline import BuildResult, build
from enginewright.progress import PlainReporter
from enginewright.recipe import Recipe
from enginewright_errors import EnginewrightError

STAGES = ["quantize", "compile", "verify", "report", "package"]
EASY = (
    "verify={samples: 1, length: 16, max_kl: 10.0, min_top1: 0.0}",
    "report={samples: 1, length: 16, prompts: 1, answer_tokens: 4, items: 1}",
    "gate={max_kl: 10.0, min_top1: 0.0, max_perplexity_ratio: 100.0}",
    "quantization.format=none",
)


def recipe(checkpoint: Path, *settings: str) -> Recipe:
    return load_recipe(str(checkpoint), [parse_set(text) for text in (*EASY, "name=tiny", *settings)])


class Run:
    """Builds into one root, and what was printed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.out = root / "out"
        self.text = ""

    def __call__(self, checkpoint: Path, *settings: str, **arguments: Any) -> BuildResult:
        stream = io.StringIO()
        try:
            return build(
                recipe(checkpoint, *settings),
                self.out,
                reporter=PlainReporter(stream, stream),
                cache_folder=self.root / "cache",
                read_bandwidth=4e10,
                **arguments,
            )
        finally:
            self.text = stream.getvalue()

    def fails(
        self, kind: type[EnginewrightError], checkpoint: Path, *settings: str, **arguments: Any
    ) -> EnginewrightError:
        """The error of a build that must leave nothing in the way of the next one."""
        there = {path.name for path in self.root.iterdir()}
        with pytest.raises(kind) as caught:
            self(checkpoint, *settings, **arguments)
        assert {path.name for path in self.root.iterdir()} <= there | {"cache", "out.rejected"}
        for name in ("tmp", "locks"):
            folder = self.root / "cache" / name
            assert not folder.exists() or list(folder.iterdir()) == []
        assert "\n" not in caught.value.message + caught.value.hint
        assert caught.value.hint
        return caught.value

    @property
    def manifest(self) -> bytes:
        return (self.out / "manifest.json").read_bytes()

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.startswith("warning: ")]


def flip(file: Path) -> None:
    """Change one bit, silently: size and times stay."""
    status = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    with file.open("r+b") as stream:
        stream.write(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
