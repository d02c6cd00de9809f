"""What moves along an edge, against the same worked out by hand from the reference model's parts.

TOLERANCE: logits are of order 1, so that float32 rounding is about 1e-6.
"""

import numpy as np
import pytest
import torch
from parts import head_term, parts
from reference import reference
from tiny import tiny_model

from ablation.circuit.moved import looks, moved_tokens
from ablation.circuit.types import PromptPair
from models.edge_graph import Edge, Target
from models.types import Component, Head

TOLERANCE = 2e-5
PAIR = PromptPair("The cat sat on the mat. The", "The cat sat on the cat. The", " Mary", " John")
SOURCES = (Component("embed"), Component("head", 1, 2), Component("mlp", 2))
LOGITS = Target(Component("logits"))


def outputs(text: str, source: Component) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a source puts out, and the stream behind the last layer, [position, d_model]."""
    found = parts("llama", tiny_model("llama").tokenize(text).ids)
    if source.kind == "embed":
        return found.hidden[0], found.hidden[-1]
    if source.kind == "mlp":
        return found.mlps[source.layer], found.hidden[-1]
    return head_term("llama", found, source.layer, source.head), found.hidden[-1]


def by_hand(difference: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
    model = reference("llama")
    size = (stream.square().mean() + 1e-6).sqrt()
    added: torch.Tensor = model.lm_head.weight @ (difference / size * model.model.norm.weight)
    return (added - added.mean()).detach()


@pytest.mark.parametrize("source", SOURCES[1:])
def test_an_edge_into_the_logits_moves_what_it_adds_to_them(source: Component) -> None:
    model = tiny_model("llama")
    (clean, stream), (corrupt, _) = (outputs(text, source) for text in (PAIR.clean, PAIR.corrupt))
    found = moved_tokens(model, PAIR, Edge(source, LOGITS), top_k=4)
    added = by_hand(clean[-1] - corrupt[-1], stream[-1])
    assert (found.position, found.at_read) == (len(clean) - 1, True)
    for side, best in (
        (found.raised, added.topk(4)),
        (found.lowered, added.topk(4, largest=False)),
    ):
        labels = [model.describe_token(token).label for token in best.indices.tolist()]
        assert [label for label, _ in side] == labels
        np.testing.assert_allclose([v for _, v in side], best.values.numpy(), atol=TOLERANCE)


@pytest.mark.parametrize("source", SOURCES)
def test_an_edge_into_an_mlp_is_read_where_the_outputs_differ_most(source: Component) -> None:
    model = tiny_model("llama")
    (clean, stream), (corrupt, _) = (outputs(text, source) for text in (PAIR.clean, PAIR.corrupt))
    found = moved_tokens(model, PAIR, Edge(source, Target(Component("mlp", 2))), top_k=1)
    at = int((clean - corrupt).norm(dim=-1).argmax())
    assert (found.position, found.at_read) == (at, False)
    assert found.label == model.tokenize(PAIR.clean).labels[at]
    best = by_hand((clean - corrupt)[at], stream[at]).max()
    assert found.raised[0][1] == pytest.approx(float(best), abs=TOLERANCE)


def test_a_source_that_puts_out_the_same_moves_nothing() -> None:
    # Both prompts end with the same token.
    found = moved_tokens(tiny_model("llama"), PAIR, Edge(SOURCES[0], LOGITS))
    assert (found.raised, found.lowered) == ((), ())


@pytest.mark.parametrize("bos", [True, False])
def test_a_head_looks_where_its_weights_are_largest(bos: bool) -> None:
    model = tiny_model("llama")
    heads = [Head(2, 3), Head(0, 1)]
    found = looks(model, PAIR, heads, bos)
    assert [look.head for look in found] == heads
    for index, look in enumerate(found):
        for side, text in ((look.clean, PAIR.clean), (look.corrupt, PAIR.corrupt)):
            prompt = model.tokenize(text, bos)
            row = model.attention(prompt, heads).values[index, -1]
            keys = np.argsort(-row, kind="stable")[:3]
            assert [label for label, _ in side] == [prompt.unique_labels[key] for key in keys]
            np.testing.assert_allclose([w for _, w in side], row[keys], atol=1e-6)
