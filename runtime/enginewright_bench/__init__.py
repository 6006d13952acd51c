"""Benchmarks of any server of the wire contract: load, metrics, files, plots, comparisons.

    from enginewright_bench import Bench, Workload, closed_loads, ...

It knows the wire alone, through `enginewright_client`. Needs numpy and pydantic; `draw_plots` and
`write_report` need matplotlib, `LocalTokenizer` needs tokenizers.
"""
