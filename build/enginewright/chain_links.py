"""How the links of a manifest's chain hang together, for each target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from enginewright.hashing import digest, subfolder

__all__ = ["broken_links", "last_link", "placed_files"]

# Which input of a stage is the digest of which link before it.
_ONNX = {
    "quantize": {"source": "source", "calibration": "calibration"},
    "compile": {"checkpoint": "quantize"},
    "verify": {"checkpoint": "quantize", "engine": "compile"},
    "report": {"source": "source", "checkpoint": "quantize", "engine": "compile"},
    "package": {"checkpoint": "quantize", "engine": "compile"},
}
_COMPILED = "compile-"  # and the variant: the stages of TensorRT-LLM's engines
# Where the files of a compile stage lie in the repository.
_PLACES = {
    "compile": "llm/1/engine/",
    "compile-native": "tensorrt_llm/1/engine/",
    "compile-long": "tensorrt_llm_long/1/engine/",
}


def last_link(chain: Mapping[str, Any]) -> Mapping[str, Any]:
    """The link whose files are the folder: the repository, or what is handed off to a GPU."""
    link: Mapping[str, Any] = chain["handoff" if "handoff" in chain else "package"]
    return link


def broken_links(chain: Mapping[str, Any]) -> Iterator[str]:
    """What does not follow from what it should. Raises KeyError or TypeError for a chain with gaps."""
    digests = {"source": digest(chain["source"]["files"])}
    if digests["source"] != chain["source"]["digest"]:
        yield "source.digest does not follow from its files"
    if "calibration" in chain:
        digests["calibration"] = chain["calibration"]["sha256"]
    for stage, links in (_trtllm(chain) if "checkpoint" in chain else _ONNX).items():
        link = chain[stage]
        if digest(link["request"]) != link["key"]:
            yield f"{stage}.key does not follow from its request"
        if digest(link["files"]) != link["digest"]:
            yield f"{stage}.digest does not follow from its files"
        digests[stage] = link["digest"]
        if stage == "checkpoint":
            digests |= {name: digest(subfolder(link["files"], name)) for name in ("native", "long")}
        for name, before in links.items():
            if link["request"]["inputs"].get(name) != digests.get(before):
                yield f"{stage} was not made from this {before}"
    last = last_link(chain)["request"]
    if last["inputs"]["verified"] != chain["verify"]["key"]:
        yield f"{last['stage']} does not follow from this verify"
    if "report" in chain and last["inputs"]["measured"] != chain["report"]["key"]:
        yield f"{last['stage']} does not follow from this report"


def placed_files(chain: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """(stage, name, hash) of every file of an earlier stage that has to lie in the folder as it was made."""
    if "handoff" in chain:
        for name, item in chain["checkpoint"]["files"].items():
            yield "checkpoint", f"checkpoint/{name}", item
    for stage, place in _PLACES.items():
        if stage in chain:
            yield from ((stage, place + name, item) for name, item in chain[stage]["files"].items())


def _trtllm(chain: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """16-bit rank files come from the source, AWQ's from what ModelOpt wrote, FP8's from both."""
    links: dict[str, dict[str, str]] = {}
    made_from = {"quantized": "quantize", "original": "source"}
    given = chain["checkpoint"]["request"]["inputs"]
    if "quantize" in chain:
        links["quantize"] = _ONNX["quantize"]
    if "report" in chain:
        links["report"] = {"source": "source", "checkpoint": "quantize"}
    links["checkpoint"] = {
        name: before
        for name, before in made_from.items()
        if name in given or (name == "quantized" and "quantize" in chain)
    }
    links["verify"] = {"checkpoint": "checkpoint"}
    if "handoff" in chain:
        return {**links, "handoff": {"checkpoint": "checkpoint"}}
    engines = [stage for stage in chain if stage.startswith(_COMPILED)]
    links |= {stage: {"checkpoint": stage.removeprefix(_COMPILED)} for stage in engines}
    links["package"] = {"checkpoint": "checkpoint", **{stage: stage for stage in engines}}
    return links
