"""How long the summary of all heads takes, and how much memory, beside what else one could run.

    .venv/bin/python -m benchmarks.overview [--tokens 32 4096] [--rounds 3] [--threads 2]

On the CPU, at each length: a plain forward pass of the same model (`LanguageModel.predict`); the
summary of all heads, thumbnails and every metric (`summarise_heads`); and what anybody would write,
transformers' eager attention with `output_attentions=True` and the same metrics with numpy, where
its maps fit into the memory that is free. Each is measured in a process of its own, whose peak is
taken over the first run and whose time is the median of the rounds. Ratios are to the forward pass.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from ablation import summarise_heads
from benchmarks.machine import seconds
from benchmarks.memory import MIB, peak_bytes
from benchmarks.subjects import BUILTIN, Subject, prompt_of_length, subject_named
from models import TokenizedPrompt

LENGTHS = (32, 128, 512, 1024, 4096)
WARM_UP_TOKENS = 4
EAGER_COPIES = 1.3
"""Memory that eager attention takes, in units of all maps: a layer's temporaries come on top."""

Work = Callable[[TokenizedPrompt], object]


def metrics_of(rows: np.ndarray) -> np.ndarray:
    """Return the seven metrics of one head of a causal model, from its map [query, key]."""
    n = len(rows)
    rows = rows[1:].astype(np.float64)  # the first query sees only itself
    queries, keys = np.arange(1, n), np.arange(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(rows * np.log(rows), axis=1)
    distance = (rows * np.abs(queries[:, None] - keys)).sum(axis=1)
    at = np.arange(n - 1)
    weights = (rows[at, queries], rows[at, queries - 1], rows[:, 0], rows.max(axis=1))
    return np.array([column.mean() for column in (entropy, np.exp(entropy), distance, *weights)])


def eager_metrics(model: AutoModelForCausalLM, prompt: TokenizedPrompt) -> np.ndarray:
    """Return the metrics [n_metrics, n_layers, n_heads] by eager attention and numpy."""
    with torch.inference_mode():
        output = model(
            input_ids=torch.tensor([prompt.ids]),
            output_attentions=True,
            use_cache=False,
            logits_to_keep=1,
        )
    found = [[metrics_of(rows.numpy()) for rows in layer[0]] for layer in output.attentions]
    return np.moveaxis(np.array(found), -1, 0)


def eager(subject: Subject) -> AutoModelForCausalLM:
    return AutoModelForCausalLM.from_pretrained(
        subject.directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def measure(who: str, subject: Subject, n_tokens: int, rounds: int) -> dict[str, float]:
    """Return seconds and MiB at the peak above the loaded model, measured in this process."""
    model = subject.load()
    works: dict[str, Callable[[], Work]] = {
        "forward": lambda: model.predict,
        "summary": lambda: lambda prompt: summarise_heads(model, prompt),
        "eager": lambda: eager_work(subject),
    }
    work = works[who]()
    work(prompt_of_length(model, WARM_UP_TOKENS))
    prompt = prompt_of_length(model, n_tokens)
    peak = peak_bytes(lambda: work(prompt)) / MIB
    times = [seconds(lambda: work(prompt)) for _ in range(rounds)]
    return {"seconds": statistics.median(times), "mib": peak}


def eager_work(subject: Subject) -> Work:
    model = eager(subject)
    return lambda prompt: eager_metrics(model, prompt)


def agreement(subject: Subject, n_tokens: int) -> float:
    """Return the largest difference between both ways, relative to each metric's largest value."""
    model = subject.load()
    prompt = prompt_of_length(model, n_tokens)
    ours, theirs = summarise_heads(model, prompt).values, eager_metrics(eager(subject), prompt)
    return float((np.abs(ours - theirs) / np.abs(theirs).max(axis=(1, 2), keepdims=True)).max())


def measured_apart(
    who: str, options: argparse.Namespace, n_tokens: int, n_heads: int
) -> dict[str, float] | None:
    """Return what `measure` finds in a process of its own; None if there is not enough memory."""
    if who == "eager" and EAGER_COPIES * 4 * n_heads * n_tokens**2 > available_bytes():
        return None
    command = [sys.executable, "-m", "benchmarks.overview", "--measure", who, "--tokens"]
    command += [str(n_tokens), "--model", options.model, "--rounds", str(options.rounds)]
    command += ["--threads", str(options.threads)]
    done = subprocess.run(
        command,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def available_bytes() -> int:
    return int(psutil.virtual_memory().available)


def cells(found: dict[str, float] | None, base: dict[str, float]) -> tuple[str, str, str]:
    """Return time, how many times the forward pass that is, and memory."""
    if found is None:
        return "–", "–", "maps do not fit"
    ratio = found["seconds"] / base["seconds"]
    return f"{found['seconds']:.2f}", f"{ratio:.2f}", f"{found['mib']:.0f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--model", default=BUILTIN, help="builtin or a checkpoint directory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--measure", choices=("forward", "summary", "eager"), help="for itself")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    subject = subject_named(options.model)
    if options.measure:
        print(json.dumps(measure(options.measure, subject, options.tokens[0], options.rounds)))
        return
    n_heads = len(subject.load().all_heads())
    table = Table(
        title=f"All {n_heads} heads of {subject.label}, {options.threads} threads, float32"
    )
    for column in ("tokens", "forward, s", "MiB", "summary, s", "ratio", "MiB", "eager + numpy, s"):
        table.add_column(column, justify="right")
    table.add_column("ratio", justify="right")
    table.add_column("MiB", justify="right")
    for n in options.tokens:
        base = measured_apart("forward", options, n, n_heads)
        assert base is not None
        others = [measured_apart(who, options, n, n_heads) for who in ("summary", "eager")]
        columns = [text for found in others for text in cells(found, base)]
        table.add_row(f"{n:,}", f"{base['seconds']:.2f}", f"{base['mib']:.0f}", *columns)
    Console().print(table)
    n = min(options.tokens)
    print(f"Largest relative difference of a metric at {n} tokens: {agreement(subject, n):.1e}")


if __name__ == "__main__":
    main()
