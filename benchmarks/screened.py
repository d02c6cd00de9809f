"""How good and how fast the screened search is, against the exact one, on prompts of many kinds.

    .venv/bin/python -m benchmarks.screened [--prompts 20] [--max-heads 10] [--threads 2]

For each prompt of `benchmarks.prompts`: a generic search, and a targeted one whose target is the
second most likely token, with both strategies in turns. Printed are the heads in common, the final
KL divergence as a share of the exact search's, whether the target was reached, and the seconds.
"""

import argparse
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported: nothing is fetched

import torch
from rich.console import Console
from rich.table import Table

from ablation import SearchResult, search_heads
from benchmarks.machine import seconds
from benchmarks.prompts import PROMPTS
from benchmarks.report import NOT_MEASURED, Goal, table
from models import LanguageModel, load_model

SPEED_GOAL = Goal(5.0)
"""The screened search should be so many times faster than the exact one, at equal heads ..."""

SHARE_GOAL = Goal(0.9)
"""... at this share of the prompts."""

FAST_AND_RIGHT = f"{SPEED_GOAL.bound:g} times faster at equal heads"
REACHED, REACHED_SCREENED = "target reached, exact", "target reached, screened"

WIDTH = 220


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One prompt searched with both strategies."""

    kind: str
    exact: SearchResult
    screened: SearchResult
    exact_seconds: float
    screened_seconds: float

    @property
    def same_heads(self) -> bool:
        return self.exact.heads == self.screened.heads

    @property
    def same_order(self) -> bool:
        """Whether every step chose the same head."""
        return [s.head for s in self.exact.steps] == [s.head for s in self.screened.steps]

    @property
    def overlap(self) -> float:
        """The share of heads that both found, of all that either did; 1 where neither found any."""
        ours, theirs = set(self.exact.heads), set(self.screened.heads)
        return len(ours & theirs) / len(ours | theirs) if ours | theirs else 1.0

    @property
    def kl_share(self) -> float:
        """KL after the last screened step as a share of the exact search's; 1 without steps."""
        if not (self.exact.steps and self.screened.steps):
            return float(len(self.exact.steps) == len(self.screened.steps))
        return self.screened.steps[-1].kl / self.exact.steps[-1].kl

    @property
    def speedup(self) -> float:
        return self.exact_seconds / self.screened_seconds

    @property
    def is_fast_and_right(self) -> bool:
        return self.same_heads and self.speedup >= SPEED_GOAL.bound


def search_both(
    model: LanguageModel, kind: str, text: str, max_heads: int, target: int | None
) -> Pair:
    """Search one prompt with both strategies, one after the other."""
    found: dict[str, SearchResult] = {}

    def search(strategy: str) -> None:
        found[strategy] = search_heads(model, text, target, max_heads=max_heads, strategy=strategy)

    exact = seconds(lambda: search("exact"))
    screened = seconds(lambda: search("screened"))
    return Pair(kind, found["exact"], found["screened"], exact, screened)


def searches(
    model: LanguageModel, prompts: Sequence[tuple[str, str]], max_heads: int, targeted: bool
) -> Iterator[Pair]:
    """Search every prompt; targeted: for the token that is second most likely after it."""
    for kind, text in prompts:
        target = model.predict(model.tokenize(text)).top[1].id if targeted else None
        yield search_both(model, kind, text, max_heads, target)


def prompts_table(title: str, pairs: Sequence[Pair]) -> Table:
    """Show every prompt."""
    made = table(
        title,
        ("prompt", "stopped (exact)", "(screened)", "heads", "(screened)", "in common", "order",
         "KL", "share of it", "evaluated", "(screened)", "seconds", "(screened)", "ratio"),
        n_text=3,
    )  # fmt: skip
    for pair in pairs:
        exact, screened = pair.exact, pair.screened
        made.add_row(
            pair.kind,
            exact.stopped,
            screened.stopped,
            str(len(exact.heads)),
            str(len(screened.heads)),
            f"{pair.overlap:.0%}",
            "same" if pair.same_order else "other",
            f"{exact.steps[-1].kl:.3f}" if exact.steps else "",
            f"{pair.kl_share:.1%}",
            f"{exact.evaluated:,}",
            f"{screened.evaluated:,}",
            f"{pair.exact_seconds:.1f}",
            f"{pair.screened_seconds:.1f}",
            f"{pair.speedup:.1f}",
        )
    return made


def summary_table(pairs_by_search: Mapping[str, Sequence[Pair]]) -> Table:
    """Show what all prompts together say. The goal is about generic searches: a targeted one may
    end after a step or two, of which the first is exact."""
    made = table("Screened against exact", ("", *pairs_by_search))
    lines = [_summary(pairs) for pairs in pairs_by_search.values()]
    for name in lines[0]:
        made.add_row(name, *(line[name] for line in lines))
    return made


def _summary(pairs: Sequence[Pair]) -> dict[str, str]:
    n = len(pairs)
    shares = [pair.kl_share for pair in pairs]
    right = sum(pair.is_fast_and_right for pair in pairs)
    lines = {
        "prompts": str(n),
        "same heads": f"{sum(pair.same_heads for pair in pairs)} of {n}",
        "same heads in the same order": f"{sum(pair.same_order for pair in pairs)} of {n}",
        "heads in common, mean": f"{statistics.mean(pair.overlap for pair in pairs):.1%}",
        "last KL as a share of the exact one's, median": f"{statistics.median(shares):.1%}",
        "last KL as a share of the exact one's, least": f"{min(shares):.1%}",
        "times faster, median": f"{statistics.median(pair.speedup for pair in pairs):.1f}",
        "times faster, least": f"{min(pair.speedup for pair in pairs):.1f}",
        FAST_AND_RIGHT: f"{right} of {n}",
        REACHED: NOT_MEASURED,
        REACHED_SCREENED: NOT_MEASURED,
    }
    if pairs[0].exact.target is None:
        return {**lines, FAST_AND_RIGHT: f"{right} of {n} ({SHARE_GOAL.verdict(right / n)})"}
    return {
        **lines,
        REACHED: f"{sum(_reached(pair.exact) for pair in pairs)} of {n}",
        REACHED_SCREENED: f"{sum(_reached(pair.screened) for pair in pairs)} of {n}",
    }


def _reached(found: SearchResult) -> bool:
    return found.stopped == "target_reached"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS), help="the first so many")
    parser.add_argument("--max-heads", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model = load_model(options.model, device="cpu")
    prompts = list(PROMPTS.items())[: options.prompts]
    console, notes = Console(width=WIDTH), Console(stderr=True)
    by_search: dict[str, list[Pair]] = {}
    for name in ("generic", "targeted"):
        by_search[name] = []
        for pair in searches(model, prompts, options.max_heads, name == "targeted"):
            notes.print(f"{name}, {pair.kind}: {pair.exact_seconds + pair.screened_seconds:.0f} s")
            by_search[name].append(pair)
        console.print(prompts_table(f"{name} search".capitalize(), by_search[name]))
    console.print(summary_table(by_search))


if __name__ == "__main__":
    main()
