"""Values of the questions asked of a model: plain data, no torch.

An effect is always ablated minus clean.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from models.places import Place, in_order
from models.types import FloatArray, Head, Prediction, TokenizedPrompt, TokenProbability

if TYPE_CHECKING:
    from ablation.circuit.types import Circuit


class InterventionSpec(Protocol):
    """What the rest of the program needs to know of an intervention: its name in words.

    The interventions themselves are in `ablation.interventions`, which says what `prepare` takes
    (`models.edits.Intervention`); naming its types here would pull in torch.
    """

    def prepare(self, model: Any, prompt: Any, heads: Any, positions: Any) -> Any: ...

    @property
    def spec(self) -> str:
        """The notation that a person types and that reads back as the same value."""
        ...

    @property
    def label(self) -> str:
        """A few words for the page: "zero", "scale by 0.5"."""
        ...


@dataclass(frozen=True, slots=True)
class Ablation:
    """Heads and what is done to them; `positions` are those acted on, None being all of them.

    They are numbers, or words for what stands there (`models.places`).
    """

    heads: tuple[Head, ...]
    intervention: InterventionSpec
    positions: tuple[Place, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", tuple(sorted(set(self.heads))))
        if self.positions is not None:
            object.__setattr__(self, "positions", in_order(self.positions))


@dataclass(frozen=True, slots=True)
class Comparison:
    """A prediction before and after an ablation, in numbers. Probabilities are in [0, 1]."""

    kl: float
    """KL(before || after) of the full distribution, in nats."""
    total_variation: float
    """Half the sum of absolute differences of probability, in [0, 1]."""
    top_prob_change: float
    """Change (after - before) of the probability of the token that was most likely before."""
    entropy_before: float
    entropy_after: float
    """In nats."""
    top_before: TokenProbability
    top_after: TokenProbability

    def to_json(self) -> dict[str, Any]:
        return {
            "kl": self.kl,
            "total_variation": self.total_variation,
            "top_prob_change": self.top_prob_change,
            "entropy_before": self.entropy_before,
            "entropy_after": self.entropy_after,
        }


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """A metric of the model's output, or of a head's attention, in words and units."""

    name: str
    label: str
    unit: str
    diverging: bool
    """Whether values lie on both sides of zero (an effect), or start at zero (a distance)."""
    needs_target: bool
    description: str
    sign: str = "ablated − clean"
    """What a diverging value is above zero for, in a few words."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadScores:
    """One number a head: how much a metric answers to ablating it alone."""

    metric: MetricInfo
    values: FloatArray
    """float32 [n_layers, n_heads]; NaN where a head was not evaluated (cancelled, or absent). For
    several prompts, the mean over them."""
    baseline: Prediction
    """The clean run's; of the first prompt where there are several."""
    target: TokenProbability | None = None
    """The token that the metric is about, as likely as the clean run finds it."""
    stopped: str = "complete"
    """"complete"; "cancelled" when not every head was evaluated; "running" in a progress report."""
    by_prompt: FloatArray | None = None
    """float32 [n_prompts, n_layers, n_heads] where there are several prompts."""
    stack: str = ""
    """The stack of attention layers that the heads are of; empty for the main one."""

    def ranked(self) -> list[tuple[Head, float]]:
        """Return evaluated heads, largest absolute value first, ties by lowest (layer, head)."""
        return ranked_heads(self.values, self.stack)

    def to_frame(self) -> pd.DataFrame:
        rows = [(h.layer, h.head, value) for h, value in self.ranked()]
        frame = pd.DataFrame(rows, columns=["layer", "head", self.metric.name])
        if self.stack:
            frame.insert(0, "stack", self.stack)
        return frame

    def to_json(self) -> dict[str, Any]:
        stack = {"stack": self.stack} if self.stack else {}
        scores = without_nan(self.values)
        return {"metric": self.metric.name, **stack, "scores": scores, "stopped": self.stopped}


LEAST_REST = 1e-6
"""A row whose weights but the first sum to less stays blank when these are renormalised: its shape
is rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class HeadSummaries:
    """Every head's attention on one prompt: each as a thumbnail, and as a few numbers."""

    prompt: TokenizedPrompt
    metrics: tuple[MetricInfo, ...]
    values: FloatArray
    """float32 [n_metrics, n_layers, n_heads], means over queries (`ablation.head_metrics` says over
    which); NaN where a head was not read (cancelled, or absent) or no query counts."""
    thumbnails: FloatArray
    """float32 [n_layers, n_heads, row, column]; cell (i, j) is the largest weight of the queries
    from `i * step` on and the keys from `j * step` on. NaN where a head was not read."""
    step: int
    """How many queries, and how many keys, share a cell of a thumbnail."""
    causal: bool
    """Whether no query looks ahead; what is above the diagonal is 0 then."""
    ablated: bool = False
    """Whether the run they come from had heads ablated."""
    stopped: str = "complete"
    """"complete"; "cancelled" when not every head was read."""
    stack: str = ""
    """The stack that the heads are of; `prompt` has the positions of its attention."""
    prediction: Prediction | None = None
    """What the same pass predicts; None when it was cancelled."""
    sink: str = "show"
    """What thumbnails do about the first token: "show" it; "hide" leaves it out; "renormalise" also
    divides the other weights of each row by their sum. The metrics are always of all attention."""
    n_keys: int | None = None
    """How many keys there are; None: the positions of `prompt`."""

    def __post_init__(self) -> None:
        n_queries = len(self.prompt)
        n_keys = n_queries if self.n_keys is None else self.n_keys
        cells = tuple(-(-count // self.step) for count in (n_queries, n_keys))
        grid = self.values.shape[1:]
        if self.values.shape != (len(self.metrics), *grid) or len(grid) != 2:
            raise ValueError(f"values must be [n_metrics, n_layers, n_heads], got {grid}")
        if self.thumbnails.shape != (*grid, *cells):
            raise ValueError(f"thumbnails have shape {self.thumbnails.shape}, not {cells} cells")

    def values_of(self, metric: str) -> FloatArray:
        """Return one metric of all heads, float32 [n_layers, n_heads]."""
        return self.values[[info.name for info in self.metrics].index(metric)]

    def ranked(self, metric: str) -> list[tuple[Head, float]]:
        """Return heads that have a value, largest first, ties by lowest (layer, head)."""
        return ranked_heads(self.values_of(metric), self.stack)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a head: layer, head, and each metric by its name."""
        layer, head = np.indices(self.values.shape[1:]).reshape(2, -1)
        named = {info.name: self.values_of(info.name).reshape(-1) for info in self.metrics}
        stack = {"stack": self.stack} if self.stack else {}
        return pd.DataFrame({**stack, "layer": layer, "head": head, **named})

    def to_json(self) -> dict[str, Any]:
        return {
            "metrics": {
                info.name: {"label": info.label, "unit": info.unit, "values": without_nan(values)}
                for info, values in zip(self.metrics, self.values, strict=True)
            },
            **({"stack": self.stack} if self.stack else {}),
            "ablated": self.ablated,
            "stopped": self.stopped,
        }


@dataclass(frozen=True, slots=True, eq=False)
class HeadValues:
    """One number a head, read off its attention; nothing need be ablated for it."""

    metric: MetricInfo
    values: FloatArray
    """float32 [n_layers, n_heads]; NaN where there is none (cancelled, or absent)."""
    stopped: str = "complete"
    """As for `HeadScores`."""
    stack: str = ""
    """As for `HeadScores`."""

    @property
    def target(self) -> None:
        """None: what heads attend to is about no token of the vocabulary."""
        return None

    def ranked(self) -> list[tuple[Head, float]]:
        """Return the heads, largest absolute value first, ties by lowest (layer, head)."""
        return ranked_heads(self.values, self.stack)

    def to_frame(self) -> pd.DataFrame:
        """Return one row a head that has a value, in the order of `ranked`."""
        rows = [(h.layer, h.head, value) for h, value in self.ranked()]
        frame = pd.DataFrame(rows, columns=["layer", "head", self.metric.name])
        if self.stack:
            frame.insert(0, "stack", self.stack)
        return frame

    def to_json(self) -> dict[str, Any]:
        stack = {"stack": self.stack} if self.stack else {}
        scores = without_nan(self.values)
        return {"metric": self.metric.name, **stack, "scores": scores, "stopped": self.stopped}


def without_nan(values: FloatArray) -> list[list[float | None]]:
    """Return a table of numbers as JSON has it, without the NaN that JSON does not have."""
    return [[None if np.isnan(v) else float(v) for v in row] for row in values]


def ranked_heads(values: FloatArray, stack: str = "") -> list[tuple[Head, float]]:
    """Return the heads of a stack's [n_layers, n_heads] that have a value, largest absolute value
    first.

    Ties go to the lowest (layer, head).
    """
    flat = values.reshape(-1).astype(float)
    order = sorted(np.flatnonzero(~np.isnan(flat)), key=lambda i: (-abs(flat[i]), i))
    n_heads = values.shape[1]
    return [(Head(int(i) // n_heads, int(i) % n_heads, stack), float(flat[i])) for i in order]


@dataclass(frozen=True, slots=True, eq=False)
class PositionScores:
    """One number a head and position: how much a metric answers to ablating it there alone."""

    metric: MetricInfo
    heads: tuple[Head, ...]
    values: FloatArray
    """float32 [n_heads, n_positions]; NaN where it was not evaluated (cancelled). Behind the
    position read, under causal attention, the effect is 0."""
    prompt: TokenizedPrompt
    """Whose positions they are: those of the heads' queries, an encoder's of the source."""
    baseline: Prediction
    target: TokenProbability | None = None
    """The token that the metric is about, as likely as the clean run finds it."""
    stopped: str = "complete"
    """As for `HeadScores`."""
    read_here: bool = True
    """Whether the position read is one of these: an encoder's positions are the source's."""

    def __post_init__(self) -> None:
        expected = (len(self.heads), len(self.prompt))
        if self.values.shape != expected:
            raise ValueError(f"values have shape {self.values.shape}, not {expected}")

    def to_frame(self) -> pd.DataFrame:
        """Return one row a head and position that was evaluated."""
        cells = np.argwhere(~np.isnan(self.values))
        stacks = [self.heads[i].stack for i, _ in cells]
        return pd.DataFrame(
            {
                **({"stack": stacks} if any(stacks) else {}),
                "layer": [self.heads[i].layer for i, _ in cells],
                "head": [self.heads[i].head for i, _ in cells],
                "position": [int(at) for _, at in cells],
                "token": [self.prompt.labels[at] for _, at in cells],
                self.metric.name: [float(self.values[i, at]) for i, at in cells],
            }
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "metric": self.metric.name,
            "heads": [head.to_json() for head in self.heads],
            "scores": without_nan(self.values),
            "stopped": self.stopped,
        }


@dataclass(frozen=True, slots=True)
class SearchStep:
    """One head added by a search, and the prediction with it and all earlier ones ablated."""

    head: Head
    kl: float
    """KL(clean || ablated), in nats. For several prompts, the mean, as for the next."""
    target_logprob: float | None
    """log p(target) in nats; None for a search without a target."""
    top: TokenProbability
    """The most likely token now (of the first prompt where there are several)."""
    evaluated: int = 0
    """How many heads were evaluated exactly to choose this one."""
    tops: tuple[TokenProbability, ...] = ()
    """The most likely token of each prompt, where there are several."""

    def to_json(self) -> dict[str, Any]:
        several = {"tops": [top.to_json() for top in self.tops]} if self.tops else {}
        return {
            "head": self.head.to_json(),
            "kl": self.kl,
            "target_logprob": self.target_logprob,
            "top": self.top.to_json(),
            "evaluated": self.evaluated,
            **several,
        }


@dataclass(frozen=True, slots=True)
class Necessity:
    """What happens when one head of the final set is left intact: the proof of minimality."""

    head: Head
    top: TokenProbability
    """The most likely token without this head in the set: not the target."""
    target_logprob: float
    """log p(target) without this head in the set, in nats."""

    def to_json(self) -> dict[str, Any]:
        return {
            "head": self.head.to_json(),
            "top": self.top.to_json(),
            "target_logprob": self.target_logprob,
        }


STRATEGIES = {
    "exact": "every remaining head is evaluated in each step",
    "screened": "only the most promising heads are evaluated in each step; faster, may miss some",
}
"""How a search can choose, and the words for a person."""

STOP_REASONS = {
    "target_reached": "The target became the most likely token.",
    "no_improvement": "No remaining head raises the target's probability.",
    "max_heads": "The limit of heads was reached.",
    "all_heads": "Every head considered is ablated.",
    "cancelled": "Cancelled; what was found until then is kept.",
    "running": "Still searching.",
}
"""What `SearchResult.stopped` can be, and the sentence for a person."""


@dataclass(frozen=True, slots=True, eq=False)
class SearchResult:
    """What a generic or a targeted search found."""

    objective: str
    """"kl" (generic) or "target" (targeted)."""
    target: TokenProbability | None
    """The target as likely as the clean run finds it; None for a generic search."""
    baseline: Prediction
    steps: tuple[SearchStep, ...]
    """In the order found."""
    heads: tuple[Head, ...]
    """The final set: the steps' heads less `dropped`, sorted."""
    dropped: tuple[Head, ...]
    """Heads chosen on the way that turned out not to be needed."""
    stopped: str
    """A key of `STOP_REASONS`."""
    final: Prediction | None = None
    """The prediction with the final set ablated; None while nothing was found."""
    necessity: tuple[Necessity, ...] = ()
    """One entry a head of the final set, when a target was reached."""
    strategy: str = "exact"
    """A key of `STRATEGIES`."""
    evaluated: int = 0
    """How many head sets were evaluated exactly, all steps together (a prompt each counts)."""
    baselines: tuple[Prediction, ...] = ()
    finals: tuple[Prediction, ...] = ()
    """Of each prompt, where there are several; `baseline` and `final` are the first one's."""

    def to_frame(self) -> pd.DataFrame:
        """Return one row a step."""
        stacks = [s.head.stack for s in self.steps]
        return pd.DataFrame(
            {
                "step": range(1, len(self.steps) + 1),
                **({"stack": stacks} if any(stacks) else {}),
                "layer": [s.head.layer for s in self.steps],
                "head": [s.head.head for s in self.steps],
                "kl": [s.kl for s in self.steps],
                "target_logprob": [s.target_logprob for s in self.steps],
                "top_token": [s.top.text for s in self.steps],
                "top_prob": [s.top.prob for s in self.steps],
                "kept": [s.head in self.heads for s in self.steps],
            }
        )

    def to_json(self) -> dict[str, Any]:
        target = self.target
        return {
            "objective": self.objective,
            "target": None if target is None else {"id": target.id, "text": target.text},
            "baseline": self.baseline.to_json(),
            "steps": [step.to_json() for step in self.steps],
            "heads": [head.to_json() for head in self.heads],
            "dropped": [head.to_json() for head in self.dropped],
            "stopped": self.stopped,
            "final": None if self.final is None else self.final.to_json(),
            "necessity": [entry.to_json() for entry in self.necessity],
            "strategy": self.strategy,
            "evaluated": self.evaluated,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """Where long work stands. `partial` is what was found so far, if anything."""

    done: int
    total: int
    """In forward rows (one head set evaluated), or in layers where all heads are read; an upper
    bound for a search that may stop early; in passes for a circuit."""
    message: str
    partial: "HeadScores | HeadValues | PositionScores | SearchResult | Circuit | None" = None
