"""Any policy that runs transformers models and returns numbers, as everything else takes it.

What such a policy is given and how it decodes is its own affair (flow matching, diffusion, several
cameras). A `models.policy_adapter.Policy` says how it is run and which modules make its stacks. As
`models.flow_policy` does for PI0, it is made to look like a model whose answer are the numbers of
its action, the same at whichever position they are read.

Layers are known by their modules, not by the order in which they run: an action expert runs its
layers once for each step of denoising. What is done to a head is done at every run of its layer,
and what is read is read at one of them.
"""

import sys
import threading
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from traceback import walk_tb
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from models.attention_inputs import Inputs, allowed_keys, is_causal, run_attention
from models.attention_tap import (
    ATTENTION_NAME,
    AttentionRequest,
    TapRequest,
    active,
    active_request,
)
from models.eager_tap import tap_eager_too
from models.errors import ErrorKind, UserError, is_out_of_memory
from models.packed import call_once
from models.policy_adapter import Observation, Policy
from models.types import POLICY


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """What a wrapped policy is given of a prompt."""

    observation: Observation
    draw: int
    """Which noise."""
    step: int
    """Which run of a layer is read, counted from 0; of layers that run less often, the last."""
    n_runs: Mapping[nn.Module, int] = field(default_factory=dict)
    """How often each layer runs on this prompt, where that was measured."""


@dataclass(frozen=True, slots=True)
class LayerRuns:
    """How an attention layer runs in one action."""

    n_heads: int
    extents: frozenset[tuple[int, int]]
    """(queries, keys) of its runs, those of all its rows for one of the policy's together."""
    n_runs: int
    n_parts: int
    """Rows that it is given for each of the policy's: one a camera, say."""
    causal: bool
    """Whether no position looks at a later one."""


@dataclass(slots=True, eq=False)
class _Watching:
    """Notes which attention layers run, and how."""

    n_rows: int
    found: dict[nn.Module, LayerRuns] = field(default_factory=dict)
    """In the order in which layers first run."""

    def attend(self, inputs: Inputs) -> Tensor:
        n_parts = max(1, inputs.query.shape[0] // self.n_rows)
        extent = (n_parts * inputs.query.shape[2], n_parts * inputs.key.shape[2])
        known = self.found.get(inputs.module)
        self.found[inputs.module] = LayerRuns(
            inputs.query.shape[1],
            frozenset({extent}) if known is None else known.extents | {extent},
            1 if known is None else known.n_runs + 1,
            n_parts,
            not _sees_later(inputs) and (known is None or known.causal),
        )
        return run_attention(inputs)


def _sees_later(inputs: Inputs) -> bool:
    if inputs.mask is None:
        return not is_causal(inputs)
    allowed = allowed_keys(inputs)
    return allowed is None or bool(allowed.triu(1).any())


@dataclass(frozen=True, slots=True)
class _Plain:
    """Wants nothing; layers that ask for eager attention compute as under any other request."""

    def attend(self, inputs: Inputs) -> Tensor:
        return run_attention(inputs)


@dataclass(slots=True, eq=False)
class _ByModule:
    """Hands what a request wants to each layer by its module, whenever, however often it runs."""

    request: AttentionRequest
    layers: Mapping[nn.Module, int]
    """Layer -> its number, in the order in which they first run."""
    n_runs: Mapping[nn.Module, int]
    step: int
    """Which run is read."""
    so_far: dict[nn.Module, int] = field(default_factory=dict)
    raised: BaseException | None = None
    """What ended a run from within attention: it is not the policy's doing."""

    def attend(self, inputs: Inputs) -> Tensor:
        try:
            return self._attend(inputs)
        except BaseException as error:
            self.raised = error
            raise

    def _attend(self, inputs: Inputs) -> Tensor:
        layer, request = self.layers.get(inputs.module), self.request
        if layer is None:  # of no stack
            return run_attention(inputs)
        if isinstance(request, TapRequest):
            run = self.so_far.get(inputs.module, 0)
            self.so_far[inputs.module] = run + 1
            request.n_calls = layer
            request.reading = run == min(self.step, self.n_runs[inputs.module] - 1)
        return request.attend(inputs)


class WrappedPolicy(nn.Module):
    """A policy as a model whose logits are the numbers of its action."""

    kind = POLICY

    def __init__(self, adapter: Policy, name: str) -> None:
        """Wrap a policy; the attention of its transformers models is set to go through the tap.

        Args:
            name: what the user called it.
        """
        super().__init__()
        self.inner = adapter.model
        self.adapter = adapter
        self.name = name
        self.config = PreTrainedConfig()
        self.layers: dict[nn.Module, int] = {}
        """Attention layer -> its number, once they are known; see `_ByModule`."""
        self.n_runs: dict[nn.Module, int] = {}
        tap_eager_too()  # some set that as they act
        self.turn = threading.RLock()  # nobody knows whether a person's function may run twice
        for module in list(adapter.model.modules()):
            if isinstance(module, PreTrainedModel) and module._can_set_attn_implementation():
                module.set_attn_implementation(ATTENTION_NAME)
        call_once(adapter.model)
        parameter = next(adapter.model.parameters(), torch.zeros(1))
        widest = max((p.shape[-1] for p in adapter.model.parameters()), default=1)
        dtype = parameter.dtype if parameter.is_floating_point() else torch.float32
        # What ids are looked up in: here they are but the numbers of positions.
        rows = torch.zeros(1, widest, device=parameter.device, dtype=dtype)
        self.places = nn.Embedding.from_pretrained(rows)

    @property
    def name_or_path(self) -> str:
        return self.name

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        return True  # layers that do not dispatch are refused by name

    def get_input_embeddings(self) -> nn.Embedding:
        return self.places

    def get_output_embeddings(self) -> None:
        """There is no unembedding: actions are numbers."""

    def forward(self, input_ids: Tensor, asked: list[Asked], **_options: Any) -> CausalLMOutput:
        """Return the numbers of each row, flat, the same at every position: [batch, position,
        n_steps * n_numbers].

        Args:
            asked: the same for every row.

        Raises:
            UserError: the policy's function fails, or does not return what it should.
        """
        first = asked[0]
        if any(one is not first for one in asked):
            raise ValueError("the rows of a wrapped policy are of one prompt")
        request = active_request()
        if request is not None and self.layers:
            request = _ByModule(request, self.layers, first.n_runs or self.n_runs, first.step)
        found = self.act(input_ids.shape[0], first.draw, first.observation, request)
        return CausalLMOutput(logits=found.flatten(1)[:, None].expand(-1, input_ids.shape[1], -1))

    def measured(self, observation: Observation) -> dict[nn.Module, LayerRuns]:
        """Return the attention layers that run on an observation, in the order they first run.

        Raises:
            UserError: as `forward`.
        """
        watching = _Watching(1)
        with torch.inference_mode():
            self.act(1, 0, observation, watching)
        return watching.found

    def act(
        self, n_rows: int, draw: int, observation: Observation, request: AttentionRequest | None
    ) -> Tensor:
        """Run the policy under a request: float32 [n_rows, numbers] or [n_rows, steps, numbers].

        Raises:
            UserError: as `forward`.
        """
        try:
            # What a person's function prints must not stand among results; while it acts, what
            # other threads print goes to the same place.
            with self.turn, redirect_stdout(sys.stderr), active(request or _Plain()):
                found = self.adapter.act(n_rows, draw, observation.copied())
        except (Exception, SystemExit) as error:
            if isinstance(request, _ByModule) and error is request.raised:
                raise
            if isinstance(error, UserError):
                raise
            if is_out_of_memory(error):
                raise UserError(
                    ErrorKind.DEVICE,
                    f"{self.name}: memory ran out in its function act; use smaller pictures or "
                    "another device.",
                ) from error
            file = getattr(getattr(self.adapter.act, "__code__", None), "co_filename", "")
            raise UserError(
                ErrorKind.MODEL, f"{self.name}: its function act fails ({said_where(error, file)})."
            ) from error
        return self._checked(found, n_rows)

    def _checked(self, found: Any, n_rows: int) -> Tensor:
        """Return what a policy answers; raise `UserError` if that are not numbers, a row each."""
        if not isinstance(found, Tensor) or found.ndim not in (2, 3) or not found.numel():
            shape = f" of shape {list(found.shape)}" if isinstance(found, Tensor) else ""
            raise UserError(
                ErrorKind.MODEL,
                f"{self.name}: its function act returns a {type(found).__name__}{shape}; it must "
                "return a tensor [rows, numbers] or [rows, steps, numbers].",
            )
        if found.shape[0] != n_rows:
            raise UserError(
                ErrorKind.MODEL,
                f"{self.name}: its function act returns {found.shape[0]} actions for {n_rows} "
                "rows; it must return one for each row.",
            )
        numbers = found.float()
        if not bool(torch.isfinite(numbers).all()):
            raise UserError(
                ErrorKind.NUMBERS,
                f"{self.name}: its function act returns numbers that are not finite (NaN or "
                "infinity).",
            )
        return numbers.to(self.places.weight.device)


def said(error: BaseException, longest: int = 200) -> str:
    """Return the kind of an error and the first line of its message."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    lines = message.strip().splitlines()
    text = f"{type(error).__name__}: {lines[0].strip()}" if lines else type(error).__name__
    return text.rstrip(".") if len(text) <= longest else text[: longest - 1] + "…"


def said_where(error: BaseException, file: str) -> str:
    """Return what `said` does, after the last line of a file that the error's way goes through."""
    frames = walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == file]
    if isinstance(error, SyntaxError) and error.filename == file and error.lineno is not None:
        lines.append(error.lineno)
    return f"line {lines[-1]}: {said(error)}" if lines else said(error)
