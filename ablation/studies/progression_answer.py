"""What the study of progression says in words, from its numbers."""

from collections.abc import Sequence

import numpy as np

from ablation.studies.phrases import LENS_CAVEAT, behind_layer, layers_words
from ablation.studies.progression_types import (
    Flow,
    LensReading,
    Progression,
    Written,
)
from ablation.studies.prompts import PromptSet
from ablation.studies.statistics import rank_agreement
from models.types import FloatArray

TOLD = 3
"""Heads, tokens and cuts that the answer names."""


def answer(found: Progression) -> tuple[str, ...]:
    said = [_lead(found), _appears(found), *_elsewhere(found)]
    if found.written is not None:
        said.append(_writes(found, found.written))
    if found.flow is not None:
        said += _flows(found, found.flow)
    if found.cuts is not None:
        said.append(_cuts(found, found.cuts))
    return tuple(said)


def _lead(found: Progression) -> str:
    """Answer how the prediction comes about: where heads write it, which sight it needs, and from
    where on it can be read."""
    where = f'"{found.labels[found.position]}"'
    parts = []
    if found.written is not None:
        band, logits = _strongest_band(found, found.written)
        parts.append(
            f"heads change it most directly in {layers_words(band)} ({logits:+.2f} logits, "
            f"{found.written.heads.sum():+.2f} in all layers)"
        )
    cuts = [] if found.cuts is None else _largest_cuts(found, found.cuts)
    if cuts:
        band_number, key = cuts[0]
        assert found.cuts is not None  # it has a largest
        change, band = found.cuts[band_number, key], found.bands[band_number]
        if change < 0:
            parts.append(
                f'it rests most on the sight of "{found.labels[key]}" in {layers_words(band)} '
                f"({change:+.2f} nats without)"
            )
        else:
            parts.append("no cut of a single sight lowers it")
    for_good = found.lens.first_for_good(found.position)
    if for_good is None:
        parts.append("at the end another token is likelier")
    else:
        parts.append(f"it is first for good {behind_layer(for_good)} by the logit lens")
    return f'What {where} predicts, "{found.answer}": {"; ".join(parts)}.'


def _strongest_band(found: Progression, written: Written) -> tuple[range, float]:
    """Return the group of layers whose heads write most, and how much."""
    by_band = [float(written.heads[list(band)].sum()) for band in found.bands]
    most = int(np.argmax(np.abs(by_band)))
    return found.bands[most], by_band[most]


def _largest_cuts(found: Progression, cuts: FloatArray) -> list[tuple[int, int]]:
    """Return (group of layers, position) of the cuts, the most harmful first; aside the first
    token, where heads leave what they do not need, if there are others."""
    others = cuts.copy()
    others[:, 0] = np.nan
    if np.isnan(others).all():
        others = cuts
    flat = others.ravel()
    known = np.flatnonzero(~np.isnan(flat))
    order = known[np.argsort(flat[known], kind="stable")]
    return [divmod(int(i), cuts.shape[1]) for i in order]


def _appears(found: Progression) -> str:
    """Tell at which layer the answer appears where it is read."""
    lens, at, n = found.lens, found.position, found.n_layers
    prob, rank = lens.answer[-1, at], int(lens.ranks[-1, at])
    start = (
        f'On one prompt, read after "{found.labels[at]}" ({at}): the answer "{found.answer}" ends '
        f"with probability {prob:.3g}, rank {rank}."
    )
    for_good = lens.first_for_good(at)
    top_ten = np.flatnonzero(lens.ranks[:, at] <= 10)
    # The first layer makes of a token what the lens can read at all: its step says nothing.
    steps = np.diff(lens.log_probs[min(1, n - 1) :, 0])
    most = int(steps.argmax())
    start += (
        f" By the logit lens its log-probability there rises most in layer {most + min(1, n - 1)} "
        f"({steps[most]:+.3g} nats)"
    )
    if for_good is None:
        return f"{start}; the model's own answer is {_top(lens, n, at)}."
    appears = f"it is the likeliest for good {behind_layer(for_good)} of 0 to {n - 1}"
    if len(top_ten):
        appears += f", and among the first ten {behind_layer(int(top_ten[0]))} for the first time"
    half = n // 2
    return f"{start}; {appears}; half way up the lens says {_top(lens, half, at)}."


def _elsewhere(found: Progression) -> list[str]:
    """Tell where else the answer was readable before."""
    place = found.lens.earliest()
    if place is None or place[1] == found.position:
        return []
    layers, at = place
    there = found.lens.first_for_good(found.position)
    if there is not None and there <= layers:
        return []
    return [
        f'It is the likeliest token first elsewhere: at "{found.labels[at]}" ({at}), '
        f"{behind_layer(layers)}."
    ]


def _writes(found: Progression, written: Written) -> str:
    """Tell what writes the answer."""
    heads, mlps = float(written.heads.sum()), float(written.mlps.sum())
    less = "" if found.distractor is None else f' less that of "{found.distractor}"'
    leading = ", ".join(
        f'{one.head} {one.logit:+.2f} (looks at "{found.labels[one.key]}", {one.weight:.2f}; '
        f"ablated alone {one.change:+.2f} nats)"
        for one in written.leading[:TOLD]
    )
    band, logits = _strongest_band(found, written)
    return (
        f"Directly, heads add {heads:+.2f} to the answer's logit{less}, MLPs {mlps:+.2f}, the rest "
        f"{written.rest:+.2f}; of the heads' share {logits:+.2f} comes from "
        f"{layers_words(band)}. Leading heads: {leading}. All {len(written.leading)} "
        f"leading ones ablated by zero change the answer's log-probability by "
        f"{written.together:+.2f} nats."
    )


def _flows(found: Progression, flow: Flow) -> list[str]:
    """Tell from which tokens the position read has got what it holds, and whether these are those
    that it needs."""
    rollout = flow.rollout_aside[-1]
    agreement = rank_agreement(flow.sources[: found.position + 1], rollout[: found.position + 1])
    agree = "" if np.isnan(agreement) else f"; their ranks agree by {agreement:.2f} (Spearman)"
    said = [
        f"Followed back by norms of what is moved (the first token aside), what the position read "
        f"holds is from {_shares(found, flow.sources)}. Attention rollout gives "
        f"{100 * flow.rollout[-1, 0]:.1f} % to the first token, and of the rest most to "
        f"{_shares(found, rollout)}{agree}."
    ]
    if found.cuts is not None and not np.isnan(found.cuts[:, : found.position + 1]).any():
        needed = np.abs(found.cuts).sum(axis=0)[1 : found.position]
        by_norms, by_rollout = (
            rank_agreement(shares[1 : found.position], needed) for shares in (flow.sources, rollout)
        )
        if not np.isnan(by_norms + by_rollout):
            said.append(
                "Whether what flows is what matters: the ranks of the other tokens by these "
                "shares and by what cutting the read position's sight of them changes correlate by "
                f"{by_norms:.2f} (norms) and {by_rollout:.2f} (rollout)."
            )
    return said


def _shares(found: Progression, shares: FloatArray) -> str:
    leading = np.argsort(-shares, kind="stable")[:TOLD]
    return ", ".join(f'"{found.labels[i]}" ({i}) {100 * shares[i]:.0f} %' for i in leading)


def _cuts(found: Progression, cuts: FloatArray) -> str:
    """Tell which sights the answer needs."""
    told = ", ".join(
        f'"{found.labels[key]}" ({key}) in {layers_words(found.bands[band])} {cuts[band, key]:+.2f}'
        for band, key in _largest_cuts(found, cuts)[:TOLD]
    )
    n_tokens = max(1, int((~np.isnan(cuts[:, 1:])).any(axis=0).sum()))
    return (
        f"Cutting the sight of one token in one of {len(found.bands)} groups of layers (of "
        f"{n_tokens} tokens, the first aside) changes the answer's log-probability most, in "
        f"nats, at: {told}."
    )


def _top(lens: LensReading, layers: int, at: int) -> str:
    return f'"{lens.tops[layers][at]}" ({lens.probs[layers, at]:.2f})'


def caveats(
    prompts: PromptSet, index: int, problems: Sequence[str], stopped: str
) -> tuple[str, ...]:
    said = [
        "One prompt: nothing here is known to hold on another.",
        LENS_CAVEAT,
        "Direct attribution leaves out what a part does by way of later ones; rollout and norms "
        "say how much is moved, not whether it matters, and over many causal layers both pile up "
        "at the first tokens, from which something moves on at each layer and nothing back.",
        "Ablations and cuts are causal; they are of one thing at a time, for which others may make "
        "up.",
        f"The prompt is from: {prompts.source}.",
    ]
    if len(prompts) > 1:
        said.append(
            f"The set has {len(prompts)} prompts; number {index + 1} was followed: the first whose "
            "answer the model finds likeliest, or the first of all if there is none."
        )
    if stopped == "cancelled":
        said.append("Cancelled: what is missing was not measured.")
    return (*said, *problems)
