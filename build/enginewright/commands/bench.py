"""`enginewright bench`: how fast a running server is, and how near to what its memory allows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from enginewright_errors import StageFailed

from enginewright.commands import connection, options
from enginewright.commands.bench_options import BenchFlags, LengthShape, ProfileName
from enginewright.interrupt import run_interruptible

if TYPE_CHECKING:
    from enginewright_bench import Bench, BenchResult, Comparison, LineView

    from enginewright.progress import Reporter

__all__ = ["bench_app"]


_LEGEND = "latencies are p50/p95/p99; a user: median; of limit, decoding: share of what the memory allows"

bench_app = typer.Typer(rich_markup_mode=None)


@bench_app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    server: connection.Server = connection.SERVER,
    model: connection.Model = connection.MODEL,
    concurrency: Annotated[
        str | None,
        typer.Option("--concurrency", metavar="N,N,...", help="Closed loop: users [default: 1,2,4,8]."),
    ] = None,
    request_rate: Annotated[
        str | None,
        typer.Option("--request-rate", metavar="R,R,...", help="Open loop: Poisson arrivals a second."),
    ] = None,
    search_rate: Annotated[
        bool, typer.Option("--search-rate", help="Find the highest rate that keeps --slo.")
    ] = False,
    profile: Annotated[
        ProfileName | None,
        typer.Option(
            "--profile",
            help="qwen-speed: Qwen's table, 1 to 129024 tokens in, 2048 out. chat: messages, many lengths.",
        ),
    ] = None,
    requests: Annotated[int | None, typer.Option("--requests", min=1, help="Requests of each load.")] = None,
    warmup: Annotated[
        int | None, typer.Option("--warmup", min=0, help="Requests before each load that do not count.")
    ] = None,
    input_tokens: Annotated[
        int | None, typer.Option("--input-tokens", min=1, help="Tokens of a prompt [default: 512].")
    ] = None,
    input_tokens_std: Annotated[
        float, typer.Option("--input-tokens-std", min=0, help="Their standard deviation.")
    ] = 0.0,
    output_tokens: Annotated[
        int | None, typer.Option("--output-tokens", min=1, help="Tokens of an answer [default: 128].")
    ] = None,
    output_tokens_std: Annotated[
        float, typer.Option("--output-tokens-std", min=0, help="Their standard deviation.")
    ] = 0.0,
    lengths: Annotated[
        LengthShape, typer.Option("--lengths", help="How lengths with a deviation are distributed.")
    ] = "normal",
    prompts: Annotated[
        Path | None, typer.Option("--prompts", help="Real prompts: lines of text, or .jsonl.")
    ] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Send prompts as messages of a chat.")] = False,
    natural_end: Annotated[
        bool, typer.Option("--natural-end", help="Let answers end by themselves, before --output-tokens.")
    ] = False,
    slo: Annotated[
        str | None, typer.Option("--slo", metavar="ttft:500ms,itl:50ms", help="What counts as good.")
    ] = None,
    slo_share: Annotated[
        float, typer.Option("--slo-share", min=0, max=1, help="Good requests that --search-rate wants.")
    ] = 0.95,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed sends the same requests.")] = 0,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds for one answer.")] = 600.0,
    repository: Annotated[
        Path | None, typer.Option("--repository", help="The build that is served: its limit and tokenizer.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="A tokenizer.json, to count the answers' tokens again.")
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="HOST:PORT", help="Compare with the server's counters.")
    ] = None,
    memory_bandwidth: options.BandwidthOption = None,
    weight_bytes: Annotated[
        str | None,
        typer.Option("--weight-bytes", metavar="SIZE", help="Weights read to decode a token, if known."),
    ] = None,
    kv_bytes: Annotated[
        str | None, typer.Option("--kv-bytes", metavar="SIZE", help="KV cache of a token, with the former.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the results [default: artifacts/...].")
    ] = None,
    token_file: connection.TokenFile = None,
    tls_ca: connection.TlsCa = None,
    tls_cert: connection.TlsCert = None,
    tls_key: connection.TlsKey = None,
    json_lines: options.JsonOption = False,
) -> None:
    """Measure a running server: a sweep of users, a rate of arrivals, or a search for the highest rate.

    Prompts have exactly the tokens asked for, and answers are generated to exactly the length asked for.
    Failures are counted by cause and are in no average. Latencies of an open loop count from the drawn
    arrival, so that a server or client that falls behind cannot hide it.

    The folder has aiperf's files for each load, plots, bench.json and report.html.

    \b
    Examples:
        enginewright bench --repository models/smollm2-135m-int4-awq
        enginewright bench --concurrency 1,4,16 --input-tokens 1024 --output-tokens 256
        enginewright bench --request-rate 0.5,1,2 --slo ttft:500ms,itl:50ms
        enginewright bench --search-rate --slo ttft:1s,itl:100ms --requests 50
        enginewright bench --profile qwen-speed --repository models/qwq-32b
        enginewright bench compare artifacts/before artifacts/after
    """
    if context.invoked_subcommand is not None:
        return
    flags = BenchFlags(**{item.name: context.params[item.name] for item in fields(BenchFlags)})
    secured = connection.Secured(token_file, tls_ca, tls_cert, tls_key)
    folder = out or _default_folder(flags)
    with options.reporting(json_lines) as reporter:
        with _view(reporter, json_lines) as view:
            result = run_interruptible(_measure(flags, secured, folder, view))
        _write_report(folder, reporter)
        _require_answers(result, folder)
        _show(result, folder, reporter)


@bench_app.command("report")
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder of a benchmark.")],
    json_lines: options.JsonOption = False,
) -> None:
    """Draw the plots and write report.html again, from the files of a benchmark."""
    from enginewright_bench import read_result

    with options.reporting(json_lines) as reporter:
        result = read_result(folder)
        _write_report(folder, reporter)
        _show(result, folder, reporter)


@bench_app.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="The folder of a benchmark.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="The folder of another.")],
    json_lines: options.JsonOption = False,
) -> None:
    """Compare two benchmarks: each figure's ratio B / A, with the 95 % interval that the requests allow."""
    from enginewright_bench import compare_runs

    with options.reporting(json_lines) as reporter:
        comparison = compare_runs(first, second)
        reporter.result(_comparison_text(comparison), {"ok": True, **comparison.as_json()})


async def _measure(
    flags: BenchFlags, secured: connection.Secured, folder: Path, view: LineView
) -> BenchResult:
    from enginewright_bench import Bench, LocalTokenizer, find_provenance
    from enginewright_client import AsyncTritonClient, Retry

    # A request that is repeated quietly would be measured as a slow one.
    async with AsyncTritonClient(
        flags.server,
        model=flags.model,
        retry=Retry(attempts=1),
        token=secured.token,
        tls=secured.tls,
        metrics_address=flags.metrics,
    ) as client:
        config = await client.model_config()
        level = flags.service_level()
        tokenizer = flags.tokenizer or flags.repository
        bench = Bench(
            client=client,
            config=config,
            folder=folder,
            observer=view,
            provenance=find_provenance(flags.seed, flags.repository),
            limit=flags.limit(),
            level=level,
            tokenizer=LocalTokenizer(tokenizer) if tokenizer else None,
            compares_totals=flags.metrics is not None,
            timeout=flags.timeout,
            settings=flags.as_json(),
        )
        return await _run(bench, flags)


async def _run(bench: Bench, flags: BenchFlags) -> BenchResult:
    context = bench.config.max_seq_len
    if flags.search_rate:
        return await bench.search(flags.question(context))
    loads, skipped = flags.loads(context)
    return await bench.run(loads, skipped)


@contextmanager
def _view(reporter: Reporter, json_lines: bool) -> Iterator[LineView]:
    from enginewright_bench import LineView, LiveView

    if sys.stdout.isatty() and not json_lines:
        with LiveView() as view:
            yield view
    else:
        yield LineView(reporter.say)


def _default_folder(flags: BenchFlags) -> Path:
    name = flags.repository.resolve().name if flags.repository else flags.model
    return Path("artifacts") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _write_report(folder: Path, reporter: Reporter) -> None:
    """The page, where matplotlib is there to draw it: the figures are worth having without."""
    from enginewright_bench import write_report

    try:
        write_report(folder)
    except ModuleNotFoundError as error:
        reporter.warn(
            f"no report.html: the package {error.name} is missing (pip install 'enginewright[bench]', "
            f"then enginewright bench report {folder})"
        )


def _require_answers(result: BenchResult, folder: Path) -> None:
    """Raises StageFailed if no request of any load was answered."""
    if not any(point.metrics["request_count"].avg for point in result.points):
        [cause, *_] = result.points[0].failures
        raise StageFailed(
            f"no request was answered: {cause.message} [{cause.code}]",
            code="nothing-answered",
            hint=f"the failures are in {folder}; see the server's log",
        )


def _show(result: BenchResult, folder: Path, reporter: Reporter) -> None:
    from enginewright_bench import (
        COLUMNS,
        SPEED_COLUMNS,
        SPEED_TITLE,
        limit_text,
        result_rows,
        search_text,
        speed_rows,
    )

    texts = [_table([COLUMNS, *result_rows(result.points)]), _LEGEND, limit_text(result)]
    if result.search is not None:
        texts.append(search_text(result))
    if published := speed_rows(result.points):
        texts += [SPEED_TITLE, _table([SPEED_COLUMNS, *published])]
    texts.append(f"written to {folder}")
    reporter.result("\n".join(texts), {"ok": True, "folder": str(folder), **result.model_dump(mode="json")})


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    align: list[Callable[[str, int], str]] = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    return "\n".join(
        "  ".join(put(cell, width) for put, cell, width in zip(align, row, widths, strict=True)).rstrip()
        for row in rows
    )


def _comparison_text(comparison: Comparison) -> str:
    rows: list[tuple[str, ...]] = [("load", "figure", "A", "B", "B / A", "95 % interval", "")]
    for ratio in comparison.ratios:
        interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
        values = (f"{ratio.first:.4g}", f"{ratio.second:.4g}", f"{ratio.ratio:.3f}", interval)
        rows.append((ratio.load, ratio.figure, *values, "" if ratio.clear else "may be chance"))
    lines = [_table(rows)]
    lines += [f"only in one of them: {label}" for label in comparison.unmatched]
    lines += [f"not the same: {difference}" for difference in comparison.differences]
    return "\n".join(lines)
