"""Does what trtllm-build does, as far as files and output go: rank{N}.engine, config.json, its log lines.

An engine's bytes are random: two real builds differ too. FAKE_BUILDER: `fail` ends as a builder on an INT4
checkpoint and a Blackwell card does; `stall` goes on for ever after the first rank.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

VERSION = "1.2.1"


def say(text: str, *, source: str = "TRT-LLM", level: str = "I") -> None:
    print(f"[11/24/2026-10:00:00] [{source}] [{level}] {text}", flush=True)


def main() -> None:
    flags = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    checkpoint, out = Path(flags["--checkpoint_dir"]), Path(flags["--output_dir"])
    config = json.loads((checkpoint / "config.json").read_bytes())
    mode = os.environ.get("FAKE_BUILDER", "")
    print(f"[TensorRT-LLM] TensorRT-LLM version: {VERSION}", flush=True)
    say("Implicitly setting QWenConfig.qwen_type = qwen2", level="W")
    for rank in range(config["mapping"]["world_size"]):
        rank_file = (checkpoint / f"rank{rank}.safetensors").read_bytes()
        say("Total time of constructing network from module object 0.1 seconds")
        say("Build TensorRT engine Unnamed Network 0")
        if mode == "fail":
            say("Error Code 9: Internal Error", source="TRT", level="E")
            sys.exit("RuntimeError: INT8/INT4 quantization is not supported on SM>=100.")
        say("Engine generation completed in 0.1 seconds.", source="TRT")
        say(
            "[MemUsageStats] Peak memory usage during Engine building and serialization: CPU: 70 MiB",
            source="TRT",
        )
        file = out / f"rank{rank}.engine"
        say(f"Serializing engine to {file}...")
        file.write_bytes(os.urandom(64) + rank_file[:64])
        while mode == "stall":
            say("[MemUsageChange] Init cuBLAS/cuBLASLt", source="TRT")
            time.sleep(0.1)
        say("Engine serialized. Total time: 00:00:01")
    sizes = {name: int(flags[f"--{name}"]) for name in ("max_batch_size", "max_num_tokens", "max_seq_len")}
    engine = {"version": VERSION, "pretrained_config": config, "build_config": sizes}
    (out / "config.json").write_text(json.dumps(engine))
    say("Total time of building all engines: 00:00:02")


if __name__ == "__main__":
    main()
