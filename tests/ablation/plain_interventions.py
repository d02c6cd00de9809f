"""Interventions on z worked out plainly, one head and one forward pass at a time."""

import math
from collections.abc import Sequence

import torch
from reference import EditZ, edited_heads
from tiny import tiny_model
from torch import Tensor

from ablation.interventions import (
    Intervention,
    Mean,
    Permute,
    Resample,
    Scale,
    Sparsify,
    Zero,
)
from models.language_model import LanguageModel
from models.types import Head, TokenizedPrompt


def source_for(model: LanguageModel, prompt: TokenizedPrompt) -> str:
    """Return another text with as many tokens: names differ, near the start and near the end
    (where a model with a short window sees them)."""
    source = prompt.text.replace("Mary and John", "John and Mary", 1)
    source = source.replace("John gave", "Mary gave", 1)
    assert len(model.tokenize(source)) == len(prompt)
    assert source != prompt.text
    return source


def plain_z(family: str, ids: Sequence[int], layer: int, head: int) -> Tensor:
    """Return a head's clean output [position, d_head], seen by a plain hook."""
    seen: list[Tensor] = []

    def see(z: Tensor) -> Tensor:
        seen.append(z.clone())
        return z

    with edited_heads(family, [(layer, head, see)]) as model, torch.no_grad():
        model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    return seen[0]


def keep_largest(z: Tensor, fraction: float) -> Tensor:
    """Zero all but the largest entries, one after another."""
    out = torch.zeros_like(z)
    cells = [(i, j) for i in range(z.shape[0]) for j in range(z.shape[1])]
    cells.sort(key=lambda cell: -abs(z[cell].item()))
    for cell in cells[: math.floor(len(cells) * fraction + 0.5)]:
        out[cell] = z[cell]
    return out


def plain_edit(
    family: str, intervention: Intervention, head: Head, n: int, positions: Sequence[int] | None
) -> EditZ:
    """Return the same intervention on one head, worked out plainly."""
    at = list(range(n)) if positions is None else list(positions)

    def only_there(edit: EditZ) -> EditZ:
        def at_positions(z: Tensor) -> Tensor:
            out = z.clone()
            out[at] = edit(z)[at]
            return out

        return at_positions

    match intervention:
        case Zero():
            return only_there(torch.zeros_like)
        case Scale(factor):
            return only_there(lambda z: z * factor)
        case Mean(()):
            return only_there(lambda z: z.mean(0).expand_as(z))
        case Mean(references):
            ids = [tiny_model(family).tokenize(text).ids for text in references]
            rows = torch.cat([plain_z(family, row, head.layer, head.head) for row in ids])
            return only_there(lambda z: rows.mean(0).expand_as(z))
        case Resample(source):
            other = plain_z(family, tiny_model(family).tokenize(source).ids, head.layer, head.head)
            return only_there(lambda _z: other)
        case Permute(seed):
            order = torch.randperm(len(at), generator=torch.Generator().manual_seed(seed))

            def shuffle(z: Tensor) -> Tensor:
                out = z.clone()
                for place, taken in enumerate(order.tolist()):
                    out[at[place]] = z[at[taken]]
                return out

            return shuffle
        case Sparsify(threshold=float(threshold)):
            return only_there(lambda z: z * (z.abs() >= threshold))
        case Sparsify(fraction=float(fraction)):

            def sparse(z: Tensor) -> Tensor:
                out = z.clone()
                out[at] = keep_largest(z[at], fraction)
                return out

            return sparse
    raise AssertionError(intervention)
