"""The interventions themselves: frozen values that compare and hash by content.

torch is imported where it is used: the page and its forms stand before it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from ablation.interventions import editors
from ablation.interventions.notation import (
    finite,
    integer,
    join_texts,
    number_text,
    position_set,
    quoted,
    resolve_positions,
    write_positions,
)
from ablation.interventions.references import mean_outputs, token_list, tokenize_like
from models.edits import HeadEditor
from models.edits import Intervention as ModelIntervention
from models.errors import ErrorKind, UserError
from models.places import Place
from models.types import Head, TokenizedPrompt

if TYPE_CHECKING:
    from torch import Tensor

    from models.language_model import LanguageModel

MAX_SEED = 2**32 - 1


class Intervention(ModelIntervention, Protocol):
    """What every intervention offers: its name in words, and itself made ready for a prompt."""

    @property
    def spec(self) -> str:
        """The notation that a person types and that reads back as the same value."""
        ...

    @property
    def label(self) -> str:
        """A few words for the page."""
        ...


@dataclass(frozen=True, slots=True)
class Zero:
    """Set z to zero: the head is silent."""

    @property
    def spec(self) -> str:
        return "zero"

    @property
    def label(self) -> str:
        return "zero"

    def prepare(
        self,
        model: LanguageModel,
        prompt: TokenizedPrompt,
        heads: Sequence[Head],
        positions: Sequence[int] | None,
    ) -> HeadEditor:
        return editors.ScaledZ(0.0)


@dataclass(frozen=True, slots=True)
class Scale:
    """Multiply z by a factor: 0 silences the head, 1 changes nothing, -1 turns it round."""

    factor: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", finite(self.factor, "factor of scale"))

    @property
    def spec(self) -> str:
        return f"scale:{number_text(self.factor)}"

    @property
    def label(self) -> str:
        return f"scale by {self.factor:g}"

    def prepare(
        self,
        model: LanguageModel,
        prompt: TokenizedPrompt,
        heads: Sequence[Head],
        positions: Sequence[int] | None,
    ) -> HeadEditor:
        return editors.ScaledZ(self.factor)


@dataclass(frozen=True, slots=True)
class Mean:
    """Replace z by its mean.

    Without references: the mean over all positions of this prompt, of the z that the head has in
    the running computation (with whatever else is ablated). With references: the mean over all
    positions of all reference prompts' clean runs, every position counting the same. Both means
    count a beginning-of-sequence token; references get one exactly when the prompt has one.
    """

    references: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        given = (self.references,) if isinstance(self.references, str) else tuple(self.references)
        if not all(given):
            raise UserError(
                ErrorKind.INTERVENTION,
                "A reference prompt of the mean is empty; leave it out or write its text.",
            )
        object.__setattr__(self, "references", given)

    @property
    def spec(self) -> str:
        return "mean" if not self.references else f"mean:{join_texts(self.references)}"

    @property
    def label(self) -> str:
        count = len(self.references)
        if count == 0:
            return "mean over this prompt"
        return f"mean over {count} reference prompt{'s' if count > 1 else ''}"

    def prepare(
        self,
        model: LanguageModel,
        prompt: TokenizedPrompt,
        heads: Sequence[Head],
        positions: Sequence[int] | None,
    ) -> HeadEditor:
        if not self.references:
            return editors.OwnMeanZ()
        prompts = [
            tokenize_like(prompt, text, model, "reference prompt") for text in self.references
        ]
        return editors.GivenZ(mean_outputs(model, prompts, heads))


@dataclass(frozen=True, slots=True)
class Resample:
    """Replace z by the z of another prompt's clean run at the same position.

    The source must have as many tokens as the prompt.
    """

    source: str

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source:
            raise UserError(
                ErrorKind.INTERVENTION,
                "Resample needs a source prompt with as many tokens as the prompt; write its text.",
            )

    @property
    def spec(self) -> str:
        return f"resample:{self.source}"

    @property
    def label(self) -> str:
        return f"resample from {quoted(self.source)}"

    def prepare(
        self,
        model: LanguageModel,
        prompt: TokenizedPrompt,
        heads: Sequence[Head],
        positions: Sequence[int] | None,
    ) -> HeadEditor:
        source = tokenize_like(prompt, self.source, model, "source prompt")
        own, other = (model.axes_of(each, heads).queries for each in (prompt, source))
        if len(other) != len(own):
            raise UserError(
                ErrorKind.INTERVENTION,
                f"Resample needs a source of equal length, but the prompt has {len(own)} tokens "
                f"({token_list(own)}) and the source has {len(other)} "
                f"({token_list(other)}); change one of them.",
            )
        return editors.GivenZ(model.head_outputs(source, model.layers_of(heads)))


@dataclass(frozen=True, slots=True)
class Permute:
    """Shuffle z over positions: what the head says stays, where it says it changes.

    The permutation follows from the seed and the number of positions shuffled alone, so that it is
    the same for every head and in every run. With chosen positions it shuffles among these only.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", integer(self.seed, "seed of permute", 0, MAX_SEED))

    @property
    def spec(self) -> str:
        return f"permute:{self.seed}"

    @property
    def label(self) -> str:
        return f"permute positions (seed {self.seed})"

    def permutation(self, count: int) -> Tensor:
        """Return int64 [count]: place i receives what was at place `permutation[i]`."""
        import torch

        generator = torch.Generator().manual_seed(self.seed)
        return torch.randperm(count, generator=generator)

    def prepare(
        self,
        model: LanguageModel,
        prompt: TokenizedPrompt,
        heads: Sequence[Head],
        positions: Sequence[int] | None,
    ) -> HeadEditor:
        import torch

        queries = model.axes_of(prompt, heads).queries
        moved = torch.tensor(resolve_positions(positions, queries), dtype=torch.long)
        source = torch.arange(len(queries))
        source[moved] = moved[self.permutation(len(moved))]
        return editors.ReorderedZ(source.to(model.device))


@dataclass(frozen=True, slots=True)
class Sparsify:
    """Zero the small entries of z; exactly one of the two parameters is given.

    `threshold`: entries with |z| below it become 0. `fraction`: that fraction of the entries, those
    largest in |z|, is kept (their number rounded to the nearest, halves up) and the others
    become 0. It is counted for each head over the positions acted on together.
    """

    threshold: float | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.fraction is None):
            raise UserError(
                ErrorKind.INTERVENTION,
                "Sparsify needs either a threshold or a fraction; give exactly one of them.",
            )
        if self.threshold is not None:
            threshold = finite(self.threshold, "threshold of sparsify", 0.0)
            object.__setattr__(self, "threshold", threshold)
        if self.fraction is not None:
            fraction = finite(self.fraction, "fraction of sparsify", 0.0, 1.0)
            object.__setattr__(self, "fraction", fraction)

    @property
    def spec(self) -> str:
        if self.fraction is None:
            return f"sparsify:threshold={number_text(self._given)}"
        return f"sparsify:fraction={number_text(self._given)}"

    @property
    def label(self) -> str:
        if self.fraction is None:
            return f"zero entries below {self._given:g}"
        return f"keep the largest {100 * self._given:g}% of entries"

    @property
    def _given(self) -> float:
        given = self.fraction if self.threshold is None else self.threshold
        assert given is not None  # __post_init__ lets exactly one be None
        return given

    def prepare(
        self,
        model: LanguageModel,
        prompt: TokenizedPrompt,
        heads: Sequence[Head],
        positions: Sequence[int] | None,
    ) -> HeadEditor:
        if self.fraction is None:
            return editors.LargeZ(self._given)
        import torch

        queries = model.axes_of(prompt, heads).queries
        chosen = resolve_positions(positions, queries)
        acted_on = torch.tensor(chosen, dtype=torch.long, device=model.device)
        return editors.LargestZ(self._given, acted_on)


@dataclass(frozen=True, slots=True)
class Knockout:
    """Stop queries from attending to keys; their other keys share the probability.

    Positions are numbers, negative ones from the end, or words for what stands there
    (`models.places`): `Knockout(("text",), ("image",))` keeps text from looking at the picture.

    None means as many as possible. `keys=None`: every key but the query's own position, which
    leaves the query itself alone to look at. `queries=None`: every query that keeps a key to attend
    to (knocking out the first token cannot stop the first token's own query). A query named by its
    number that would keep no key is refused; one that a word stands for is left as it is.
    """

    queries: tuple[Place, ...] | None = None
    keys: tuple[Place, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("queries", "keys"):
            chosen = getattr(self, name)
            if chosen is not None:
                object.__setattr__(self, name, position_set(chosen, f"{name} of knockout"))

    @property
    def spec(self) -> str:
        return f"knockout:{write_positions(self.queries)}>{write_positions(self.keys)}"

    @property
    def label(self) -> str:
        queries = "every query" if self.queries is None else _list(self.queries)
        keys = "every other key" if self.keys is None else _list(self.keys)
        return f"knock out {queries} → {keys}"

    def prepare(
        self,
        model: LanguageModel,
        prompt: TokenizedPrompt,
        heads: Sequence[Head],
        positions: Sequence[int] | None,
    ) -> HeadEditor:
        import torch

        axes = model.axes_of(prompt, heads)
        n, n_keys = len(axes.queries), len(axes.keys)
        queries = resolve_positions(self.queries, axes.queries, "queries of knockout", prompt)
        blocked = torch.zeros(n, n_keys, dtype=torch.bool)  # query, key
        blocked[queries] = self._blocked_keys(n, axes.keys, axes.own, prompt)[queries]
        visible = torch.from_numpy(axes.visible())
        left_alone = ~(visible & ~blocked).any(dim=1)  # query
        numbered = [place for place in self.queries or () if isinstance(place, int)]
        outright = resolve_positions(numbered, axes.queries)
        if left_alone[outright].any():
            raise _no_key_left(next(query for query in outright if left_alone[query]))
        blocked[left_alone] = False
        acted_on = torch.zeros(n, dtype=torch.bool)
        acted_on[resolve_positions(positions, axes.queries)] = True
        blocked[~acted_on] = False
        return editors.BlockedPattern(blocked.to(model.device))

    def _blocked_keys(
        self, n: int, keys: TokenizedPrompt, own: bool, prompt: TokenizedPrompt
    ) -> Tensor:
        """Return bool [query, key], as if every query was chosen.

        Args:
            own: whether queries and keys are the same positions.
        """
        import torch

        if self.keys is None and not own:
            raise UserError(
                ErrorKind.INTERVENTION,
                "A knockout of every key but the query's own needs attention among the same "
                "positions, which cross attention is not; name the keys.",
            )
        if self.keys is None:
            return ~torch.eye(n, dtype=torch.bool)
        blocked = torch.zeros(n, len(keys), dtype=torch.bool)
        blocked[:, resolve_positions(self.keys, keys, "keys of knockout", prompt)] = True
        return blocked


def _list(positions: tuple[Place, ...]) -> str:
    return ", ".join(map(str, positions))


def _no_key_left(query: int) -> UserError:
    return UserError(
        ErrorKind.INTERVENTION,
        f"The knockout would leave position {query} no key to attend to; take this query, or one "
        "of its keys, out.",
    )
