"""A TensorRT-LLM plan for people: figures, findings, what this machine has, and the builder's flags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from enginewright_trtllm.build_command import build_flags
from enginewright_trtllm.figures import gigabytes
from enginewright_trtllm.finding import At
from enginewright_trtllm.plan_table import plan_table

from enginewright.trtllm_plan import Here, TrtllmPlan

__all__ = ["flag_rows", "trtllm_plan_text"]

_WHEN: Mapping[At, str] = {
    "build": "fails at build",
    "load": "fails at load",
    "run": "goes wrong at run time",
}


def trtllm_plan_text(plan: TrtllmPlan, *, here: Here | None = None, flags: bool = False) -> str:
    """here: shown beside what the stages need. flags: with the command line of trtllm-build, and why."""
    return "\n".join(_lines(plan, here, flags))


def flag_rows(plan: TrtllmPlan) -> Iterator[tuple[str, str, str]]:
    """(flag, value, why) of every variant's trtllm-build, with folders as in a build's output."""
    for variant in plan.target.variants:
        for flag in build_flags(
            plan.target, variant, checkpoint=f"checkpoint/{variant.name}", output=f"engine/{variant.name}"
        ):
            yield flag.name, flag.value, flag.reason


def _lines(plan: TrtllmPlan, here: Here | None, flags: bool) -> Iterator[str]:
    yield f"plan for {plan.recipe.name}: {plan.target.format}"
    rows = plan_table(plan.gpus)
    width = max(len(label) for label, _ in rows)
    for label, figures in rows:
        yield f"  {label:<{width}}  {figures}"
    if here is not None:
        free = f"{gigabytes(here.memory)} of memory and {gigabytes(here.disk)} of disk free"
        yield f"  {'this machine':<{width}}  {free}"
    yield f"preflight: {len(plan.findings) or 'no'} findings"
    for finding in plan.findings:
        yield f"  {finding.severity} [{finding.code}] {finding.message}: {finding.reason}"
        yield f"    {_WHEN[finding.at]}; {finding.remedy}"
    if flags:
        yield "trtllm-build"
        for name, value, why in flag_rows(plan):
            yield f"  {f'{name} {value}':<44} {why}"
