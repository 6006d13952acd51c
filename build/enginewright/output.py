"""The output folder of a build: one writer, replaced in one step, never half-written.

A new version is put together in `.NAME.new` beside it and exchanged with it. Files come from the cache by
hard link, so a packaged repository costs no second copy on the same disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from enginewright_errors import StageFailed, UsageError

from enginewright.durable import exchange, flush_folder, flush_tree, link_or_copy, remove_tree
from enginewright.file_lock import FileLock
from enginewright.temporary import temporary_folder

__all__ = ["MANIFEST", "REPORT", "OutputFolder", "link_tree"]

MANIFEST = "manifest.json"
REPORT = "report.json"


class OutputFolder:
    """Holds `path` for one build. Entering it finds out what would stop the publication at the end.

    Raises UsageError for a path that no folder can have, and on entering where it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self.path = path.expanduser().resolve()
            self._beside = self.path.with_name(f".{self.path.name}.new")
        except (RuntimeError, ValueError) as error:  # a loop of links, an unknown ~user, the root
            raise UsageError(
                f"the output cannot be {path}: {error}",
                code="output-not-writable",
                hint="give another --output",
            ) from None
        self._aside = self.path.with_name(f".{self.path.name}.old")
        self._lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        self._held = ExitStack()

    def __enter__(self) -> OutputFolder:
        try:
            self._check_ours()
            if not self._lock.acquire(wait=False):
                raise StageFailed(
                    f"{self.path} is being written by {self._lock.owner()}",
                    code="output-busy",
                    hint="wait for that build, or give another --output",
                )
            self._held.callback(self._lock.release)
            self._recover()
            self._held.enter_context(temporary_folder(self._beside))
        except OSError as error:
            self._held.close()
            raise UsageError(
                f"the output folder {self.path} cannot be written: {error.strerror}: {error.filename}",
                code="output-not-writable",
                hint="give another --output, or make its parent folder writable",
            ) from None
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.close()

    def publish(self, fill: Callable[[Path], None]) -> None:
        """Let `fill` write all there will be into an empty folder, then put that in the place of `path`."""
        fill(self._beside)
        flush_tree(self._beside)
        if not (self.path.exists() and exchange(self._beside, self.path)):
            if self.path.exists():
                self.path.rename(self._aside)
            self._beside.rename(self.path)
        flush_folder(self.path.parent)
        remove_tree(self._aside)

    def _recover(self) -> None:
        if self._aside.exists() and not self.path.exists():  # killed between the two renames of `publish`
            self._aside.rename(self.path)
        remove_tree(self._aside)

    def _check_ours(self) -> None:
        """Replace what a build made, or an empty folder: nothing else."""
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UsageError(
                f"the output {self.path} is a file", code="output-not-a-folder", hint="give another --output"
            )
        if any(self.path.iterdir()) and not (self.path / MANIFEST).is_file():
            raise UsageError(
                f"the output folder {self.path} holds something that is no build ({MANIFEST} is missing)",
                code="output-not-a-build",
                hint="give another --output, or remove that folder yourself",
            )


def link_tree(source: Path, target: Path) -> None:
    """Recreate the tree `source` in the existing folder `target` with hard links to its files."""
    for folder, subfolders, files in os.walk(source):
        there = target / Path(folder).relative_to(source)
        for name in subfolders:
            (there / name).mkdir()
        for name in files:
            link_or_copy(Path(folder, name), there / name)
