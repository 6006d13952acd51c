"""Everything that can be known wrong about a target without a GPU, in well under a second.

`preflight` looks at the target and the model's dimensions. `check_checkpoint_config`, `check_build_flags`,
`check_repository` and `check_environment` look at what exists later: a checkpoint, a command line, a rendered
repository, the machine that serves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from enginewright_model import ModelSpec

from enginewright_trtllm.finding import Finding
from enginewright_trtllm.preflight_rules import context, memory, parallelism, quantization, serving
from enginewright_trtllm.target import TrtllmTarget

__all__ = ["RULES", "Rule", "preflight"]

Rule = Callable[[TrtllmTarget, ModelSpec], Iterator[Finding]]

RULES: tuple[Rule, ...] = (
    serving.check_release,
    serving.check_gpu_name,
    parallelism.check_split,
    parallelism.check_gpu_count,
    parallelism.check_nodes,
    quantization.check_int4_architecture,
    quantization.check_fp8_architecture,
    quantization.check_known_architecture,
    quantization.check_group_size,
    quantization.check_fp8_kv,
    context.check_yarn,
    context.check_native_reach,
    context.check_short_texts,
    context.check_checkpoint_scaling,
    context.check_rope_theta,
    context.check_chunked_context,
    serving.check_batch,
    serving.check_queue,
    serving.check_kv_fraction,
    memory.check_device_memory,
    memory.check_host,
)


def preflight(target: TrtllmTarget, dims: ModelSpec) -> tuple[Finding, ...]:
    """Findings of all rules, errors first. Raises nothing."""
    findings = [finding for rule in RULES for finding in rule(target, dims)]
    return tuple(sorted(findings, key=lambda finding: finding.severity != "error"))
