"""Any policy that runs a transformers model and returns numbers as its action.

What such a policy is given and how it decodes is its own affair (flow matching, diffusion, several
cameras). It is wrapped by a function that runs it on so many rows at once, and by the modules whose
attention layers make its stacks:

    policy = PI0ForConditionalGeneration.from_pretrained("lerobot/pi0_base").eval()

    def act(rows, draw):
        noise = torch.randn(1, 50, 32, generator=torch.Generator().manual_seed(draw))
        given = {name: value.expand(rows, *value.shape[1:]) for name, value in inputs.items()}
        return policy.sample_actions(noise=noise.expand(rows, -1, -1), **given)

    wrapped = WrappedPolicy(policy, act, {
        "vision": policy.model.vlm.vision_tower,
        "language": policy.model.vlm.language_model,
        "expert": policy.model.dit,
    })

Layers are known by their modules, not by the order in which they run: an action expert runs its
layers once for each step of denoising, and an ablated head is ablated in all of them. Rows are
independent, so that many sets of heads run side by side, each in its row.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from models.attention_reading import MapWriter
from models.attention_tap import ATTENTION_NAME, Inputs, active, read_inputs, run_attention
from models.errors import ErrorKind, UserError
from models.types import FloatArray, Head

Act = Callable[[int, int], Tensor]
"""(rows, draw) -> actions [rows, ...]: the same for every row where nothing is ablated. `draw`
numbers the noise, for policies that start from some."""

SAME, SAME_IN_HALF = 1e-4, 0.05
"""Rows in which nothing is ablated may differ by this part of the largest value at most: in single
and in half precision, where a batch of two rounds otherwise than one (by 0.031 in PI0's shape)."""


@dataclass(frozen=True, slots=True, eq=False)
class StackShape:
    """One stack of a wrapped policy."""

    name: str
    layers: tuple[nn.Module, ...]
    """Its attention layers, in the order in which they first run."""
    n_heads: tuple[int, ...]
    """Of each layer."""
    n_calls: int
    """How often each layer runs in one action."""


@dataclass(slots=True, eq=False)
class _Watching:
    """Notes which attention layers run, how often, and with how many heads."""

    calls: dict[nn.Module, int] = field(default_factory=dict)
    heads: dict[nn.Module, int] = field(default_factory=dict)

    def attend(self, inputs: Inputs) -> Tensor:
        self.calls[inputs.module] = self.calls.get(inputs.module, 0) + 1
        self.heads[inputs.module] = inputs.query.shape[1]
        return run_attention(inputs)


@dataclass(slots=True, eq=False)
class _Scaling:
    """Multiplies what some heads put out, in the rows where they are ablated."""

    n_rows: int
    scale: float
    chosen: Mapping[nn.Module, tuple[Tensor, Tensor]]
    """layer -> (rows, heads), int64 [n] each."""

    def attend(self, inputs: Inputs) -> Tensor:
        z = run_attention(inputs)
        if inputs.module not in self.chosen:
            return z
        rows, heads = self.chosen[inputs.module]
        each = z.shape[0] // self.n_rows  # cameras, say: rows of the layer for each of the policy's
        z = z.clone()
        for camera in range(each):
            z[rows * each + camera, :, heads] *= self.scale
        return z


@dataclass(slots=True, eq=False)
class _Reading:
    """Reads the attention of some heads at every call of their layers."""

    wanted: Mapping[nn.Module, Sequence[int]]
    maps: dict[nn.Module, list[FloatArray]] = field(default_factory=dict)

    def attend(self, inputs: Inputs) -> Tensor:
        heads = self.wanted.get(inputs.module)
        if heads is not None:
            shape = (len(heads), inputs.query.shape[2], inputs.key.shape[2])
            found = np.empty(shape, dtype=np.float32)
            read_inputs(inputs, 0, heads, MapWriter({0: list(found)}))
            self.maps.setdefault(inputs.module, []).append(found)
        return run_attention(inputs)


class WrappedPolicy:
    """A policy whose heads can be read and ablated."""

    def __init__(
        self, model: Any, act: Act, stacks: Mapping[str, nn.Module], name: str = "policy"
    ) -> None:
        """Wrap a policy; its attention is set to go through the tap.

        Args:
            model: a transformers model in evaluation mode.
            act: runs the policy.
            stacks: name -> the part of the model whose attention layers are that stack.

        Raises:
            UserError: a stack has no attention layer that runs, or rows are not independent.
        """
        self.name = name
        self._act = act
        self._lock = threading.Lock()
        model.set_attn_implementation(ATTENTION_NAME)
        watching = _Watching()
        clean = self._run(1, 0, watching)
        self.shape = clean.shape[1:]
        self.stacks = {name: _stack(name, part, watching) for name, part in stacks.items()}
        twice = self._run(2, 0, _Watching())
        apart = float(np.abs(twice - clean).max())
        same = SAME if torch.finfo(model.dtype).bits > 16 else SAME_IN_HALF
        if apart > same * max(float(np.abs(clean).max()), 1e-9):
            raise UserError(
                ErrorKind.MODEL,
                f"{name} answers two equal rows differently (by {apart:.2g}): its function must "
                "give every row the same observation and the same noise.",
            )

    def heads(self, stack: str | None = None) -> tuple[Head, ...]:
        """Return every head of a stack, or of all."""
        names = list(self.stacks) if stack is None else [self._named(stack).name]
        return tuple(
            Head(layer, head, name)
            for name in names
            for layer, n_heads in enumerate(self.stacks[name].n_heads)
            for head in range(n_heads)
        )

    def check_heads(self, heads: Sequence[Head]) -> tuple[Head, ...]:
        """Return the heads as given, or raise `UserError` naming the first that does not exist."""
        for head in heads:
            shape = self._named(head.stack)
            if not (head.layer < len(shape.layers) and head.head < shape.n_heads[head.layer]):
                raise UserError(ErrorKind.HEADS, f"There is no head {head} in {self.name}.")
        return tuple(heads)

    def actions(
        self, head_sets: Sequence[Sequence[Head]] = ((),), scale: float = 0.0, draw: int = 0
    ) -> FloatArray:
        """Return the policy's action with each set of heads ablated.

        Args:
            head_sets: an empty one is the clean policy.
            scale: what the heads' outputs are multiplied by.
            draw: which noise.

        Returns:
            float32 [n_sets, ...].

        Raises:
            UserError: a head does not exist, or numbers are not finite.
        """
        chosen: dict[nn.Module, tuple[list[int], list[int]]] = {}
        for row, heads in enumerate(head_sets):
            for head in self.check_heads(heads):
                module = self.stacks[head.stack].layers[head.layer]
                rows, members = chosen.setdefault(module, ([], []))
                rows.append(row)
                members.append(head.head)
        tensors = {m: (torch.tensor(r), torch.tensor(h)) for m, (r, h) in chosen.items()}
        return self._run(len(head_sets), draw, _Scaling(len(head_sets), scale, tensors))

    def attention(self, heads: Sequence[Head], draw: int = 0) -> dict[Head, FloatArray]:
        """Return the attention of heads in one action: float32 [n_calls, n_query, n_key] each.

        Raises:
            UserError: a head does not exist.
        """
        wanted: dict[nn.Module, list[int]] = {}
        for head in self.check_heads(heads):
            wanted.setdefault(self.stacks[head.stack].layers[head.layer], []).append(head.head)
        reading = _Reading(wanted)
        self._run(1, draw, reading)
        found = {}
        for head in heads:
            module = self.stacks[head.stack].layers[head.layer]
            place = wanted[module].index(head.head)
            found[head] = np.stack([maps[place] for maps in reading.maps[module]])
        return found

    def _named(self, stack: str) -> StackShape:
        if stack not in self.stacks:
            known = ", ".join(self.stacks)
            raise UserError(
                ErrorKind.HEADS, f"{self.name} has no stack {stack!r}; its stacks are {known}."
            )
        return self.stacks[stack]

    def _run(self, rows: int, draw: int, request: Any) -> FloatArray:
        with self._lock, torch.inference_mode(), active(request):
            found: FloatArray = self._act(rows, draw).float().cpu().numpy()
        if found.shape[0] != rows:
            raise UserError(
                ErrorKind.MODEL,
                f"{self.name} gave {found.shape[0]} actions for {rows} rows; its function must "
                "return one for each row.",
            )
        if not np.isfinite(found).all():
            raise UserError(
                ErrorKind.NUMBERS,
                f"{self.name} returned numbers that are not finite (NaN or infinity).",
            )
        return found


def _stack(name: str, part: nn.Module, watching: _Watching) -> StackShape:
    inside = set(part.modules())
    layers = tuple(module for module in watching.calls if module in inside)
    if not layers:
        raise UserError(
            ErrorKind.MODEL,
            f"No attention layer of the stack {name!r} runs through transformers' registry.",
        )
    n_heads = tuple(watching.heads[module] for module in layers)
    return StackShape(name, layers, n_heads, watching.calls[layers[0]])
