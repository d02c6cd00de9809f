"""The values that travel between the rooms of the house: plain data, no torch.

Axis order is always (layer, head, query, key); a row of an attention map is a query. Arrays are
NumPy arrays on the CPU, float32 unless a docstring says otherwise.
"""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from models.picture import Cell, Picture

FloatArray = np.ndarray
"""A NumPy array of floats; the docstring beside it gives dtype and shape."""

MAIN, ENCODER, CROSS, VISION, EXPERT = "", "encoder", "cross", "vision", "expert"
TEXT = "text"
"""Names of stacks; an encoder-decoder's main one is its decoder's attention to itself, that of a
model that sees its language model's. Of one that compares pictures with texts it is that of the
tower that sees; `TEXT` is the tower that reads."""
CLASSIFIER, POLICY = "classifier", "policy"
"""The kinds of a model that says which class a picture shows, and of one that answers with the
numbers of an action; see `ModelInfo.kind`."""


@dataclass(frozen=True, slots=True, order=True)
class Head:
    """One attention head, counted from 0. Under grouped-query attention: a query head."""

    layer: int
    head: int
    stack: str = ""
    """The attention stack it lives in; the empty name is the model's main one."""

    def __str__(self) -> str:
        name = f"L{self.layer}H{self.head}"
        return f"{self.stack}:{name}" if self.stack else name

    @property
    def short(self) -> str:
        """The notation that people type: `5.3` for layer 5, head 3; `cross:5.3` in a stack."""
        name = f"{self.layer}.{self.head}"
        return f"{self.stack}:{name}" if self.stack else name

    def to_json(self) -> list[int] | str:
        """Return [layer, head]; the typed notation for a head of another stack than the main."""
        return self.short if self.stack else [self.layer, self.head]


@dataclass(frozen=True, slots=True)
class Stack:
    """One of a model's stacks of attention layers, and the positions that its attention joins."""

    name: str
    """As heads name it; empty for the main one, whose positions are those of the prompt."""
    label: str
    """For a person: "decoder"."""
    n_layers: int
    n_heads: int
    """The most heads that a layer of it has."""
    queries: str = "prompt"
    """Whose positions look: "prompt", "source" (what an encoder-decoder's encoder reads),
    "picture" (what a vision tower sees), "acting" (state and actions, an action expert's own),
    "all" (those of the prompt, and behind them the expert's), "texts" (those that a picture is
    compared with), or one of the prompt's `sides`."""
    keys: str = "prompt"
    """Whose positions are looked at."""
    causal: bool = True
    """Whether no position looks at a later one."""
    repeats: bool = False
    """Whether its layers run several times in one pass: at every step of denoising, say."""

    @property
    def prefix(self) -> str:
        """What stands before its heads in notation: "cross:", nothing for the main stack."""
        return f"{self.name}:" if self.name else ""


@dataclass(frozen=True, slots=True, order=True)
class Component:
    """A part of the model that adds to the residual stream: a node of its computation."""

    kind: str
    """"embed" (what goes into the first layer, positions included), "head", "bias" (the
    attention output's, which belongs to no head), "mlp" (all else that a layer adds),
    "constant" (biases on the way from the residual stream to what is explained), "kv" (a
    key-value head, whose key and value several heads share), or "logits"."""
    layer: int = -1
    head: int = -1

    def __str__(self) -> str:
        if self.kind in ("head", "kv"):
            return f"L{self.layer}{'H' if self.kind == 'head' else 'KV'}{self.head}"
        names = {"mlp": "MLP", "bias": "bias"}
        return f"{names[self.kind]}{self.layer}" if self.kind in names else self.kind


@dataclass(frozen=True, slots=True)
class RobotInput:
    """What a policy that answers with numbers is given beside pictures and instruction."""

    state: tuple[float, ...] = ()
    """What the robot tells of itself, in its own units; none stands for the mean."""
    draw: int = 0
    """Which noise the action is found from."""
    step: int | None = None
    """The step of denoising at which attention is read, counted from 0; None for the last."""

    def said(self) -> str:
        """Return it in words."""
        state = ", ".join(f"{number:g}" for number in self.state) or "mean"
        step = "" if self.step is None else f", step {self.step}"
        return f"state {state}, noise {self.draw}{step}"

    def to_json(self) -> dict[str, Any]:
        return {"state": list(self.state), "draw": self.draw, "step": self.step}


@dataclass(frozen=True, slots=True)
class PolicyInputs:
    """What a policy that answers with numbers is told."""

    n_pictures: int | None
    """One a camera; None for as many as are given, one at least."""
    n_state: int
    """Numbers of the robot's state, at most."""
    instructed: bool = True
    """Whether it reads an instruction."""


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A prompt as the model sees it: a sequence of positions with ids, labels and kinds.

    `labels` are what a person reads (a leading space is a middle dot, a newline is visible);
    they may repeat. `texts` are the characters of each token, for flowing text. `kinds` says of
    each position whether it is "text", "special" (a beginning-of-sequence token, say), "image", or
    of a robot's policy "state" or "action"; "unknown" where nobody says what it is.

    The prompt of an encoder-decoder is its decoder's, as predictions are read there; what the
    encoder reads is its `source`.
    """

    text: str
    ids: tuple[int, ...]
    labels: tuple[str, ...]
    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    source: "TokenizedPrompt | None" = None
    """What the encoder of an encoder-decoder reads."""
    segments: tuple[int, ...] | None = None
    """Of which sentence of a pair each position is, 0 or 1; None where there is no pair."""
    pictures: tuple[Picture, ...] = ()
    """What stands in it beside text."""
    cells: "tuple[Cell | None, ...] | None" = None
    """The part of a picture that each position stands for; None for text, and None for all where
    the processor's positions could not be told from its pixels."""
    given: Mapping[str, FloatArray] | None = field(default=None, compare=False, repr=False)
    """What the model is given of the pictures: keyword -> array; for one row of a batch. Of texts
    that a picture is compared with, what their tower is given: int64 [text, position]."""
    seen: "TokenizedPrompt | None" = None
    """The positions of the model's vision tower, where its heads can be looked at."""
    acting: "TokenizedPrompt | None" = None
    """The own positions of a policy's action expert, state and actions; its text tells of the state
    and the noise."""
    robot: RobotInput | None = None
    """What such a policy is given of the robot."""
    compared: "TokenizedPrompt | None" = None
    """The texts that the picture is compared with, one behind the other, where the heads of the
    tower that reads them can be looked at."""
    starts: tuple[int, ...] = (0,)
    """Where each text begins, of several that stand one behind the other and see themselves alone;
    ascending."""
    sides: "Mapping[str, TokenizedPrompt]" = field(default_factory=dict, hash=False)
    """Of a policy that a person wrapped, the positions of its further stacks: side, as `Stack`
    names it -> positions."""
    main: str = ""
    """What such a policy's main stack is called."""

    def __post_init__(self) -> None:
        sizes = {len(self.ids), len(self.labels), len(self.texts), len(self.kinds)}
        if self.segments is not None:
            sizes.add(len(self.segments))
        if self.cells is not None:
            sizes.add(len(self.cells))
        if len(sizes) != 1:
            raise ValueError(f"ids, labels, texts and kinds differ in length: {sorted(sizes)}")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def content(self) -> Hashable:
        """All that the model is given: equal for prompts on which it does the same."""
        source = None if self.source is None else self.source.ids
        pictures = tuple(picture.digest for picture in self.pictures)
        # A policy's ids may be but the numbers of its positions, whatever it is told.
        told = None if self.robot is None else self.text
        return (self.ids, self.segments, source, pictures, self.robot, told)

    def with_acting(self) -> "TokenizedPrompt":
        """Return the positions that an action expert looks at: these, and behind them its own."""
        if self.acting is None:
            raise ValueError("the prompt is of no model with an action expert")
        cells = None
        if self.cells is not None:
            cells = (*self.cells, *[None] * len(self.acting))
        return TokenizedPrompt(
            text=self.text,
            ids=(*self.ids, *self.acting.ids),
            labels=(*self.labels, *self.acting.labels),
            texts=(*self.texts, *self.acting.texts),
            kinds=(*self.kinds, *self.acting.kinds),
            pictures=self.pictures,
            cells=cells,
        )

    @property
    def typed(self) -> "TokenizedPrompt":
        """What a person typed as the prompt: the source of an encoder-decoder's, else itself."""
        return self if self.source is None else self.source

    @property
    def unique_labels(self) -> tuple[str, ...]:
        """Labels in which a repeat carries its number: `John`, `John_2`, `John_3`."""
        taken = set(self.labels)
        seen: Counter[str] = Counter()
        unique = []
        for label in self.labels:
            seen[label] += 1
            if seen[label] == 1:
                unique.append(label)
                continue
            # A prompt may itself hold a token that reads "John_2": skip to a free number.
            while (candidate := f"{label}_{seen[label]}") in taken:
                seen[label] += 1
            taken.add(candidate)
            unique.append(candidate)
        return tuple(unique)

    def to_json(self) -> dict[str, Any]:
        """Return plain data: the text typed, and the positions at which predictions are read.

        An encoder-decoder's has `decoder`, the text that the decoder was given, and `source`, the
        tokens of the text typed; a pair of sentences has `segments`.
        """
        data: dict[str, Any] = {
            "prompt": self.typed.text,
            "tokens": list(self.labels),
            "ids": list(self.ids),
        }
        if self.segments is not None:
            data["segments"] = list(self.segments)
        if self.pictures:
            data["pictures"] = [picture.name for picture in self.pictures]
        if self.robot is not None:
            data["robot"] = self.robot.to_json()
        if self.acting is not None:
            data["acting"] = list(self.acting.labels)
        if self.compared is not None:
            data["compared"] = list(self.compared.labels)
        if self.sides:
            data["sides"] = {side: list(one.labels) for side, one in self.sides.items()}
        if self.source is not None:
            source = {"tokens": list(self.source.labels), "ids": list(self.source.ids)}
            data |= {"decoder": self.text, "source": source}
        return data


@dataclass(frozen=True, slots=True)
class TokenProbability:
    """One token of the vocabulary and how likely the model finds it."""

    id: int
    text: str
    """Its characters, as they would be typed: " Mary"."""
    label: str
    """The same for the eye: "·Mary"."""
    prob: float
    log_prob: float
    """Natural logarithm of the probability, in nats."""

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "text": self.text, "prob": self.prob}


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """The model's distribution over the next token (or over the masked one) at one position."""

    position: int
    """The position read, counted from 0."""
    top: tuple[TokenProbability, ...]
    """The most likely tokens, most likely first; ties go to the lowest id."""
    entropy: float
    """Entropy of the whole distribution, in nats; NaN where there is none."""
    log_probs: FloatArray
    """Natural log-probabilities of the whole vocabulary, float64 [n_vocab]. A `POLICY` has no
    distribution: in their place stand the numbers of its action as it gives them
    (`models.chunks` makes units of them)."""

    def __post_init__(self) -> None:
        if self.log_probs.ndim != 1:
            raise ValueError(f"log_probs must be [n_vocab], got {self.log_probs.shape}")

    def prob(self, token_id: int) -> float:
        return float(np.exp(self.log_probs[token_id]))

    def rank(self, token_id: int) -> int:
        """Return 1 for the most likely token: one more than the number of likelier tokens."""
        return 1 + int((self.log_probs > self.log_probs[token_id]).sum())

    def to_json(self) -> dict[str, Any]:
        return {"top": [token.to_json() for token in self.top], "entropy": self.entropy}


MAP_KINDS = {
    "attention": "attention",
    "moved": "attention × norm of what is moved",
    "rollout": "attention rollout",
}
"""What the values of `AttentionMaps` can be, and the words for a person."""


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMaps:
    """Attention probabilities of chosen heads of one stack on one prompt, or values that are drawn
    like them."""

    heads: tuple[Head, ...]
    values: FloatArray
    """float32 [n_heads, n_query, n_key]; row i says where position i looks. Rows sum to 1
    (to less than 1 where the model has attention sinks)."""
    prompt: TokenizedPrompt
    """Whose positions the queries are: an encoder's are those of the source."""
    ablated: bool = False
    """Whether the run they come from had heads ablated."""
    queries: tuple[int, ...] | None = None
    """The positions that the rows are of, counted from 0; None for all of them, in order."""
    kind: str = "attention"
    """A key of `MAP_KINDS`; see `models.attention_flow` for those that are not probabilities. In
    a "rollout" a head stands for all of its layer."""
    looked_at: TokenizedPrompt | None = None
    """Whose positions the keys are, where not `prompt`'s: cross attention looks at the source."""

    def __post_init__(self) -> None:
        n = len(self.prompt)
        if self.kind not in MAP_KINDS:
            raise ValueError(f"there are no maps of kind {self.kind!r}")
        if self.queries is not None and not all(0 <= query < n for query in self.queries):
            raise ValueError(f"queries must be positions from 0 to {n - 1}, got {self.queries}")
        shape = (len(self.heads), len(self.rows), len(self.keys))
        if self.values.shape != shape:
            raise ValueError(f"values must be {list(shape)}, got {list(self.values.shape)}")

    def title(self, index: int) -> str:
        """Return what one of the maps is of: "L5H3", "L5H3 moved", "rollout to L5"."""
        head = self.heads[index]
        if self.kind == "rollout":
            return f"rollout to L{head.layer}"
        return str(head) if self.kind == "attention" else f"{head} {self.kind}"

    @property
    def keys(self) -> TokenizedPrompt:
        """Whose positions the columns are."""
        return self.prompt if self.looked_at is None else self.looked_at

    @property
    def rows(self) -> Sequence[int]:
        """The position of each row."""
        return range(len(self.prompt)) if self.queries is None else self.queries

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each (head, query, key): indices, labels and the weight."""
        query_labels = np.array(self.prompt.labels, dtype=object)
        key_labels = np.array(self.keys.labels, dtype=object)
        head_index, row, key = np.indices(self.values.shape).reshape(3, -1)
        query = np.array(self.rows, dtype=int)[row]
        return pd.DataFrame(
            {
                **self._stack_column(head_index),
                "layer": np.array([h.layer for h in self.heads], dtype=int)[head_index],
                "head": np.array([h.head for h in self.heads], dtype=int)[head_index],
                "query": query,
                "query_token": query_labels[query] if len(query_labels) else query,
                "key": key,
                "key_token": key_labels[key] if len(key_labels) else key,
                "weight": self.values.reshape(-1),
            }
        )

    def _stack_column(self, head_index: np.ndarray) -> dict[str, np.ndarray]:
        """Return the column of the heads' stacks, where they are not of the main one."""
        stacks = [head.stack for head in self.heads]
        return {"stack": np.array(stacks, dtype=object)[head_index]} if any(stacks) else {}

    def to_json(self) -> dict[str, Any]:
        """Return plain data; `queries` is left out where the rows are all positions."""
        rows = {} if self.queries is None else {"queries": list(self.queries)}
        kind = {} if self.kind == "attention" else {"kind": self.kind}
        return {
            "heads": [head.to_json() for head in self.heads],
            **kind,
            **rows,
            "values": self.values.astype(float).tolist(),
        }


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a model proved, or failed to prove, when it was loaded."""

    name: str
    passed: bool
    value: float | None
    """The largest error found, where the check measures one."""
    limit: float | None
    """The largest error allowed."""
    detail: str
    """One sentence for a person: what was compared with what."""


@dataclass(frozen=True, slots=True)
class SelfCheck:
    """What a model proved at load; see `models.self_check`."""

    checks: tuple[Check, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the page says about a loaded model."""

    name: str
    architecture: str
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    n_parameters: int
    n_vocab: int
    max_positions: int
    kind: str
    """"causal" (predicts the next token), "masked" (predicts at a mask token), "encoder-decoder"
    (predicts the next token of what its decoder writes), `CLASSIFIER` (which class a picture
    shows), or `POLICY` (answers with the numbers of an action)."""
    mask_token: str | None
    bos_token: str | None
    adds_bos: bool
    """Whether the tokenizer puts a beginning-of-sequence token in front by itself."""
    device: str
    dtype: str
    self_check: SelfCheck
    stacks: tuple[Stack, ...] = ()
    """Its stacks of attention layers, in the order they run."""
    pairs: bool = False
    """Whether it tells the two sentences of a pair apart."""
    image_token: str | None = None
    """What stands for a picture in a prompt; None for a model that reads text alone."""
    takes: PolicyInputs | None = None
    """What a `POLICY` is told."""


@dataclass(frozen=True, slots=True)
class TokenDetail:
    """What the page shows of one clicked position."""

    position: int
    id: int
    text: str
    label: str
    kind: str
    embedding_norm: float
    """Euclidean norm of the token's row of the embedding matrix."""
    prediction: Prediction
    """The model's prediction read at this position."""
