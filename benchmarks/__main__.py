"""Measure the sweep and the search against their competitors and the machine's limit.

    python3 -m venv .venv-bench
    .venv-bench/bin/pip install -q -r requirements.txt -r benchmarks/requirements.txt
    .venv-bench/bin/python -m benchmarks [--quick] [--no-peers]

Compared in one process, in turns: (a) one forward pass a head with a plain hook on the output
projection, transformers' own attention, unembedding at the last position; (b) TransformerLens's
bridge as its users write it, one forward pass a head and one a layer with its heads as rows; (c)
`sweep_heads` and `search_heads`; (d) the screened search; (e) the machine's limit: the operations
of the growing batch in full (`benchmarks.flops`), at the rate of a large matrix product measured
just before and after. Every ratio is taken within a round, and the median of the rounds printed.
Whoever computes something else than the program fails the run (exit code 1). A goal that is not met
is said, and fails nothing.

The whole of it takes some two hours on two cores, nearly all of them exact searches. Keep the
machine quiet.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: nothing is fetched

import torch
from rich.console import Console

from benchmarks import report
from benchmarks.memory import peak_mib
from benchmarks.speed import Contenders, Measured, Plan, measure
from benchmarks.subjects import BUILTIN, GPT2_SHAPE, subject_named

QUESTIONS = ("sweep", "search", "memory")
TOKENS = {BUILTIN: (16, 64, 256, 1024), GPT2_SHAPE: (16, 64, 256)}
SEARCHED_UP_TO = 256
"""Longer prompts are only swept: ten exact steps would take hours."""

WIDTH = 160


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--models", nargs="+", default=[BUILTIN, GPT2_SHAPE], metavar="MODEL",
        help="builtin, gpt2-shape (random weights), or checkpoint directories")  # fmt: skip
    add(
        "--tokens",
        type=int,
        nargs="+",
        help="prompt lengths (default: 16 64 256, builtin 1024 too)",
    )
    add("--questions", nargs="+", choices=QUESTIONS, default=list(QUESTIONS))
    add("--rounds", type=int, default=3, help="turns of everybody; medians are shown (default: 3)")
    add("--threads", type=int, default=2, help="threads of torch (default: 2)")
    add("--search-heads", type=int, default=10, help="steps of a search (default: 10)")
    add("--strategies", nargs="+", choices=("exact", "screened"), default=["exact", "screened"])
    add("--sample", type=int, default=27, help="forward passes a loop and round (default: 27)")
    add("--peers", action=argparse.BooleanOptionalAction, default=True,
        help="measure TransformerLens too (benchmarks/requirements.txt)")  # fmt: skip
    add("--quick", action="store_true", help="one round, 16 tokens, 2 steps, 3 forward passes")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.tokens, options.search_heads, options.sample = 1, [16], 2, 3
    if "exact" not in options.strategies:
        parser.error("The exact search is what the other is measured against; name it too.")
    if options.peers and find_spec("transformer_lens") is None:
        parser.error(
            "TransformerLens is missing; install benchmarks/requirements.txt, or --no-peers."
        )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    console, notes = Console(width=WIDTH), Console(stderr=True)
    measured = _all_measured(options, notes)
    _print_speed(console, measured, options)
    if "memory" in options.questions:
        console.print(report.memory_table(_peaks(options, notes)))
    if all(agreement.holds for m in measured for agreement in m.agreements):
        return 0
    notes.print("Not everybody computed the same thing: these times compare nothing.")
    return 1


def _all_measured(options: argparse.Namespace, notes: Console) -> list[Measured]:
    if not {"sweep", "search"} & set(options.questions):
        return []
    measured = []
    for name in options.models:
        contenders = Contenders.of(subject_named(name), options.peers)
        for n_tokens in _tokens(name, options):
            notes.print(f"Measuring {contenders.subject.label} at {n_tokens} tokens")
            measured.append(measure(contenders, n_tokens, _plan(options, n_tokens)))
            notes.print(report.summary(measured[-1]), soft_wrap=True)
    return measured


def _plan(options: argparse.Namespace, n_tokens: int) -> Plan:
    searched = "search" in options.questions and n_tokens <= SEARCHED_UP_TO
    return Plan(
        rounds=options.rounds,
        search_heads=options.search_heads,
        strategies=tuple(options.strategies) if searched else (),
        most_sampled=options.sample,
    )


def _tokens(name: str, options: argparse.Namespace) -> Sequence[int]:
    return options.tokens or TOKENS.get(name, TOKENS[GPT2_SHAPE])


def _print_speed(
    console: Console, measured: Sequence[Measured], options: argparse.Namespace
) -> None:
    if not measured:
        return
    console.print(
        f"Medians of {options.rounds} rounds, {options.threads} threads, torch "
        f"{torch.__version__}.\n"
        "limit: the growing batch in full at the rate of a large matrix product. hook loop: one\n"
        "forward pass a head. TL: TransformerLens, one forward pass a head, or one a layer with\n"
        "its heads as rows. Loops are scaled up from at most "
        f"{options.sample} forward passes a round,\n"
        "spread over the layers; their searches are extrapolated from these.\n"
    )
    console.print(
        *report.speed_tables("Sweep of all heads", measured, report.sweep_seconds, report.SWEEP),
        report.operations_table(measured),
        report.agreement_table(measured),
    )
    searched = [m for m in measured if m.rounds[0].searches]
    if searched:
        title = f"Search in {options.search_heads} steps"
        console.print(
            *report.speed_tables(title, searched, report.search_seconds, report.EXACT),
            report.found_table(searched),
        )


def _peaks(options: argparse.Namespace, notes: Console) -> list[report.Peak]:
    peaks = []
    for name in options.models:
        subject = subject_named(name)
        for n_tokens in _tokens(name, options):
            notes.print(f"Measuring the memory of {subject.label} at {n_tokens} tokens")
            for label, who in _who(options).items():
                mib = peak_mib(who, subject, n_tokens, options.threads)
                peaks.append(report.Peak(subject.label, label, n_tokens, mib))
    return peaks


def _who(options: argparse.Namespace) -> dict[str, str]:
    """Return whose memory is measured: what tables call it -> what `benchmarks.memory` does."""
    peers = {report.LENS: "lens", report.LENS_BY_LAYER: "lens-layer"} if options.peers else {}
    screened = {report.SCREENED: "screened"} if "screened" in options.strategies else {}
    return {report.SWEEP: "sweep", **screened, report.PLAIN: "plain", **peers}


if __name__ == "__main__":
    sys.exit(main())
