"""`enginewright check RECIPE`: what a TensorRT-LLM recipe needs, and all that is known wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enginewright_errors import UsageError

from enginewright.commands import options

if TYPE_CHECKING:
    from enginewright_trtllm.finding import Finding
    from enginewright_trtllm.target import TrtllmTarget

__all__ = ["check"]

_KNOWN = Path(__file__).parents[1] / "data" / "known_configs.json"
_WHEN = {"build": "fails at build", "load": "fails at load", "run": "goes wrong at run time"}


def check(
    recipe: options.RecipeArgument,
    json_lines: options.JsonOption = False,
    sets: options.SetOption = None,
) -> None:
    """Check and price a TensorRT-LLM recipe without a GPU: memory, KV tokens, speed limits, traps, flags.

    Exit code 2 when it would fail, 3 when it does not fit, with the nearest changes that do.

    \b
    Examples:
        enginewright check qwq-32b-fp8-h100
        enginewright check qwq-32b-fp8-h100 --set trtllm.gpu=L40S-48
        enginewright check ./Qwen2.5-7B-Instruct --set trtllm.gpu=RTX4090-24
    """
    from enginewright_trtllm.finding import require_no_errors
    from enginewright_trtllm.gpu_plan import plan_gpus, require_fit
    from enginewright_trtllm.gpus import find_gpu
    from enginewright_trtllm.model_dims import read_dims
    from enginewright_trtllm.plan_table import plan_table
    from enginewright_trtllm.preflight import preflight

    from enginewright.load_recipe import load_trtllm_recipe, parse_set
    from enginewright.trtllm_recipe import trtllm_target

    with options.reporting(json_lines) as reporter:
        loaded = load_trtllm_recipe(recipe, [parse_set(text) for text in sets or ()])
        target, dims = trtllm_target(loaded), read_dims(_config(loaded.checkpoint.source))
        find_gpu(target.gpu)  # nothing can be priced for a card that is not known
        findings = preflight(target, dims)
        plan = plan_gpus(target, dims)
        rows, flags = plan_table(plan), list(_flags(target))
        result = {
            "ok": not any(finding.severity == "error" for finding in findings),
            "plan": dict(rows),
            "findings": [asdict(finding) for finding in findings],
            "trtllm_build": [{"flag": flag, "value": value, "why": why} for flag, value, why in flags],
        }
        heading = f"plan for {loaded.name}: {target.format}"
        reporter.say("\n".join((heading, *_text(rows, findings, flags))), **result)
        require_fit(plan)
        require_no_errors(findings)
        reporter.result(f"{loaded.name}: no errors", result)


def _config(source: str) -> Mapping[str, Any]:
    """config.json of a checkpoint folder, or of a model that is known by its name on the hub."""
    if Path(source).is_dir():
        from enginewright.checkpoint import check_config
        from enginewright.json_file import read_json_object

        check_config(Path(source))
        return read_json_object(Path(source) / "config.json")
    known: dict[str, Any] = json.loads(_KNOWN.read_text(encoding="utf-8"))
    if source not in known:
        raise UsageError(
            f"checkpoint.source: the dimensions of {source} are not known here",
            code="dimensions-unknown",
            hint=f"give a folder with its config.json; known by name: {', '.join(known)}",
        )
    return dict(known[source])


def _flags(target: TrtllmTarget) -> Iterator[tuple[str, str, str]]:
    from enginewright_trtllm.build_command import build_flags

    for variant in target.variants:
        for flag in build_flags(
            target, variant, checkpoint=f"checkpoint/{variant.name}", output=f"engine/{variant.name}"
        ):
            yield flag.name, flag.value, flag.reason


def _text(
    rows: list[tuple[str, str]], findings: tuple[Finding, ...], flags: list[tuple[str, str, str]]
) -> Iterator[str]:
    width = max(len(label) for label, _ in rows)
    for label, figures in rows:
        yield f"  {label:<{width}}  {figures}"
    yield f"preflight: {len(findings) or 'no'} findings"
    for finding in findings:
        yield f"  {finding.severity} [{finding.code}] {finding.message}: {finding.reason}"
        yield f"    {_WHEN[finding.at]}; {finding.remedy}"
    yield "trtllm-build"
    for flag, value, why in flags:
        yield f"  {f'{flag} {value}':<44} {why}"
