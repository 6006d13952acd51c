"""The package as a Triton repository carries it: imported where `onnx` is not installed."""

from __future__ import annotations

import subprocess
import sys

import enginewright_onnx
import pytest

HEAVY = ["onnx", "ml_dtypes", "safetensors", "torch", "transformers"]


def test_the_runtime_imports_nothing_of_the_compiler() -> None:
    code = (
        "import sys\n"
        f"for name in {HEAVY!r}: sys.modules[name] = None\n"
        "import enginewright_onnx, enginewright_onnx.runtime\n"
        "assert not [name for name in sys.modules if name.startswith('enginewright_onnx.engine_writer')]\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", enginewright_onnx.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(enginewright_onnx, name).__name__ == name


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        enginewright_onnx.no_such_name  # noqa: B018
