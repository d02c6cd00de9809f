"""How much each head's attention differs between two runs of as many tokens.

The runs are of two prompts, of two models with the same tokenizer, or clean and ablated.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ablation.reading import parts_of
from ablation.types import Ablation, HeadValues, MetricInfo, Progress
from models.errors import ErrorKind, UserError
from models.tokens import PAIR_MARK
from models.types import POLICY, AttentionMaps, FloatArray, Head, TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel

CHANGE = MetricInfo(
    name="js",
    label="Change of attention",
    unit="nats",
    diverging=False,
    needs_target=False,
    description="Jensen-Shannon divergence between a query's weights in the two runs, mean over "
    "all queries; 0 where nothing changed, at most ln 2 = 0.693",
)

SIDE_BYTES = 256 * 2**20
"""Maps of so much memory are read at a time of each run. More than for one run alone: each part of
the heads costs two forward passes."""


@dataclass(frozen=True, slots=True, eq=False)
class AttentionRun:
    """One side of a comparison: what runs on what."""

    model: "LanguageModel"
    prompt: TokenizedPrompt
    ablation: Ablation | None = None

    def attention(self, heads: Sequence[Head]) -> AttentionMaps:
        return self.model.attention(self.prompt, heads, self.ablation)


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two runs whose heads and positions correspond."""

    before: AttentionRun
    after: AttentionRun
    label: str
    """What differs, in a few words: "clean against ablated (zero)"."""
    stack: str = ""
    """The stack whose heads are compared; empty for the main one."""

    def __post_init__(self) -> None:
        """Refuse runs that do not correspond.

        Raises:
            UserError: other layers or heads, or another number of the tokens that the stack joins;
                or there is no such stack.
        """
        one, other = self.before, self.after
        of = [run.model.stacks.named(self.stack) for run in (one, other)]
        shapes = [(stack.n_layers, stack.n_heads) for stack in of]
        if shapes[0] != shapes[1]:
            raise UserError(
                ErrorKind.MODEL,
                f"{one.model.name} has {shapes[0][0]} layers of {shapes[0][1]} heads and "
                f"{other.model.name} {shapes[1][0]} of {shapes[1][1]}; compare models of the same "
                "shape, so that each head has its counterpart.",
            )
        sides = [run.model.stacks.axes(run.prompt, self.stack) for run in (one, other)]
        for of_side in ([axes.queries for axes in sides], [axes.keys for axes in sides]):
            lengths = [len(prompt) for prompt in of_side]
            if lengths[0] != lengths[1]:
                several = of_side[0].source is not None
                what = "decoder texts" if several else "prompts"
                raise UserError(
                    ErrorKind.PROMPT,
                    f"The {what} have {lengths[0]} and {lengths[1]} tokens; compare two of as many "
                    "tokens, so that each position has its counterpart.",
                )

    @property
    def extent(self) -> tuple[int, int]:
        """How many queries and keys the maps of each run have."""
        axes = self.before.model.stacks.axes(self.before.prompt, self.stack)
        return len(axes.queries), len(axes.keys)


def with_ablation(
    model: "LanguageModel", prompt: TokenizedPrompt, ablation: Ablation, stack: str = ""
) -> Pair:
    """Return the clean run and the one with heads, of any stacks, ablated.

    Args:
        stack: whose heads are compared.
    """
    return Pair(
        AttentionRun(model, prompt),
        AttentionRun(model, prompt, ablation),
        f"clean against ablated ({ablation.intervention.label})",
        model.stacks.named(stack).name,
    )


def with_prompt(
    model: "LanguageModel", prompt: TokenizedPrompt, other: TokenizedPrompt, stack: str = ""
) -> Pair:
    """Return the runs of two prompts, compared position by position.

    Args:
        stack: whose heads are compared.

    Raises:
        UserError: they have not as many tokens of those that the stack joins.
    """
    pair = "this prompt against another"
    stack = model.stacks.named(stack).name
    return Pair(AttentionRun(model, prompt), AttentionRun(model, other), pair, stack)


def with_model(
    model: "LanguageModel", prompt: TokenizedPrompt, other: "LanguageModel", stack: str = ""
) -> Pair:
    """Return the runs of two models on the same prompt, head by head.

    Args:
        stack: whose heads are compared.

    Raises:
        UserError: the other model splits the prompt into other tokens, or is of another shape or
            kind.
    """
    if [s.name for s in model.stacks.stacks] != [s.name for s in other.stacks.stacks]:
        one, plain = sorted((model, other), key=lambda m: -len(m.stacks.stacks))
        kinds = {"encoder-decoder": "an encoder-decoder", POLICY: "a policy with an action expert"}
        what = kinds.get(one.kind, "a model that sees")
        raise UserError(
            ErrorKind.MODEL,
            f"{one.name} is {what} and {plain.name} is not; compare two models of the same kind.",
        )
    theirs = _tokens_of(other, prompt, model.has_bos(prompt))
    if not _same_tokens(theirs, prompt):
        raise UserError(
            ErrorKind.MODEL,
            f"{model.name} and {other.name} split this prompt into different tokens; compare "
            "models with the same tokenizer.",
        )
    names = f"{model.name} against {other.name}"
    stack = model.stacks.named(stack).name
    return Pair(AttentionRun(model, prompt), AttentionRun(other, theirs), names, stack)


def _tokens_of(other: "LanguageModel", prompt: TokenizedPrompt, bos: bool) -> TokenizedPrompt:
    """Return another model's tokens of a prompt's texts."""
    if prompt.pictures:
        return other.tokenize(prompt.text, bos=bos, pictures=prompt.pictures, robot=prompt.robot)
    if prompt.source is not None:
        return other.tokenize(prompt.source.text, bos=bos, decoder=prompt.text)
    texts = prompt.text.split(PAIR_MARK, 1) if prompt.segments is not None else [prompt.text]
    second = texts[1] if len(texts) == 2 else None
    return other.tokenize(texts[0], bos=bos, pair=second)


def _same_tokens(one: TokenizedPrompt, other: TokenizedPrompt) -> bool:
    sides = [(p.ids, p.labels, p.typed.ids, p.typed.labels) for p in (one, other)]
    return sides[0] == sides[1]


def compare_attention(
    model: "LanguageModel",
    prompt: TokenizedPrompt | str,
    *,
    other_prompt: TokenizedPrompt | str | None = None,
    other_model: "LanguageModel | None" = None,
    ablation: Ablation | None = None,
    stack: str = "",
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> HeadValues:
    """Return how much each head's attention differs from another run, in nats.

    Args:
        other_prompt, other_model, ablation: what the other run has instead; one of the three.
        stack: whose heads are compared, such as "cross"; by default the model's main stack.
        progress, cancel: see `attention_change`.

    Raises:
        UserError: not exactly one is given, or the runs do not correspond.
    """
    tokenized = model.tokenize(prompt) if isinstance(prompt, str) else prompt
    pairs = []
    if other_prompt is not None:
        other = model.tokenize(other_prompt) if isinstance(other_prompt, str) else other_prompt
        pairs.append(with_prompt(model, tokenized, other, stack))
    if other_model is not None:
        pairs.append(with_model(model, tokenized, other_model, stack))
    if ablation is not None:
        pairs.append(with_ablation(model, tokenized, ablation, stack))
    if len(pairs) != 1:
        raise UserError(
            ErrorKind.OPTION,
            "A comparison takes exactly one of another prompt, another model and an ablation; "
            f"{len(pairs)} were given.",
        )
    return attention_change(pairs[0], progress=progress, cancel=cancel)


def attention_change(
    pair: Pair,
    *,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> HeadValues:
    """Return how much each head's attention differs between two runs, in nats.

    The Jensen-Shannon divergence (Lin 1991) of the two rows of each query, mean over all queries.
    It takes one forward pass of each run, and no whole map is ever there. Of models that do not
    show what their attention is made from, maps are read as many at a time as memory allows.

    Args:
        progress: called after each layer of each run (each part of the heads, where maps are
            read), with the values found so far.
        cancel: looked at before each of them; once set, the values found so far are returned.

    Raises:
        UserError: the ablation does not fit, or numbers are not finite.
    """
    from ablation.paired_reading import shows_inputs  # torch comes with it

    change = _Change(pair, progress)
    compare = _in_step if shows_inputs(pair.before, pair.after) else _map_by_map
    compare(pair, change, cancel)
    return change.result()


class _Change:
    """The values found so far."""

    def __init__(self, pair: Pair, progress: Callable[[Progress], None] | None) -> None:
        model = pair.before.model
        stack = model.stacks.named(pair.stack)
        self._stack = stack.name
        self._n_heads = [
            model.sites[running].n_heads for running in model.stacks.layers(stack.name)
        ]
        self._values = np.full((stack.n_layers, stack.n_heads), np.nan, dtype=np.float32)
        self._progress = progress

    def found_layer(self, layer: int, changes: FloatArray) -> None:
        self._values[layer, : len(changes)] = changes
        self._report()

    def found_heads(self, changes: dict[Head, float]) -> None:
        for head, change in changes.items():
            self._values[head.layer, head.head] = change
        self._report()

    def first_run_at(self, layer: int) -> None:
        """Say how far the first run is, in which nothing can be found yet."""
        if self._progress is not None:
            message = f"first run, layer {layer + 1} of {len(self._n_heads)}"
            self._progress(Progress(*self._counts(), message))

    def result(self) -> HeadValues:
        n_done, n_all = self._counts()
        stopped = "complete" if n_done == n_all else "cancelled"
        return HeadValues(CHANGE, self._values, stopped, self._stack)

    def _counts(self) -> tuple[int, int]:
        return int((~np.isnan(self._values)).sum()), sum(self._n_heads)

    def _report(self) -> None:
        if self._progress is not None:
            n_done, n_all = self._counts()
            found = HeadValues(CHANGE, self._values.copy(), "running", self._stack)
            self._progress(Progress(n_done, n_all, f"{n_done} of {n_all} heads", found))


def _in_step(pair: Pair, change: _Change, cancel: threading.Event | None) -> None:
    """Compare layer by layer while the second run goes on."""
    from ablation.evaluation import Cancelled
    from ablation.paired_reading import changes_by_layer

    with suppress(Cancelled):
        changes_by_layer(pair, change.found_layer, change.first_run_at, cancel)


def _map_by_map(pair: Pair, change: _Change, cancel: threading.Event | None) -> None:
    """Compare whole maps, as many heads at a time as memory allows; two passes each time."""
    from ablation.paired_reading import map_change

    heads = pair.before.model.all_heads(pair.stack)
    for part in parts_of(heads, pair.extent, SIDE_BYTES):
        if cancel is not None and cancel.is_set():
            return
        before, after = pair.before.attention(part), pair.after.attention(part)
        maps = zip(part, before.values, after.values, strict=True)
        change.found_heads({head: map_change(one, other) for head, one, other in maps})


def to_json(pair: Pair, change: HeadValues) -> dict[str, Any]:
    """Return a comparison as plain data."""
    return {
        "comparison": pair.label,
        "other": {
            "model": pair.after.model.name,
            **pair.after.prompt.to_json(),
            "ablated_heads": (
                []
                if pair.after.ablation is None
                else [head.to_json() for head in pair.after.ablation.heads]
            ),
        },
        **change.to_json(),
        "unit": change.metric.unit,
    }
