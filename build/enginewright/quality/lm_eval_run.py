"""Tasks of lm-evaluation-harness on a build's engine and on the checkpoints behind it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from enginewright_errors import EnginewrightError, StageFailed, UsageError
from enginewright_front.prompt import PromptEncoder
from enginewright_onnx.runtime import ModelSession, read_engine_config

from enginewright.cache import default_cache_folder
from enginewright.output import MANIFEST
from enginewright.quality.exact_engine import exact_engine, why_no_exact_engine
from enginewright.quality.figures import Figure
from enginewright.quality.tables import Table, show

__all__ = ["HarnessFigures", "evaluate_build", "harness_table"]

_NORMAL = 1.96  # standard errors to either side


@dataclass(frozen=True, slots=True)
class HarnessFigures:
    """One metric of one task, by model. Intervals are normal, from the harness's own standard errors."""

    task: str
    metric: str
    models: Mapping[str, Figure]


def evaluate_build(
    build: Path,
    tasks: Sequence[str],
    *,
    limit: int | None,
    include: Path | None,
    original: Path | None,
    warn: Callable[[str], None],
) -> tuple[HarnessFigures, ...]:
    """Every metric of `tasks` for the models that are at hand.

    The engine is; the quantized checkpoint while the cache of this machine has it; `original`, if given.
    limit: items a task. include: a folder of the user's own task files.

    Raises:
        UsageError: lm_eval is not installed, a task that it does not know.
        CheckpointError: no ONNX engine in `build`, or a damaged one.
        StageFailed: the harness failed, for example because a data set could not be downloaded.
    """
    if find_spec("lm_eval") is None:
        raise UsageError(
            "--lm-eval needs lm-evaluation-harness, which is not installed",
            code="lm-eval-missing",
            hint="pip install 'enginewright[eval]'",
        )
    manager = import_module("lm_eval.tasks").TaskManager(
        include_path=None if include is None else str(include)
    )
    for task in tasks:
        if not manager.match_tasks([task]):
            raise UsageError(
                f"--lm-eval: {task} is no task of lm_eval {version('lm_eval')}",
                code="lm-eval-task",
                hint="`python -m lm_eval ls tasks` lists them; --lm-eval-include adds a folder of your own",
            )
    encoder, results = PromptEncoder(build / "llm" / "1" / "checkpoint"), {}
    with TemporaryDirectory(dir=default_cache_folder()) as scratch:
        for name, model in _models(build, original, Path(scratch), warn):
            with model as session:
                results[name] = _evaluate(session, encoder, tasks, limit, manager)
    return _figures(results)


def harness_table(figures: Sequence[HarnessFigures]) -> Table:
    """A row a metric, a column a model."""
    models = list(dict.fromkeys(name for row in figures for name in row.models))
    rows = tuple((row.task, row.metric, *(show(row.models.get(name)) for name in models)) for row in figures)
    return Table(f"lm-evaluation-harness {version('lm_eval')}", ("", "metric", *models), rows)


def _models(
    build: Path, original: Path | None, scratch: Path, warn: Callable[[str], None]
) -> Iterator[tuple[str, AbstractContextManager[ModelSession]]]:
    """Name -> a session, to be opened when its turn comes."""
    engine = build / "llm" / "1" / "engine"
    config = read_engine_config(engine)
    for name, checkpoint in (("original", original), ("quantized", _quantized(build))):
        if checkpoint is None:
            continue
        problem = why_no_exact_engine(checkpoint, scratch)
        if problem:
            warn(f"--lm-eval: without the {name} checkpoint: {problem}")
            continue
        limit = config.native.max_seq_len
        yield name, exact_engine(checkpoint, scratch / name, max_seq_len=limit, slots=1, threads=None)
    yield "engine", nullcontext(ModelSession.open(engine, config))


def _quantized(build: Path) -> Path | None:
    """What the engine was compiled from, if the cache of this machine still has it."""
    try:
        key = json.loads((build / MANIFEST).read_bytes())["chain"]["quantize"]["key"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    folder = default_cache_folder() / "quantize" / str(key) / "files"
    return folder if folder.is_dir() else None


def _evaluate(
    session: ModelSession, encoder: PromptEncoder, tasks: Sequence[str], limit: int | None, manager: Any
) -> dict[str, dict[str, Any]]:
    from enginewright.quality.lm_eval_model import EngineLM

    evaluate = import_module("lm_eval").simple_evaluate
    try:
        found: dict[str, dict[str, Any]] = evaluate(
            EngineLM(session, encoder),
            tasks=list(tasks),
            limit=limit,
            task_manager=manager,
            log_samples=False,
        )["results"]
    except EnginewrightError:
        raise
    except Exception as error:  # of every type there is: data sets, templates, metrics
        raise StageFailed(
            f"--lm-eval: {type(error).__name__}: {str(error)[:300]}",
            code="lm-eval",
            hint="see the cause with --debug; a task's data comes from the Hugging Face hub, or from a file "
            "that --lm-eval-include names",
        ) from error
    return found


def _figures(results: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> tuple[HarnessFigures, ...]:
    rows: dict[tuple[str, str], dict[str, Figure]] = {}
    for model, tasks in results.items():
        for task, metrics in tasks.items():
            for key, value in metrics.items():
                metric, _, kind = key.partition(",")
                if kind and not metric.endswith("_stderr") and isinstance(value, float | int):
                    error = metrics.get(f"{metric}_stderr,{kind}")
                    width = _NORMAL * error if isinstance(error, float) else 0.0
                    name = metric if kind == "none" else f"{metric} ({kind})"
                    rows.setdefault((task, name), {})[model] = Figure(value, value - width, value + width)
    return tuple(HarnessFigures(task, metric, models) for (task, metric), models in rows.items())
