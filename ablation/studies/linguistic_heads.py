"""Do certain heads focus on specific linguistic features?

Every head is read on sentences made from templates, in which pairs of words are marked that stand
in one of seven relations. From the later word of a pair, is a head's strongest key (the first token
aside) the earlier one? That share is held against the best fixed key, as Clark et al. 2019
(arXiv:1906.04341) did: always so many tokens back, or always the same position. Heads are chosen on
one half of the templates and judged on the other (`relations.verdicts`). Those that count are then
ablated on minimal pairs of subject-verb agreement, beside the other heads of their layers.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from ablation.corpus import SOURCE
from ablation.studies.asked import Report, seconds_of_pass
from ablation.studies.phrases import counted
from ablation.studies.prompts import PromptSet
from ablation.studies.relations import PER_TEMPLATE, make_sentences
from ablation.studies.relations.agreement import (
    check_minimal_pairs,
    measure,
    n_sets,
)
from ablation.studies.relations.strongest import read_marks
from ablation.studies.relations.types import (
    EVERY,
    SUBJECT_VERB,
    AgreementEffect,
    Candidate,
    LinguisticHeads,
    Verdict,
)
from ablation.studies.relations.verdicts import (
    CANDIDATES,
    LEAST_MARKS,
    LEAST_STRUCTURES,
    judge,
)
from ablation.studies.side_by_side import others_than
from ablation.studies.types import StudyPlan, StudyResult
from ablation.types import Progress
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel

MOST_ALONE = 10
"""Heads that are ablated alone, with the rest of their layers: those of subject and verb first."""


def plan(model: LanguageModel, prompts: PromptSet, **_options: Any) -> StudyPlan:
    """Say what the study takes; see `run`."""
    _check(model, prompts)
    n_sentences = len(make_sentences())
    rows = n_sets(model, min(MOST_ALONE, model.n_layers), 2) * len(prompts)
    # Sentences are longer than the pairs, and many rows of short pairs share a pass (measured).
    seconds = (1.6 * n_sentences + 0.15 * rows) * seconds_of_pass(model, prompts)
    return StudyPlan(
        n_sentences + rows,
        seconds,
        f"All heads are read on {n_sentences} sentences; those that count are ablated on "
        f"{len(prompts)} minimal pairs.",
    )


def run(
    model: LanguageModel,
    prompts: PromptSet,
    *,
    intervention: str = "zero",
    seed: int = 0,
    per_template: int = PER_TEMPLATE,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> StudyResult:
    """Look for heads that look at related words, and ablate them.

    Args:
        prompts: minimal pairs: each with its right next token and a wrong one.
        intervention: a name of `options.INTERVENTION`.
        seed: of the sentences, permutations and random heads.
        per_template: how many sentences are made of each template.
        progress: called after each sentence and prompt.
        cancel: once set, what was found on the sentences and prompts done is returned.

    Returns:
        `details` are `LinguisticHeads`, `table` has one row for each relation and head judged; both
        are empty if it was cancelled before the first sentence was done. `n_prompts` counts
        sentences and minimal pairs.

    Raises:
        UserError: the model is of another kind, prompts are no minimal pairs or do not fit, or the
            intervention cannot be made of them.
    """
    started = time.monotonic()
    _check(model, prompts)
    sentences = make_sentences(seed, per_template)
    ways = 1 + len(others_than(intervention, len(prompts)))
    report = Report(len(sentences) + ways * len(prompts), progress)
    marks = read_marks(model, sentences, report, cancel)
    heads = {head.layer * model.n_heads + head.head: head for head in model.all_heads()}
    found = LinguisticHeads(model.n_layers, model.n_heads, heads, marks, judge(marks, heads), None)
    cancelled = cancel is not None and cancel.is_set()
    if found.winners and not cancelled:
        effect = _ablate(model, prompts, found, intervention, seed, report, cancel)
        found = LinguisticHeads(found.n_layers, found.n_heads, heads, marks, found.verdicts, effect)
        cancelled = cancel is not None and cancel.is_set()
    n_pairs = 0 if found.agreement is None else found.agreement.n_prompts
    read = marks.n_sentences > 0
    return StudyResult.of(
        "linguistic-heads",
        found if read else None,
        _answer,
        _table,
        caveats=_caveats(found, prompts, len(sentences), intervention, cancelled),
        n_prompts=marks.n_sentences + n_pairs,
        started=started,
        stopped="cancelled" if cancelled else "complete",
    )


def _check(model: LanguageModel, prompts: PromptSet) -> None:
    model.check_one_stack("The study of linguistic heads")
    if model.kind != "causal":
        raise UserError(
            ErrorKind.MODEL,
            f"The study of linguistic heads asks for the verb that comes next, which {model.name} "
            f"({model.kind}) does not predict; choose a model that does.",
        )
    check_minimal_pairs(prompts)


def _ablate(
    model: LanguageModel,
    prompts: PromptSet,
    found: LinguisticHeads,
    intervention: str,
    seed: int,
    report: Report,
    cancel: threading.Event | None,
) -> AgreementEffect | None:
    of_verb = [verdict for verdict in found.verdicts if verdict.relation == SUBJECT_VERB]
    own = [one.head for verdict in of_verb for one in verdict.winners]
    groups = {EVERY: found.winners} | ({SUBJECT_VERB: tuple(own)} if own else {})
    return measure(
        model, prompts, found.winners[:MOST_ALONE], groups, intervention, seed, report, cancel
    )


# --- in words -----------------------------------------------------------------------------


def _table(found: LinguisticHeads) -> pd.DataFrame:
    rows = []
    for verdict in found.verdicts:
        for one in verdict.candidates:
            row = {
                "relation": verdict.relation,
                "head": str(one.head),
                "layer": one.head.layer,
                "index": one.head.head,
                "training": one.training,
                "held_out": one.held_out,
                "fixed_key": verdict.rule,
                "fixed_key_held_out": verdict.rule_held_out,
                "best_fixed_key_held_out": verdict.hindsight_held_out,
                "excess": one.excess,
                "excess_low": one.low,
                "excess_high": one.high,
                "counts": one.counts,
                "margin": np.nan,
                "margin_low": np.nan,
                "margin_high": np.nan,
                "accuracy": np.nan,
            }
            effect = found.agreement
            if effect is not None and one.head in effect.singles:
                moved = effect.change(effect.singles[one.head])
                row |= {
                    "margin": moved.mean[0],
                    "margin_low": moved.low[0],
                    "margin_high": moved.high[0],
                    "accuracy": moved.mean[1],
                }
            rows.append(row)
    return pd.DataFrame(rows)


def _answer(found: LinguisticHeads) -> tuple[str, ...]:
    judged = [verdict for verdict in found.verdicts if verdict.judged]
    n = found.marks.n_sentences
    if not judged:
        return (f"After {n} sentences there are too few marks to judge any relation.",)
    won = [verdict for verdict in judged if verdict.winners]
    lost = [verdict for verdict in judged if not verdict.winners]
    said = []
    if won:
        said.append(
            f"{len(found.winners)} of {len(found.heads)} heads look at the related word more often "
            f"than any fixed key, for {len(won)} of {len(judged)} relations ({n} sentences, judged "
            "on templates held out)."
        )
    else:
        said.append(
            f"No head of {len(found.heads)} looks at the related word more often than the best "
            f"fixed key, for any of {len(judged)} relations ({n} sentences, share on templates "
            f"held out): {'; '.join(_lost(verdict) for verdict in lost)}."
        )
    if won:
        said.append(f"So often they do: {'; '.join(_won(verdict) for verdict in won)}.")
    if won and lost:
        said.append("No head does for " + "; ".join(_lost(verdict) for verdict in lost) + ".")
    return (*said, *_causally(found))


def _won(verdict: Verdict) -> str:
    best = verdict.winners[0]
    others = len(verdict.winners) - 1
    more = "" if not others else f", and {counted(others, 'more heads')}"
    return f"{verdict.relation} {_share(best, verdict)}{more}"


def _lost(verdict: Verdict) -> str:
    return f"{verdict.relation} (the best is {_share(verdict.candidates[0], verdict)})"


def _share(one: Candidate, verdict: Verdict) -> str:
    fixed = f"the best fixed key ({verdict.hindsight}) {100 * verdict.hindsight_held_out:.0f} %"
    return f"{one.head} {100 * one.held_out:.0f} %, {fixed}"


def _causally(found: LinguisticHeads) -> list[str]:
    effect = found.agreement
    if effect is None:
        return []
    n = effect.n_prompts
    said = [
        f"On {counted(n, 'minimal pairs')} of agreement the right verb leads by "
        f"{effect.clean.mean():.2f} nats on average ({100 * (effect.clean > 0).mean():.0f} % "
        "right)."
    ]
    for name, (heads, margins) in effect.groups.items():
        moved, chance = effect.change(margins), effect.random[name]
        by_chance = (chance - effect.clean[:, None]).mean(axis=0)
        below = int((by_chance <= moved.mean[0]).sum())
        which = "heads that count" if name == EVERY else f"{name} heads"
        said.append(
            f"Without the {len(heads)} {which} it changes by {moved.of((0,))} nats, and "
            f"{100 * (margins > 0).mean():.0f} % are right; without as many random heads of the "
            f"same layers by {by_chance.mean():.2f} nats on average ({below} of {len(by_chance)} "
            "draws lose as much)."
        )
    return [*said, *_in_other_ways(effect), *_alone(found, effect)]


def _in_other_ways(effect: AgreementEffect) -> list[str]:
    """Tell what the same heads do to agreement when they are ablated otherwise."""
    if not effect.others:
        return []
    changes = {
        name: (margins - effect.clean[:, None]).mean(axis=0)
        for name, margins in effect.others.items()
    }
    which = ["all that count" if name == EVERY else f"the {name} heads" for name in effect.groups]
    told = "; ".join(
        f"by {name} "
        + ", ".join(f"{v:.2f} without {heads}" for v, heads in zip(values, which, strict=True))
        for name, values in changes.items()
    )
    return [f"By other interventions the lead changes so many nats: {told}."]


def _alone(found: LinguisticHeads, effect: AgreementEffect) -> list[str]:
    """Tell of the head that counts and loses most alone, beside the rest of its layer."""
    apart = [head for head in found.winners if head in effect.singles]
    alone = {head: effect.change(effect.singles[head]) for head in apart}
    head = min(alone, key=lambda one: alone[one].mean[0])
    mates = effect.layer_mates(head, found.winners)
    worse = sum(
        bool((effect.singles[mate] - effect.clean).mean() <= alone[head].mean[0]) for mate in mates
    )
    return [
        f"Of the {len(apart)} ablated alone {head} costs most: {alone[head].of((0,))} nats; "
        f"{worse} of the {len(mates)} others of its layer that do not count cost as much."
    ]


def _caveats(
    found: LinguisticHeads, prompts: PromptSet, n_sentences: int, intervention: str, cancelled: bool
) -> tuple[str, ...]:
    marks = found.marks
    caveats = [
        f"Sentences and marks: {SOURCE}. Training and held-out sentences share neither templates "
        "nor words (pronouns aside). The intervals are over the structures of held-out sentences, "
        f"and widened for the number of heads judged, {CANDIDATES} for each relation.",
        "A head that looks at words of a class, or at what is near, passes as one that looks at "
        "the relation, where these fall together; it looks from the later word back.",
        f"Ablated by {intervention}, at every position; minimal pairs from: {prompts.source}.",
    ]
    if marks.n_split or marks.n_lost:
        caveats.append(
            f"The tokenizer splits words of {marks.n_split} of {len(marks.relations)} marks: there "
            "the last token of the later word looks, and any token of the earlier word is right; "
            f"{marks.n_lost} marks that its tokens do not fit were left out."
        )
    few = [verdict.relation for verdict in found.verdicts if not verdict.judged]
    if few:
        caveats.append(
            f"Not judged, with under {LEAST_MARKS} marks or {LEAST_STRUCTURES} structures in a "
            f"half: {', '.join(few)}."
        )
    if cancelled:
        done = 0 if found.agreement is None else found.agreement.n_prompts
        caveats.append(
            f"Cancelled: {marks.n_sentences} of {n_sentences} sentences and {done} of "
            f"{len(prompts)} minimal pairs were done; what is missing of other interventions was "
            "not measured."
        )
    return tuple(caveats)
