"""A machine with GPUs for tests: a PATH with a builder, docker and nvidia-smi that say what a test wants."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

BUILDER = Path(__file__).with_name("fake_trtllm_build.py")
H100 = "NVIDIA H100 80GB HBM3, 81559, 9.0"

# docker run: the builder with the mounts' folders of the host; every call is noted.
_DOCKER = """\
import json, os, sys
with open({calls!r}, "a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] != "run":
    sys.exit(0)
mounts = [sys.argv[index + 1] for index, word in enumerate(sys.argv) if word == "--mount"]
folders = {{fields["dst"]: fields["src"] for fields in
           (dict(part.split("=", 1) for part in mount.split(",") if "=" in part) for mount in mounts)}}
words = sys.argv[sys.argv.index("trtllm-build") + 1 :]
os.execv(sys.executable, [sys.executable, {builder!r}, *(folders.get(word, word) for word in words)])
"""


class GpuHost:
    """`path` for PATH, and for PYTHONPATH `site`, where the builder's Python finds its versions."""

    def __init__(self, root: Path) -> None:
        self.path, self.site = root / "bin", root / "site"
        self.calls = root / "docker-calls"
        self.path.mkdir(parents=True)
        self.site.mkdir()
        self.gpus()
        self.versions("1.2.1", "10.14.1.48")

    def gpus(self, *lines: str) -> None:
        """What nvidia-smi lists; nothing is a machine without its driver."""
        text = "\n".join(lines)
        self._script("nvidia-smi", f"import sys\nprint({text!r})\nsys.exit({0 if lines else 9})")

    def versions(self, tensorrt_llm: str, tensorrt: str) -> None:
        for name, version in (("tensorrt_llm", tensorrt_llm), ("tensorrt", tensorrt)):
            for old in self.site.glob(f"{name}-*.dist-info/METADATA"):
                old.unlink()
                old.parent.rmdir()
            folder = self.site / f"{name}-{version}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")

    def builder(self) -> None:
        run = f"os.execv(sys.executable, [sys.executable, {str(BUILDER)!r}, *sys.argv[1:]])"
        self._script("trtllm-build", f"import os, sys\n{run}")

    def note_pid(self, file: Path) -> None:
        """A builder that writes its process id to `file`."""
        run = f"os.execv(sys.executable, [sys.executable, {str(BUILDER)!r}, *sys.argv[1:]])"
        note = f"open({str(file)!r}, 'w').write(str(os.getpid()))"
        self._script("trtllm-build", f"import os, sys\n{note}\n{run}")

    def docker(self) -> None:
        self._script("docker", _DOCKER.format(calls=str(self.calls), builder=str(BUILDER)))

    def docker_calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.calls.read_text().splitlines()]

    def environment(self) -> dict[str, str]:
        return {
            "PATH": f"{self.path}:/usr/bin:/bin",
            "PYTHONPATH": f"{self.site}:{os.environ.get('PYTHONPATH', '')}",
        }

    def _script(self, name: str, text: str) -> None:
        file = self.path / name
        file.write_text(f"#!{sys.executable}\n{text}\n")
        file.chmod(0o755)
