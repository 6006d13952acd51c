"""The ONNX engine: compile a quantized checkpoint into an ONNX graph, and run it with in-flight batching.

`write_engine` is the compile side and needs `onnx`; `enginewright_onnx.runtime` is the serving side and needs
numpy and onnxruntime alone. A packaged repository carries a copy of this package to a machine that has no
`onnx`, so the names below are resolved on first use (PEP 562) and importing the package imports nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enginewright_onnx.engine_writer import EngineSummary, write_engine
    from enginewright_onnx.options import EngineOptions, LongContext

__all__ = ["EngineOptions", "EngineSummary", "LongContext", "write_engine"]

_HOME = {
    "EngineOptions": "options",
    "EngineSummary": "engine_writer",
    "LongContext": "options",
    "write_engine": "engine_writer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
