"""The options of `enginewright bench` as the loads, the service level and the limit that they mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from enginewright_errors import UsageError

from enginewright.commands import options
from enginewright.units import parse_bytes

if TYPE_CHECKING:
    from enginewright_bench import Load, PhysicalLimit, RateQuestion, ServiceLevel, Workload
    from enginewright_bench.result import Skipped

__all__ = ["BenchFlags", "LengthShape", "ProfileName"]

NumberT = TypeVar("NumberT", int, float)

ProfileName = Literal["qwen-speed", "chat"]
LengthShape = Literal["normal", "lognormal"]

_CONCURRENCY = "1,2,4,8"
_INPUT_TOKENS, _OUTPUT_TOKENS = 512, 128
_FIRST_RATE = 1.0
_DEVIATIONS = ("input_tokens_std", "output_tokens_std")
_SET_BY_PROFILE = {
    "qwen-speed": (
        *("concurrency", "request_rate", "search_rate", "input_tokens", *_DEVIATIONS),
        *("prompts", "chat", "natural_end"),
    ),
    "chat": ("input_tokens", "output_tokens", *_DEVIATIONS),
}


@dataclass(frozen=True, slots=True)
class BenchFlags:
    """As given on the command line; see its help."""

    server: str
    model: str
    concurrency: str | None
    request_rate: str | None
    search_rate: bool
    profile: ProfileName | None
    requests: int | None
    warmup: int | None
    input_tokens: int | None
    input_tokens_std: float
    output_tokens: int | None
    output_tokens_std: float
    lengths: LengthShape
    prompts: Path | None
    chat: bool
    natural_end: bool
    slo: str | None
    slo_share: float
    seed: int
    timeout: float
    repository: Path | None
    tokenizer: Path | None
    metrics: str | None
    memory_bandwidth: str | None
    weight_bytes: str | None
    kv_bytes: str | None

    def as_json(self) -> dict[str, Any]:
        """What was given, paths as texts: the settings in the result."""
        return {
            name.replace("_", "-"): str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
            if value is not None
        }

    def service_level(self) -> ServiceLevel | None:
        """Raises UsageError for what is no service level."""
        from enginewright_bench import parse_service_level

        return None if self.slo is None else parse_service_level(self.slo)

    def loads(self, context: int | None) -> tuple[list[Load], list[Skipped]]:
        """What to run on a server with this context, and what of a profile has no room there.

        Raises UsageError for options that exclude each other or that the context has no room for.
        """
        from enginewright_bench import closed_loads, open_loads, qwen_speed_loads

        self._check_profile()
        if self.concurrency is not None and self.request_rate is not None:
            raise _wrong("--concurrency and --request-rate exclude each other", "run one after the other")
        if self.profile == "qwen-speed":
            return qwen_speed_loads(context, self.output_tokens, self.requests, self.warmup)
        if self.request_rate is not None:
            rates = _numbers("--request-rate", self.request_rate, float)
            return open_loads(self._workload(context), rates, self.requests, self.warmup), []
        users = _numbers("--concurrency", self.concurrency or _CONCURRENCY, int)
        return closed_loads(self._workload(context), users, self.requests, self.warmup), []

    def question(self, context: int | None) -> RateQuestion:
        """What --search-rate looks for. Raises UsageError without a service level."""
        from enginewright_bench import RateQuestion

        if self.slo is None:
            raise _wrong("--search-rate needs a service level", "give --slo ttft:500ms,itl:50ms")
        self._check_profile()
        if self.concurrency is not None:
            raise _wrong("--search-rate is an open loop", "leave out --concurrency")
        start = _FIRST_RATE
        if self.request_rate is not None:
            [start, *_] = _numbers("--request-rate", self.request_rate, float)
        return RateQuestion(self._workload(context), start, self.slo_share, self.requests, self.warmup)

    def limit(self) -> PhysicalLimit | str:
        """The physical limit of the server, or why it is unknown."""
        from enginewright_bench import PhysicalLimit, read_limit

        bandwidth = options.bandwidth(self.memory_bandwidth)
        if self.weight_bytes is not None:
            if bandwidth is None:
                raise _wrong("--weight-bytes needs --memory-bandwidth", "give it, like 3350GB/s")
            weights, kv = (
                _size("--weight-bytes", self.weight_bytes),
                _size("--kv-bytes", self.kv_bytes or "0"),
            )
            return PhysicalLimit(weights, kv, bandwidth, None, "given on the command line")
        if self.repository is None:
            return "give --repository; for GPUs --weight-bytes, --kv-bytes and --memory-bandwidth"
        if bandwidth is not None:
            return read_limit(self.repository, (bandwidth, "given on the command line"))
        return read_limit(self.repository, self._measured_bandwidth())

    def _measured_bandwidth(self) -> tuple[float, str] | None:
        """Of this machine's memory, if the server runs on it and in it: GPUs have memory of their own."""
        from enginewright_serve.access import is_loopback

        from enginewright.trtllm_repository import repository_target

        if self.repository is not None and repository_target(self.repository) == "trtllm":
            return None
        if not is_loopback(self.server.rpartition(":")[0].strip("[]")):
            return None
        from enginewright.machine import probe_machine

        return probe_machine().read_bandwidth, "of this machine's memory, measured before the run"

    def _check_profile(self) -> None:
        for name in _SET_BY_PROFILE.get(self.profile or "", ()):
            if getattr(self, name):
                option = f"--{name.replace('_', '-')}"
                raise _wrong(f"--profile {self.profile} has no place for {option}", "leave one of them out")

    def _workload(self, context: int | None) -> Workload:
        from enginewright_bench import Lengths, Workload, chat_workload, read_prompts

        inputs = Lengths(self.input_tokens or _INPUT_TOKENS, self.input_tokens_std, self.lengths)
        outputs = Lengths(self.output_tokens or _OUTPUT_TOKENS, self.output_tokens_std, self.lengths)
        workload = Workload(
            outputs=outputs,
            inputs=inputs,
            given=read_prompts(self.prompts) if self.prompts else (),
            chat=self.chat,
            ends_early=self.natural_end,
            context=context,
        )
        if self.profile == "chat":
            workload = replace(chat_workload(workload), given=workload.given)
        elif not workload.given and context is not None and inputs.mean + outputs.mean > context:
            raise _wrong(
                f"{inputs.mean} + {outputs.mean} tokens are more than the server's context of {context}",
                "give smaller --input-tokens and --output-tokens",
            )
        return workload


def _numbers(option: str, text: str, kind: Callable[[str], NumberT]) -> list[NumberT]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise _wrong(f"{option} {text!r} is no list of numbers", "write it like 1,2,4") from None


def _size(option: str, text: str) -> float:
    try:
        return float(parse_bytes(text))
    except ValueError as error:
        raise _wrong(f"{option}: {error}", "write it like 17.65GB") from None


def _wrong(message: str, hint: str) -> UsageError:
    return UsageError(message, code="usage", hint=hint)
