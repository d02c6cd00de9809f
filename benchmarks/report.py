"""Measured seconds as tables: times, ratios, and whether each goal is met; medians all of them."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table

from benchmarks.speed import Measured, Round

GIGA = 1e9

LIMIT, PLAIN, LENS, LENS_BY_LAYER = "limit", "hook loop", "TL loop", "TL by layer"
SWEEP, EXACT, SCREENED = "ours", "exact", "screened"

Seconds = dict[str, float | None]
"""Contender -> seconds; None where it was not measured."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a ratio should be: at most, or at least."""

    bound: float
    at_most: bool = False

    def verdict(self, value: float) -> str:
        met = value <= self.bound if self.at_most else value >= self.bound
        return f"{'≤' if self.at_most else '≥'} {self.bound:g} {'met' if met else 'NOT met'}"


SWEEP_GOALS = {
    (LIMIT, 16): Goal(1.3, at_most=True),
    (LIMIT, 64): Goal(1.0, at_most=True),
    (LIMIT, 256): Goal(1.0, at_most=True),
    (LENS, 16): Goal(8.0),
    (LENS, 64): Goal(4.0),
    (LENS, 256): Goal(3.0),
    (LENS_BY_LAYER, 16): Goal(2.0),
    (LENS_BY_LAYER, 64): Goal(2.0),
    (LENS_BY_LAYER, 256): Goal(2.0),
}
"""(contender, tokens) -> what its ratio to the sweep should be."""

SCREENED_GOAL = Goal(5.0)
"""How many times faster than the exact search the screened one should be."""

MEMORY_GOALS = {("built-in", 1024): Goal(6 * 1024, at_most=True)}
"""(model, tokens) -> the sweep's peak, in MiB."""

NOT_MEASURED = "–"


def sweep_seconds(measured: Measured, turn: Round) -> Seconds:
    """Return what the sweep of all heads takes, loops scaled up from their sample."""
    layers = measured.shape.n_layers
    return {
        LIMIT: measured.sweep_limit_flops / turn.sweep.rate,
        PLAIN: _times(measured.n_heads, turn.plain_forward),
        LENS: _times(measured.n_heads, turn.lens_forward),
        LENS_BY_LAYER: _times(layers, turn.lens_layer),
        SWEEP: turn.sweep.seconds,
    }


def search_seconds(measured: Measured, turn: Round) -> Seconds:
    """Return what the search takes, loops extrapolated: one forward pass a head left and step."""
    exact, screened = turn.searches["exact"], turn.searches.get("screened")
    n_passes = measured.search_passes(exact.answer)
    return {
        LIMIT: measured.search_limit_flops(exact.answer) / exact.rate,
        PLAIN: _times(n_passes, turn.plain_forward),
        LENS: _times(n_passes, turn.lens_forward),
        LENS_BY_LAYER: _times(n_passes / measured.shape.n_heads, turn.lens_layer),
        EXACT: exact.seconds,
        SCREENED: None if screened is None else screened.seconds,
    }


def summary(measured: Measured) -> str:
    """Say in one line what was measured, for whoever waits for the tables."""
    turns = [sweep_seconds(measured, turn) for turn in measured.rounds]
    shown = {name: _median([turn[name] for turn in turns]) for name in turns[0]}
    return "Sweep: " + ", ".join(f"{k} {v:.3g} s" for k, v in shown.items() if v is not None)


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _median(values: Sequence[float | None]) -> float | None:
    """Return the median; None if there is a value that was not measured."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None


# --- Tables. They are Markdown, to be copied. ---


def table(title: str, columns: Sequence[str], n_text: int = 1) -> Table:
    """Return an empty Markdown table, its first `n_text` columns of text, the others of numbers."""
    made = Table(title=title, box=box.MARKDOWN, title_justify="left", title_style="bold")
    for i, column in enumerate(columns):
        made.add_column(column, no_wrap=True, justify="left" if i < n_text else "right")
    return made


def speed_tables(
    title: str,
    all_measured: Sequence[Measured],
    seconds_of: Callable[[Measured, Round], Seconds],
    ours: str,
) -> tuple[Table, Table]:
    """Return a table of seconds and one of ratios to `ours`, each ratio taken within a round."""
    names = list(seconds_of(all_measured[0], all_measured[0].rounds[0]))
    others = [name for name in names if name != ours]
    times = table(f"{title}, seconds", ("model", "tokens", *names))
    ratios = table(f"{title}, ratios", ("model", "tokens", *(_ratio(n, ours) for n in others)))
    for measured in all_measured:
        turns = [seconds_of(measured, turn) for turn in measured.rounds]
        start = measured.label, f"{measured.n_tokens:,}"
        medians = [_median([turn[name] for turn in turns]) for name in names]
        times.add_row(*start, *(NOT_MEASURED if m is None else f"{m:.3g}" for m in medians))
        cells = [_ratio_cell(turns, name, ours, measured.n_tokens) for name in others]
        ratios.add_row(*start, *cells)
    return times, ratios


def _is_faster(name: str) -> bool:
    """Whether a contender is one that ours is some times slower than."""
    return name in (LIMIT, SCREENED)


def _ratio(name: str, ours: str) -> str:
    return f"{ours} / {name}" if _is_faster(name) else f"{name} / {ours}"


def _ratio_cell(turns: Sequence[Seconds], name: str, ours: str, n_tokens: int) -> str:
    how_much = []
    for turn in turns:
        mine, theirs = turn[ours], turn[name]
        if mine is None or theirs is None:
            return NOT_MEASURED
        how_much.append(mine / theirs if _is_faster(name) else theirs / mine)
    value = statistics.median(how_much)
    goal = SCREENED_GOAL if name == SCREENED else None
    if ours == SWEEP:
        goal = SWEEP_GOALS.get((name, n_tokens))
    return f"{value:.2f}" + ("" if goal is None else f" ({goal.verdict(value)})")


def operations_table(all_measured: Sequence[Measured]) -> Table:
    """Show the operations of a sweep, and the rates of a large matrix product and of ours."""
    made = table(
        "Operations of a sweep (GFLOP), and rates (GFLOP/s)",
        ("model", "tokens", "growing batch", "needed", "large product", "ours", "ours / product"),
    )
    for measured in all_measured:
        needed = measured.sweep_needed_flops
        rate = statistics.median(turn.sweep.rate for turn in measured.rounds)
        reached = statistics.median(needed / turn.sweep.seconds for turn in measured.rounds)
        made.add_row(
            measured.label,
            f"{measured.n_tokens:,}",
            f"{measured.sweep_limit_flops / GIGA:,.0f}",
            f"{needed / GIGA:,.0f}",
            f"{rate / GIGA:.0f}",
            f"{reached / GIGA:.0f}",
            f"{reached / rate:.0%}",
        )
    return made


def agreement_table(all_measured: Sequence[Measured]) -> Table:
    """Show how far competitors' numbers are from ours, on the heads compared."""
    made = table(
        "Agreement with ours: log-probabilities and KL divergence, in nats",
        ("model", "competitor", "tokens", "heads", "error", "of effect", "KL error", "of KL", ""),
        n_text=2,
    )
    for measured in all_measured:
        for a in measured.agreements:
            made.add_row(
                measured.label,
                a.name,
                f"{measured.n_tokens:,}",
                str(a.n_heads),
                f"{a.logit_error:.0e}",
                f"≥ {a.logit_effect:.2g}",
                f"{a.kl_error:.0e}",
                f"≤ {a.largest_kl:.2g}",
                "agrees" if a.holds else "DIFFERS",
            )
    return made


def found_table(all_measured: Sequence[Measured]) -> Table:
    """Show what the searches found in the first round."""
    made = table(
        "Heads found by the searches",
        ("model", "tokens", "strategy", "evaluated", "KL", "heads in order"),
    )
    for measured in all_measured:
        for strategy, timed in measured.rounds[0].searches.items():
            found = timed.answer
            made.add_row(
                measured.label,
                f"{measured.n_tokens:,}",
                strategy,
                f"{found.evaluated:,}",
                f"{found.steps[-1].kl:.4f}",
                " ".join(str(step.head) for step in found.steps),
            )
    return made


@dataclass(frozen=True, slots=True)
class Peak:
    """Memory above the loaded model's, in MiB."""

    label: str
    who: str
    n_tokens: int
    mib: float


def memory_table(peaks: Sequence[Peak]) -> Table:
    names = list(dict.fromkeys(peak.who for peak in peaks))
    made = table("Peak memory beside the loaded model, MiB", ("model", "tokens", *names, "goal"))
    for label, n_tokens in dict.fromkeys((p.label, p.n_tokens) for p in peaks):
        row = {p.who: p.mib for p in peaks if (p.label, p.n_tokens) == (label, n_tokens)}
        goal = MEMORY_GOALS.get((label, n_tokens))
        verdict = "" if goal is None else goal.verdict(row[SWEEP])
        made.add_row(label, f"{n_tokens:,}", *(f"{row[name]:,.0f}" for name in names), verdict)
    return made
