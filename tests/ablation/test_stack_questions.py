"""Comparisons, roles and corpus of an encoder-decoder's stacks, against plain eager attention."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import edited_stack_heads, reference, zero
from tiny import CORPUS, PROMPT, tiny_model

from ablation import Ablation, Zero, compare_attention, head_dossier, run_study
from ablation.attention_change import attention_change, with_ablation, with_model, with_prompt
from ablation.corpus import Passage
from ablation.dossier import known_dossier
from ablation.stimuli import repeated_tokens
from models.builtin import CACHE_VARIABLE
from models.errors import UserError
from models.language_model import LanguageModel
from models.types import FloatArray, Head, TokenizedPrompt

TOLERANCE = 1e-5
"""Two correct float32 computations of these models differ by about 1e-7 in a weight."""
OTHER = "When John and Mary went to the store, Mary gave a drink to"
FIELDS = {"encoder": "encoder_attentions", "": "decoder_attentions", "cross": "cross_attentions"}
FAMILIES = ("t5", "bart")
both_families = pytest.mark.parametrize("family", FAMILIES)
each_stack = pytest.mark.parametrize("stack", list(FIELDS))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own, with nothing in it."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path


def eager(model: Any, prompt: TokenizedPrompt, stack: str) -> FloatArray:
    """Return the attention of a stack by the plain model, [n_layers, n_heads, query, key]."""
    assert prompt.source is not None
    with torch.no_grad():
        output = model(
            input_ids=torch.tensor([prompt.source.ids]),
            decoder_input_ids=torch.tensor([prompt.ids]),
            use_cache=False,
            output_attentions=True,
        )
    return torch.stack(getattr(output, FIELDS[stack]))[:, 0].numpy()


def divergence(p: FloatArray, q: FloatArray) -> FloatArray:
    """Return the Jensen-Shannon divergence of rows, mean over the queries: [n_layers, n_heads]."""
    p, q = p.astype(float), q.astype(float)
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        halves = [np.where(x > 0, x * np.log(x / middle), 0).sum(-1) for x in (p, q)]
    return (sum(halves) / 2).mean(-1)


# --- comparisons ---


@each_stack
@both_families
def test_two_prompts(family: str, stack: str) -> None:
    model = tiny_model(family)
    one = model.tokenize(PROMPT, decoder="The cat sat")
    other = model.prompt_of_ids(model.tokenize(OTHER).typed.ids, one.ids[:0:-1])
    assert (len(one), len(one.typed)) == (len(other), len(other.typed))
    found = attention_change(with_prompt(model, one, other, stack))
    maps = [eager(reference(family), prompt, stack) for prompt in (one, other)]
    np.testing.assert_allclose(found.values, divergence(*maps), atol=TOLERANCE, rtol=0)
    # T5's first layers see relative positions; all of them see tokens.
    assert found.values.max() > 10 * TOLERANCE
    assert found.stack == stack
    assert {head.stack for head, _ in found.ranked()} == {stack}


@each_stack
@both_families
def test_clean_against_ablated_heads_of_several_stacks(family: str, stack: str) -> None:
    model = tiny_model(family)
    prompt = model.tokenize(PROMPT, decoder="The cat sat on")
    heads = (Head(0, 1, "encoder"), Head(0, 2), Head(0, 3, "cross"))
    found = attention_change(with_ablation(model, prompt, Ablation(heads, Zero()), stack))
    before = eager(reference(family), prompt, stack)
    with edited_stack_heads(family, [(head, zero) for head in heads]):
        after = eager(reference(family), prompt, stack)
    np.testing.assert_allclose(found.values, divergence(before, after), atol=TOLERANCE, rtol=0)
    assert found.values[1:].max() > 10 * TOLERANCE


@each_stack
def test_two_models(stack: str) -> None:
    model, other = tiny_model("bart"), tiny_model("bart", 3)
    prompt = model.tokenize(PROMPT, decoder="The cat sat on")
    found = attention_change(with_model(model, prompt, other, stack))
    heads = other.all_heads(stack)
    theirs = other.attention(prompt, heads).values
    ours = eager(reference("bart"), prompt, stack)
    expected = divergence(ours, theirs.reshape(ours.shape))
    np.testing.assert_allclose(found.values, expected, atol=TOLERANCE, rtol=0)
    same = compare_attention(model, prompt, other_model=other, stack=stack)
    np.testing.assert_array_equal(same.values, found.values)


def test_parts_of_the_layers_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("t5")
    prompt = model.tokenize(PROMPT, decoder="The cat sat on")
    pair = with_ablation(model, prompt, Ablation((Head(0, 0),), Zero()), "cross")
    whole = attention_change(pair)
    monkeypatch.setattr("ablation.paired_reading.KEPT_BYTES", 1)
    monkeypatch.setattr("ablation.paired_reading.BLOCK_WEIGHTS", 40)
    np.testing.assert_allclose(attention_change(pair).values, whole.values, atol=1e-6)


def test_only_the_positions_that_a_stack_joins_must_correspond() -> None:
    model = tiny_model("bart")
    one = model.tokenize(PROMPT, decoder="The cat sat")
    longer = model.tokenize(PROMPT, decoder="The cat sat on the mat")
    assert with_prompt(model, one, longer, "encoder").extent == (len(one.typed),) * 2
    for stack in ("", "cross"):
        with pytest.raises(UserError, match="decoder texts have"):
            with_prompt(model, one, longer, stack)
    shorter = model.tokenize("The cat", decoder="The cat sat")
    assert with_prompt(model, one, shorter).extent == (len(one),) * 2
    for stack in ("encoder", "cross"):
        with pytest.raises(UserError, match="The prompts have"):
            with_prompt(model, one, shorter, stack)
    with pytest.raises(UserError, match="compare two models of the same kind"):
        with_model(model, one, tiny_model("llama"))


# --- roles ---


def scored(weights: FloatArray, queries: TokenizedPrompt, keys: TokenizedPrompt) -> dict[str, Any]:
    """Score a map of one text on itself by looking tokens up, or of one text on another."""
    found: dict[str, list[float]] = {}

    def add(role: str, query: int, key: int) -> None:
        found.setdefault(role, []).append(float(weights[query, key]))

    own = queries is keys
    for query, token in enumerate(queries.ids):
        if own and query >= 2:
            add("first_token", query, 0)
            add("previous_token", query, query - 1)
        earlier = [
            i for i, other in enumerate(keys.ids) if other == token and (i < query or not own)
        ]
        if not earlier or (not own and query == 0):
            continue
        if own:
            add("duplicate_token", query, earlier[0])
            add("induction", query, earlier[0] + 1)
            continue
        add("same_token", query, earlier[0])
        if earlier[0] + 1 < len(keys):
            add("next_token", query, earlier[0] + 1)
        if query > 1:
            add("first_token", query, 0)
    return {role: np.mean(values) for role, values in found.items()}


@each_stack
@both_families
def test_roles_of_a_stack(family: str, stack: str) -> None:
    model = tiny_model(family)
    dossier = head_dossier(model, n_sequences=2, length=12, seed=3, stack=stack)
    expected = np.zeros_like(dossier.values)
    for stimulus in repeated_tokens(model, 2, 12, 3, stack):
        axes = model.stacks.axes(stimulus.prompt, stack)
        theirs = eager(reference(family), stimulus.prompt, stack)
        for layer, head in np.ndindex(theirs.shape[:2]):
            by_role = scored(theirs[layer, head], axes.queries, axes.keys)
            assert by_role.keys() == dossier.roles.keys()
            for i, role in enumerate(dossier.roles):
                expected[i, layer, head] += by_role[role] / 2
    np.testing.assert_allclose(dossier.values, expected, atol=TOLERANCE, rtol=0)
    assert dossier.values.std(axis=(1, 2)).min() > 10 * TOLERANCE
    assert dossier.stack == stack
    assert dossier.leaders(next(iter(dossier.roles)))[0][0].stack == stack


def test_each_stack_is_given_what_has_a_meaning_there() -> None:
    model = tiny_model("bart")
    (read,) = repeated_tokens(model, 1, 9, stack="encoder")
    (written,) = repeated_tokens(model, 1, 9)
    (copied,) = repeated_tokens(model, 1, 9, stack="cross")
    source = read.prompt.typed.ids
    assert source[read.start : read.start + 9] == source[read.start + 9 :]
    assert len(read.prompt) == 1
    assert written.prompt.ids[1:10] == written.prompt.ids[10:]
    assert not set(written.prompt.ids) & set(written.prompt.typed.ids[1:])
    assert copied.prompt.ids[1:] == copied.prompt.typed.ids[copied.source_start :]
    said = [one.given for one in (read, written, copied)]
    assert ["read by the encoder" in words for words in said] == [True, False, True]
    assert ["written by the decoder" in words for words in said] == [False, True, True]


def test_what_is_kept_of_one_stack_is_not_taken_for_another(cache: Path) -> None:
    model = tiny_model("t5")
    for stack in FIELDS:
        assert known_dossier(model, n_sequences=1, stack=stack) is None
        first = head_dossier(model, n_sequences=1, stack=stack)
        again = known_dossier(model, n_sequences=1, stack=stack)
        assert again is not None
        assert again.to_json() == first.to_json()


# --- over a corpus ---


@each_stack
@both_families
def test_metrics_over_passages(family: str, stack: str) -> None:
    model = tiny_model(family)
    passages = tuple(Passage(f"p-{i}", "tiny", text) for i, text in enumerate(CORPUS[:2]))
    result = run_study("heads", model, passages, stack=stack)
    details: Any = result.details
    names = [info.name for info in details.metrics]
    assert ("mean_distance" in names) == (stack != "cross")
    for passage, found in zip(passages, details.passages, strict=True):
        written = None if stack == "encoder" else passage.text
        prompt = model.tokenize(passage.text, decoder=written)
        maps = eager(reference(family), prompt, stack).astype(float)
        counted = maps[:, :, 1:] if stack == "" else maps
        values = dict(zip(names, found.metrics, strict=True))
        np.testing.assert_allclose(values["first_weight"], counted[..., 0].mean(-1), atol=TOLERANCE)
        largest = counted.max(-1).mean(-1)
        np.testing.assert_allclose(values["largest_weight"], largest, atol=TOLERANCE)
        logs = np.log(np.maximum(counted, 1e-300))
        entropy = -(counted * logs).sum(-1).mean(-1)
        np.testing.assert_allclose(values["entropy"], entropy, atol=1e-4)
        inner = maps[:, :, 1:, 1:]
        np.testing.assert_allclose(found.largest, inner.max((-1, -2)), atol=TOLERANCE)
    context = details.contexts(Head(1, 1, stack))[0]
    axes = model.stacks.axes(prompt, stack)
    assert (context.looked_at is None) == axes.own
    text = context.excerpt()
    assert ("→" in text) == (stack == "cross")
    written = run_study("heads", model, passages, head=Head(1, 1, stack)).to_json()
    assert written.get("stack", "") == stack


def test_a_head_of_another_stack_is_refused() -> None:
    model: LanguageModel = tiny_model("t5")
    with pytest.raises(UserError, match="not of the stack 'cross'"):
        run_study("heads", model, head=Head(0, 0, "encoder"), stack="cross")
    with pytest.raises(UserError, match="no stack of attention layers 'vision'"):
        run_study("heads", model, stack="vision")
