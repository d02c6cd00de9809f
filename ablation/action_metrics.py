"""How heads of policies are judged: by how far ablating them moves the action. No torch."""

from dataclasses import replace

from ablation.types import MetricInfo
from models.chunks import DEVIATIONS, RANGES, ChunkSpace

ACTION_METRIC = MetricInfo(
    name="action_l2",
    label="Change of the action",
    unit="parts of reach",
    diverging=False,
    needs_target=False,
    description="Euclidean distance between the policy's actions without and with the head, each "
    "dimension as a part of the distance between its largest and smallest value.",
)

CHUNK_METRIC = MetricInfo(
    name="action_rms",
    label="Change of the action",
    unit=DEVIATIONS,
    diverging=False,
    needs_target=False,
    description="How far ablating the head moves the chunk of actions: the root mean square, over "
    "its steps, of the Euclidean distance, in standard deviations of the policy's actions; the "
    "mean over the noises asked with.",
)

_MEASURED = {
    RANGES: "each as a part of its range",
    DEVIATIONS: "in standard deviations of the policy's actions",
}


def chunk_metric(space: ChunkSpace) -> MetricInfo:
    """Return how heads of a policy that answers with numbers are judged."""
    if space.unit == DEVIATIONS:
        return CHUNK_METRIC
    measured = _MEASURED.get(space.unit, "as the policy gives its numbers")
    return replace(
        CHUNK_METRIC,
        unit=space.unit,
        description=CHUNK_METRIC.description.replace(_MEASURED[DEVIATIONS], measured),
    )
