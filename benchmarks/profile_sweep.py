"""Where the time of a sweep goes, by torch's profiler, on one core.

    .venv/bin/python -m benchmarks.profile_sweep [--model builtin] [--tokens 64]

Every operation's own time goes to one group; what is left of the wall time passes between
operations: Python, transformers' and ours, and the profiler itself, whose share shows as the
difference between the times with it and without. With several cores each would take some of the
rows (`models.cores`), on a thread that the profiler does not follow.
"""

import argparse
import os
import re
from collections.abc import Mapping, Sequence

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: nothing is fetched

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from ablation import sweep_heads
from benchmarks.flops import ModelShape, needed_flops
from benchmarks.loops import PlainLoop
from benchmarks.machine import matrix_rate, seconds
from benchmarks.report import GIGA, table
from benchmarks.subjects import prompt_of_length, subject_named

GROUPS = {
    "attention": r"scaled_dot_product|flash_attention|^softmax",
    "matrix products": r"mm|matmul|linear|einsum",
    "copies and indexing": (
        r"copy|clone|cat$|index|gather|scatter|select|slice|narrow|expand|repeat|view|reshape"
        r"|transpose|permute|squeeze|strided|empty|resize|fill|zero|arange|split|stack|tril|^to?$"
        r"|contiguous|embedding|item"
    ),
}
"""Group -> what its operations' names match; the first group that does."""

ELEMENTWISE = "norms and elementwise"
"""The group of all other operations."""

BETWEEN = "Python between operations"


def group_of(operation: str) -> str:
    """Return the group of an operation such as "aten::addmm".

    Attention outside fused kernels counts its two matrix products as such.
    """
    name = operation.rpartition("::")[2].strip("_")
    return next((g for g, names in GROUPS.items() if re.search(names, name)), ELEMENTWISE)


def seconds_by_group(own_seconds: Mapping[str, float], wall: float) -> dict[str, float]:
    """Add up operations' own seconds by group; the rest of the wall time is Python's.

    Args:
        own_seconds: operation -> its own time, without that of operations that it calls.
    """
    groups = dict.fromkeys((*GROUPS, ELEMENTWISE), 0.0)
    for operation, own in own_seconds.items():
        groups[group_of(operation)] += own
    groups[BETWEEN] = max(0.0, wall - sum(groups.values()))
    return groups


def shares_table(groups: Mapping[str, float]) -> Table:
    made = table("Where the time of a sweep goes", ("", "seconds", "share"))
    total = sum(groups.values())
    for group, own in sorted(groups.items(), key=lambda item: -item[1]):
        made.add_row(group, f"{own:.2f}", f"{own / total:.1%}")
    made.add_row("all", f"{total:.2f}", "100%")
    return made


def operations_table(own_seconds: Mapping[str, float], calls: Mapping[str, int], n: int) -> Table:
    """Show the n operations that take longest."""
    made = table("Operations by their own time", ("operation", "group", "calls", "seconds"), 2)
    for operation in sorted(own_seconds, key=lambda op: -own_seconds[op])[:n]:
        cells = (f"{calls[operation]:,}", f"{own_seconds[operation]:.2f}")
        made.add_row(operation, group_of(operation), *cells)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="builtin", help="builtin, gpt2-shape or a directory")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--top", type=int, default=15, help="operations to list")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    subject = subject_named(options.model)
    shape = ModelShape.of(PlainLoop(subject).model)
    model = subject.load()
    prompt = prompt_of_length(model, options.tokens)
    model.predict(prompt)
    plain = seconds(lambda: sweep_heads(model, prompt))
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        wall = seconds(lambda: sweep_heads(model, prompt))
    # "aten::" is torch's own namespace: only operations, not the profiler's marks.
    events = [event for event in profiler.key_averages() if event.key.startswith("aten::")]
    own = {event.key: event.self_cpu_time_total * 1e-6 for event in events}
    console = Console(width=120)
    console.print(shares_table(seconds_by_group(own, wall)))
    console.print(operations_table(own, {e.key: e.count for e in events}, options.top))
    flops = needed_flops(shape, len(prompt), [shape.n_heads] * shape.n_layers)
    console.print(
        f"{subject.label}, {len(prompt)} tokens, one core: {plain:.2f} s without "
        f"the profiler, {wall:.2f} s with it.\nNeeded: {flops / GIGA:,.0f} GFLOP, which at the "
        f"rate of a large matrix product take {flops / matrix_rate():.2f} s."
    )


if __name__ == "__main__":
    main()
