"""What every head of a stack looks at on a picture, in one pass: for seeing them all at once."""

from dataclasses import dataclass

import numpy as np

from ablation.types import Ablation, HeadValues, MetricInfo
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.picture import Cell
from models.types import MAIN, FloatArray, TokenizedPrompt

ON_PICTURE = MetricInfo(
    name="on_picture",
    label="Attention on the picture",
    unit="part of all",
    diverging=False,
    needs_target=False,
    description="The part of a head's attention that is on positions which show the picture.",
)


@dataclass(frozen=True, slots=True, eq=False)
class OnPicture:
    """Where the heads of a stack look on a prompt's pictures."""

    stack: str
    query: int | None
    """The position that looks; None for the mean over all parts of the picture, or all actions."""
    cells: tuple[Cell | None, ...]
    weights: FloatArray
    """float32 [n_layers, n_heads, n_cells]; NaN where a layer has fewer heads."""

    @property
    def share(self) -> HeadValues:
        """The part of each head's attention that is on the picture."""
        values = self.weights.sum(axis=-1).astype(np.float32)
        return HeadValues(ON_PICTURE, values, stack=self.stack)


def on_picture(
    model: LanguageModel,
    prompt: TokenizedPrompt,
    stack: str = MAIN,
    query: int | None = None,
    ablation: Ablation | None = None,
) -> OnPicture:
    """Return where every head of a stack looks on the picture.

    Args:
        query: the position that looks; None: where the prediction is read, for a vision tower all
            parts of the picture, and for an action expert all actions, of which the mean is taken;
            all positions where it is not known what they are.

    Raises:
        UserError: the prompt has no picture, which part of it each position shows is not known, or
            the stack does not run on it.
    """
    shape = model.stacks.named(stack)
    heads = [head for head in model.heads_on(prompt) if head.stack == shape.name]
    if not prompt.pictures or not heads:
        raise UserError(
            ErrorKind.PICTURE,
            "There is no picture in this prompt that the heads could look at; add one.",
        )
    axes = model.axes_of(prompt, heads)
    keys = axes.keys
    if keys is prompt.compared:
        raise UserError(
            ErrorKind.PICTURE,
            f"The heads of the {shape.label} stack look at the texts, not at the picture; choose "
            "the other stack.",
        )
    if keys.cells is None:
        raise UserError(
            ErrorKind.PICTURE,
            "Which part of the picture each position shows is not known for this model, so heads "
            "cannot be drawn on it.",
        )
    at = [i for i, kind in enumerate(keys.kinds) if kind == "image"]
    if query is None and not shape.name:
        query = model.resolve_position(prompt)
    looking = [i for i, kind in enumerate(axes.queries.kinds) if kind in ("image", "action")]
    rows = (looking or None) if query is None else [query]
    maps = model.attention(prompt, heads, ablation, queries=rows)
    found = maps.values[:, :, at].mean(axis=1)  # [head, cell]
    weights = np.full((shape.n_layers, shape.n_heads, len(at)), np.nan, np.float32)
    for head, row in zip(heads, found, strict=True):
        weights[head.layer, head.head] = row
    return OnPicture(shape.name, query, tuple(keys.cells[i] for i in at), weights)
