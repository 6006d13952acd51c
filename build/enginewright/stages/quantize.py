"""Source checkpoint in, quantized checkpoint out: ModelOpt calibrates, quantizes and exports.

The result is ModelOpt's unified Hugging Face checkpoint, completed (`export_checkpoint`) and compared with
its source (`export_check`). It depends on the source, the recipe, the versions of torch, transformers and
ModelOpt, and, in the last bits of the scales, on the CPU and the number of threads.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from enginewright_errors import CheckpointError, StageFailed
from numpy.typing import NDArray

from enginewright.calibration import load_calibration
from enginewright.calibration_device import calibration_device
from enginewright.checkpoint import Checkpoint
from enginewright.export_check import check_export
from enginewright.export_checkpoint import complete_export, name_kept_layers, source_dtype
from enginewright.load_model import load_model
from enginewright.modelopt_config import CALIBRATION_PASSES, check_group_size, modelopt_config
from enginewright.recipe import QuantizationRecipe
from enginewright.torch_session import torch_session

__all__ = ["QuantizationSummary", "quantize"]

Progress = Callable[[int, int], None]

# Tokens a forward pass. AWQ quantizes every weight anew for each pass, so few long ones are quickest;
# beyond this the activations of a wide model need more memory than they save time.
_BATCH_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class QuantizationSummary:
    """What a report says about a quantization; None where nothing was calibrated.

    calibration_sha256: of the token ids. worst_error: largest relative error (Frobenius) of a linear's
    weights.
    """

    calibration_sha256: str | None
    worst_error: float | None
    worst_linear: str | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def quantize(
    source: Checkpoint,
    out: Path,
    options: QuantizationRecipe,
    progress: Progress | None = None,
    *,
    fp8_kv: bool = False,
    use_gpu: bool = False,
    threads: int | None = None,
) -> QuantizationSummary:
    """Write the quantized checkpoint of `source` into the empty folder `out`.

    `progress(done, total)` counts decoder layers over all calibration passes; for format "none", bytes.
    fp8_kv: with scales for an FP8 KV cache. use_gpu: calibrate on a GPU where one has room for the weights.

    Raises:
        RecipeError: a group size that does not divide, or calibration data that cannot be used.
        CheckpointError: weights with NaN or infinity.
        StageFailed: the model does not load, ModelOpt failed, or what it wrote does not resemble the source.
    """
    check_group_size(source.spec, options)
    out.mkdir(parents=True, exist_ok=True)
    if options.format == "none":
        _copy_weights(source, out, progress)
        complete_export(source, out)
        return QuantizationSummary(None, None, None)
    calibration = load_calibration(options.calibration, source.folder)
    with torch_session(threads):
        model = load_model(source)
        model.to(calibration_device(model.get_memory_footprint()) if use_gpu else "cpu")
        _check_finite(model)
        _calibrate(model, options, calibration.ids, progress, fp8_kv=fp8_kv)
        _export(model, source, out)
    complete_export(source, out)
    name_kept_layers(out, options.keep_layers)
    check = check_export(source, out, options.format, options.keep_layers)
    return QuantizationSummary(calibration.sha256, round(check.worst_error, 6), check.worst_linear)


def _copy_weights(source: Checkpoint, out: Path, progress: Progress | None) -> None:
    """Copies, not links: the cache makes what it keeps read-only, and the user's files are not its own."""
    files = [
        path for path in source.files if path in source.weight_files or path.name.endswith(".index.json")
    ]
    total, done = sum(path.stat().st_size for path in files), 0
    for path in files:
        shutil.copyfile(path, out / path.name)
        done += path.stat().st_size
        if progress:
            progress(done, total)


def _check_finite(model: Any) -> None:
    """NaN and infinity are said here by name: further on they are an assertion about some `amax`."""
    import torch

    for name, parameter in model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise CheckpointError(
                f"{name} holds values that are NaN or infinite",
                code="weights-not-finite",
                hint="the checkpoint is damaged: download it again, or ask whoever trained it",
            )


def _calibrate(
    model: Any,
    options: QuantizationRecipe,
    ids: NDArray[np.int32],
    progress: Progress | None,
    *,
    fp8_kv: bool,
) -> None:
    import modelopt.torch.quantization as mtq
    import torch

    # As equal as can be: AWQ weighs every batch alike.
    count = -(-len(ids) // max(1, _BATCH_TOKENS // ids.shape[1]))
    batches = [torch.from_numpy(part.astype(np.int64)) for part in np.array_split(ids, count)]

    def forward_loop(calibrated: Any) -> None:
        for batch in batches:
            # The decoder alone: nothing is calibrated on the logits, and they are the largest tensor.
            calibrated.model(batch.to(calibrated.device), use_cache=False)

    steps = CALIBRATION_PASSES[options.format] * len(batches) * len(model.model.layers)
    with _layer_progress(model, steps, progress), _as_stage_failure("quantize"):
        mtq.quantize(model, modelopt_config(options, fp8_kv=fp8_kv), forward_loop)


def _export(model: Any, source: Checkpoint, out: Path) -> None:
    """Export in the source's dtype: embeddings and norms keep their size, quantized weights do not mind."""
    import torch
    from modelopt.torch.export import export_hf_checkpoint

    dtype = getattr(torch, source_dtype(source))
    # Not `model.to(dtype)`: the quantizers' statistics become the scales, and stay in float32.
    scales = (buffer for name, buffer in model.named_buffers() if name.endswith("_pre_quant_scale"))
    for tensor in (*model.parameters(), *scales):
        tensor.data = tensor.data.to(dtype)
    with _as_stage_failure("export"):
        export_hf_checkpoint(model, dtype=dtype, export_dir=out)


@contextmanager
def _layer_progress(model: Any, total: int, progress: Progress | None) -> Iterator[None]:
    done = 0

    def count(*_: Any) -> None:
        nonlocal done
        done += 1
        if progress:
            progress(min(done, total), total)

    handles = [layer.register_forward_hook(count) for layer in model.model.layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _as_stage_failure(what: str) -> Iterator[None]:
    """ModelOpt's failures are of every type there is; memory and interrupts are passed on."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        raise StageFailed(
            f"{what}: ModelOpt failed: {type(error).__name__}: {str(error)[:500]}",
            code="modelopt",
            hint="see the cause with --debug; a smaller model or another format may work",
        ) from error
