"""Benchmarks of any server of the wire contract: load, metrics, files, plots, comparisons.

    bench = Bench(client, client_config, folder, LineView(print), provenance, limit, level)
    result = await bench.run(closed_loads(Workload(Lengths(128), Lengths(512)), [1, 2, 4], None, None))
    write_report(folder)

It knows the wire alone, through `enginewright_client`. Needs numpy and pydantic; `write_report` needs
matplotlib, `LocalTokenizer` tokenizers, `LiveView` rich.
"""

from __future__ import annotations

from enginewright_bench.bench import Bench, BenchClient, RateQuestion
from enginewright_bench.compare import Comparison, Ratio, compare_runs
from enginewright_bench.count_tokens import LocalTokenizer
from enginewright_bench.lengths import Lengths
from enginewright_bench.live_view import LineView, LiveView
from enginewright_bench.loads import (
    Load,
    chat_workload,
    closed_loads,
    open_loads,
    qwen_speed_loads,
)
from enginewright_bench.physical_limit import PhysicalLimit, read_limit
from enginewright_bench.prompt_file import read_prompts
from enginewright_bench.provenance import find_provenance
from enginewright_bench.published_speeds import SPEED_COLUMNS, SPEED_TITLE, speed_rows
from enginewright_bench.result import BenchResult, read_result
from enginewright_bench.result_table import COLUMNS, limit_text, result_rows, search_text
from enginewright_bench.service_level import ServiceLevel, parse_service_level
from enginewright_bench.workload import Workload
from enginewright_bench.write_report import write_report

__all__ = [
    "COLUMNS",
    "SPEED_COLUMNS",
    "SPEED_TITLE",
    "Bench",
    "BenchClient",
    "BenchResult",
    "Comparison",
    "Lengths",
    "LineView",
    "LiveView",
    "Load",
    "LocalTokenizer",
    "PhysicalLimit",
    "RateQuestion",
    "Ratio",
    "ServiceLevel",
    "Workload",
    "chat_workload",
    "closed_loads",
    "compare_runs",
    "find_provenance",
    "limit_text",
    "open_loads",
    "parse_service_level",
    "qwen_speed_loads",
    "read_limit",
    "read_prompts",
    "read_result",
    "result_rows",
    "search_text",
    "speed_rows",
    "write_report",
]
