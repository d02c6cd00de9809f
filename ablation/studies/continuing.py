"""Texts continued with heads ablated, side by side."""

import threading
from collections.abc import Sequence

import numpy as np

from ablation.evaluation import stop_if
from ablation.interventions import Intervention, Mean, Permute, Zero
from ablation.studies.permutation_types import Continuation
from ablation.types import Ablation
from models.language_model import LanguageModel
from models.types import FloatArray, Head, TokenizedPrompt

TEMPERATURE = 0.7


def interventions(seed: int) -> dict[str, Intervention]:
    """Return what is compared, by name: the mean is over the text's own positions, so that it has
    what the shuffled outputs have, without their order."""
    return {"permute": Permute(seed), "zero": Zero(), "mean": Mean()}


def continue_text(
    model: LanguageModel,
    start: str,
    sets: Sequence[tuple[str, Sequence[Head]]],
    n_tokens: int,
    seed: int,
    cancel: threading.Event | None,
) -> list[Continuation]:
    """Continue a text clean, and with each set of heads ablated in each way.

    Every step draws from the distribution at `TEMPERATURE` by the same random numbers (Gumbel
    maxima), so that texts differ only as their distributions do. The intervention acts anew on
    the text so far at each step.

    Args:
        sets: (in words, heads).

    Raises:
        Cancelled: the event was set.
    """
    rng = np.random.default_rng(seed)
    noise = rng.gumbel(size=(n_tokens, model.n_vocab))
    first = model.tokenize(start)
    clean = _sample(model, first, None, noise, cancel)
    texts = [("", "", clean)]
    for words, heads in sets:
        for name, intervention in interventions(seed).items():
            ablation = Ablation(tuple(heads), intervention)
            texts.append((words, name, _sample(model, first, ablation, noise, cancel)))
    n = len(first)
    return [
        Continuation(
            start=start,
            heads=words,
            intervention=name,
            text="".join(found.texts[n:]),
            surprise=_surprise(model, found, n),
            n_same=_n_same(found.ids[n:], clean.ids[n:]),
        )
        for words, name, found in texts
    ]


def n_continuations(n_sets: int) -> int:
    """Return how many texts are made of one start."""
    return 1 + n_sets * len(interventions(0))


def _sample(
    model: LanguageModel,
    start: TokenizedPrompt,
    ablation: Ablation | None,
    noise: FloatArray,
    cancel: threading.Event | None,
) -> TokenizedPrompt:
    prompt = start
    for drawn in noise:
        stop_if(cancel)
        if len(prompt) >= model.max_positions:
            break
        log_probs = model.predict(prompt, ablation=ablation, top_k=1).log_probs
        token = int(np.argmax(log_probs / TEMPERATURE + drawn))
        prompt = model.prompt_of_ids([*prompt.ids, token])
        if prompt.kinds[-1] == "special":
            break
    return prompt


def _surprise(model: LanguageModel, found: TokenizedPrompt, n_start: int) -> float:
    """Return the clean model's mean loss at what was added to a text, in nats a token."""
    [whole] = model.head_sets.evaluate_everywhere(model.head_sets.pose(found, Zero()), [()])
    added = whole.token_log_probs[n_start - 1 :]
    return -float(added.mean()) if len(added) else float("nan")


def _n_same(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = list(zip(first, second, strict=False))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
