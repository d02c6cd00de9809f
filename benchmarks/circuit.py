"""How faithful circuits are for how few edges, and how long their discovery takes.

    .venv/bin/python -m benchmarks.circuit [--task ioi-swap] [--pairs 20] [--methods eap-ig eap]

On a task set that ships, on the CPU: for each method the smallest circuit found, its faithfulness
on the pairs and on as many held out, CPR and CMD, and the seconds of scoring all edges, of one
exact run, and of the whole discovery. Then faithfulness by number of edges: each method, and random
edges that hang together in the same way.
"""

import argparse
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: nothing is fetched

import torch
from rich.console import Console
from rich.table import Table

from ablation.circuit.attribution import score_edges
from ablation.circuit.discovery import discover_circuit
from ablation.circuit.methods import METHODS
from ablation.circuit.question import pose
from ablation.circuit.tasks import TASKS, make_pairs
from ablation.circuit.types import Circuit, PromptPair
from ablation.types import Progress
from benchmarks.machine import seconds
from benchmarks.report import table
from models import LanguageModel, load_model


@dataclass(frozen=True, slots=True, eq=False)
class Timed:
    circuit: Circuit
    scoring: float
    """Seconds of scoring all edges."""
    run: float
    """Seconds of one exact run with the circuit's edges."""


@dataclass(slots=True)
class Notes:
    """Says now and then how far a discovery is."""

    method: str
    started: float = field(default_factory=time.monotonic)
    said: float = 0.0
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def __call__(self, progress: Progress) -> None:
        passed = time.monotonic() - self.started
        if passed - self.said > 20:
            self.said = passed
            self.console.print(f"{self.method}: {passed:.0f} s, {progress.message}")


def measure(
    model: LanguageModel,
    pairs: Sequence[PromptPair],
    held_out: Sequence[PromptPair],
    method: str,
    steps: int,
) -> Timed:
    circuit = discover_circuit(
        model, pairs, method=method, held_out=held_out, steps=steps, progress=Notes(method)
    )
    question = pose(model, pairs, circuit.metric, circuit.baseline)
    by = "eap-ig" if method == "acdc" else method
    scoring = seconds(lambda: score_edges(question, by, steps))
    run = seconds(lambda: question.measured(circuit.kept))
    return Timed(circuit, scoring, run)


def summary_table(title: str, found: Mapping[str, Timed]) -> Table:
    made = table(
        title,
        ("method", "edges", "of all", "faithfulness", "held out", "without it", "CPR", "CMD",
         "scoring, s", "one run, s", "runs", "all, s"),
    )  # fmt: skip
    for method, timed in found.items():
        circuit = timed.circuit
        made.add_row(
            METHODS[method].label,
            f"{circuit.n_edges:,}",
            f"{circuit.n_edges / circuit.graph.n_edges:.2%}",
            f"{circuit.faithfulness:.3f}",
            "" if circuit.held_out is None else f"{circuit.held_out:.3f}",
            f"{circuit.completeness:.3f}",
            f"{circuit.cpr:.3f}",
            f"{circuit.cmd:.3f}",
            f"{timed.scoring:.1f}",
            f"{timed.run:.2f}",
            str(circuit.n_runs),
            f"{circuit.seconds:.0f}",
        )
    return made


def curve_table(found: Mapping[str, Timed]) -> Table:
    made = table("Faithfulness by number of edges", ("edges", *found, "random edges"))
    curves = [timed.circuit.curve for timed in found.values()]
    for points in zip(*curves, strict=True):
        chance = points[0].random
        made.add_row(
            f"{points[0].n_edges:,}",
            *(f"{point.faithfulness:.3f}" for point in points),
            "" if chance is None else f"{chance:.3f}",
        )
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--task", default="ioi-swap", choices=list(TASKS))
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--methods", nargs="+", default=["eap-ig", "eap"], choices=list(METHODS))
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = load_model(options.model, device="cpu")
    all_pairs = make_pairs(model, options.task, 2 * options.pairs, only_correct=True)
    pairs, held_out = all_pairs[: options.pairs], all_pairs[options.pairs :]
    found = {
        method: measure(model, pairs, held_out, method, options.steps) for method in options.methods
    }
    lengths = [len(model.tokenize(pair.clean)) for pair in pairs]
    title = (
        f"{model.name}: {TASKS[options.task].label}, {len(pairs)} pairs of {min(lengths)} to "
        f"{max(lengths)} tokens, {options.threads} threads, {options.steps} steps"
    )
    console = Console(width=160)
    console.print(summary_table(title, found))
    console.print(curve_table(found))


if __name__ == "__main__":
    main()
