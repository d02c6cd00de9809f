"""Every intervention on every head, batched, against one plain forward pass a head.

TOLERANCE: float32 log-probabilities of these 3-layer models, computed fused and batched here and
eager and alone there, differ by rounding: each by up to 1.2e-5 from what float64 gives (granite).
Heads and interventions differ by over 3e-3.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from plain_interventions import plain_edit, source_for
from reference import log_probs, reference
from tiny import FAMILIES, prompt_text, tiny_model
from torch import Tensor

from ablation import Ablation
from ablation.interventions import (
    Intervention,
    Knockout,
    Mean,
    Permute,
    Resample,
    Scale,
    Sparsify,
    Zero,
)
from models.errors import UserError
from models.language_model import LanguageModel
from models.types import Head, TokenizedPrompt

TOLERANCE = 3e-5
CHOSEN = (Head(0, 0), Head(1, 3))
"""Heads that are ablated already, as in the middle of a search."""
REFERENCES = ("The cat sat on the mat.", "The key to the cabinets")


def z_interventions(model: LanguageModel, prompt: TokenizedPrompt) -> list[Intervention]:
    return [
        Zero(),
        Scale(-0.7),
        Mean(),
        Mean(REFERENCES),
        Resample(source_for(model, prompt)),
        Permute(3),
        Sparsify(threshold=0.3),
        Sparsify(fraction=0.3),
    ]


@pytest.mark.parametrize(
    ("chosen", "positions"),
    [((), None), ((), (1, 2, 5, 8, 14)), (CHOSEN, None), (CHOSEN, (1, 2, 5, 8, 14))],
    ids=["everywhere", "some positions", "chosen heads", "chosen heads, some positions"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_head_batched_equals_one_plain_run_a_head(
    family: str, chosen: tuple[Head, ...], positions: tuple[int, ...] | None
) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    read_at = model.resolve_position(prompt)
    # One head of each layer: all of them, of every family, would take minutes.
    heads = [Head(0, 1), Head(1, 0), Head(1, 2), Head(2, 3)]
    for intervention in z_interventions(model, prompt):

        def expected(sets: Sequence[Head], chosen_edit: Intervention = intervention) -> Tensor:
            edits = [
                (h.layer, h.head, plain_edit(family, chosen_edit, h, len(prompt), positions))
                for h in sets
            ]
            return log_probs(family, prompt.ids, read_at, edits)

        sets = [[*chosen, head] for head in heads]
        ours = model.ablated_logprobs(prompt, sets, intervention, positions=positions)
        for heads_of_set, row in zip(sets, ours, strict=True):
            torch.testing.assert_close(
                row,
                expected(heads_of_set),
                atol=TOLERANCE,
                rtol=0,
                msg=f"{intervention.spec} {heads_of_set}",
            )
        # The heads did something: equality alone could be that of runs without them.
        assert (ours - expected(chosen)).abs().max() > 100 * TOLERANCE, intervention.spec


@pytest.mark.parametrize("family", ["llama", "gpt2", "gptj", "bert"])
def test_heads_of_several_layers_together(family: str) -> None:
    """In later layers, what is edited is the z of the running computation, not of the clean one."""
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    read_at = model.resolve_position(prompt)
    heads = (Head(0, 1), Head(0, 2), Head(1, 0), Head(2, 3))
    for intervention in z_interventions(model, prompt):
        one_run = model.predict(prompt, ablation=Ablation(heads, intervention)).log_probs
        # Beside sets that it shares some heads with, or none.
        branches = model.ablated_logprobs(
            prompt, [heads, heads[:2], heads[2:], [Head(0, 1), Head(2, 0)]], intervention
        )
        edits = [
            (h.layer, h.head, plain_edit(family, intervention, h, len(prompt), None)) for h in heads
        ]
        expected = log_probs(family, prompt.ids, read_at, edits)
        for ours in (torch.as_tensor(one_run), branches[0]):
            torch.testing.assert_close(ours, expected, atol=TOLERANCE, rtol=0)


# --- Knockout. ---

ATTENTION = {
    "llama": "model.layers.{}.self_attn",
    "mistral": "model.layers.{}.self_attn",
    "gpt2": "transformer.h.{}.attn",
    "bert": "bert.encoder.layer.{}.attention.self",
}


def knocked_out_log_probs(
    family: str, ids: Sequence[int], read_at: int, head: Head, cells: Sequence[tuple[int, int]]
) -> Tensor:
    """Return log-probs of the eager model given a mask of its own for one head of one layer."""
    model = reference(family)
    n = len(ids)

    def mask_cells(
        _module: object, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        args = list(args)
        mask = kwargs.get("attention_mask")
        if mask is None and len(args) > 1:
            mask = args[1]
        full = torch.zeros(1, 4, n, n) if mask is None else mask.expand(1, 4, n, n).clone()
        for query, key in cells:
            full[0, head.head, query, key] = torch.finfo(torch.float32).min
        if "attention_mask" in kwargs:
            return tuple(args), {**kwargs, "attention_mask": full}
        args[1] = full
        return tuple(args), kwargs

    module = model.get_submodule(ATTENTION[family].format(head.layer))
    handle = module.register_forward_pre_hook(mask_cells, with_kwargs=True)
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits
    finally:
        handle.remove()
    return logits[0, read_at].double().log_softmax(-1)


@pytest.mark.parametrize("family", ATTENTION)
def test_knockout_of_each_head_equals_a_mask_in_the_eager_model(family: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    read_at = model.resolve_position(prompt)
    # Near enough for every query to keep a key within Mistral's window of five.
    queries, keys = (read_at, read_at - 1), (read_at - 2, read_at - 3)
    cells = [(query, key) for query in queries for key in keys]
    heads = model.all_heads()
    clean = log_probs(family, prompt.ids, read_at)
    ours = model.ablated_logprobs(prompt, [[head] for head in heads], Knockout(queries, keys))
    for head, row in zip(heads, ours, strict=True):
        expected = knocked_out_log_probs(family, prompt.ids, read_at, head, cells)
        torch.testing.assert_close(row, expected, atol=TOLERANCE, rtol=0, msg=f"{family} {head}")
    assert (ours - clean).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert"])
def test_knockout_shares_the_probability_among_the_other_keys(family: str) -> None:
    """In layer 0 nothing upstream changes, so the pattern follows from the clean one."""
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    head = Head(0, 2)
    expected = torch.as_tensor(model.attention(prompt, [head]).values)[0].double()
    expected[6, [1, 4]] = 0.0
    expected[6] /= expected[6].sum()
    ablation = Ablation((head,), Knockout((6,), (1, 4)))
    ours = torch.as_tensor(model.attention(prompt, [head], ablation).values)[0].double()
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    assert ours[6, 1] == ours[6, 4] == 0


def test_a_window_that_only_the_module_knows_is_honoured() -> None:
    """GPT-Neo's layer 1 narrows its pattern to five keys by itself, unseen in its mask."""
    model = tiny_model("gpt_neo")
    prompt = model.tokenize(prompt_text("gpt_neo"))
    head = Head(1, 2)
    expected = torch.as_tensor(model.attention(prompt, [head]).values)[0].double()
    assert expected[12, :8].max() == 0 < expected[12, 8:13].min()
    expected[12, 8:12] = 0.0
    expected[12] /= expected[12].sum()
    part = Ablation((head,), Knockout((12,), (8, 9, 10, 11)))
    ours = torch.as_tensor(model.attention(prompt, [head], part).values)[0].double()
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)
    whole = Knockout((12,), (8, 9, 10, 11, 12))
    refused = r"position 12 nothing to attend to in layer 1"
    with pytest.raises(UserError, match=refused):
        model.predict(prompt, ablation=Ablation((head,), whole))
    with pytest.raises(UserError, match=refused):
        model.ablated_logprobs(prompt, [[], [Head(0, 0)], [head]], whole)
    # Layer 0 sees everything, and keeps the keys before the window.
    assert np.isfinite(model.predict(prompt, ablation=Ablation((Head(0, 2),), whole)).entropy)
