"""The growing batch gives what one row a set from the bottom up gives, for any sets of heads."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import log_probs, zero
from tiny import FAMILIES, PROMPT, prompt_text, tiny_directory, tiny_model

from ablation import Zero
from models.attention_tap import TapRequest, active
from models.growing_batch import Growth
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


def test_dispatching_families_grow_and_the_others_do_not() -> None:
    growing = {family for family in FAMILIES if tiny_model(family).grows}
    hooked = {"gptj", "gpt_neo", "bloom", "falcon", "falcon_alibi"}
    # GPT-BigCode dispatches, but its model takes the batch's size from the ids that were given.
    assert set(FAMILIES) - growing == hooked | {"gpt_bigcode"}


def test_growth_that_gives_other_numbers_is_found_at_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def copies_of_the_last_row(hidden: torch.Tensor, n: int) -> torch.Tensor:
        return torch.cat([hidden, hidden[-1:].expand(n, *hidden.shape[1:])])

    monkeypatch.setattr("models.growing_batch._with_copies", copies_of_the_last_row)
    model = load_model(str(tiny_directory("llama")), device="cpu")
    assert not model.grows
    rows = model.ablated_logprobs(model.tokenize(PROMPT), SETS, Zero())
    torch.testing.assert_close(rows, plain_rows("llama", SETS), atol=TOLERANCE, rtol=0)


def test_the_batch_really_grows() -> None:
    model = tiny_model("llama")
    prompt = model.tokenize(PROMPT)
    growth = Growth.of([[head] for head in model.all_heads()])
    sizes: list[int] = []
    request = TapRequest(
        grow=growth.appended, on_call=lambda _layer, call: sizes.append(call.z.shape[0])
    )
    with active(request):
        model._model(input_ids=torch.tensor([prompt.ids]), use_cache=False)
    assert sizes == [5, 9, 13]


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
def test_every_set_has_its_row_and_every_row_its_heads(sets: list[frozenset[Head]]) -> None:
    growth = Growth.of([sorted(s) for s in sets])
    shared = set(growth.head_sets[0])
    for wanted, row in zip(sets, growth.row_of_set, strict=True):
        # A row starts as a copy of row 0: its heads are its own and those of row 0 below it.
        own = set(growth.head_sets[row])
        assert own | shared == set(wanted)
    assert sum(growth.appended.values()) == len(growth.head_sets) - 1
