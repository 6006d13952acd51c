"""What trtllm-build's errors usually mean. Messages as its sources and its users' logs spell them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Cause", "likely_cause"]

_KILLED = (137, -9)


@dataclass(frozen=True, slots=True)
class Cause:
    """pattern: found in an error line. explanation follows the builder's own words."""

    code: str
    pattern: str
    explanation: str
    remedy: str


_CAUSES = (
    Cause(
        "int4-sm100",
        r"INT8/INT4 quantization is not supported on SM",
        "INT4 weights do not run on this GPU",
        "Use format fp8 here, or build on a GPU of SM 80 to 90.",
    ),
    Cause(
        "config-key-missing",
        r"has no attribute '(seq_length|qwen_type)'|KeyError: '(architecture|qwen_type)'",
        "the checkpoint's config.json lacks a key that TensorRT-LLM reads",
        "Write the checkpoint with enginewright; ModelOpt's exporter leaves qwen_type and seq_length out.",
    ),
    Cause(
        "rope-type",
        r"Unsupported rotary scaling type",
        "rotary_scaling has a type that TensorRT-LLM does not know",
        'Spell it "yarn", in lower case; for plain rope leave rotary_scaling null.',
    ),
    Cause(
        "quantization-key",
        r"QuantConfig\.__init__\(\) got an unexpected keyword",
        "the quantization block of config.json has an unknown key",
        "Remove it, or write the checkpoint again with enginewright.",
    ),
    Cause(
        "tp-heads",
        r"must be divisible by tp_size",
        "the heads do not divide over the ranks",
        "Choose a tp that divides the attention heads; `enginewright check` lists them.",
    ),
    Cause(
        "checkpoint-tensors",
        r"Required but not provided tensors|is not the same shape as the original|tensors? .* not found",
        "the rank files are not what this config needs",
        "Write the checkpoint again; its quantization, tp or group size changed.",
    ),
    Cause(
        "no-gpu",
        r"max_workers must be greater than 0|No CUDA GPUs are available|no CUDA-capable device"
        r"|Found no NVIDIA driver",
        "the builder sees no GPU",
        "Give the container GPUs (--gpus) and check nvidia-smi on the host.",
    ),
    Cause(
        "driver",
        r"CUDA driver version is insufficient|forward compatibility was attempted",
        "the host's driver is older than the container's CUDA",
        "Update the NVIDIA driver of the host.",
    ),
    Cause(
        "device-memory",
        r"CUDA out of memory|OutOfMemory|cudaErrorMemoryAllocation|out of memory",
        "the GPU's memory is not enough to build",
        "Lower max_num_tokens or max_batch_size, raise tp, and build on a GPU that nothing else uses.",
    ),
    Cause(
        "workspace",
        r"requires \d+ bytes of scratch space",
        "an attention workspace grew with max_batch_size x max_num_tokens",
        "Lower max_batch_size or max_num_tokens; keep context_fmha enabled.",
    ),
    Cause(
        "flags",
        r"unrecognized arguments|invalid choice",
        "this trtllm-build has other flags",
        "Build in the pinned container; flags of other releases differ.",
    ),
    Cause(
        "architecture",
        r"Unsupported model architecture|KeyError: '\w+ForCausalLM'",
        "TensorRT-LLM's engine path does not know this architecture",
        "Use a Qwen2 or Llama checkpoint, or target onnx.",
    ),
    Cause("disk", r"No space left on device", "the disk is full", "Free space for engine and timing cache."),
    Cause(
        "permission",
        r"Permission denied|Read-only file system",
        "the builder may not write where it was told to",
        "Create the output folder beforehand, owned by the user that the container runs as.",
    ),
)
_OUT_OF_HOST_MEMORY = Cause(
    "host-memory",
    "",
    "the kernel or the container's limit ended it, most likely for host memory",
    "Build on a machine with more memory, or one rank at a time with --workers 1.",
)


def likely_cause(errors: Sequence[str], tail: Sequence[str], exit_code: int) -> Cause | None:
    """The first cause that the newest errors, then the last lines, speak for; None when none does."""
    for line in (*reversed(errors), *reversed(tail)):
        for cause in _CAUSES:
            if re.search(cause.pattern, line):
                return cause
    return _OUT_OF_HOST_MEMORY if exit_code in _KILLED else None
