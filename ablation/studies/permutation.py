"""Can permuting attention outputs break coherence?

The outputs z of a head, of all heads of a layer, or of growing random sets are shuffled over the
positions of a passage: what heads say stays, where they say it changes. Beside it the same heads
are set to 0, and to the mean of their z over the passage, which holds what the shuffled outputs
hold, without an order. Measured: the KL divergence from the clean prediction after the passage, the
right token's log-probability there, and the perplexity of the passage; then passages are continued.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ablation.evaluation import Cancelled, until_cancelled
from ablation.metrics import kl_divergence
from ablation.studies.asked import AskedPrompt, Report, ask, seconds_of_pass
from ablation.studies.columns import KL, RIGHT
from ablation.studies.continuing import continue_text, interventions, n_continuations
from ablation.studies.permutation_types import (
    INTERVENTIONS,
    LOSS,
    N_DRAWS,
    N_NEW,
    PERMUTE,
    Continuation,
    Permutation,
)
from ablation.studies.permutation_words import answer, caveats, table
from ablation.studies.prompts import PromptSet
from ablation.studies.types import StudyPlan, StudyResult
from ablation.types import Progress
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import FloatArray, Head

SHARES = (0.1, 0.2, 0.4, 0.7, 1.0)
"""Of all heads, in random sets, beside one of as many heads as a layer has."""
LEADERS = 10
"""Heads, those whose shuffling moves the prediction most, that are set to 0 and to the mean too."""
N_STARTS = 2
"""Passages that are continued."""
CONTINUED_SHARE = 0.2
"""Of all heads, in the random set that passages are continued with."""
LEAST_TOKENS = 3


def plan(model: LanguageModel, prompts: PromptSet, **_options: Any) -> StudyPlan:
    """Say what the study takes; see `run`."""
    _check(model, prompts)
    n = len(prompts)
    n_heads = len(model.all_heads())
    whole = n * (1 + len(INTERVENTIONS) * (model.n_layers + N_DRAWS * len(_sizes(model))))
    singles = n * (n_heads + 2 * min(LEADERS, n_heads))
    steps = min(N_STARTS, n) * n_continuations(3) * N_NEW
    # Rows that share a pass cost less than one each, those that branch off less still (measured).
    seconds = (0.7 * whole + 0.4 * singles + steps) * seconds_of_pass(model, prompts)
    return StudyPlan(
        whole + singles + steps,
        seconds,
        f"Each head, each of {model.n_layers} layers and {N_DRAWS} draws of growing random sets on "
        f"{n} passages, in {len(INTERVENTIONS)} ways; then {min(N_STARTS, n)} passages are "
        "continued.",
    )


def run(
    model: LanguageModel,
    prompts: PromptSet,
    *,
    least: float = 0.05,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> StudyResult:
    """Shuffle what heads say over positions.

    Args:
        prompts: passages; with the right next tokens, if they are known.
        least: the KL from which order counts as mattering in a layer, with 95 % confidence.
        seed: of the permutations (each passage has its own), of random heads and of what is drawn.
        progress: called after each piece of work.
        cancel: once set, what was found on the passages done is returned.

    Returns:
        `details` are a `Permutation`; `table` has one row for each set of heads and intervention.
        Both are empty if it was cancelled before the first passage was done.

    Raises:
        UserError: the model is of another kind, or a passage does not fit or is too short.
    """
    started = time.monotonic()
    _check(model, prompts)
    sets = _random_sets(model, seed)
    n_starts = min(N_STARTS, len(prompts))
    report = Report(len(prompts) * (len(INTERVENTIONS) + 3) + 3 * n_starts, progress)
    rows: list[tuple[float, FloatArray, FloatArray]] = []
    found, stopped = None, "complete"
    try:
        for index in range(len(prompts)):
            rows.append(_of_passage(model, prompts, index, sets, seed, report, cancel))
        found = _details(model, rows)
        found = replace(found, compared=_compare(model, prompts, found, seed, report, cancel))
        found = _continue(model, prompts, found, sets, seed, report, cancel)
    except Cancelled:
        stopped = "cancelled"
        found = found or (_details(model, rows) if rows else None)
    return StudyResult.of(
        "permutation",
        found,
        lambda found: answer(found, prompts, least),
        table,
        caveats=caveats(prompts, len(rows), found),
        n_prompts=len(rows),
        started=started,
        stopped=stopped,
    )


def _check(model: LanguageModel, prompts: PromptSet) -> None:
    model.check_one_stack("The study of order")
    if model.kind != "causal":
        raise UserError(
            ErrorKind.MODEL,
            f"The study of order asks for the token after each, which {model.name} ({model.kind}) "
            "does not predict; choose a model that does.",
        )
    for number, text in enumerate(prompts.texts, start=1):
        if len(model.tokenize(text)) < LEAST_TOKENS:
            raise UserError(
                ErrorKind.PROMPT,
                f"Prompt {number} has under {LEAST_TOKENS} tokens, so that there is no order to "
                "shuffle; give longer ones.",
            )


def _sizes(model: LanguageModel) -> tuple[int, ...]:
    """Return how many heads random sets have."""
    total = len(model.all_heads())
    return tuple(sorted({model.n_heads, *(max(1, round(share * total)) for share in SHARES)}))


def _random_sets(model: LanguageModel, seed: int) -> list[list[tuple[Head, ...]]]:
    """Return `N_DRAWS` random orders of all heads, cut at each size."""
    rng, heads = np.random.default_rng(seed), model.all_heads()
    orders = [[heads[i] for i in rng.permutation(len(heads))] for _ in range(N_DRAWS)]
    return [[tuple(order[:size]) for size in _sizes(model)] for order in orders]


def _of_layers(model: LanguageModel) -> list[tuple[Head, ...]]:
    layers = range(model.n_layers)
    return [tuple(h for h in model.all_heads() if h.layer == layer) for layer in layers]


def _of_passage(
    model: LanguageModel,
    prompts: PromptSet,
    index: int,
    random: Sequence[Sequence[tuple[Head, ...]]],
    seed: int,
    report: Report,
    cancel: threading.Event | None,
) -> tuple[float, FloatArray, FloatArray]:
    """Return what sets of heads do to one passage.

    Returns:
        The clean mean loss; effects of layers, then random sets, [n_interventions, n_sets, 3]; KL
        of each head alone, shuffled.
    """
    where = f"passage {index + 1} of {len(prompts)}"
    sets = [*_of_layers(model), *(heads for draw in random for heads in draw)]
    effects = np.full((len(INTERVENTIONS), len(sets), 3), np.nan)
    loss, singles = 0.0, np.empty(0)
    for i, (name, intervention) in enumerate(interventions(seed + index).items()):
        asked = ask(model, prompts, index, intervention, seed, cancel)
        if i == PERMUTE:
            singles = asked.effects([(head,) for head in model.all_heads()])[:, KL]
            report(f"Each head shuffled: {where}")
        loss, effects[i] = _everywhere(asked, sets, cancel)
        report(f"Layers and random heads by {name}: {where}")
    return loss, effects, singles


def _everywhere(
    asked: AskedPrompt, sets: Sequence[tuple[Head, ...]], cancel: threading.Event | None
) -> tuple[float, FloatArray]:
    """Return the clean mean loss over a passage, and what sets of heads change, [n_sets, 3]."""
    posed = asked.question.posed
    passes = asked.question.model.head_sets.evaluate_everywhere(posed, [(), *sets])
    effects = np.full((len(sets), 3), np.nan)
    loss = float("nan")
    for whole in until_cancelled(passes, cancel):
        own = -float(whole.token_log_probs.mean())
        if whole.index == 0:
            loss = own
            continue
        clean = asked.question.clean_log_probs(whole.log_probs)
        row = effects[whole.index - 1]
        row[KL] = float(kl_divergence(clean, whole.log_probs[None])[0])
        row[RIGHT] = float(whole.log_probs[asked.answer] - clean[asked.answer])
        row[LOSS] = own - loss
    return loss, effects


def _details(
    model: LanguageModel, rows: Sequence[tuple[float, FloatArray, FloatArray]]
) -> Permutation:
    effects = np.stack([row[1] for row in rows])
    singles = np.stack([row[2] for row in rows])
    sizes, n = _sizes(model), model.n_layers
    shape = (len(rows), len(INTERVENTIONS), N_DRAWS, len(sizes), 3)
    return Permutation(
        n_layers=n,
        n_heads=model.n_heads,
        heads=model.all_heads(),
        clean_loss=np.array([row[0] for row in rows]),
        layers=effects[:, :, :n],
        sizes=sizes,
        grown=effects[:, :, n:].reshape(shape),
        singles=singles,
        order=tuple(np.argsort(-singles.mean(axis=0), kind="stable").tolist()),
    )


def _compare(
    model: LanguageModel,
    prompts: PromptSet,
    found: Permutation,
    seed: int,
    report: Report,
    cancel: threading.Event | None,
) -> FloatArray:
    """Return what the leading heads do alone in each way, [n_prompts, n_interventions, n]."""
    leading = list(found.order[:LEADERS])
    sets = [(found.heads[i],) for i in leading]
    compared = np.full((len(prompts), len(INTERVENTIONS), len(sets)), np.nan)
    compared[:, PERMUTE] = found.singles[:, leading]
    for index in range(len(prompts)):
        for i, (name, intervention) in enumerate(interventions(seed + index).items()):
            if i != PERMUTE:
                asked = ask(model, prompts, index, intervention, seed, cancel)
                compared[index, i] = asked.effects(sets)[:, KL]
                report(f"Leading heads by {name}: passage {index + 1} of {len(prompts)}")
    return compared


def _continue(
    model: LanguageModel,
    prompts: PromptSet,
    found: Permutation,
    random: Sequence[Sequence[tuple[Head, ...]]],
    seed: int,
    report: Report,
    cancel: threading.Event | None,
) -> Permutation:
    """Continue passages without the leading head, the leading layer, and random heads."""
    layer = int(found.of_layers.mean[PERMUTE, :, KL].argmax())
    head = found.heads[found.order[0]]
    wanted = round(CONTINUED_SHARE * len(found.heads))
    size = min(found.sizes, key=lambda count: abs(count - wanted))
    by_chance = random[0][found.sizes.index(size)]
    sets = [
        (str(head), (head,)),
        (f"layer {layer}", _of_layers(model)[layer]),
        (f"{size} random heads", by_chance),
    ]
    texts: list[Continuation] = []
    for number, text in enumerate(prompts.texts[:N_STARTS], start=1):
        texts += continue_text(model, text, sets, N_NEW, seed, cancel)
        report(f"Continuing: passage {number}", 3)
    return replace(found, continuations=tuple(texts))
