"""What ablating each head would change to first order, for all heads from one backward pass.

Every head gets a gate: 1 leaves its output z as it is, 0 puts the edited output in its place, and
between them it is mixed, z + (gate - 1) (z - edited). The derivative of a score with respect to a
gate, times the change of the gate from 1 to 0, is the first-order estimate of what ablating the
head does to the score (attribution patching with a gate; cf. Michel et al. 2019, "Are Sixteen
Heads Really Better than One?", equation 2).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.attention_tap import Call, EmptyQueries
from models.blocks import Window
from models.branching import Editing, every_head_edited


@dataclass(frozen=True, slots=True, eq=False)
class Gates:
    """One gate a head, put in while the model runs on one row."""

    editing: Editing
    by_layer: list[Tensor] = field(default_factory=list)
    """[n_heads] each, in the order in which the layers run; all ones."""
    left_alone: list[EmptyQueries] = field(default_factory=list)

    def apply(self, layer: int, call: Call) -> Tensor:
        edited = every_head_edited(layer, call, self.editing, self.left_alone)[0]
        whole = Window(0, edited.shape[0])
        edited = self.editing.where_acted_on(call.z[0], edited, whole)[None]
        # Made here, where the layer's device and dtype are known.
        gate = torch.ones(call.z.shape[2], dtype=call.z.dtype, device=call.z.device)
        self.by_layer.append(gate.requires_grad_())
        # A head that is ablated already has z == edited: its gate does nothing.
        return call.z + (gate - 1)[:, None] * (call.z - edited)

    def estimated_changes(self, score: Tensor) -> list[Tensor]:
        """Return, layer by layer, the estimated change of a scalar score, float32 [n_heads]."""
        gradients = torch.autograd.grad(score, self.by_layer)
        return [-gradient.float() for gradient in gradients]
