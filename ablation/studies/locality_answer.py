"""What the study of locality says in words, from its numbers."""

from collections.abc import Sequence

import numpy as np

from ablation.studies.abstraction import LAST, LOOKALIKE, MEAN, UNRELATED, Separation
from ablation.studies.locality_types import EARLY, LATE, Locality, thirds
from ablation.studies.paraphrases import SOURCE as SENTENCES
from ablation.studies.phrases import LENS_CAVEAT, behind_layer, counted, layers_words, on_set
from ablation.studies.prompts import PromptSet
from ablation.studies.statistics import Interval, mean_interval
from ablation.studies.windows import DISTANCE, FIRST, FIRST_QUERY, WIDTHS
from models.types import FloatArray

TOLD = 2
"""Which of `WIDTHS` the answer tells."""


def answer(found: Locality, set_name: str) -> tuple[str, ...]:
    on = on_set(len(found.prompts), "prompts", set_name)
    return (*_looks(found, on), *_matters(found), *_readable(found), *_separates(found.separation))


def _looks(found: Locality, on: str) -> list[str]:
    """Tell how far heads look."""
    parts = thirds(found.n_layers)
    early, late = (layers_words(parts[i]) for i in (EARLY, LATE))
    values, width = found.of_layers(), WIDTHS[TOLD]
    shares = mean_interval(100 * found.of_thirds(values[..., TOLD]))
    weighed = mean_interval(100 * found.of_thirds(found.by_weight[..., TOLD]))
    distance = mean_interval(found.of_thirds(values[..., DISTANCE]))
    gap = _gap(100 * found.of_thirds(values[..., TOLD]))
    first = 100 * found.of_thirds(values[..., FIRST]).mean(axis=0)
    even = 100 * found.even[TOLD]
    rho, d = found.trend(DISTANCE), found.effect_size(DISTANCE)
    return [
        f"{_verdict(gap)} On {on}, {shares.of((EARLY,))} % of the attention of {early} (the "
        f"first token aside) is on the token itself and the {width} before it, and "
        f"{shares.of((LATE,))} % of that of {late}: {_signed(gap)} points from early to late; "
        f"even attention would have {even:.3g} %. Where rows count by the weight that they leave "
        f"to other tokens than the first: {weighed.of((EARLY,))} % and {weighed.of((LATE,))} %.",
        f"The mean distance is {distance.of((EARLY,))} tokens in {early} and "
        f"{distance.of((LATE,))} in {late}: {d:+.2f} standard deviations of heads (Cohen's d), and "
        f"a rank correlation with the layer of {rho.of(())}. The first token takes "
        f"{first[EARLY]:.0f} % of the attention of the former and {first[LATE]:.0f} % of the "
        "latter.",
    ]


def _verdict(gap: Interval) -> str:
    if np.isnan(gap.low):
        return "On one prompt no interval can be given."
    if gap.high < 0:
        return "Early layers look nearer than late ones."
    if gap.low > 0:
        return "Early layers do not look nearer than late ones, but farther."
    return "Early and late layers do not differ measurably in how near they look."


def _matters(found: Locality) -> list[str]:
    """Tell what it costs to confine layers."""
    parts = thirds(found.n_layers)
    early, late = (layers_words(parts[i]) for i in (EARLY, LATE))
    near = mean_interval(found.near_only_parts(found.window))
    far = mean_interval(found.far_only_thirds)
    whole = found.up_to.mean
    half = int(np.flatnonzero(whole >= whole[-1] / 2)[0])
    return [
        f"Confined to the token itself, the first and the {found.window} before: KL "
        f"{near.of((EARLY,))} nats if {early} are, {near.of((LATE,))} if {late} are, "
        f"{near.of((3,))} if all are. With those {found.window} taken away and all else left: "
        f"{far.of((EARLY,))} and {far.of((LATE,))} nats. {_needs(found)}",
        f"Confining all layers from 0 on, half of that effect ({whole[half]:.3g} nats) is there "
        f"at layer {half}.",
    ]


def _needs(found: Locality) -> str:
    """Tell, for early and late layers, whether near or far keys matter more."""
    said = []
    for name, part in (("early", EARLY), ("late", LATE)):
        gap = mean_interval(
            found.far_only_thirds[:, part] - found.near_only_parts(found.window)[:, part]
        )
        if np.isnan(gap.low):
            more = "near" if gap.mean > 0 else "far"
            said.append(f"{name} layers need the {more} keys more on this prompt")
        elif gap.low > 0:
            said.append(f"{name} layers need the near keys more (by {_signed(gap)} nats)")
        elif gap.high < 0:
            said.append(f"{name} layers need the far keys more (by {_signed(gap)} nats)")
        else:
            said.append(f"{name} layers need neither measurably more ({_signed(gap)} nats)")
    words = "; ".join(said)
    return f"{words[0].upper()}{words[1:]}."


def _readable(found: Locality) -> list[str]:
    """Tell from where on the prediction is readable."""
    readable, share = found.readable, found.readable_share
    if readable is None or share is None:
        return []
    parts = thirds(found.n_layers)
    after = [parts[EARLY].stop, parts[LATE].start]
    return [
        f"By the logit lens the final top token is first for good after {np.median(readable):.0f} "
        f"of {found.n_layers} layers (median of {len(readable)} positions); after the first third "
        f"it is so at {100 * share.mean[after[0]]:.0f} % of them, before the last third at "
        f"{100 * share.mean[after[1]]:.0f} %."
    ]


def _separates(separation: Separation | None) -> list[str]:
    """Tell how well states of sentences tell paraphrases from others."""
    if separation is None:
        return []
    n = len(separation.similarity)
    hard, easy = (
        {state: separation.auc(state, against) for state in (MEAN, LAST)}
        for against in (LOOKALIKE, UNRELATED)
    )
    best = max(hard.values(), key=lambda curve: float(curve.mean.max()))
    top = int(best.mean.argmax())
    passes = (
        "some layer's state follows meaning more than words"
        if best.low[top] > 0.5
        else "no layer's state measurably follows meaning more than words"
    )
    return [
        f"Sentences ({n} of each kind; AUC, 0.5 is chance): paraphrases in other words are told "
        f"from unrelated sentences by {_auc_words(easy)}; word overlap alone has "
        f"{separation.overlap_auc(UNRELATED):.2f}.",
        f"From look-alikes of another meaning they are told by {_auc_words(hard)}; word overlap "
        f"alone has {separation.overlap_auc(LOOKALIKE):.2f}. Above 0.5 would be meaning before "
        f"words: {passes}.",
    ]


def _auc_words(curves: dict[int, Interval]) -> str:
    names = {MEAN: "the mean state", LAST: "the last token's"}
    return "; ".join(
        f"{names[state]} with {_two(curve, 0)} before layer 0, {_two(curve, best)} at best "
        f"({behind_layer(best)}), {_two(curve, -1)} at the end"
        for state, curve in curves.items()
        for best in [int(curve.mean.argmax())]
    )


def _two(curve: Interval, at: int) -> str:
    return f"{curve.mean[at]:.2f} ({curve.low[at]:.2f} to {curve.high[at]:.2f})"


def _gap(by_third: FloatArray) -> Interval:
    return mean_interval(by_third[:, LATE] - by_third[:, EARLY])


def _signed(gap: Interval) -> str:
    if np.isnan(gap.low):
        return f"{gap.mean:+.3g}"
    return f"{gap.mean:+.3g} ({gap.low:+.3g} to {gap.high:+.3g})"


def caveats(
    prompts: PromptSet,
    n_done: int,
    n_short: int,
    problems: Sequence[str],
    stopped: str,
    window: int,
) -> tuple[str, ...]:
    said = [
        f"Attention is counted at positions from {FIRST_QUERY} on, so that there is a choice; "
        f"prompts from: {prompts.source}.",
        "Confined layers see the first token and the token itself in any case; the others' "
        f"probability goes to what is left. Within {window} tokens there are fewer keys than "
        "beyond, so that near and far take away different amounts. Effects are of the prediction "
        "at the last token alone.",
        LENS_CAVEAT,
        f"Sentences: {SENTENCES}; states are compared by cosine, their mean taken off.",
    ]
    if n_short:
        said.append(f"Left out: {counted(n_short, 'prompts')} of at most {FIRST_QUERY} tokens.")
    if stopped == "cancelled":
        said.append(f"Cancelled: {n_done} prompts were done; what is missing was not measured.")
    return (*said, *problems)
