"""How much memory reading attention takes beside the maps that are asked for.

    .venv/bin/python -m benchmarks.attention_memory [--prompt-tokens 4096] [--heads 6]

On the built-in model, on the CPU: the peak of the process while the page's runs (`app.runs`) read
the maps, above the peak of the same forward pass that reads nothing. Each is measured in a process
of its own, as a peak does not go down again. The goal is the maps and less than one map more.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from app.runs import Runs
from models import load_model

TEXT = "The quick brown fox jumps over the lazy dog while Mary gives a drink to John. "
MEGABYTE = 1e6


def peak_bytes() -> int:
    """Return the largest resident size of this process so far."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("this system tells no peak of memory (VmHWM in /proc/self/status)")


def measure(n_tokens: int, n_heads: int) -> None:
    """Run once in this process; print how far the peak rose above the loaded model, in bytes."""
    model = load_model("builtin", device="cpu")
    ids = model.tokenize(TEXT).ids
    prompt = model.prompt_of_ids((ids * (n_tokens // len(ids) + 1))[:n_tokens])
    heads = model.all_heads()[:: len(model.all_heads()) // max(1, n_heads)][:n_heads]
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew, from the loaded model
    before = psutil.Process().memory_info().rss
    outcome = Runs().outcome(model, prompt, None, heads, None)
    if len(outcome.maps) != n_heads:
        raise RuntimeError(f"{n_heads} maps were asked for, {len(outcome.maps)} came")
    print(peak_bytes() - before)


def measured_apart(n_tokens: int, n_heads: int) -> int:
    """Return what `measure` prints in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.attention_memory", "--measure"]
    command += ["--prompt-tokens", str(n_tokens), "--heads", str(n_heads)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompt-tokens", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=6)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.prompt_tokens, options.heads)
        return
    clean = measured_apart(options.prompt_tokens, 0)
    reading = measured_apart(options.prompt_tokens, options.heads)
    one_map = 4 * options.prompt_tokens**2
    maps, above = options.heads * one_map, reading - clean
    table = Table(
        title=f"Reading {options.heads} heads of {options.prompt_tokens:,} tokens, built-in model"
    )
    for column in ("", "MB", "goal"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("forward pass that reads nothing, above the model", f"{clean / MEGABYTE:.0f}", "")
    table.add_row("the same reading the maps", f"{reading / MEGABYTE:.0f}", "")
    table.add_row("the maps themselves", f"{maps / MEGABYTE:.0f}", "")
    table.add_row(
        "what reading took above the clean pass",
        f"{above / MEGABYTE:.0f}",
        f"{(maps + one_map) / MEGABYTE:.0f}",
    )
    table.add_row("as a share of the maps", f"{above / maps:.2f}", f"{1 + 1 / options.heads:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
