"""What ablating each head would change to first order, for all heads from one backward pass.

Every head gets a gate: 1 leaves its output z as it is, 0 puts the edited output in its place, and
between them it is mixed, z + (gate - 1) (z - edited). The derivative of a score with respect to a
gate, times the change of the gate from 1 to 0, is the first-order estimate of what ablating the
head does to the score (attribution patching with a gate; cf. Michel et al. 2019, "Are Sixteen
Heads Really Better than One?", equation 2).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.attention_edits import EmptyQueries
from models.attention_tap import Call
from models.blocks import Window
from models.branching import Editing, every_head_edited


@dataclass(frozen=True, slots=True, eq=False)
class Gates:
    """One gate a head, put in while the model runs on one row."""

    editings: Mapping[int, Editing]
    """layer -> what is done to its heads; layers that are not named have no gates."""
    by_layer: dict[int, Tensor] = field(default_factory=dict)
    """layer -> [n_heads], all ones; filled while running."""
    left_alone: list[EmptyQueries] = field(default_factory=list)

    def apply(self, layer: int, call: Call) -> Tensor | None:
        editing = self.editings.get(layer)
        if editing is None:
            return None
        edited = every_head_edited(layer, call, editing, self.left_alone)[0]
        whole = Window(0, edited.shape[0])
        edited = editing.where_acted_on(call.z[0], edited, whole)[None]
        # Made here, where the layer's device and dtype are known.
        gate = torch.ones(call.z.shape[2], dtype=call.z.dtype, device=call.z.device)
        self.by_layer[layer] = gate.requires_grad_()
        # A head that is ablated already has z == edited: its gate does nothing.
        return call.z + (gate - 1)[:, None] * (call.z - edited)

    def estimated_changes(self, score: Tensor) -> dict[int, Tensor]:
        """Return layer -> the estimated change of a scalar score, float32 [n_heads]."""
        gates = list(self.by_layer.values())
        # What comes out of some layers goes nowhere: of a tower's last ones, where the language
        # model is handed an earlier one's output.
        gradients = torch.autograd.grad(score, gates, allow_unused=True)
        return {
            layer: torch.zeros_like(gate) if gradient is None else -gradient.float()
            for (layer, gate), gradient in zip(self.by_layer.items(), gradients, strict=True)
        }
