"""Figures of the study of sparsification."""

import numpy as np

from ablation.studies.columns import KL
from ablation.studies.sparsification_found import FRACTIONS, Core, SparseHeads
from ablation.studies.types import StudyResult
from ablation.types import MetricInfo
from viz.studies.figure import StudyFigure, bars, by_intervention, framed, head_map, level, line

_OPEN = MetricInfo(
    "open",
    "Stays up to",
    "strength number",
    diverging=False,
    needs_target=False,
    description="how many strengths of the penalty leave its gate open; the core is outlined.",
)
_NAMES = {"learned": "learned gates", "single": "largest effect alone", "random": "random"}


def figures(result: StudyResult, dark: bool) -> tuple[StudyFigure, ...]:
    """Draw what is kept by so many heads, which heads stay, where the core is, and how sparse z
    is."""
    found: SparseHeads = result.details
    core = found.core
    if core is None:
        return (_map(found, core, dark),)
    drawn = [_kept(found, core, dark), _map(found, core, dark), _layers(found, core, dark)]
    if found.others:
        drawn.append(_interventions(found, core, dark))
    if found.sparse is not None:
        drawn.append(_activations(found, dark))
    return tuple(drawn)


def _kept(found: SparseHeads, core: Core, dark: bool) -> StudyFigure:
    total = len(found.heads)
    traces = [
        line(
            [0, *found.sizes, total],
            [0.0, *(100 * found.shares(effects)), 100.0],
            _NAMES[way],
            index,
            dark=dark,
        )
        for index, (way, effects) in enumerate(found.kept.items())
    ]
    marked = level(found.share, f"{found.share:g} %: {len(core.heads)} heads", dark=dark)
    lowest = min(float(min(trace.y)) for trace in traces)
    figure = framed(
        traces,
        "heads that stay",
        "kept (%)",
        dark=dark,
        yaxis={"range": [max(-50.0, lowest) - 5, 106]},
        **marked,
    )
    return StudyFigure(
        "kept",
        "What so many heads keep",
        "1 - KL / KL without any head, on held-out prompts, with all other heads removed.",
        figure,
    )


def _map(found: SparseHeads, core: Core | None, dark: bool) -> StudyFigure:
    values = dict(zip(found.heads, (found.learned > 0).sum(axis=0), strict=True))
    grid, marked = (found.n_layers, found.n_heads), () if core is None else core.heads
    return head_map(grid, _OPEN, values, "map", "Which heads stay", dark=dark, marked=marked)


def _layers(found: SparseHeads, core: Core, dark: bool) -> StudyFigure:
    """Draw how many heads of the core each layer has, and how many key-value groups it leaves."""
    layers = list(range(found.n_layers))
    nothing = [np.nan] * found.n_layers
    traces = [bars(layers, found.by_layer, nothing, nothing, "heads of the core", 0, dark=dark)]
    if found.groups:
        used = np.zeros(found.n_layers)
        for group in found.groups:
            used[group[0].layer] += bool(set(group) & set(core.heads))
        traces.append(bars(layers, used, nothing, nothing, "key-value groups used", 2, dark=dark))
    return StudyFigure(
        "layers",
        "Where the core is",
        "Heads of the core in each layer, and key-value groups with at least one of them.",
        framed(traces, "layer", "count", dark=dark, barmode="group"),
        wide=False,
    )


def _interventions(found: SparseHeads, core: Core, dark: bool) -> StudyFigure:
    assert found.nothing is not None  # there is a core
    core_kl = found.kept["learned"][:, found.sizes.index(len(core.heads)), KL]
    own = np.stack([found.nothing[:, KL], core_kl], axis=1)
    labels = ["no head", f"the core, {len(core.heads)} heads"]
    values = {found.intervention: own, **found.others}
    return by_intervention(labels, values, "what stays", "KL (nats)", dark=dark)


def _activations(found: SparseHeads, dark: bool) -> StudyFigure:
    assert found.sparse is not None
    shares = 100 * found.shares(found.sparse)
    kl = found.sparse[..., KL].mean(axis=0)
    trace = bars(
        [f"{100 * fraction:g} %" for fraction in FRACTIONS],
        shares,
        [np.nan] * len(kl),
        [np.nan] * len(kl),
        "kept",
        0,
        dark=dark,
    )
    trace.text = [f"KL {value:.2g}" for value in kl]
    return StudyFigure(
        "activations",
        "How sparse the heads' outputs may be",
        "What is kept when every head keeps only its largest entries of z.",
        framed([trace], "entries of z kept", "kept (%)", dark=dark, xaxis={"type": "category"}),
        wide=False,
    )
