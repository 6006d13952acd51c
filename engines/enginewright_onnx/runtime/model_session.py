"""One ONNX Runtime session over one KV pool: token ids in, logits out, keys and values written in place.

Every input and output is memory of ours, bound by address. The bindings of a run of rows hold 4 tensors a
layer and take 0.4 ms to make, so they are made once; a step writes numbers into arrays that are bound
already. Addresses are not checked by ONNX Runtime: `_check` refuses what would write outside a row. It
also refuses an empty batch, which ends the process (SIGFPE in GroupQueryAttention), and an empty chunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from enginewright_errors import CheckpointError, StageFailed
from numpy.typing import NDArray

from enginewright_onnx.runtime.engine_config import EngineConfig
from enginewright_onnx.runtime.kv_pool import KVPool

# How long a session's threads wait in a loop for more work before they sleep. Measured on 2 cores, 135M INT4,
# ms a step with 1 row and 8: ONNX Runtime's default 5.6, 15.5; 50 us 5.7, 15.6; no spinning 8.5, 18.4. Beside
# busy processes the default takes 1.2 to 2 times as long as 50 us. ONNX Runtime 1.23 ignores the key.
_SPIN_MICROSECONDS = "50"


@dataclass(slots=True)
class _Binding:
    """The bound addresses for a run of rows, and the shape that its small tensors are bound with now."""

    io: Any
    shape: tuple[int, int] = (0, 0)


class ModelSession:
    """Runs the graph of an engine folder (its inputs and outputs are described where it is written)."""

    def __init__(self, session: Any, memory: KVPool, config: EngineConfig) -> None:
        self.memory = memory
        self.config = config
        self._session = session
        self._bindings: dict[tuple[int, int], _Binding] = {}
        tokens = max(memory.slot_tokens, memory.slots)
        self._input_ids = np.zeros(tokens, np.int64)
        self._position_ids = np.zeros(tokens, np.int64)
        self._seqlens_k = np.zeros(memory.slots, np.int32)
        self._total = np.zeros((), np.int32)
        self._logits_rows = np.zeros(tokens, np.int64)
        self._logits = np.zeros((memory.slots, config.vocab_size), np.float32)

    @classmethod
    def open(
        cls,
        engine_dir: Path,
        config: EngineConfig,
        *,
        threads: int | None = None,
        kv_budget_bytes: int | None = None,
    ) -> ModelSession:
        """Load `engine_dir/model.onnx`. threads: of the session; None takes engine.json's, else one a core.

        Raises DoesNotFit before anything is loaded, CheckpointError when the folder is incomplete or does
        not belong to `config`, StageFailed when ONNX Runtime refuses it.
        """
        memory = KVPool(config, kv_budget_bytes)
        path = engine_dir / "model.onnx"
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing", code="engine-missing", hint="give the folder that build-engine wrote"
            )
        # ONNX Runtime 1.32's tiled attention stays on: with ORT_GQA_DISABLE_FLASH_ATTENTION=1 a prefill takes
        # 0.93 of the time and a decode step 0.93 to 1.02, but memory grows with chunk x context.
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or config.threads or 0
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_MICROSECONDS)
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise StageFailed(
                f"ONNX Runtime cannot load {path}: {error}",
                code="engine-load",
                hint="build the engine again; check that onnxruntime is at least 1.23",
            ) from error
        _check_graph(path, session, config)
        return cls(session, memory, config)

    def prefill(
        self, row: int, tokens: NDArray[np.int32], *, past: int, rope_offset: int, project: int
    ) -> NDArray[np.float32]:
        """Append `tokens` int32 [S] behind the `past` tokens of `row`.

        Returns logits float32 [project, vocab] of the last `project` tokens, overwritten by the next call.
        """
        length = len(tokens)
        self._check(row, 1, length, past)
        if not 0 <= project <= length:
            raise ValueError(f"project={project} of {length} tokens")
        self._input_ids[:length] = tokens
        self._position_ids[:length] = np.arange(rope_offset + past, rope_offset + past + length)
        self._seqlens_k[0] = past + length - 1
        self._total[...] = past + length
        self._logits_rows[:project] = np.arange(length - project, length)
        return self._run(row, 1, length, project)

    def decode(
        self, tokens: NDArray[np.int64], pasts: NDArray[np.int64], rope_offsets: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Append tokens[i] behind the pasts[i] tokens of row i; all int64 [B], for the rows 0..B-1.

        Returns logits float32 [B, vocab], overwritten by the next call.
        """
        batch = len(tokens)
        longest = int(pasts.max(initial=0))
        self._check(0, batch, 1, longest)
        self._input_ids[:batch] = tokens
        np.add(pasts, rope_offsets, out=self._position_ids[:batch])
        self._seqlens_k[:batch] = pasts
        self._total[...] = longest + 1
        self._logits_rows[:batch] = np.arange(batch)
        return self._run(0, batch, 1, batch)

    def _check(self, first_row: int, batch: int, length: int, past: int) -> None:
        if batch < 1 or length < 1 or past < 0:
            raise ValueError(f"batch={batch}, {length} tokens a row, past={past}: nothing to run")
        if first_row < 0 or first_row + batch > self.memory.slots:
            raise ValueError(f"rows {first_row}..{first_row + batch - 1} of {self.memory.slots}")
        if past + length > self.memory.slot_tokens:
            raise ValueError(f"{past} + {length} tokens, a row holds {self.memory.slot_tokens}")

    def _run(self, first_row: int, batch: int, length: int, project: int) -> NDArray[np.float32]:
        if project > len(self._logits):
            self._logits = np.zeros((project, self.config.vocab_size), np.float32)
            for known in self._bindings.values():
                known.shape = (0, 0)
        binding = self._bindings.get((first_row, batch))
        if binding is None:
            binding = self._bindings[first_row, batch] = self._bind_rows(first_row, batch)
        if binding.shape != (length, project):
            self._bind_step(binding.io, batch, length, project)
            binding.shape = (length, project)
        self._session.run_with_iobinding(binding.io)
        return self._logits[:project]

    def _bind_rows(self, first_row: int, batch: int) -> _Binding:
        io = self._session.io_binding()
        _bind_input(io, "seqlens_k", self._seqlens_k, (batch,))
        _bind_input(io, "total_sequence_length", self._total, ())
        shape = (batch, *self.memory.row_shape)
        for kind, buffers in (("key", self.memory.keys), ("value", self.memory.values)):
            for layer, buffer in enumerate(buffers):
                rows = buffer[first_row : first_row + batch]
                _bind_input(io, f"past_{kind}.{layer}", rows, shape)
                _bind_output(io, f"present_{kind}.{layer}", rows, shape)
        return _Binding(io)

    def _bind_step(self, io: Any, batch: int, length: int, project: int) -> None:
        _bind_input(io, "input_ids", self._input_ids, (batch, length))
        _bind_input(io, "position_ids", self._position_ids, (batch, length))
        _bind_input(io, "logits_rows", self._logits_rows, (project,))
        _bind_output(io, "logits", self._logits, (project, self.config.vocab_size))


def _bind_input(io: Any, name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    io.bind_input(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)


def _bind_output(io: Any, name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    io.bind_output(name, "cpu", 0, array.dtype.type, shape, array.ctypes.data)


def _check_graph(path: Path, session: Any, config: EngineConfig) -> None:
    """Addresses are bound by what engine.json says, so the graph must say the same."""
    shapes = {tensor.name: tensor.shape for tensor in (*session.get_inputs(), *session.get_outputs())}
    row_shape: list[int | None] = [config.num_kv_heads, None, config.head_dim]
    expected: dict[str, list[int | None]] = {
        f"{prefix}_{kind}.{layer}": row_shape
        for layer in range(config.num_layers)
        for prefix in ("past", "present")
        for kind in ("key", "value")
    } | {"logits": [config.vocab_size]}
    for name, shape in expected.items():
        found = shapes.get(name)
        if found is None or any(
            size not in (None, there) for there, size in zip(found[1:], shape, strict=True)
        ):
            raise CheckpointError(
                f"{path}: {name} has shape {found}, engine.json says {shape} a row (None: any)",
                code="engine-damaged",
                hint="build the engine again; its folder was changed",
            )
