"""Runs builds in forked children of one warm process: a killed build takes a second, not the imports' ten.

    python tests/pipeline_trials.py < jobs

A job is a JSON line {"recipe", "target", "sets", "output", "cache"} and perhaps {"nth"}, the change of the
file system at which the child kills itself, or {"after"}, the seconds it has to live. The answer is a JSON
line {"state", "built", "reused", "warnings"} and what the build gave as its result.
The heavy libraries are imported here once. Nothing is computed before the fork: threads do not survive it.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from enginewright.limits import Limits
from enginewright.load_recipe import load_recipe, load_trtllm_recipe, parse_set
from enginewright.pipeline import build
from enginewright.progress import JsonReporter
from enginewright.quality.gate import GateBounds
from enginewright.quality.texts import ReportTexts
from enginewright.steps import compile_step, package_step, quantize_step, report_step, verify_step
from enginewright.trtllm_pipeline import build_trtllm
from enginewright_errors import EnginewrightError
from kill_points import trial

HEAVY = (
    "modelopt.torch.export",
    "modelopt.torch.quantization",
    "onnx",
    "onnxruntime",
    "transformers",
    "enginewright.stages.quantize",
    "enginewright.stages.report",
    "enginewright.stages.verify",
    "enginewright_front.repository",
    "enginewright_onnx.engine_writer",
)


def warm() -> None:
    for name in HEAVY:
        importlib.import_module(name)
    # Sources are read now: an edit while the tests run would make later builds different ones.
    recipe = load_recipe("org/any")
    quantize_step(recipe, "", "")
    compile_step(recipe, Limits(1, 1, None), "")
    verify_step(recipe, "", "")
    report_step(recipe, "", "", "", ReportTexts(np.zeros((1, 16), np.int32), (), (), ()))
    package_step(recipe, "", "", "", "", GateBounds(1.0, 0.0, 1.0))


def run(job: dict[str, Any], log: Path) -> None:
    sets = [parse_set(text) for text in job["sets"]]
    output, cache = Path(job["output"]), Path(job["cache"])
    with log.open("w") as stream:
        reporter = JsonReporter(stream)
        try:
            if job["target"] == "trtllm":
                trtllm = load_trtllm_recipe(job["recipe"], sets)
                result = build_trtllm(trtllm, output, reporter=reporter, cache_folder=cache)
            else:
                recipe = load_recipe(job["recipe"], sets)
                result = build(recipe, output, reporter=reporter, cache_folder=cache, read_bandwidth=4e10)
            reporter.result("", {"changed": result.changed, "manifest": result.manifest_sha256})
        except EnginewrightError as error:
            reporter.result("", {"error": error.code, "text": f"{error.message} / {error.hint}"})


def answer(job: dict[str, Any]) -> dict[str, Any]:
    descriptor, name = tempfile.mkstemp()
    os.close(descriptor)
    log = Path(name)
    state, _ = trial(lambda: run(job, log), job.get("nth"), after=job.get("after"))
    events = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    log.unlink()
    result = events[-1] if events and events[-1]["event"] == "result" else {}
    ended = [event for event in events if event["event"] == "stage-finished"]
    return {
        **result,
        "state": state,
        "built": [event["stage"] for event in ended if event["verb"] == "built"],
        "reused": [event["stage"] for event in ended if event["verb"] == "reused"],
        "warnings": [event["text"] for event in events if event["event"] == "warning"],
    }


def main() -> None:
    warm()
    print(json.dumps({"ready": os.getpid()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
