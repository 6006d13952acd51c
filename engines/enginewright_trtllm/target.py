"""What is built of a model and where it runs: one TensorRT-LLM target.

Everything else in this package is a function of a `ModelSpec` and this. They hold values, not opinions:
`preflight` says what is wrong with a combination, `gpu_plan` what it costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enginewright_errors import RecipeError

from enginewright_trtllm.config import LogitsDtype
from enginewright_trtllm.versions import PINNED_CONTAINER, PINNED_TENSORRT_LLM

__all__ = ["Format", "Host", "TrtllmTarget", "Variant", "Yarn"]

Format = Literal["bf16", "fp8", "int4_awq"]


@dataclass(frozen=True, slots=True)
class Yarn:
    """Static YaRN. original_max_position_embeddings: the context of pre-training, 32768 for QwQ-32B."""

    factor: float
    original_max_position_embeddings: int | None


@dataclass(frozen=True, slots=True)
class Variant:
    """One engine of a target. max_seq_len: prompt and answer together, in tokens."""

    name: Literal["native", "long"]
    max_seq_len: int
    yarn: Yarn | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """The machine that builds. None: not known, so nothing is refused because of it."""

    ram_bytes: int | None = None
    disk_bytes: int | None = None
    disk_bytes_per_second: float = 1e9


@dataclass(frozen=True, slots=True)
class TrtllmTarget:
    """One recipe's TensorRT-LLM part, resolved.

    gpu: a name of `gpus.GPUS` or an alias. gpu_count: GPUs of the server, all nodes together.
    group_size: int4_awq only. kv_cache_free_gpu_mem_fraction: the backend's parameter of that name.
    calibration_tokens: samples x length, for the estimate of the quantize stage. report_tokens: those that
    the quantized checkpoint is judged on, 0 where nothing is. workers: ranks that are
    compiled at the same time, None for all of them.
    """

    format: Format
    gpu: str
    gpu_count: int = 1
    tp: int = 1
    pp: int = 1
    nodes: int = 1
    fp8_kv: bool = False
    group_size: int = 128
    variants: tuple[Variant, ...] = (Variant("native", 32_768),)
    max_batch_size: int = 16
    max_num_tokens: int = 8192
    tokens_per_block: int = 32
    kv_cache_free_gpu_mem_fraction: float = 0.9
    kv_cache_host_bytes: int = 0
    chunked_context: bool = True
    kv_reuse: bool = True
    max_queue_size: int = 256
    logits_dtype: LogitsDtype = "float16"
    container: str = PINNED_CONTAINER
    tensorrt_llm: str = PINNED_TENSORRT_LLM
    calibration_tokens: int = 512 * 512
    report_tokens: int = 0
    workers: int | None = None
    host: Host = Host()

    def __post_init__(self) -> None:
        for field in ("gpu_count", "tp", "pp", "nodes", "group_size", "max_batch_size", "max_num_tokens"):
            value = getattr(self, field)
            if value < 1:
                raise _field_error(field, value, "give a whole number of at least 1")
        if not 0.0 < self.kv_cache_free_gpu_mem_fraction < 1.0:
            raise _field_error(
                "kv_cache_free_gpu_mem_fraction",
                self.kv_cache_free_gpu_mem_fraction,
                "give a fraction between 0 and 1; 0.9 is upstream's",
            )
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) != len(names):
            raise _field_error("variants", names, "give a native variant, a long one, or one of each")
        for variant in self.variants:
            if variant.max_seq_len < 1:
                raise _field_error(f"{variant.name}.max_seq_len", variant.max_seq_len, "give at least 1")

    @property
    def world_size(self) -> int:
        """MPI ranks of one engine, one GPU each."""
        return self.tp * self.pp

    @property
    def build_workers(self) -> int:
        """Ranks that trtllm-build compiles at the same time."""
        return min(self.workers or self.world_size, self.world_size)

    @property
    def gpus_per_node(self) -> int:
        return -(-self.gpu_count // self.nodes)

    def model_name(self, variant: Variant) -> str:
        """The Triton model that serves a variant: `tensorrt_llm`, and `tensorrt_llm_long` beside a native
        one."""
        both = len(self.variants) > 1
        return "tensorrt_llm_long" if both and variant.name == "long" else "tensorrt_llm"


def _field_error(field: str, value: object, hint: str) -> RecipeError:
    return RecipeError(f"{field} is {value!r}", code="trtllm-option", hint=hint)
