"""Figures of the study of critical heads."""

from ablation.studies.columns import KL, RIGHT
from ablation.studies.critical_heads import LEADERS, SHARE, CriticalHeads
from ablation.studies.types import StudyResult
from ablation.types import MetricInfo
from models.types import FloatArray
from viz.studies.figure import StudyFigure, bars, by_intervention, framed, head_map, level, line

SHOWN = 15
_KL = MetricInfo(
    "kl",
    "KL, mean",
    "nats",
    diverging=False,
    needs_target=False,
    description="from the clean prediction, mean over the prompts.",
)
_RIGHT = MetricInfo(
    "right",
    "Right token",
    "nats",
    diverging=True,
    needs_target=False,
    description="change of its log-probability, mean over the prompts.",
)


def figures(result: StudyResult, dark: bool) -> tuple[StudyFigure, ...]:
    """Draw the maps of effects, the leaders with intervals, and the leaders ablated together."""
    found: CriticalHeads = result.details
    drawn = [
        _map(found, _KL, KL, "kl-map", "Effect of each head alone", dark),
        _map(found, _RIGHT, RIGHT, "right-map", "Change of the right token", dark),
        _leaders(found, dark),
    ]
    if found.sizes:
        drawn.append(_joint(found, dark))
    if found.others:
        drawn.append(_interventions(found, dark))
    return tuple(drawn)


def _map(
    found: CriticalHeads, metric: MetricInfo, column: int, name: str, title: str, dark: bool
) -> StudyFigure:
    values = dict(zip(found.heads, found.effects[..., column].mean(axis=0), strict=True))
    return head_map((found.n_layers, found.n_heads), metric, values, name, title, dark=dark)


def _leaders(found: CriticalHeads, dark: bool) -> StudyFigure:
    interval, shown = found.interval, list(found.order[:SHOWN])
    trace = bars(
        [str(found.heads[i]) for i in shown],
        interval.mean[shown, KL],
        interval.low[shown, KL],
        interval.high[shown, KL],
        "KL",
        0,
        dark=dark,
    )
    return StudyFigure(
        "leaders",
        "The leading heads",
        "Mean KL from the clean prediction with each head ablated alone, and its 95 % interval.",
        framed([trace], "head", "KL (nats)", dark=dark),
    )


def _joint(found: CriticalHeads, dark: bool) -> StudyFigure:
    mean: FloatArray = found.joint[..., KL].mean(axis=0)
    chance = found.random.mean(axis=0)
    n = min(LEADERS, len(found.heads))
    by_chance = bars(
        [n],
        [chance.mean()],
        [chance.min()],
        [chance.max()],
        f"{n} random heads, lowest to highest",
        2,
        dark=dark,
    )
    by_chance.width = 0.12 * n
    marked = level(SHARE * mean[-1], f"{100 * SHARE:.0f} % of removing all", dark=dark)
    figure = framed(
        [by_chance, line(found.sizes, mean, "leading heads", 0, dark=dark)],
        "heads ablated together",
        "KL (nats)",
        dark=dark,
        xaxis={"type": "log"},
        **marked,
    )
    return StudyFigure(
        "joint",
        "The leading heads together",
        "KL with so many of the leading heads ablated at once, beside random heads of the same "
        "layers.",
        figure,
    )


def _interventions(found: CriticalHeads, dark: bool) -> StudyFigure:
    leading = list(found.order[: next(iter(found.others.values())).shape[1]])
    labels = [str(found.heads[i]) for i in leading]
    values = {found.intervention: found.effects[:, leading, KL], **found.others}
    return by_intervention(labels, values, "head", "KL (nats)", dark=dark)
