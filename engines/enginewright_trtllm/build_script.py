"""A shell script that builds a target's engines on a GPU host, where neither docker nor a GPU is here.

The script stands beside its checkpoints: copy the folder to the host and run it. It finds docker or a
trtllm-build of its own, refuses another TensorRT-LLM, builds one variant after another and leaves a finished
one alone, so that it can be run again. Beside each engine it says what the engine is bound to: versions and
GPUs, which `find_script_engines` reads.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from enginewright_trtllm.build_command import build_command
from enginewright_trtllm.container import build_container
from enginewright_trtllm.nvidia_smi import NVIDIA_SMI
from enginewright_trtllm.target import TrtllmTarget, Variant
from enginewright_trtllm.versions import container_image, release_of_container

__all__ = ["BUILD_SCRIPT", "engine_folder", "render_build_script", "script_record"]

BUILD_SCRIPT = "build-engines.sh"

_HEAD = """#!/bin/sh
# Builds the TensorRT-LLM engines of this folder: {summary}.
# Needs {gpus} x {gpu} and either docker with the NVIDIA container toolkit or trtllm-build {version}.
# usage: sh build-engines.sh
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
say() {{ printf '%s\\n' "$*" >&2; }}

if command -v docker >/dev/null 2>&1; then
    how=docker
    tensorrt={tensorrt}
elif command -v trtllm-build >/dev/null 2>&1; then
    how=local
    found=$(python3 -c 'import importlib.metadata as m; print(m.version("tensorrt_llm"))')
    if [ "$found" != {version} ]; then
        say "TensorRT-LLM $found is installed, {version} is needed: engines load only in what built them."
        say "Run this script where docker is, or inside {image}."
        exit 2
    fi
    tensorrt=$(python3 -c 'import importlib.metadata as m; print(m.version("tensorrt"))' 2>/dev/null || :)
else
    say "Neither docker nor trtllm-build is here. Install docker and the NVIDIA container toolkit,"
    say "or run this script inside {image}."
    exit 2
fi
if command -v nvidia-smi >/dev/null 2>&1; then
    gpus=$(nvidia-smi --list-gpus | wc -l)
    if [ "$gpus" -lt {gpus} ]; then
        say "$gpus GPUs are visible, {gpus} are needed: ranks would be built one after another."
    fi
fi
"""

_VARIANT = """
# {name}: {tokens} tokens
checkpoint="$here"/{checkpoint}
engine="$here"/{engine}
case $checkpoint$engine in
*,* | *'"'*) say "docker cannot mount a path with a comma or a quote: $here"; exit 2 ;;
esac
if [ -e "$engine/config.json" ] && [ -e "$engine/rank{last}.engine" ]; then
    say "{name}: already built"
else
    say "{name}: building, the log is $engine.log"
    rm -rf "$engine.part"
    mkdir -p "$engine.part"
    if [ "$how" = docker ]; then
        set -- {docker}
    else
        set -- {local}
    fi
    if ! "$@" >"$engine.log" 2>&1; then
        tail -n 30 "$engine.log" >&2
        say "{name}: trtllm-build failed, see $engine.log"
        exit 4
    fi
    for rank in $(seq 0 {last}); do
        [ -s "$engine.part/rank$rank.engine" ] || {{ say "{name}: rank$rank.engine is missing"; exit 4; }}
    done
    {{
        printf '%s\n' {version} "$tensorrt"
        {smi} 2>/dev/null || :
    }} >"$engine.machine"
    mv "$engine.part" "$engine"
fi
"""

_TAIL = """
say "all engines are built"
"""


def render_build_script(target: TrtllmTarget, checkpoints: Mapping[str, str]) -> str:
    """POSIX shell. checkpoints: variant name -> checkpoint folder, relative to the script.

    Engines are written to `engine-NAME` beside the script, under `.part` until they are complete. The lines
    of `engine-NAME.machine` are the versions of TensorRT-LLM and TensorRT, then what nvidia-smi lists.
    """
    variants = [variant for variant in target.variants if variant.name in checkpoints]
    release = release_of_container(target.container)
    head = _HEAD.format(
        summary=f"{target.format}, tp {target.tp}, pp {target.pp}",
        gpus=target.world_size,
        gpu=target.gpu,
        version=target.tensorrt_llm,
        image=container_image(target.container),
        tensorrt=shlex.quote((release.tensorrt if release else None) or ""),
    )
    return head + "".join(_variant(target, variant, checkpoints) for variant in variants) + _TAIL


def engine_folder(variant: Variant) -> str:
    """Where the script leaves the engine of a variant, relative to itself."""
    return f"engine-{variant.name}"


def script_record(variant: Variant) -> str:
    """The file in which it says what that engine is bound to."""
    return f"{engine_folder(variant)}.machine"


def _variant(target: TrtllmTarget, variant: Variant, checkpoints: Mapping[str, str]) -> str:
    # Stand-ins for what only the shell knows; they survive quoting because they need none.
    checkpoint, output, user = "@checkpoint@", "@output@", "@user@"
    docker = build_container(target, variant, checkpoint=checkpoint, output=output, user=user)
    local = build_command(target, variant, checkpoint=checkpoint, output=output)
    return _VARIANT.format(
        name=variant.name,
        tokens=variant.max_seq_len,
        checkpoint=shlex.quote(checkpoints[variant.name]),
        engine=shlex.quote(engine_folder(variant)),
        version=shlex.quote(target.tensorrt_llm),
        smi=shlex.join(NVIDIA_SMI),
        last=target.world_size - 1,
        docker=" ".join(map(_with_shell_values, docker)),
        local=" ".join(map(_with_shell_values, local)),
    )


def _with_shell_values(argument: str) -> str:
    quoted = shlex.quote(argument)
    for stand_in, value in (
        ("@checkpoint@", '"$checkpoint"'),
        ("@output@", '"$engine.part"'),
        ("@user@", '"$(id -u):$(id -g)"'),
    ):
        # Inside single quotes the quoting is left and taken up again around the shell's value.
        quoted = quoted.replace(stand_in, f"'{value}'" if quoted.startswith("'") else value)
    return quoted
