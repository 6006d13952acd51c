"""GPUs by name: memory, bandwidth, dense matrix rates, architecture.

Sources: NVIDIA's data sheets (H100, H200, A100, L40S, L4, A10, HGX B200) and the Ada and Blackwell RTX white
papers, dense rates (half of what is printed "with sparsity"), FP32 accumulation for the RTX cards, which
halve their rate with it. `memory_bytes` is the data sheet's gigabytes; `visible_mib` what nvidia-smi and
NVML report for the card (ECC on where it is on by default), which is 0.6 to 7% more. Plans promise by the
first: it also stands for what the driver, fragmentation and a second process take.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from enginewright_errors import RecipeError

__all__ = ["GPUS", "Gpu", "find_gpu", "known_gpus", "lookup_gpu"]

GB = 10**9
TERA = 1e12


@dataclass(frozen=True, slots=True)
class Gpu:
    """bandwidth: bytes a second. *_flops: dense operations a second; fp8_flops None = no FP8 units.
    sm: compute capability times 10."""

    name: str
    memory_bytes: int
    visible_mib: int
    bandwidth: float
    bf16_flops: float
    fp8_flops: float | None
    sm: int
    aliases: tuple[str, ...] = ()

    @property
    def visible_bytes(self) -> int:
        return self.visible_mib * 2**20

    def flops(self, *, fp8: bool) -> float:
        """The matrix rate of a format; without FP8 units FP8 weights are multiplied as BF16."""
        return self.fp8_flops if fp8 and self.fp8_flops is not None else self.bf16_flops


def _gpu(
    name: str,
    gigabytes: int,
    visible_mib: int,
    terabytes_per_second: float,
    bf16: float,
    fp8: float | None,
    sm: int,
    *aliases: str,
) -> Gpu:
    return Gpu(
        name,
        gigabytes * GB,
        visible_mib,
        terabytes_per_second * TERA,
        bf16 * TERA,
        None if fp8 is None else fp8 * TERA,
        sm,
        aliases,
    )


_TABLE = (
    _gpu("H100-80", 80, 81_559, 3.35, 989, 1979, 90, "H100", "H100-SXM", "NVIDIA H100 80GB HBM3"),
    _gpu("H100-80-PCIe", 80, 81_559, 2.0, 756, 1513, 90, "H100-PCIe", "NVIDIA H100 PCIe"),
    _gpu("H200-141", 141, 143_771, 4.8, 989, 1979, 90, "H200", "NVIDIA H200"),
    _gpu("B200-192", 192, 183_359, 8.0, 2250, 4500, 100, "B200", "NVIDIA B200"),
    _gpu(
        "A100-80", 80, 81_920, 2.039, 312, None, 80, "A100", "NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe"
    ),
    _gpu("A100-40", 40, 40_960, 1.555, 312, None, 80, "NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB"),
    _gpu("L40S-48", 48, 46_068, 0.864, 362, 733, 89, "L40S", "NVIDIA L40S"),
    _gpu("L4-24", 24, 23_034, 0.3, 121, 242, 89, "L4", "NVIDIA L4"),
    _gpu("A10-24", 24, 23_028, 0.6, 125, None, 86, "A10", "NVIDIA A10"),
    _gpu("RTX4090-24", 24, 24_564, 1.008, 165.2, 330.3, 89, "4090", "NVIDIA GeForce RTX 4090"),
    _gpu("RTX5090-32", 32, 32_607, 1.792, 209.5, 419, 120, "5090", "NVIDIA GeForce RTX 5090"),
    _gpu("RTX6000Ada-48", 48, 49_140, 0.96, 364.2, 728.5, 89, "NVIDIA RTX 6000 Ada Generation"),
)

GPUS: Mapping[str, Gpu] = {gpu.name: gpu for gpu in _TABLE}


def _key(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower()).removeprefix("nvidia").removeprefix("geforce")


def _names(gpu: Gpu) -> set[str]:
    # "RTX4090" for RTX4090-24, unless the same card comes with other memory.
    bare = _without_memory(gpu.name)
    shared = sum(_without_memory(other.name) == bare for other in _TABLE) > 1
    return {_key(name) for name in (gpu.name, *gpu.aliases, *(() if shared else (bare,)))}


def _without_memory(name: str) -> str:
    return re.sub(r"-\d+$", "", name)


_BY_KEY: Mapping[str, Gpu] = {key: gpu for gpu in _TABLE for key in _names(gpu)}


def lookup_gpu(name: str) -> Gpu | None:
    """The GPU of a name of the table or of nvidia-smi, whatever its case, spaces and dashes; or None."""
    return _BY_KEY.get(_key(name))


def find_gpu(name: str) -> Gpu:
    """`lookup_gpu`, raising RecipeError with the known names."""
    gpu = lookup_gpu(name)
    if gpu is None:
        raise RecipeError(f"gpu {name!r} is not in the table", code="gpu-unknown", hint=known_gpus(name))
    return gpu


def known_gpus(name: str) -> str:
    """The hint for an unknown `name`: what it resembles, and all that is known."""
    close = difflib.get_close_matches(_key(name), _BY_KEY, n=1)
    meant = f"Did you mean {_BY_KEY[close[0]].name}? " if close else ""
    return f"{meant}Known: {', '.join(GPUS)}."
