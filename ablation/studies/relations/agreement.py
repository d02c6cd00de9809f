"""What ablating heads does to subject-verb agreement: minimal pairs, beside the rest of a layer."""

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np

from ablation.evaluation import Cancelled
from ablation.studies.asked import AskedPrompt, Report, ask
from ablation.studies.prompts import PromptSet
from ablation.studies.relations.types import AgreementEffect
from ablation.studies.removals import random_sets
from ablation.studies.side_by_side import in_other_ways
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import FloatArray, Head

N_RANDOM = 20
"""Random sets of as many heads in the same layers, beside each set of heads."""


def measure(
    model: LanguageModel,
    prompts: PromptSet,
    heads: Sequence[Head],
    groups: Mapping[str, Sequence[Head]],
    intervention: str,
    seed: int,
    report: Report,
    cancel: threading.Event | None,
) -> AgreementEffect | None:
    """Ablate heads on minimal pairs, until done or cancelled; None if no prompt was done.

    Args:
        prompts: with an answer and a distractor each (`check_minimal_pairs`).
        heads: each ablated alone, as are the other heads of their layers.
        groups: name -> heads ablated together.

    Raises:
        UserError: a prompt that does not fit, or an intervention that cannot be made of them.
    """
    layers = {head.layer for head in heads}
    alone = [head for head in model.all_heads() if head.layer in layers]
    sets: list[tuple[Head, ...]] = [(), *((head,) for head in alone)]
    for members in groups.values():
        sets += [tuple(members), *random_sets(model, members, N_RANDOM, seed)]
    rows = []
    for index in range(len(prompts)):
        try:
            rows.append(_margins(ask(model, prompts, index, intervention, seed, cancel), sets))
        except Cancelled:
            break
        report(f"Agreement without heads: prompt {index + 1} of {len(prompts)}")
    if not rows:
        return None
    together = [tuple(members) for members in groups.values()]
    others: dict[str, FloatArray] = {}
    if len(rows) == len(prompts):
        with suppress(Cancelled):
            others = in_other_ways(
                model, prompts, range(len(prompts)), intervention,
                lambda one: _margins(one, together), seed=seed, report=report, cancel=cancel,
            )  # fmt: skip
    found = np.array(rows)  # [n_prompts, n_sets]
    first = 1 + len(alone)
    at = {name: first + i * (1 + N_RANDOM) for i, name in enumerate(groups)}
    return AgreementEffect(
        intervention=intervention,
        clean=found[:, 0],
        singles={head: found[:, 1 + i] for i, head in enumerate(alone)},
        groups={name: (tuple(groups[name]), found[:, i]) for name, i in at.items()},
        random={name: found[:, i + 1 : i + 1 + N_RANDOM] for name, i in at.items()},
        others=others,
    )


def _margins(asked: AskedPrompt, sets: Sequence[Sequence[Head]]) -> FloatArray:
    """Ablate each set; return the right verb's log-probability less the wrong one's, [n_sets]."""
    wrong = asked.question.model.resolve_token(asked.prompt.distractor)
    margins = np.full(len(sets), np.nan)
    for indices, log_probs in asked.question.evaluate(sets):
        margins[indices] = (log_probs[:, asked.answer] - log_probs[:, wrong]).cpu()
    return margins


def n_sets(model: LanguageModel, n_layers: int, n_groups: int) -> int:
    """Return how many sets of heads are ablated on each prompt."""
    return 1 + n_layers * model.n_heads + n_groups * (1 + N_RANDOM)


def check_minimal_pairs(prompts: PromptSet) -> None:
    """Raise `UserError` for prompts of which the right or a wrong next token is not known."""
    for number, prompt in enumerate(prompts.prompts, start=1):
        if not prompt.answer or not prompt.distractor:
            raise UserError(
                ErrorKind.PROMPT,
                "The study of linguistic heads weighs a right next word against a wrong one, and "
                f"prompt {number} has no {'distractor' if prompt.answer else 'answer'}; give a "
                "file with prompt, answer and distractor, or take the set agreement.",
            )
