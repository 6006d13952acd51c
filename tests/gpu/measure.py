"""`make gpu`: quantize a random model of QwQ-32B's shape on a GPU; time and memory beside the plan's figures.

Every stage is the pipeline's own code: ModelOpt's calibration and export on the device, the check of what it
wrote, rank files for one and two ranks. Results go to tests/gpu/results/DATE-GPU.json after each stage, so
that a run that is cut short leaves what it had. Without a GPU it says so and exits with 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main", "parser"]

_FORMATS = ("fp8", "int4_awq")


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured, or there is nothing to measure with. 2: a package is missing. Else as `enginewright`."""
    options = parser().parse_args(arguments)
    reason = _why_not(options.device)
    if reason is not None:
        print(f"nothing measured: {reason}")
        return 0
    try:
        return _measure(options)
    except ModuleNotFoundError as error:
        return _fail(f"{sys.executable} has no package {error.name}", "pip install 'enginewright[build]'", 2)


def parser() -> argparse.ArgumentParser:
    """Its arguments, which `make gpu` takes in GPU_ARGS."""
    flags = argparse.ArgumentParser(prog="measure.py", description=(__doc__ or "").partition("\n")[0])
    flags.add_argument(
        "--layers", type=int, choices=range(1, 65), metavar="N", help="decoder layers, 1 to 64 [what fits]"
    )
    flags.add_argument("--formats", nargs="+", choices=_FORMATS, default=_FORMATS)
    flags.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="what calibrates")
    flags.add_argument("--shape", choices=("qwq-32b", "small"), default="qwq-32b", help="small is for tests")
    flags.add_argument("--work", type=Path, help="folder for the checkpoints [the system's temporary one]")
    flags.add_argument(
        "--results", type=Path, default=Path(__file__).with_name("results"), help="folder of the JSON file"
    )
    return flags


def _why_not(device: str) -> str | None:
    """Why nothing can be measured on `device`; None if it can."""
    try:
        import torch
    except ModuleNotFoundError:
        return f"no PyTorch in {sys.executable}"
    if device == "cpu" or torch.cuda.is_available():
        return None
    built = "without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
    return f"no CUDA device: torch {torch.__version__}, built {built}, in {sys.executable}"


def _measure(options: argparse.Namespace) -> int:
    from enginewright_errors import EnginewrightError
    from gpu.model_run import measure_model

    try:
        with tempfile.TemporaryDirectory(prefix="enginewright-gpu-", dir=options.work) as work:
            measure_model(
                options.shape,
                layers=options.layers,
                formats=options.formats,
                device=options.device,
                work=Path(work),
                results=options.results,
            )
    except EnginewrightError as error:
        return _fail(error.message, error.hint, error.exit_code)
    return 0


def _fail(message: str, hint: str, code: int) -> int:
    print(f"error: {message}\nhint: {hint}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
