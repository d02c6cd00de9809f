"""What can be done to an attention head, each as a value.

An intervention edits z, a head's output before the output projection [position, d_head], or (only
`Knockout`) the attention pattern. It acts at every position or, where an ablation names some, at
those alone. "Every position" includes a beginning-of-sequence token, where the prompt has one.

Each value hashes and compares by content and has a `spec`, the notation that reads back as the
same value. `INTERVENTIONS` is the one table: the page, the command line and the documentation
read it.
"""

from ablation.interventions.table import (
    INTERVENTIONS,
    InterventionEntry,
    Parameter,
    parse_intervention,
)
from ablation.interventions.values import (
    Intervention,
    Knockout,
    Mean,
    Permute,
    Resample,
    Scale,
    Sparsify,
    Zero,
)

__all__ = [
    "INTERVENTIONS",
    "Intervention",
    "InterventionEntry",
    "Knockout",
    "Mean",
    "Parameter",
    "Permute",
    "Resample",
    "Scale",
    "Sparsify",
    "Zero",
    "parse_intervention",
]
