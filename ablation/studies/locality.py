"""Do early layers focus on local dependencies while later layers capture abstract meaning?

Four measurements, layer by layer, none of which decides by itself:

- how far heads look: the share of attention within 1, 2, 4 and 8 tokens, its mean distance and its
  entropy, the first token aside;
- what it costs when all heads of a layer see near keys only, or far ones only (`Confined`), and
  when all layers up to one do: what a head looks at need not matter;
- from which layer on the prediction is readable by the logit lens;
- whether states of sentences follow meaning or words (`ablation.studies.abstraction`).
"""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablation.evaluation import Cancelled
from ablation.studies.abstraction import (
    LAST,
    LOOKALIKE,
    MEAN,
    UNRELATED,
    Separation,
    readable_from,
    separate,
)
from ablation.studies.asked import Report, ask, seconds_of_pass
from ablation.studies.columns import KL
from ablation.studies.locality_answer import answer, caveats
from ablation.studies.locality_types import Locality, MeasuredPrompt, thirds
from ablation.studies.prompts import PromptSet, StudyPrompt
from ablation.studies.types import StudyPlan, StudyResult
from ablation.studies.windows import (
    DISTANCE,
    ENTROPY,
    FIRST,
    FIRST_QUERY,
    WIDTHS,
    Confined,
    DistanceReader,
    even_shares,
)
from ablation.types import Progress
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.types import FloatArray, Head

SENTENCE_PASSES = 3 * 40
PASSES_A_ROW = 0.5
"""What one set of heads takes, in passes: it branches off the clean run half way up on average."""
LENS_PASSES = 10
"""What reading the lens at all layers and positions takes, in passes."""


def plan(model: LanguageModel, prompts: PromptSet, *, window: int = 4, **_others: Any) -> StudyPlan:
    """Say what the study takes; see `run`."""
    n_layers = model.n_layers
    n_rows = 3 * n_layers + 6 + 4 * len(_other_widths(window))
    passes = len(prompts) * (PASSES_A_ROW * n_rows + LENS_PASSES) + SENTENCE_PASSES
    return StudyPlan(
        passes,
        passes * seconds_of_pass(model, prompts),
        f"Attention by distance, {n_layers} layers confined to near and to far keys, and the "
        f"logit lens on {len(prompts)} prompts; states of {SENTENCE_PASSES} sentences.",
    )


def run(
    model: LanguageModel,
    prompts: PromptSet,
    *,
    window: int = 4,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> StudyResult:
    """Measure locality and abstractness by layer.

    Args:
        window: how many tokens back are near, when layers are confined.
        progress: called after each prompt.
        cancel: once set, what was found on the prompts done is returned.

    Returns:
        `details` are `Locality`, `table` has one row a layer; both are empty if it was cancelled
        before the first prompt was done.

    Raises:
        UserError: the model predicts no next token, or no prompt is long enough.
    """
    started = time.monotonic()
    long_enough, n_short = _fitting(model, prompts)
    report = Report(4 * len(long_enough) + 40, progress)
    measured: list[MeasuredPrompt] = []
    separation, problems, stopped = None, list[str](), "complete"
    try:
        for index in range(len(long_enough)):
            measured.append(_measure(model, long_enough, index, window, problems, cancel))
            report(f"Prompt {index + 1} of {len(long_enough)}", 4)
        try:
            separation = separate(model, report, cancel)
        except UserError as error:
            problems.append(f"Sentences were not compared: {error}")
    except Cancelled:
        stopped = "cancelled"
    found = Locality(window, tuple(measured), separation) if measured else None
    return StudyResult.of(
        "locality",
        found,
        lambda found: answer(found, prompts.name),
        _table,
        caveats=caveats(prompts, len(measured), n_short, problems, stopped, window),
        n_prompts=len(measured),
        started=started,
        stopped=stopped,
    )


def _fitting(model: LanguageModel, prompts: PromptSet) -> tuple[PromptSet, int]:
    """Return the prompts that are long enough, and how many are not."""
    model.check_one_stack("The study of locality")
    if model.kind != "causal":
        raise UserError(
            ErrorKind.MODEL,
            f"The study of locality asks how far back heads look for the next token, and "
            f"{model.name} ({model.kind}) looks both ways; choose a causal language model.",
        )
    kept: list[StudyPrompt] = [
        prompt for prompt in prompts.prompts if len(model.tokenize(prompt.text)) > FIRST_QUERY
    ]
    if not kept:
        raise UserError(
            ErrorKind.PROMPT,
            f"No prompt has more than {FIRST_QUERY} tokens, so that near and far cannot be told "
            "apart; give longer prompts.",
        )
    return PromptSet(prompts.name, tuple(kept), prompts.source), len(prompts) - len(kept)


def _measure(
    model: LanguageModel,
    prompts: PromptSet,
    index: int,
    window: int,
    problems: list[str],
    cancel: threading.Event | None,
) -> MeasuredPrompt:
    tokens = model.tokenize(prompts.texts[index])
    reader = DistanceReader(model.n_layers, model.n_heads)
    model.read_attention(tokens, reader)
    layers = _layers(model)
    parts = [[head for layer in part for head in layers[layer]] for part in thirds(len(layers))]
    up_to = [[head for layer in layers[: i + 1] for head in layer] for i in range(len(layers))]

    def effects(width: int, near: bool, sets: Sequence[Sequence[Head]]) -> FloatArray:
        found = ask(model, prompts, index, Confined(width, near), cancel=cancel).effects(sets)
        kl: FloatArray = found[:, KL]
        return kl

    n = len(layers)
    near = effects(window, True, [*layers, *up_to, *parts])
    far = effects(window, False, [*layers, *parts])
    by_width = {window: np.append(near[2 * n :], near[2 * n - 1])}
    for width in _other_widths(window):
        by_width[width] = effects(width, True, [*parts, up_to[-1]])
    readable = None
    if not problems:
        try:
            readable = readable_from(model, model.residual.read(tokens))
        except UserError as error:
            problems.append(f"The logit lens was not read: {error}")
    return MeasuredPrompt(
        heads=reader.of_heads(),
        by_weight=reader.by_weight(),
        even=even_shares(len(tokens)),
        near_only=near[:n],
        far_only=far[:n],
        up_to=near[n : 2 * n],
        far_only_thirds=far[n:],
        by_width=by_width,
        readable=readable,
    )


def _layers(model: LanguageModel) -> list[list[Head]]:
    layers: list[list[Head]] = [[] for _ in range(model.n_layers)]
    for head in model.all_heads():
        layers[head.layer].append(head)
    return layers


def _other_widths(window: int) -> list[int]:
    return [width for width in (1, 2, 4, 8, 16) if width != window]


def _table(found: Locality) -> pd.DataFrame:
    layers = found.layers()  # [n_layers, N_MEASURES] each
    near, far, up_to = found.near_only, found.far_only, found.up_to
    readable = found.readable_share
    auc = {} if found.separation is None else _auc_columns(found.separation)
    rows = []
    for layer in range(found.n_layers):
        row: dict[str, Any] = {"layer": layer}
        for column, width in enumerate(WIDTHS):
            row[f"within_{width}"] = layers.mean[layer, column]
            row[f"within_{width}_low"] = layers.low[layer, column]
            row[f"within_{width}_high"] = layers.high[layer, column]
        for name, column in (("distance", DISTANCE), ("entropy", ENTROPY), ("first", FIRST)):
            row[name] = layers.mean[layer, column]
        for name, interval in (("near_only", near), ("far_only", far), ("up_to", up_to)):
            row[f"{name}_kl"] = interval.mean[layer]
            row[f"{name}_kl_low"] = interval.low[layer]
            row[f"{name}_kl_high"] = interval.high[layer]
        if readable is not None:
            row["readable"] = readable.mean[layer + 1]
        row |= {name: values[layer + 1] for name, values in auc.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def _auc_columns(separation: Separation) -> dict[str, FloatArray]:
    """Return columns of the table, [n_layers + 1] each, the embedding first."""
    return {
        f"auc_{kind}_{name}": separation.auc(state, against).mean
        for kind, against in (("unrelated", UNRELATED), ("lookalike", LOOKALIKE))
        for name, state in (("mean", MEAN), ("last", LAST))
    }
