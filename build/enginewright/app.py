"""The command line as typer sees it. Imported by `cli` only, so that a missing extra is one clear line."""

from __future__ import annotations

from typing import Annotated

import typer

from enginewright import __version__
from enginewright.commands.ask import ask
from enginewright.commands.bench import bench_app
from enginewright.commands.build import build
from enginewright.commands.check import check
from enginewright.commands.demo import demo
from enginewright.commands.plan import plan
from enginewright.commands.serve import serve
from enginewright.commands.verify import verify

__all__ = ["app", "build_engine_app"]

_SETTINGS = {
    "token_normalize_func": lambda name: name.replace("_", "-"),  # --max_seq_len is --max-seq-len
    "help_option_names": ["-h", "--help"],
}


def _make(text: str | None = None) -> typer.Typer:
    return typer.Typer(
        help=text,
        context_settings=_SETTINGS,
        pretty_exceptions_enable=False,  # they print local variables, and with them what may be secret
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
    )


app = _make(
    """From a Hugging Face checkpoint to a verified Triton model repository, and to streamed answers.

    Start with `enginewright demo`; then `enginewright build RECIPE`, `serve REPO` and `ask "..."`.
    Exit codes: 2 recipe, checkpoint or command line; 3 does not fit; 4 a stage failed; 5 not good enough.
    """
)
build_engine_app = _make()

for _command in (build, plan, check, verify, serve, ask, demo):
    app.command(no_args_is_help=_command not in (ask, demo))(_command)  # these two need none
app.add_typer(bench_app, name="bench")
build_engine_app.command(no_args_is_help=True)(build)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
