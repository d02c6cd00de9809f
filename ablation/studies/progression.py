"""How do attention patterns change from input tokens to final predictions?

Of one prompt: what the logit lens reads off after each layer at each position; which heads and MLPs
write the answer where it is read, by direct logit attribution, and what ablating those heads costs;
from which tokens the position read has got what it holds, by attention rollout (Abnar and Zuidema
2020) and by norms of what is moved (Kobayashi et al. 2020, 2021: beside the norm of what stays);
and what it costs to cut its sight of each token in some layers (attention knockout, Geva et al.
2023). Only the last is causal.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from ablation.attribution import attribute_logits
from ablation.attribution_types import LogitAttribution
from ablation.evaluation import Cancelled, stop_if
from ablation.interventions import Knockout
from ablation.studies.asked import Report, ask, seconds_of_pass
from ablation.studies.columns import RIGHT
from ablation.studies.progression_answer import answer, caveats
from ablation.studies.progression_types import (
    Flow,
    LeadingHead,
    LensReading,
    Progression,
    Written,
    bands_of,
)
from ablation.studies.prompts import PromptSet
from ablation.studies.types import StudyPlan, StudyResult
from ablation.types import Progress
from models.attention_flow import attention_rollout, moved_attention
from models.errors import ErrorKind, UserError
from models.forward_pass import log_softmax64
from models.language_model import LanguageModel
from models.residual_stream import ResidualStream
from models.types import FloatArray, Head, TokenizedPrompt

LEADING = 8
"""Heads told by name."""
FOLLOWED = 4
"""Tokens that lead in the end, followed from layer to layer."""
PASSES_BESIDE = 60
"""What all but the cuts takes, in passes."""


def plan(model: LanguageModel, prompts: PromptSet, **_others: Any) -> StudyPlan:
    """Say what the study takes; see `run`."""
    n = len(model.tokenize(prompts.texts[0]))
    passes = PASSES_BESIDE + 0.6 * n * len(bands_of(model.n_layers))
    return StudyPlan(
        passes,
        passes * seconds_of_pass(model, PromptSet(prompts.name, prompts.prompts[:1], "")),
        f"Lens, attribution and flow of one prompt; its tokens (about {n}) cut off in "
        f"{len(bands_of(model.n_layers))} groups of layers.",
    )


def run(
    model: LanguageModel,
    prompts: PromptSet,
    *,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> StudyResult:
    """Follow one prompt from layer to layer.

    Args:
        prompts: the first of them whose right next token the model finds likeliest is followed;
            the first one if there is none.
        progress: called after each part, and after each token that was cut off.
        cancel: once set, what was found so far is returned.

    Returns:
        `details` are a `Progression`, `table` has one row a layer; both are empty if it was
        cancelled before the lens was read.

    Raises:
        UserError: the model predicts no next token or its residual stream cannot be read, or the
            prompt or its answer does not fit.
    """
    started = time.monotonic()
    model.check_one_stack("The study of progression")
    if model.kind != "causal":
        raise UserError(
            ErrorKind.MODEL,
            f"The study of progression follows the next token, which {model.name} ({model.kind}) "
            "does not predict; choose a causal language model.",
        )
    index = _first_right(model, prompts)
    chosen = PromptSet(prompts.name, (prompts.prompts[index],), prompts.source)
    tokens = model.tokenize(chosen.texts[0])
    report = Report(3 + len(tokens), progress)
    found, problems, stopped = None, list[str](), "complete"
    try:
        stop_if(cancel)
        stream = model.residual.read(tokens)
        found = _lens(model, chosen, stream)
        report("Logit lens")
        stop_if(cancel)
        found = replace(found, written=_written(model, chosen, stream, cancel))
        report("Direct attribution")
        stop_if(cancel)
        try:
            found = replace(found, flow=_flow(model, tokens, stream, found))
        except UserError as error:
            problems.append(f"The flow was not measured: {error}")
        report("Flow")
        for cuts in _cut_off(model, chosen, found, report, cancel):
            found = replace(found, cuts=cuts)
    except Cancelled:
        stopped = "cancelled"
    return StudyResult.of(
        "progression",
        found,
        answer,
        _table,
        caveats=caveats(prompts, index, problems, stopped),
        n_prompts=0 if found is None else 1,
        started=started,
        stopped=stopped,
    )


def _first_right(model: LanguageModel, prompts: PromptSet) -> int:
    """Return which prompt is followed."""
    for index, prompt in enumerate(prompts.prompts if len(prompts) > 1 else ()):
        if not prompt.answer:
            continue
        likeliest = model.predict(model.tokenize(prompt.text), top_k=1).top[0].id
        if likeliest == model.resolve_token(prompt.answer):
            return index
    return 0


def _lens(model: LanguageModel, prompts: PromptSet, stream: ResidualStream) -> Progression:
    tokens, prompt = stream.prompt, prompts.prompts[0]
    position = model.resolve_position(tokens)
    layers = range(model.n_layers + 1)
    final = _lens_at(model, stream, model.n_layers)[position]
    target = model.resolve_token(prompt.answer) if prompt.answer else int(final.argmax())
    leading = [int(i) for i in final.topk(FOLLOWED + 1).indices if int(i) != target][:FOLLOWED]
    versus = model.resolve_token(prompt.distractor) if prompt.distractor else None
    if versus is not None and versus not in leading:
        leading = [versus, *leading[: FOLLOWED - 1]]
    followed = [target, *leading]
    tops, probs, answers, ranks, log_probs = [], [], [], [], []
    for layer in layers:
        rows = _lens_at(model, stream, layer)  # [position, n_vocab]
        best = rows.max(dim=-1)
        tops.append(tuple(model.describe_token(int(i)).label for i in best.indices))
        probs.append(best.values.exp().cpu().numpy())
        of_target = rows[:, target]
        answers.append(of_target.exp().cpu().numpy())
        # Ties count against it: where nothing is known, all are equally likely.
        ranks.append((rows >= of_target[:, None]).sum(dim=-1).cpu().numpy())
        log_probs.append(rows[position, followed].cpu().numpy())
    return Progression(
        text=prompt.text,
        labels=tokens.unique_labels,
        position=position,
        answer=model.describe_token(target).label,
        distractor=None if versus is None else model.describe_token(versus).label,
        bands=bands_of(model.n_layers),
        lens=LensReading(
            tuple(tops),
            np.stack(probs),
            np.stack(answers),
            np.stack(ranks),
            tuple(model.describe_token(token).label for token in followed),
            np.stack(log_probs),
            tuple(i for i, token in enumerate(tokens.ids) if token == target),
        ),
    )


def _lens_at(model: LanguageModel, stream: ResidualStream, layer: int) -> torch.Tensor:
    """Return log-probs read off before a layer, float64 [position, n_vocab]."""
    return log_softmax64(model.residual.ending.logits(stream.before(layer).to(model.device)))


def _written(
    model: LanguageModel,
    prompts: PromptSet,
    stream: ResidualStream,
    cancel: threading.Event | None,
) -> Written:
    """Tell apart what writes the answer, and ablate the leading heads."""
    prompt, tokens = prompts.prompts[0], stream.prompt
    found = attribute_logits(
        model, tokens, prompt.answer or None, prompt.distractor or None, stream=stream
    )
    ranked = [(c, value) for c, value in found.ranked() if c.kind == "head"][:LEADING]
    heads = [Head(c.layer, c.head) for c, _ in ranked]
    maps = model.attention(tokens, heads).values[:, found.position].copy()  # [n_leading, key]
    if maps.shape[1] > 1:
        maps[:, 0] = 0
    keys = maps.argmax(axis=1)
    asked = ask(model, prompts, 0, "zero", cancel=cancel)
    changes = asked.effects([*((head,) for head in heads), heads])[:, RIGHT]
    leading = tuple(
        LeadingHead(head, value, int(key), float(row[key]), float(change))
        for head, (_, value), key, row, change in zip(
            heads, ranked, keys, maps, changes[:-1], strict=True
        )
    )
    by_kind = {kind: _by_layer(found, kind, model.n_layers) for kind in ("head", "mlp")}
    rest = found.total - sum(float(values.sum()) for values in by_kind.values())
    return Written(by_kind["head"], by_kind["mlp"], rest, leading, float(changes[-1]))


def _by_layer(found: LogitAttribution, kind: str, n_layers: int) -> FloatArray:
    total = np.zeros(n_layers)
    for component, value in found.terms:
        if component.kind == kind:
            total[component.layer] += value
    return total


def _flow(
    model: LanguageModel, tokens: TokenizedPrompt, stream: ResidualStream, found: Progression
) -> Flow:
    """Roll attention out, and follow norms of what is moved from the position read back."""
    rollout = attention_rollout(model, tokens, range(model.n_layers)).values[:, found.position]
    n = len(tokens)
    reached = np.zeros(n)
    reached[found.position] = 1
    links = []
    for band in reversed(found.bands):
        through = np.eye(n)
        for layer in reversed(band):
            through = through @ _mixing(model, tokens, stream, layer)
        links.append(reached[:, None] * through)
        reached = links[-1].sum(axis=0)
    return Flow(rollout.astype(np.float64), tuple(reversed(links)))


def _mixing(
    model: LanguageModel, tokens: TokenizedPrompt, stream: ResidualStream, layer: int
) -> FloatArray:
    """Return what share of each position behind a layer's attention was where before it, [n, n]:
    norms of what heads move, summed over heads, beside the norm of what stays.

    What comes from the first token is left out, except at itself: it would drown all else.
    """
    heads = [head for head in model.all_heads() if head.layer == layer]
    moved = moved_attention(model, tokens, heads).values.astype(np.float64).sum(axis=0)
    moved[1:, 0] = 0
    stays = stream.before(layer).norm(dim=-1).double().cpu().numpy()
    mixed = moved + np.diag(stays)
    shares: FloatArray = mixed / mixed.sum(axis=1, keepdims=True)
    return shares


def _cut_off(
    model: LanguageModel,
    prompts: PromptSet,
    found: Progression,
    report: Report,
    cancel: threading.Event | None,
) -> Iterator[FloatArray]:
    """Cut the read position's sight of one token after the other, in each group of layers; yield
    the changes known after each, [n_bands, n_positions]."""
    if found.position == 0:
        return  # it sees itself alone
    sets = [[head for head in model.all_heads() if head.layer in band] for band in found.bands]
    cuts = np.full((len(sets), len(found.labels)), np.nan)
    for key in range(found.position + 1):
        stop_if(cancel)
        knockout = Knockout((found.position,), (key,))
        cuts[:, key] = ask(model, prompts, 0, knockout, cancel=cancel).effects(sets)[:, RIGHT]
        report(f"Cut off: token {key + 1} of {found.position + 1}")
        yield cuts.copy()


def _table(found: Progression) -> pd.DataFrame:
    lens, written, flow = found.lens, found.written, found.flow
    rows = []
    for layer in range(found.n_layers):
        at = (layer + 1, found.position)
        row: dict[str, Any] = {
            "layer": layer,
            "top_token": lens.tops[layer + 1][found.position],
            "top_prob": lens.probs[at],
            "answer_prob": lens.answer[at],
            "answer_rank": int(lens.ranks[at]),
        }
        if written is not None:
            row |= {"heads_logit": written.heads[layer], "mlp_logit": written.mlps[layer]}
        if flow is not None:
            rolled = flow.rollout_aside[layer]
            source = int(rolled.argmax())
            row |= {
                "rollout_first_token": flow.rollout[layer, 0],
                "rollout_most": found.labels[source],
                "rollout_share": rolled[source],
            }
        rows.append(row)
    return pd.DataFrame(rows)
