"""A model's stacks of attention layers, and how layers and positions are counted in them.

Where attention is run, read and edited, its layers are counted in the order they run. People count
them within a stack: layer 2 of the encoder, of the decoder, of its cross attention. `StackTable` is
the one place that knows both. Which layer belongs to which stack is told by how many queries and
keys it has on a prompt whose source and decoder text differ in length: no architecture is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from models.attention_hooks import AttentionSite
from models.errors import ErrorKind, UserError
from models.types import (
    CROSS,
    ENCODER,
    EXPERT,
    MAIN,
    TEXT,
    VISION,
    Head,
    Stack,
    TokenizedPrompt,
)


@dataclass(frozen=True, slots=True)
class Axes:
    """The positions that a stack's attention joins on one prompt."""

    queries: TokenizedPrompt
    keys: TokenizedPrompt
    causal: bool
    """Whether query i sees no key behind i."""

    @property
    def own(self) -> bool:
        """Whether queries and keys are the same positions."""
        return self.queries is self.keys

    def starts(self) -> np.ndarray:
        """Return where the text begins that each query is of, int [n_query]; 0 where there is but
        one (`TokenizedPrompt.starts`)."""
        starts = np.array(self.queries.starts)
        return np.repeat(starts, np.diff([*starts, len(self.queries)]))

    def shown(self) -> np.ndarray:
        """Return which queries are more than padding that the model is told of, bool [n_query]."""
        mask = (self.queries.given or {}).get("attention_mask")
        if mask is None or mask.size != len(self.queries):
            return np.ones(len(self.queries), bool)
        told: np.ndarray = mask.reshape(-1).astype(bool)
        return told

    def visible(self) -> np.ndarray:
        """Return which keys each query can see at all, bool [n_query, n_key]."""
        shape = (len(self.queries), len(self.keys))
        visible: np.ndarray = np.tri(*shape, dtype=bool) if self.causal else np.ones(shape, bool)
        if self.own:
            starts = self.starts()
            visible &= (starts[:, None] == starts) & self.shown()
        return visible


@dataclass(frozen=True, slots=True)
class StackTable:
    """The stacks of one model."""

    stacks: tuple[Stack, ...]
    """In the order they run."""
    places: tuple[tuple[str, int], ...]
    """Of each attention layer, in the order they run: its stack's name and its layer there."""
    n_heads: tuple[int, ...]
    """Of each attention layer, in the order they run."""

    @staticmethod
    def of_one(sites: Sequence[AttentionSite], causal: bool) -> "StackTable":
        """Return the table of a model whose attention layers all read the same positions."""
        label = "decoder" if causal else "encoder"
        n_heads = tuple(site.n_heads for site in sites)
        stack = Stack(MAIN, label, len(sites), max(n_heads), causal=causal)
        return StackTable((stack,), tuple((MAIN, i) for i in range(len(sites))), n_heads)

    @staticmethod
    def of_encoder_decoder(
        model: Any, sites: Sequence[AttentionSite], n_source: int, n_prompt: int
    ) -> "StackTable":
        """Tell encoder, decoder and cross attention apart.

        Args:
            sites: in the order they run.
            n_source, n_prompt: how many positions, different ones, source and decoder text had when
                the sites were found.

        Raises:
            UserError: a layer is of none of the three kinds, or layers are missing.
        """
        names = {(n_source, n_source): ENCODER, (n_prompt, n_prompt): MAIN}
        names[n_prompt, n_source] = CROSS
        counts = dict.fromkeys((ENCODER, MAIN, CROSS), 0)
        places: list[tuple[str, int]] = []
        for site in sites:
            if site.extent not in names:
                raise _unknown_kind(model, site.extent, n_source, n_prompt)
            name = names[site.extent]
            places.append((name, counts[name]))
            counts[name] += 1
        _refuse_missing_layers(model, counts)
        n_heads = tuple(site.n_heads for site in sites)

        def stack(name: str, label: str, queries: str, keys: str) -> Stack:
            members = [n for n, place in zip(n_heads, places, strict=True) if place[0] == name]
            return Stack(name, label, counts[name], max(members), queries, keys, name == MAIN)

        stacks = (
            stack(ENCODER, "encoder", "source", "source"),
            stack(MAIN, "decoder", "prompt", "prompt"),
            stack(CROSS, "cross attention", "prompt", "source"),
        )
        return StackTable(stacks, tuple(places), n_heads)

    @staticmethod
    def of_vision_and_language(
        seeing: Sequence[AttentionSite],
        reading: Sequence[AttentionSite],
        causal: bool,
        acting: Sequence[AttentionSite] = (),
    ) -> "StackTable":
        """Return the table of a model whose vision tower runs before its language model.

        Args:
            seeing: the tower's layers; none where they cannot be looked at one by one.
            reading: the language model's.
            causal: whether no position of the language model looks ahead.
            acting: an action expert's, which run last.
        """
        stacks = [Stack(MAIN, "language", len(reading), _most_heads(reading), causal=causal)]
        if seeing:
            tower = Stack(
                VISION, "vision", len(seeing), _most_heads(seeing), "picture", "picture", False
            )
            stacks.insert(0, tower)
        if acting:
            n_most = _most_heads(acting)
            stacks.append(
                Stack(EXPERT, "action expert", len(acting), n_most, "acting", "all", False, True)
            )
        places = [(VISION, i) for i in range(len(seeing))]
        places += [(MAIN, i) for i in range(len(reading))]
        places += [(EXPERT, i) for i in range(len(acting))]
        n_heads = tuple(site.n_heads for site in (*seeing, *reading, *acting))
        return StackTable(tuple(stacks), tuple(places), n_heads)

    @staticmethod
    def of_picture_and_texts(
        seeing: Sequence[AttentionSite], reading: Sequence[AttentionSite], causal: bool
    ) -> "StackTable":
        """Return the table of a model that compares pictures with texts, each with its own tower.

        Args:
            seeing: the layers of the tower that sees, the main stack.
            reading: those of the tower that reads the texts, which runs behind it.
            causal: whether no position of a text looks ahead.
        """
        stacks = (
            Stack(MAIN, "vision", len(seeing), _most_heads(seeing), causal=False),
            Stack(TEXT, "text", len(reading), _most_heads(reading), "texts", "texts", causal),
        )
        places = [(MAIN, i) for i in range(len(seeing))] + [(TEXT, i) for i in range(len(reading))]
        n_heads = tuple(site.n_heads for site in (*seeing, *reading))
        return StackTable(stacks, tuple(places), n_heads)

    def named(self, name: str) -> Stack:
        """Return a stack by its name; raise `UserError` if there is none.

        The main one may be called by its label too.
        """
        for stack in self.stacks:
            labelled = not stack.name and stack.label == name
            if stack.name == name or labelled:
                return stack
        others = [stack.name for stack in self.stacks if stack.name]
        known = f"beside the main one they are {', '.join(others)}" if others else "it has only one"
        raise UserError(
            ErrorKind.HEADS, f"This model has no stack of attention layers {name!r}; {known}."
        )

    def heads(self, name: str | None = None) -> tuple[Head, ...]:
        """Return every head of a stack, or of all for None: by stack, then (layer, head).

        Raises:
            UserError: there is no stack of this name.
        """
        if name is not None:
            self.named(name)
        found = [
            Head(layer, head, stack)
            for (stack, layer), n_heads in zip(self.places, self.n_heads, strict=True)
            for head in range(n_heads)
        ]
        order = [stack.name for stack in self.stacks if name in (None, stack.name)]
        return tuple(head for stack in order for head in found if head.stack == stack)

    def layers(self, name: str) -> dict[int, int]:
        """Return the layers of a stack: counted in the order they run -> counted within it.

        Raises:
            UserError: there is no stack of this name.
        """
        stack = self.named(name).name
        return {i: layer for i, (of, layer) in enumerate(self.places) if of == stack}

    def check(self, heads: Sequence[Head], model_name: str) -> None:
        """Raise `UserError` naming the first head that the model does not have."""
        n_heads_of = dict(zip(self.places, self.n_heads, strict=True))
        for head in heads:
            if not 0 <= head.head < n_heads_of.get((head.stack, head.layer), 0):
                raise UserError(
                    ErrorKind.HEADS, f"There is no head {head} in {model_name}: {self._extent()}."
                )

    def _extent(self) -> str:
        """Say which heads there are."""
        if len(self.stacks) == 1:
            [stack] = self.stacks
            layers, heads = stack.n_layers - 1, stack.n_heads - 1
            return f"layers run from 0 to {layers}, heads from 0 to {heads}"
        return "; ".join(
            f"{stack.prefix}L0H0 to L{stack.n_layers - 1}H{stack.n_heads - 1} are the "
            f"{stack.label}'s"
            for stack in self.stacks
        )

    def run_layer(self, head: Head) -> int:
        """Return which attention layer, counted in the order they run, a head is in."""
        if len(self.stacks) == 1:
            return head.layer
        return self.places.index((head.stack, head.layer))

    def running(self, heads: Sequence[Head]) -> list[Head]:
        """Return heads as the attention tap counts them: by the order in which layers run."""
        return [Head(self.run_layer(head), head.head) for head in heads]

    @property
    def encoder_layers(self) -> int:
        """How many attention layers the encoder has, which run before all others."""
        return sum(name == ENCODER for name, _ in self.places)

    def by_stack(self, heads: Sequence[Head]) -> dict[str, tuple[Head, ...]]:
        """Return the heads of each stack that they are of, in the order given."""
        names = dict.fromkeys(head.stack for head in heads)
        return {name: tuple(h for h in heads if h.stack == name) for name in names}

    def stack_of(self, heads: Sequence[Head]) -> Stack:
        """Return the one stack that heads are of (the main one if there are none).

        Raises:
            UserError: they are of several, whose positions differ.
        """
        names = sorted({head.stack for head in heads})
        if len(names) > 1:
            shown = " and ".join(self.named(name).label for name in names)
            raise UserError(
                ErrorKind.HEADS,
                f"These heads are of several stacks ({shown}), whose positions differ; ask about "
                "one stack at a time.",
            )
        return self.named(names[0] if names else MAIN)

    def axes(self, prompt: TokenizedPrompt, name: str = MAIN) -> Axes:
        """Return the positions that a stack joins on a prompt."""
        stack = self.named(name)
        sides = {"prompt": prompt, "source": prompt.typed, "picture": prompt.seen}
        sides["texts"] = prompt.compared
        if prompt.acting is not None:
            sides |= {"acting": prompt.acting, "all": prompt.with_acting()}
        sides |= prompt.sides
        queries, keys = sides.get(stack.queries), sides.get(stack.keys)
        if queries is None or keys is None:
            raise UserError(
                ErrorKind.HEADS,
                f"The heads of the {stack.label} stack can be looked at where there is a picture "
                "in the prompt; give one, or choose other heads.",
            )
        return Axes(queries, keys, stack.causal)


def _most_heads(sites: Sequence[AttentionSite]) -> int:
    return max(site.n_heads for site in sites)


def _unknown_kind(
    model: nn.Module, extent: tuple[int, int], n_source: int, n_prompt: int
) -> UserError:
    return UserError(
        ErrorKind.MODEL,
        f"{type(model).__name__} is not supported: with a source of {n_source} and a decoder text "
        f"of {n_prompt} tokens an attention layer has {extent[0]} queries and {extent[1]} keys, "
        "so it is neither the encoder's, the decoder's nor plain cross attention.",
    )


def _refuse_missing_layers(model: Any, counts: dict[str, int]) -> None:
    """Refuse a model with layers whose attention cannot be read, or that run several times."""
    config = model.config
    encoder = getattr(config.get_text_config(encoder=True), "num_hidden_layers", None)
    decoder = getattr(config.get_text_config(decoder=True), "num_hidden_layers", None)
    # T5's configuration calls its encoder's layers so, and has another name for its decoder's.
    decoder = getattr(config, "num_decoder_layers", None) or decoder
    stated = {ENCODER: encoder, MAIN: decoder, CROSS: decoder}
    labels = {ENCODER: "encoder", MAIN: "decoder", CROSS: "cross attention"}
    for name, count in counts.items():
        expected = count if stated[name] is None else stated[name]
        if count == 0 or count != expected:
            raise UserError(
                ErrorKind.MODEL,
                f"{type(model).__name__} is not supported: softmax attention was seen {count} "
                f"times in the {expected} layers of its {labels[name]}.",
            )
