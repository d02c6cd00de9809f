"""The tower that reads the texts which pictures are compared with, held against transformers' own
likeness, `model(**processor_output)`, of an untouched eager copy with plain hooks."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_picture_classifier import TOLERANCE, pixels
from tiny_vision import (
    COMPARING,
    TEXTS,
    comparing_directory,
    noise_picture,
    tiny_comparing,
    zeroed,
)
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer

from ablation import (
    Ablation,
    Knockout,
    Zero,
    compare,
    parse_intervention,
    search_heads,
    summarise_heads,
    sweep_heads,
    sweep_positions,
)
from ablation.attention_change import attention_change, with_ablation, with_prompt
from ablation.on_picture import on_picture
from ablation.paired_reading import map_change
from models import load_model
from models.attention_tap import TapRequest
from models.errors import UserError
from models.forward_pass import beside
from models.types import Head, TokenizedPrompt

EVERY = pytest.mark.parametrize("name", list(COMPARING))
LENGTH = {"CLIP": 6, "SigLIP": 12, "SigLIP masked": 12}
"""Positions of each text: CLIP's are padded to the longest, SigLIP's to full length."""


class Reference:
    """An untouched eager copy of a model, run on a picture and the texts."""

    def __init__(self, name: str) -> None:
        directory = comparing_directory(name)
        self.model = AutoModel.from_pretrained(directory, attn_implementation="eager").eval()
        padding = "longest" if name == "CLIP" else "max_length"
        tokenizer = AutoTokenizer.from_pretrained(directory)
        self.given = tokenizer(list(TEXTS), padding=padding, max_length=12, return_tensors="pt")

    @property
    def layers(self) -> list[Any]:
        """The attention modules of the tower that reads."""
        return [layer.self_attn for layer in self.model.text_model.encoder.layers]

    def logits(self, prompt: TokenizedPrompt) -> Tensor:
        with torch.inference_mode():
            found: Tensor = self.model(**self.given, pixel_values=pixels(prompt)).logits_per_image
        return found[0]

    def log_probs(self, prompt: TokenizedPrompt) -> np.ndarray:
        return torch.log_softmax(self.logits(prompt).double(), -1).numpy()

    def patterns(self, prompt: TokenizedPrompt) -> np.ndarray:
        """Return the attention of every head, one text behind the other, each seeing itself alone:
        [n_heads of all layers, query, key]."""
        seen: list[Tensor] = []

        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            seen.append(output[1])  # [text, head, query, key]

        handles = [layer.register_forward_hook(keep) for layer in self.layers]
        self.logits(prompt)
        for handle in handles:
            handle.remove()
        heads = torch.cat([pattern.transpose(0, 1) for pattern in seen])
        return np.stack([torch.block_diag(*texts).numpy() for texts in heads])

    @contextmanager
    def edited(self, head: Head, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Let a head put out what `edit` makes of its z, [position of all texts, d_head]."""

        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            z = args[0].clone()  # [text, position, n_heads * d_head]
            width = z.shape[-1] // 4
            own = z[..., head.head * width : (head.head + 1) * width]
            own[:] = edit(own.reshape(-1, width)).reshape(own.shape)
            return (z,)

        handle = self.layers[head.layer].out_proj.register_forward_pre_hook(hook)
        yield
        handle.remove()

    @contextmanager
    def blocked(self, head: Head, blocked: np.ndarray) -> Iterator[None]:
        """Keep a head from looking, bool [query, key] of all texts."""

        def hook(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
            hidden = args[0] if args else kwargs["hidden_states"]
            n_texts, n = hidden.shape[:2]
            mask = kwargs["attention_mask"]
            own = torch.zeros(n_texts, 4, n, n) + (0 if mask is None else mask)
            for text in range(n_texts):
                at = slice(text * n, (text + 1) * n)
                own[text, head.head][torch.from_numpy(blocked[at, at])] = -torch.inf
            return args, {**kwargs, "attention_mask": own}

        handle = self.layers[head.layer].register_forward_pre_hook(hook, with_kwargs=True)
        yield
        handle.remove()


def prompt_of(name: str, seed: int = 0) -> TokenizedPrompt:
    return tiny_comparing(name).tokenize("", pictures=[noise_picture(seed=seed)])


def texts_of(prompt: TokenizedPrompt) -> TokenizedPrompt:
    assert prompt.compared is not None
    return prompt.compared


@EVERY
def test_the_texts_stand_one_behind_the_other(name: str) -> None:
    model, prompt = tiny_comparing(name), prompt_of(name)
    texts, length = texts_of(prompt), LENGTH[name]
    assert len(texts) == 3 * length
    starts = model.stacks.axes(prompt, "text").starts()
    assert starts.tolist() == [0] * length + [length] * length + [2 * length] * length
    opening = ["<s>"] * (name == "CLIP")
    for i, text in enumerate(TEXTS):
        words = [*opening, *text.split(), "</s>"]
        expected = words + ["padding"] * (length - len(words))
        at = slice(i * length, (i + 1) * length)
        assert texts.labels[at] == tuple(f"{word}/{i}" for word in expected)
        is_word = [kind == "text" for kind in texts.kinds[at]]
        assert is_word == [word in text.split() for word in expected]
    tower = model.stacks.named("text")
    assert (tower.n_layers, tower.n_heads, tower.causal) == (2, 4, name == "CLIP")
    assert model.stacks.named("vision").name == ""
    assert (model.n_layers, model.n_heads, len(prompt)) == (3, 4, 17 if name == "CLIP" else 16)
    assert prompt.to_json()["compared"] == list(texts.labels)


@EVERY
def test_every_head_zeroed_equals_a_plain_hook(name: str) -> None:
    model, prompt, reference = tiny_comparing(name), prompt_of(name), Reference(name)
    clean = reference.log_probs(prompt)
    np.testing.assert_allclose(model.predict(prompt).log_probs, clean, atol=TOLERANCE)
    heads, own = model.all_heads("text"), Head(1, 2)
    assert len(heads) == 8
    both = [[head] for head in heads] + [[heads[1], own], [own], [], list(heads)]
    found = model.ablated_logprobs(prompt, both, Zero()).numpy()
    moved = []
    for row, head in zip(found, heads, strict=False):
        with reference.edited(head, torch.zeros_like):
            expected = reference.log_probs(prompt)
        np.testing.assert_allclose(row, expected, atol=TOLERANCE)
        moved.append(float(np.abs(expected - clean).max()))
        alone = model.predict(prompt, ablation=Ablation((head,), Zero())).log_probs
        np.testing.assert_allclose(row, alone, atol=TOLERANCE)
    assert min(moved) > 30 * TOLERANCE  # so that heads taken for one another would show
    np.testing.assert_allclose(found[10], clean, atol=TOLERANCE)
    seeing = reference.model.vision_model.encoder.layers[1].self_attn.out_proj
    with zeroed(seeing, 2, 4):
        np.testing.assert_allclose(found[9], reference.log_probs(prompt), atol=TOLERANCE)
        with reference.edited(heads[1], torch.zeros_like):
            np.testing.assert_allclose(found[8], reference.log_probs(prompt), atol=TOLERANCE)
    with ExitStack() as every:
        for head in heads:
            every.enter_context(reference.edited(head, torch.zeros_like))
        np.testing.assert_allclose(found[11], reference.log_probs(prompt), atol=TOLERANCE)


@EVERY
def test_logits_are_those_of_the_model_itself(name: str) -> None:
    """Not only what is left of them behind a softmax; with the tower that reads run, and not."""
    model, prompt, reference = tiny_comparing(name), prompt_of(name), Reference(name)
    expected = reference.logits(prompt).numpy()
    for request in (TapRequest(), TapRequest(keep_z=frozenset({3}))):
        [found] = model._pass.logits_at([prompt.ids], request, 0, beside(prompt))
        np.testing.assert_allclose(found.numpy(), expected, atol=TOLERANCE)
        assert len(request.z) == len(request.keep_z)


@EVERY
def test_every_map_is_that_of_an_eager_run(name: str) -> None:
    model, prompt = tiny_comparing(name), prompt_of(name)
    expected = Reference(name).patterns(prompt)
    heads = model.all_heads("text")
    maps = model.attention(prompt, heads)
    assert maps.prompt is texts_of(prompt)
    np.testing.assert_allclose(maps.values, expected, atol=TOLERANCE)
    rows = model.attention(prompt, heads, queries=[-1, 0, 9])
    np.testing.assert_allclose(rows.values, expected[:, [-1, 0, 9]], atol=TOLERANCE)
    both = model.run(prompt, heads=[Head(1, 2), heads[5]])
    np.testing.assert_allclose(both.maps[1].values[0], expected[5], atol=TOLERANCE)
    np.testing.assert_allclose(
        both.maps[0].values, model.attention(prompt, [Head(1, 2)]).values, atol=TOLERANCE
    )


@EVERY
def test_the_overview_reads_every_head(name: str) -> None:
    model, prompt = tiny_comparing(name), prompt_of(name)
    expected = Reference(name).patterns(prompt)
    found = summarise_heads(model, prompt, stack="text")
    n = len(texts_of(prompt))
    np.testing.assert_allclose(found.thumbnails.reshape(8, n, n), expected, atol=TOLERANCE)
    assert found.causal is (name == "CLIP")
    # Each text has a first token; padding counts where the tower does not know it as such.
    maps, length = torch.from_numpy(expected).reshape(2, 4, n, n), LENGTH[name]
    firsts = maps[:, :, torch.arange(n), torch.arange(n) // length * length]
    told = name != "SigLIP"
    shown = [not label.startswith("padding") or not told for label in texts_of(prompt).labels]
    looking = [shown[i] and not (name == "CLIP" and i % length == 0) for i in range(n)]
    mean = firsts[..., torch.tensor(looking)].mean(-1)
    np.testing.assert_allclose(found.values_of("first_weight"), mean, atol=TOLERANCE)
    entropy = -torch.xlogy(maps, maps).sum(-1)[..., torch.tensor(looking)].mean(-1)
    np.testing.assert_allclose(found.values_of("entropy"), entropy, atol=TOLERANCE)


INTERVENTIONS = ("zero", "scale:-2", "mean", "permute:3", "sparsify:threshold=0.2",
                 "sparsify:fraction=0.3")  # fmt: skip


def plain(spec: str, at: list[int]) -> Callable[[Tensor], Tensor]:
    """Return an intervention on z at some positions, worked out plainly."""

    def edit(z: Tensor) -> Tensor:
        made, own = z.clone(), z[at]
        order = torch.randperm(len(at), generator=torch.Generator().manual_seed(3))
        # What opens the texts is the same in all of them: of equal entries the first ones stay.
        largest = own.abs().flatten().argsort(descending=True, stable=True)
        kept = torch.zeros(own.numel())
        kept[largest[: int(0.3 * own.numel() + 0.5)]] = 1
        made[at] = {
            "zero": torch.zeros_like(own),
            "scale:-2": -2 * own,
            "mean": z.mean(0).expand_as(own),
            "permute:3": own[order],
            "sparsify:threshold=0.2": own * (own.abs() >= 0.2),
            "sparsify:fraction=0.3": own * kept.reshape(own.shape),
        }[spec]
        return made

    return edit


@EVERY
@pytest.mark.parametrize("spec", INTERVENTIONS)
def test_interventions_equal_plain_hooks(name: str, spec: str) -> None:
    model, prompt, reference = tiny_comparing(name), prompt_of(name), Reference(name)
    heads, clean = model.all_heads("text"), model.predict(prompt).log_probs
    n, length = len(texts_of(prompt)), LENGTH[name]
    somewhere = [1, 2, length, length + 1, length + 3, 2 * length + 4]
    moved = 0.0
    for positions in (None, somewhere):
        intervention = parse_intervention(spec)
        sets = [[head] for head in heads]
        found = model.ablated_logprobs(prompt, sets, intervention, positions=positions).numpy()
        for row, head in zip(found, heads, strict=True):
            with reference.edited(head, plain(spec, positions or list(range(n)))):
                expected = reference.log_probs(prompt)
            np.testing.assert_allclose(row, expected, atol=TOLERANCE)
            moved = max(moved, float(np.abs(expected - clean).max()))
    assert moved > 100 * TOLERANCE


@EVERY
def test_words_name_the_positions_of_the_texts(name: str) -> None:
    model, prompt = tiny_comparing(name), prompt_of(name)
    texts, heads = texts_of(prompt), model.all_heads("text")[:1]
    for word in ("text", "special"):
        numbers = tuple(i for i, kind in enumerate(texts.kinds) if kind == word)
        named = model.predict(prompt, ablation=Ablation(heads, Zero(), (word,)))
        numbered = model.predict(prompt, ablation=Ablation(heads, Zero(), numbers))
        np.testing.assert_array_equal(named.log_probs, numbered.log_probs)
    nowhere = model.predict(prompt, ablation=Ablation(heads, Zero(), ("image",)))
    clean = model.predict(prompt).log_probs
    np.testing.assert_allclose(nowhere.log_probs, clean, atol=TOLERANCE)


@EVERY
@pytest.mark.parametrize(
    ("intervention", "queries", "keys"),
    [
        (Knockout((3, 9), (1, 8)), [3, 9], [1, 8]),
        (Knockout(None, (0,)), None, [0]),
        (Knockout(None, ("text",)), None, "text"),
        (Knockout(("special",), ("special",)), "special", "special"),
        (Knockout(None, None), None, None),
    ],
)
def test_knockouts_equal_masks(name: str, intervention: Knockout, queries: Any, keys: Any) -> None:
    """A query that keeps no key of its own text is left as it is, wherever its text stands."""
    model, prompt, reference = tiny_comparing(name), prompt_of(name), Reference(name)
    texts, head = texts_of(prompt), Head(0, 1, "text")
    n, length = len(texts), LENGTH[name]

    def at(places: Any) -> np.ndarray:
        if isinstance(places, str):
            return np.array([kind == places for kind in texts.kinds])
        return np.ones(n, bool) if places is None else np.isin(np.arange(n), places)

    [clean] = model.attention(prompt, [head]).values
    blocked = at(queries)[:, None] & at(keys)[None]
    if keys is None:
        blocked &= ~np.eye(n, dtype=bool)
    left = ~((clean > 0) & ~blocked).any(axis=1)
    blocked[left] = False
    with reference.blocked(head, blocked):
        expected = reference.log_probs(prompt)
        patterns = reference.patterns(prompt)
    found = model.run(prompt, heads=[head], ablation=Ablation((head,), intervention))
    np.testing.assert_allclose(found.prediction.log_probs, expected, atol=TOLERANCE)
    np.testing.assert_allclose(found.attention.values[0], patterns[1], atol=TOLERANCE)
    assert length < n  # so that texts behind the first are tried


def test_a_query_that_is_left_nothing_is_named() -> None:
    """The token that opens the second text sees itself alone."""
    model, prompt = tiny_comparing("CLIP"), prompt_of("CLIP")
    cut = Ablation((Head(0, 0, "text"),), Knockout((6,), (6,)))
    with pytest.raises(UserError, match="would leave position 6 no key"):
        model.predict(prompt, ablation=cut)


@EVERY
def test_a_sweep_and_searches_find_what_single_runs_do(name: str) -> None:
    model, prompt = tiny_comparing(name), prompt_of(name)
    clean = model.predict(prompt)
    swept = sweep_heads(model, prompt, stack="text")
    assert swept.values.shape == (2, 4)
    singles = {}
    for head in model.all_heads(None):
        after = model.predict(prompt, ablation=Ablation((head,), Zero()))
        singles[head] = compare(clean, after).kl
        if head.stack:
            assert swept.values[head.layer, head.head] == pytest.approx(singles[head], abs=1e-6)
    found = search_heads(model, prompt, max_heads=2)
    assert found.steps[0].head == max(singles, key=lambda head: singles[head])
    assert found.steps[0].evaluated == len(singles) == 20
    screened = search_heads(model, prompt, max_heads=2, strategy="screened", screen=20)
    assert screened.heads == found.heads
    own = search_heads(model, prompt, max_heads=2, candidates=model.all_heads("text"))
    assert {head.stack for head in own.heads} == {"text"}
    target = clean.top[1].text
    reached = search_heads(model, prompt, target, candidates=model.all_heads("text"))
    after = model.predict(prompt, ablation=Ablation(reached.heads, Zero()))
    assert (after.top[0].text == target) is (reached.stopped == "target_reached")


def test_slopes_are_those_of_the_texts_heads() -> None:
    """To first order: scaling a head by a little changes the score by that much of the slope."""
    model, prompt = tiny_comparing("CLIP"), prompt_of("CLIP")
    small = parse_intervention("scale:0.999")
    posed = model.head_sets.pose(prompt, small)
    found = model.head_sets.estimate(posed, [], lambda log_probs: log_probs[1])
    clean = model.predict(prompt).log_probs[1]
    for head in model.all_heads("text"):
        after = model.predict(prompt, ablation=Ablation((head,), small)).log_probs[1]
        estimate = found[model.stacks.run_layer(head), head.head]
        assert estimate == pytest.approx(after - clean, abs=2e-5)
    assert np.abs(found[3:]).max() > 1e-4


def test_positions_are_swept_one_by_one() -> None:
    model, prompt = tiny_comparing("CLIP"), prompt_of("CLIP")
    head = Head(0, 2, "text")
    found = sweep_positions(model, prompt, [head])
    assert found.prompt is texts_of(prompt)
    clean = model.predict(prompt)
    for at in (0, 4, 5, 8, 17):
        after = model.predict(prompt, ablation=Ablation((head,), Zero(), (at,)))
        assert found.values[0, at] == pytest.approx(compare(clean, after).kl, abs=1e-6)
    assert found.values[0, 5] == pytest.approx(0, abs=1e-7)  # padding, which nothing looks at


def test_pictures_of_a_batch_are_each_compared_with_their_own_texts() -> None:
    model = tiny_comparing("SigLIP")
    prompts = [prompt_of("SigLIP", seed) for seed in range(3)]
    ablation = Ablation((Head(0, 1, "text"), Head(1, 1)), Zero())
    together = model.batch_log_probs(prompts, ablation).numpy()
    for row, prompt in zip(together, prompts, strict=True):
        alone = model.predict(prompt, ablation=ablation).log_probs
        np.testing.assert_allclose(row, alone, atol=TOLERANCE)


@EVERY
def test_the_tower_that_reads_rests_where_it_is_not_asked_about(name: str) -> None:
    model, prompt = tiny_comparing(name), prompt_of(name)
    ran: list[int] = []
    handle = model._model.inner.inner.text_model.register_forward_hook(lambda *_: ran.append(1))
    model.run(prompt, heads=[Head(0, 0)], ablation=Ablation((Head(1, 1),), Zero()))
    sweep_heads(model, prompt)
    search_heads(model, prompt, max_heads=2, candidates=model.all_heads(), strategy="screened")
    attention_change(with_ablation(model, prompt, Ablation((Head(0, 0),), Zero())))
    assert not ran
    model.attention(prompt, [Head(0, 0, "text")])
    assert len(ran) == 1
    handle.remove()


def test_a_picture_is_seen_once_where_only_texts_heads_are_changed() -> None:
    model, prompt = tiny_comparing("CLIP"), prompt_of("CLIP")
    seen: list[int] = []
    tower = model._model.inner.inner.vision_model
    handle = tower.register_forward_hook(lambda _m, _a, out: seen.append(len(out[0])))
    heads = model.all_heads("text")
    model.ablated_logprobs(prompt, [[head] for head in heads], Zero())
    assert seen == [1]
    model.ablated_logprobs(prompt, [[heads[0]], [heads[1], Head(0, 0)]], Zero())
    assert seen[1:] == [2]
    model.batch_log_probs([prompt, prompt_of("CLIP", 1)], Ablation(heads[:1], Zero()))
    assert seen[2:] == [2]
    handle.remove()


def test_changes_are_those_of_whole_maps() -> None:
    model, prompt = tiny_comparing("SigLIP"), prompt_of("SigLIP")
    ablation = Ablation((Head(0, 1, "text"),), Zero())
    found = attention_change(with_ablation(model, prompt, ablation, "text")).values
    heads = model.all_heads("text")
    maps = [model.attention(prompt, heads, one).values for one in (None, ablation)]
    expected = [map_change(*pair) for pair in zip(*maps, strict=True)]
    np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-6)
    assert max(expected) > 1e-3
    other = attention_change(with_prompt(model, prompt, prompt_of("SigLIP", 1), "text"))
    np.testing.assert_allclose(other.values, 0, atol=1e-6)  # the texts are the same


def test_what_cannot_be_asked_is_said_in_a_sentence(tmp_path: Path) -> None:
    model, prompt = tiny_comparing("CLIP"), prompt_of("CLIP")
    with pytest.raises(UserError, match="text:L0H0 to L1H3 are the text's"):
        model.attention(prompt, [Head(2, 0, "text")])
    with pytest.raises(UserError, match="look at the texts, not at the picture"):
        on_picture(model, prompt, "text")
    with pytest.raises(UserError, match="Position 18 is outside"):
        model.predict(prompt, ablation=Ablation((Head(0, 0, "text"),), Zero(), (18,)))
    long = " ".join(["red"] * 11)
    with pytest.raises(UserError, match="has 13 tokens, and 12 are read of each; shorten it"):
        load_model(f"{comparing_directory('CLIP')}#a red square|{long}", device="cpu")
