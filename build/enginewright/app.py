"""The command line as typer sees it. Imported by `cli` only, so that a missing extra is one clear line."""

from __future__ import annotations

from typing import Annotated

import typer

from enginewright import __version__
from enginewright.commands.ask import ask
from enginewright.commands.bench import bench_app
from enginewright.commands.build import build
from enginewright.commands.cache import list_cache, prune
from enginewright.commands.chat import chat
from enginewright.commands.check import check
from enginewright.commands.compare import compare
from enginewright.commands.demo import demo
from enginewright.commands.deploy import compose, k8s
from enginewright.commands.gateway import gateway
from enginewright.commands.plan import plan
from enginewright.commands.report import report
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

_RUN_BARE = (ask, chat, gateway, demo)  # these need no argument
for _command in (build, plan, check, verify, report, compare, serve, ask, chat, gateway, demo):
    app.command(no_args_is_help=_command not in _RUN_BARE)(_command)
app.add_typer(bench_app, name="bench")
_deploy = _make("""Write the files that serve a repository of TensorRT-LLM engines on GPU machines.""")
_deploy.command("compose", no_args_is_help=True)(compose)
_deploy.command("k8s", no_args_is_help=True)(k8s)
app.add_typer(_deploy, name="deploy")
_cache = _make("""See and shrink what builds keep: the result of every stage.""")
_cache.command("list")(list_cache)
_cache.command("prune", no_args_is_help=True)(prune)
app.add_typer(_cache, name="cache")
build_engine_app.command(no_args_is_help=True)(build)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit
