"""Branches give what one row a set from the bottom up gives, for any sets of heads."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import log_probs, zero
from tiny import FAMILIES, PROMPT, prompt_text, tiny_directory, tiny_model

from ablation import Mean, Sparsify, Zero
from models.attention_inputs import Inputs
from models.branching import BlockPass, Group, branch_layer
from models.budget import MemoryBudget
from models.registry import load_model
from models.types import Head

TOLERANCE = 1e-5
"""Float32 rounding in batches of different size is about 1e-6 of a log-probability."""

SETS = [[Head(1, 2)], [], [Head(0, 1), Head(2, 3)], [Head(2, 0)], [Head(1, 2)], [Head(0, 1)]]


def plain_rows(family: str, sets: Sequence[Sequence[Head]]) -> torch.Tensor:
    """Evaluate each set by one plain forward pass of the reference."""
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    position = model.resolve_position(prompt)
    rows = [
        log_probs(family, prompt.ids, position, [(h.layer, h.head, zero) for h in heads])
        for heads in sets
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chosen", [[], [Head(0, 0), Head(1, 3)]], ids=["clean", "chosen"])
def test_mixed_sets_equal_one_plain_forward_each(family: str, chosen: list[Head]) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    sets = [[*chosen, *heads] for heads in SETS]
    ours = model.ablated_logprobs(prompt, sets, Zero())
    torch.testing.assert_close(ours, plain_rows(family, sets), atol=TOLERANCE, rtol=0)


def test_dispatching_families_branch_and_the_others_do_not() -> None:
    branching = {family for family in FAMILIES if tiny_model(family).branches}
    assert set(FAMILIES) - branching == {"gptj", "gpt_neo", "bloom", "falcon", "falcon_alibi"}


def test_branches_that_give_other_numbers_are_found_at_load(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = BlockPass.newborn_z
    monkeypatch.setattr(BlockPass, "newborn_z", lambda *given: right(*given) * 1.01)
    model = load_model(str(tiny_directory("llama")), device="cpu")
    assert not model.branches
    rows = model.ablated_logprobs(model.tokenize(PROMPT), SETS, Zero())
    torch.testing.assert_close(rows, plain_rows("llama", SETS), atol=TOLERANCE, rtol=0)


@dataclass(frozen=True, slots=True)
class Sizes:
    """What reached the attention of each layer: rows, queries, and keys of their own."""

    seen: list[tuple[int, int, int, int]] = field(default_factory=list)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        attend = BlockPass.attend

        def watched(block_pass: BlockPass, inputs: Inputs) -> torch.Tensor:
            if block_pass.n_old:
                keys = block_pass._with_own_keys(inputs).key.shape[2]
                size = (block_pass.layer, *inputs.query.shape[:3:2], keys)
                self.seen.append(size)
            return attend(block_pass, inputs)

        monkeypatch.setattr(BlockPass, "attend", watched)


def test_only_what_differs_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows join behind the attention of their layer; the last block has one query."""
    model = tiny_model("llama")
    prompt = model.tokenize(PROMPT)
    sets = [[head] for head in model.all_heads()]
    n = len(prompt)
    sizes = Sizes()
    sizes.watch(monkeypatch)
    model.ablated_logprobs(prompt, sets, Zero())
    assert sizes.seen == [(1, 4, n, n), (2, 8, 1, n)]
    sizes.seen.clear()
    model.ablated_logprobs(prompt, sets, Zero(), positions=[n - 3])
    assert sizes.seen == [(1, 4, 3, 3), (2, 8, 1, 3)]
    sizes.seen.clear()
    # A reading further on does not see what comes behind it.
    model.ablated_logprobs(prompt, sets, Zero(), position=4, positions=[3])
    assert sizes.seen == [(1, 4, 2, 2), (2, 8, 1, 2)]
    sizes.seen.clear()
    # A mean over the prompt needs every position, in the last block too.
    model.ablated_logprobs(prompt, sets, Mean(), position=4)
    assert sizes.seen == [(1, 4, n, n), (2, 8, n, n)]


@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("positions", [None, [2, 5], [-1]], ids=["all", "two", "last"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "gemma2", "gpt_oss", "bert"])
def test_results_do_not_depend_on_how_rows_are_grouped(
    family: str, positions: list[int] | None, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    together = model.ablated_logprobs(prompt, SETS, Sparsify(fraction=0.3), positions=positions)
    monkeypatch.setattr(MemoryBudget, "rows", lambda *_: rows)
    grouped = model.ablated_logprobs(prompt, SETS, Sparsify(fraction=0.3), positions=positions)
    torch.testing.assert_close(grouped, together, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("position", [4, 9])
def test_a_reading_in_the_middle_equals_one_plain_forward_each(family: str, position: int) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(prompt_text(family))
    ours = model.ablated_logprobs(prompt, SETS, Zero(), position=position)
    expected = [
        log_probs(family, prompt.ids, position, [(h.layer, h.head, zero) for h in heads])
        for heads in SETS
    ]
    torch.testing.assert_close(ours, torch.stack(expected), atol=TOLERANCE, rtol=0)


def test_an_intervention_behind_the_reading_changes_nothing() -> None:
    model = tiny_model("llama")
    prompt = model.tokenize(PROMPT)
    clean, *ablated = model.ablated_logprobs(
        prompt, [[], [Head(0, 1)], [Head(2, 2)]], Zero(), position=4, positions=[6, 8]
    )
    assert all(torch.equal(row, clean) for row in ablated)


heads = st.builds(Head, st.integers(0, 2), st.integers(0, 3))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.frozensets(heads, max_size=4), min_size=1, max_size=6))
def test_any_sets_in_any_order_equal_rows_from_the_bottom_up(sets: list[frozenset[Head]]) -> None:
    model = tiny_model("qwen3")
    prompt = model.tokenize(PROMPT)
    together = model.ablated_logprobs(prompt, [sorted(s) for s in sets], Zero())
    alone = torch.cat([model.ablated_logprobs(prompt, [sorted(s)], Zero()) for s in sets])
    torch.testing.assert_close(together, alone, atol=TOLERANCE, rtol=0)


@given(st.lists(st.frozensets(heads, max_size=4), min_size=1, max_size=6))
def test_a_group_edits_each_head_of_its_sets_once(sets: list[frozenset[Head]]) -> None:
    """Each own head is edited where the row branches off, or in a layer behind it; never both."""
    common = frozenset.intersection(*sets)
    own = sorted((s for s in sets if s != common), key=lambda s: branch_layer(s, common))
    group = Group(tuple(branch_layer(s, common) for s in own), tuple(tuple(sorted(s)) for s in own))
    later = group.later_edits(torch.device("cpu"))
    births = group.births(torch.device("cpu"))
    for row, (layer, wanted) in enumerate(zip(group.layers, own, strict=True)):
        own_row = births[layer].rows == row - group.n_before(layer)
        here = births[layer].heads[own_row].tolist()
        behind = [
            Head(at, head)
            for at, (rows, members) in later.items()
            for r, head in zip(rows.tolist(), members.tolist(), strict=True)
            if r == row
        ]
        # What the set shares with the others below is ablated in the base run already.
        below = {head for head in wanted if head.layer < layer}
        assert below <= common
        assert sorted([*(Head(layer, h) for h in here), *behind, *below]) == sorted(wanted)
