"""Head patching against one forward pass a head with a plain hook on the output projection.

Tolerance 1e-4 of the share: log-probabilities agree to 1e-5, and the whole way is some 0.3 nats.
"""

import threading

import numpy as np
import pytest
import torch
from handwired import hand_wired, pairs
from tiny import reference_model, tiny_model

from ablation.circuit.patching import patch_heads
from ablation.circuit.types import PromptPair
from ablation.types import Progress
from models.errors import UserError

PAIR = PromptPair("The cat sat on the mat. The", "The cat sat on the cat. The", " Mary", " John")


def difference_by_hook(layer: int, head: int, at: int | None, direction: str) -> float:
    """Return the logit difference with one head's z taken from the other prompt."""
    tokens, model = tiny_model("llama"), reference_model("llama")
    texts = (PAIR.clean, PAIR.corrupt) if direction == "noising" else (PAIR.corrupt, PAIR.clean)
    run, other = (torch.tensor([tokens.tokenize(text).ids]) for text in texts)
    projection = model.model.layers[layer].self_attn.o_proj
    d = model.config.head_dim
    part = slice(head * d, (head + 1) * d)
    kept: list[torch.Tensor] = []

    def remember(_module: object, args: tuple[torch.Tensor]) -> None:
        kept.append(args[0].clone())

    def replace(_module: object, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        z = args[0].clone()
        rows = slice(None) if at is None else at
        z[:, rows, part] = kept[0][:, rows, part]
        return (z,)

    with torch.no_grad():
        handle = projection.register_forward_pre_hook(remember)
        model(other)
        handle.remove()
        handle = projection.register_forward_pre_hook(replace)
        logits = model(run).logits[0, -1]
        handle.remove()
    answer, distractor = (tokens.resolve_token(t) for t in (PAIR.answer, PAIR.distractor))
    return float(logits[answer] - logits[distractor])


@pytest.mark.parametrize("direction", ["noising", "denoising"])
def test_every_head_equals_a_plain_hook(direction: str) -> None:
    model = tiny_model("llama")
    found = patch_heads(model, [PAIR], direction)
    start, goal = (found.clean, found.corrupt)
    if direction == "denoising":
        start, goal = goal, start
    for head in model.all_heads():
        by_hook = difference_by_hook(head.layer, head.head, None, direction)
        share = (by_hook - start) / (goal - start)
        assert found.values[head.layer, head.head] == pytest.approx(share, abs=1e-4)


def test_positions_equal_a_plain_hook_there() -> None:
    found = patch_heads(tiny_model("llama"), [PAIR], by_position=True)
    assert found.by_position is not None
    length = len(tiny_model("llama").tokenize(PAIR.clean))
    assert found.by_position.shape == (3, 4, length)
    assert len(found.labels) == length
    for layer, head, at in ((0, 1, 6), (1, 2, length - 1), (2, 3, length - 1), (2, 0, 2)):
        by_hook = difference_by_hook(layer, head, at, "noising")
        share = (by_hook - found.clean) / (found.corrupt - found.clean)
        assert found.by_position[layer, head, at] == pytest.approx(share, abs=1e-4)


def test_the_wired_model_needs_both_its_heads_and_one_is_nearly_enough() -> None:
    needed = patch_heads(hand_wired(), pairs(), "noising").values
    assert needed[1, 0] == pytest.approx(1, abs=1e-3)  # all of the prediction goes through it
    assert needed[0, 0] > 0.3
    assert np.abs(needed[:, 1]).max() < 1e-3  # the others are not there
    enough = patch_heads(hand_wired(), pairs(), "denoising").values
    assert enough[1, 0] == pytest.approx(1, abs=1e-3)
    # It breaks what the corrupted prompt predicts, as noising breaks the clean one; no more.
    assert enough[0, 0] == pytest.approx(needed[0, 0], abs=1e-3)


def test_cancel_keeps_what_was_found() -> None:
    cancel = threading.Event()

    def progress(now: Progress) -> None:
        if now.done >= 4:
            cancel.set()

    found = patch_heads(hand_wired(), pairs(8), progress=progress, cancel=cancel)
    assert found.stopped == "cancelled"
    assert np.isfinite(found.values).any()


def test_wrong_input_is_refused_in_a_sentence() -> None:
    model = hand_wired()
    for more, words in (
        ({"direction": "sideways"}, "choose one of noising"),
        ({"metric": "kl"}, "logit_diff or logprob"),
        ({"by_position": True}, "takes one pair"),
    ):
        with pytest.raises(UserError, match=words):
            patch_heads(model, pairs(2), **more)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least one"):
        patch_heads(model, [])
    with pytest.raises(UserError, match="nothing to explain"):
        patch_heads(model, [PromptPair("b c d e c", "f c d e c", "d", "g")])
