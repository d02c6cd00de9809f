"""What shuffling heads' outputs over positions showed, in words and as a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablation.studies.columns import KL, RIGHT
from ablation.studies.permutation_types import (
    INTERVENTIONS,
    LOSS,
    MEAN,
    N_DRAWS,
    N_NEW,
    PERMUTE,
    ZERO,
    Continuation,
    Permutation,
)
from ablation.studies.phrases import NO_ANSWER_CAVEAT, counted, few_prompts, on_set
from ablation.studies.prompts import PromptSet
from ablation.studies.statistics import Interval, mean_interval, rank_agreement


def table(found: Permutation) -> pd.DataFrame:
    layers, by_chance = found.of_layers, found.of_random
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(INTERVENTIONS):
        sets: list[tuple[str, int | None, Interval, tuple[int, int]]]
        sets = [(f"layer {layer}", None, layers, (i, layer)) for layer in range(found.n_layers)]
        sets += [(f"{n} random heads", n, by_chance, (i, at)) for at, n in enumerate(found.sizes)]
        for words, size, interval, at in sets:
            rows.append({
                "heads": words,
                "n_heads": found.n_heads if size is None else size,
                "intervention": name,
                "kl": interval.mean[*at, KL],
                "kl_low": interval.low[*at, KL],
                "kl_high": interval.high[*at, KL],
                "right": interval.mean[*at, RIGHT],
                "perplexity": float(found.perplexity(interval.mean[*at, LOSS])),
            })  # fmt: skip
    singles = mean_interval(found.singles)
    rows += [
        {
            "heads": str(found.heads[i]),
            "n_heads": 1,
            "intervention": "permute",
            "kl": singles.mean[i],
            "kl_low": singles.low[i],
            "kl_high": singles.high[i],
        }
        for i in found.order
    ]
    rows += [
        {
            "heads": one.heads or "none",
            "intervention": one.intervention,
            "start": one.start,
            "continuation": one.text,
            "surprise": one.surprise,
        }
        for one in found.continuations
    ]
    # Texts are empty, not missing, where nothing was continued.
    return pd.DataFrame(rows).fillna({"start": "", "continuation": ""})


def answer(found: Permutation, prompts: PromptSet, least: float) -> tuple[str, ...]:
    n = len(found.clean_loss)
    on = on_set(n, "passages", prompts.name)
    kl = found.of_layers.mean[..., KL]  # [n_interventions, n_layers]
    usual, worst = np.median(kl, axis=1), int(kl[PERMUTE].argmax())
    most = kl[:, worst]
    return (
        _lead(found, on, least),
        f"Shuffling what one layer says over positions moves the prediction after {on} by "
        f"{usual[PERMUTE]:.3g} nats (KL) at the median layer (set to 0: {usual[ZERO]:.3g}; to its "
        f"mean: {usual[MEAN]:.3g}), and by {most[PERMUTE]:.3g} at most, in layer {worst} (to 0: "
        f"{most[ZERO]:.3g}; to its mean: {most[MEAN]:.3g}).",
        *_of_order(found, least),
        *_of_heads(found),
        _of_random(found),
        _of_perplexity(found),
        *_of_texts(found),
    )


def _lead(found: Permutation, on: str, least: float) -> str:
    """Answer whether order matters: for all heads at once, and for single layers."""
    grown = found.of_random.mean[:, -1, LOSS]
    every, zero, _ = (f"{value:.3g}" for value in found.perplexity(grown))
    said = (
        f"Shuffled over positions, the outputs of all heads at once make the perplexity of {on} "
        f"{every} instead of {found.clean_perplexity:.3g} (set to 0: {zero})"
    )
    if len(found.clean_loss) == 1:
        return f"{said}."
    low = found.of_layers.low[PERMUTE, :, KL]
    return (
        f"{said}; of single layers, order matters in {int((low >= least).sum())} of "
        f"{found.n_layers}."
    )


def _of_order(found: Permutation, least: float) -> list[str]:
    """Tell in which layers order matters."""
    interval = found.of_layers
    kl = interval.mean[PERMUTE, :, KL]
    first = np.argsort(-kl, kind="stable")[:3]
    leading = ", ".join(f"layer {layer} {interval.of((PERMUTE, layer, KL))}" for layer in first)
    if len(found.clean_loss) == 1:
        return [f"On one passage no interval can be given; the largest KL (nats): {leading}."]
    n_counted = int((interval.low[PERMUTE, :, KL] >= least).sum())
    thirds = ", ".join(f"{part.mean():.3g}" for part in np.array_split(kl, min(3, len(kl))))
    said = [
        f"Order matters in {n_counted} of {found.n_layers} layers: shuffled, each moves the "
        f"prediction after the passage by at least {least:g} nats with 95 % confidence. The "
        f"largest are {leading}; the layers in {min(3, len(kl))} equal parts, from the bottom: "
        f"{thirds} nats on average."
    ]
    compared = []
    for other, words in ((MEAN, "its mean"), (ZERO, "0")):
        by = found.compare_layers(other)
        compared.append(
            f"costs more than {words} in {int((by.low > 0).sum())} layers and less in "
            f"{int((by.high < 0).sum())}"
        )
    rho = rank_agreement(kl, interval.mean[ZERO, :, KL])
    return [
        *said,
        f"Shuffling a layer {', and '.join(compared)} (KL, with 95 % confidence); the ranks of "
        f"layers by shuffling and by 0 correlate by {rho:.2f} (Spearman).",
    ]


def _of_heads(found: Permutation) -> list[str]:
    if found.compared is None:
        return []
    means = found.compared.mean(axis=0)  # [n_interventions, n_leaders]
    head = found.heads[found.order[0]]
    return [
        f"Of single heads {head} matters most: {mean_interval(found.singles).of((found.order[0],))}"
        f" nats shuffled, {means[ZERO, 0]:.3g} set to 0, {means[MEAN, 0]:.3g} set to its mean; the "
        f"{means.shape[1]} first heads on average {means[PERMUTE].mean():.3g}, "
        f"{means[ZERO].mean():.3g} and {means[MEAN].mean():.3g}."
    ]


def _of_random(found: Permutation) -> str:
    interval, sizes = found.of_random, found.sizes
    grown = [
        f"{n} heads " + " / ".join(f"{value:.3g}" for value in interval.mean[:, i, KL])
        for i, n in enumerate(sizes)
    ]
    layer = found.of_layers.mean[PERMUTE, :, KL].mean()
    return (
        f"Random sets, KL shuffled / set to 0 / to the mean: {'; '.join(grown)}. A layer of "
        f"{found.n_heads} heads, shuffled: {layer:.3g} on average."
    )


def _of_perplexity(found: Permutation) -> str:
    """Tell of the perplexity, and how it shows that shuffled outputs tell of later tokens."""
    layers, grown = found.of_layers.mean[..., LOSS], found.of_random.mean[:, -1, LOSS]
    usual = " / ".join(f"{v:.3g}" for v in found.perplexity(np.median(layers, axis=1)))
    every = " / ".join(f"{v:.3g}" for v in found.perplexity(grown))
    below = [int((layers[i] < 0).sum()) for i in range(len(INTERVENTIONS))]
    return (
        f"The perplexity of the passages is {found.clean_perplexity:.3g} clean, {usual} (shuffled "
        f"/ set to 0 / to the mean) at the median layer, {every} with all heads. It falls below "
        f"the clean one in {' / '.join(map(str, below))} layers: shuffled outputs and means may "
        "tell earlier positions of the very tokens that are to be predicted, zero cannot."
    )


def _of_texts(found: Permutation) -> list[str]:
    texts = found.continuations
    if not texts:
        return []
    n = sum(1 for one in texts if not one.intervention)
    parts = [f"its own {_surprise(texts, '', ''):.2f}"]
    for words in dict.fromkeys(one.heads for one in texts if one.heads):
        by = " / ".join(f"{_surprise(texts, words, name):.2f}" for name in INTERVENTIONS)
        parts.append(f"with {words} {by}")
    return [
        f"Of {counted(n, 'passages')} continued by {N_NEW} tokens, the clean model finds "
        f"so surprising (nats a token; shuffled / set to 0 / to the mean): {'; '.join(parts)}."
    ]


def _surprise(texts: Sequence[Continuation], heads: str, intervention: str) -> float:
    own = [o.surprise for o in texts if (o.heads, o.intervention) == (heads, intervention)]
    return float(np.mean(own))


def caveats(prompts: PromptSet, n_done: int, found: Permutation | None) -> tuple[str, ...]:
    said = [
        "Shuffled outputs bring what later positions say to earlier ones, and so does the mean: "
        "the perplexity of a passage may gain by that, KL at its end cannot.",
        f"Each passage is shuffled in one way of its own; at every position. From: "
        f"{prompts.source}.",
        f"Random sets are {N_DRAWS} draws; the mean is over the passage's own positions.",
    ]
    if not all(prompt.answer for prompt in prompts.prompts):
        said.append(NO_ANSWER_CAVEAT)
    said += few_prompts(n_done)
    if n_done < len(prompts):
        said.append(f"Cancelled: {n_done} of {len(prompts)} passages were done.")
    elif found is not None and not found.continuations:
        said.append("Cancelled before passages were continued.")
    return tuple(said)
