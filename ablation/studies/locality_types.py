"""What the study of locality measures: plain data, no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ablation.studies.statistics import Interval, mean_interval, rank_agreement
from ablation.studies.types import plain
from models.types import FloatArray

if TYPE_CHECKING:
    from ablation.studies.abstraction import Separation

EARLY, MIDDLE, LATE = 0, 1, 2


def thirds(n_layers: int) -> tuple[range, range, range]:
    """Return the layers of the first, the middle and the last third; first and last are of one
    size, and where there are few layers the middle may be empty."""
    size = -(-n_layers // 3)
    return range(size), range(size, n_layers - size), range(n_layers - size, n_layers)


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPrompt:
    """One prompt's numbers. Effects are KL from the clean prediction at the last token, in nats."""

    heads: FloatArray
    """[n_layers, n_heads, N_MEASURES]: how far each head looks (`windows.DistanceReader`)."""
    by_weight: FloatArray
    """[n_layers, n_widths]: the shares, rows weighed by what they leave to other tokens."""
    even: FloatArray
    """[n_widths]: the shares of attention that is even over all keys but the first."""
    near_only: FloatArray
    """[n_layers]: the layer's heads see near keys only."""
    far_only: FloatArray
    """[n_layers]: they see all but the near ones."""
    up_to: FloatArray
    """[n_layers]: all layers up to this one see near keys only."""
    far_only_thirds: FloatArray
    """[3]: a third of the layers sees far keys only."""
    by_width: dict[int, FloatArray]
    """Width -> [4]: a third of the layers, or all, see near keys only."""
    readable: np.ndarray | None
    """int [n_positions]: after how many layers the final top token is the lens's, for good."""


@dataclass(frozen=True, slots=True, eq=False)
class Locality:
    """What was measured."""

    window: int
    """Tokens back that are near, where layers are confined."""
    prompts: tuple[MeasuredPrompt, ...]
    separation: "Separation | None"

    @property
    def n_layers(self) -> int:
        return len(self.prompts[0].near_only)

    def layers(self) -> Interval:
        """Means over heads of how far they look, [n_layers, N_MEASURES]."""
        return mean_interval(self.of_layers())

    def of_layers(self) -> FloatArray:
        """Return the same by prompt, [n_prompts, n_layers, N_MEASURES]."""
        return np.stack([_mean_over(prompt.heads, 1) for prompt in self.prompts])

    def of_thirds(self, values: FloatArray) -> FloatArray:
        """Return means over the layers of each third: [n_prompts, n_layers] -> [n_prompts, 3].

        NaN where a third is empty.
        """
        parts = thirds(self.n_layers)
        return np.stack([_mean_over(values[:, list(part)], 1) for part in parts], axis=1)

    @property
    def even(self) -> FloatArray:
        """The shares of even attention, [n_widths]."""
        mean: FloatArray = np.mean([prompt.even for prompt in self.prompts], axis=0)
        return mean

    @property
    def by_weight(self) -> FloatArray:
        """[n_prompts, n_layers, n_widths]."""
        return np.stack([prompt.by_weight for prompt in self.prompts])

    @property
    def near_only(self) -> Interval:
        return mean_interval(np.stack([prompt.near_only for prompt in self.prompts]))

    @property
    def far_only(self) -> Interval:
        return mean_interval(np.stack([prompt.far_only for prompt in self.prompts]))

    @property
    def up_to(self) -> Interval:
        return mean_interval(np.stack([prompt.up_to for prompt in self.prompts]))

    @property
    def far_only_thirds(self) -> FloatArray:
        """[n_prompts, 3]."""
        return np.stack([prompt.far_only_thirds for prompt in self.prompts])

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(sorted(self.prompts[0].by_width))

    def near_only_parts(self, width: int) -> FloatArray:
        """Return the effect of near keys only in a third of the layers and in all,
        [n_prompts, 4]."""
        return np.stack([prompt.by_width[width] for prompt in self.prompts])

    def effect_size(self, column: int) -> float:
        """Return Cohen's d of a measure between heads of the last third and of the first: the
        difference of their means in standard deviations of heads; NaN where heads do not differ."""
        heads = _mean_over(np.stack([prompt.heads[..., column] for prompt in self.prompts]), 0)
        parts = thirds(self.n_layers)
        early, late = (_known(heads[list(parts[i])]) for i in (EARLY, LATE))
        if min(len(early), len(late)) < 2:
            return float("nan")
        spread = np.sqrt((early.var(ddof=1) + late.var(ddof=1)) / 2)
        return float((late.mean() - early.mean()) / spread) if spread > 0 else float("nan")

    def trend(self, column: int) -> Interval:
        """Return the rank correlation of a measure with the layer, mean over prompts."""
        depth = np.arange(self.n_layers)
        rhos = np.array([rank_agreement(depth, one[:, column]) for one in self.of_layers()])
        return mean_interval(rhos)

    @property
    def readable(self) -> np.ndarray | None:
        """After how many layers each position's prediction is readable; None if not read."""
        read = [prompt.readable for prompt in self.prompts if prompt.readable is not None]
        return np.concatenate(read) if read else None

    @property
    def readable_share(self) -> Interval | None:
        """Share of positions whose prediction is readable, [n_layers + 1]; None if not read."""
        depth = np.arange(self.n_layers + 1)
        shares = [
            (prompt.readable[:, None] <= depth).mean(axis=0)
            for prompt in self.prompts
            if prompt.readable is not None
        ]
        return mean_interval(np.stack(shares)) if shares else None

    def to_json(self) -> dict[str, Any]:
        readable = self.readable_share
        return plain({
            "window": self.window,
            "even": self.even,
            "near_only_thirds": {
                width: self.near_only_parts(width).mean(axis=0) for width in self.widths
            },
            "far_only_thirds": self.far_only_thirds.mean(axis=0),
            "readable": None if readable is None else readable.mean,
        })  # fmt: skip


def _known(values: FloatArray) -> FloatArray:
    flat: FloatArray = values[~np.isnan(values)]
    return flat


def _mean_over(values: FloatArray, axis: int) -> FloatArray:
    """Return means that leave out NaN; NaN where there is nothing else."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis)
    mean: FloatArray = total / np.where(count > 0, count, np.nan)
    return mean
