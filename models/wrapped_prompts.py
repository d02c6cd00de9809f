"""Pictures, instruction and state to the prompt of a policy that a person wrapped, and its stacks.

How many positions a stack has on a prompt is measured, by running the policy once on it: what the
person says of them must be as many, and without a word from them they are numbered.
"""

import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from models import tokens
from models.attention_hooks import AttentionSite
from models.attention_tap import Call, TapRequest, active
from models.chunks import ChunkSpace, wrapped_space
from models.discovery import Forward, dispatching_calls
from models.errors import ErrorKind, UserError
from models.picture import Picture
from models.policy_adapter import Observation
from models.stack_positions import joined_positions, numbered, stack_positions
from models.stacks import StackTable
from models.types import MAIN, PolicyInputs, RobotInput, Stack, TokenizedPrompt
from models.vision import FoundLayers, probe_picture
from models.wrapped_policy import Asked, LayerRuns, WrappedPolicy, said

LAST_STEP = 10**9
"""More runs than any layer has in one action: the last one is read."""
PROBE_TEXT = "pick up the cup"

SAME, SAME_IN_HALF = 1e-4, 0.05
"""Rows that are given the same may differ by this part of the largest number at most: in single and
in half precision, where a batch of two rounds otherwise than one (by 0.031 in PI0's shape)."""

_NAME = re.compile(r"[a-z][a-z_]{0,30}")
"""What a stack may be called, so that its heads can be written (`ablation.heads`)."""


@dataclass(frozen=True, slots=True)
class WrappedProcessor:
    """What stands in the place of a wrapped policy's processor: it prepares its inputs itself."""

    tokenizer: Any


def wrapped_processor() -> WrappedProcessor:
    words = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    return WrappedProcessor(PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?"))


@dataclass(frozen=True, slots=True, eq=False)
class WrappedSight:
    """What a wrapped policy is told by: the counterpart of `models.policy_prompts.PolicySight`."""

    policy: WrappedPolicy
    table: StackTable | None = None
    """Its stacks, once they are known."""
    members: Mapping[str, tuple[nn.Module, ...]] = field(default_factory=dict)
    """Stack, the main one by its empty name -> its attention layers."""
    n_runs: int = 1
    """How often the layers run in one action that run most often."""
    shape: tuple[int, int] = (1, 1)
    """(steps, numbers) of what it answers with."""
    known: LRUCache[Hashable, dict[nn.Module, LayerRuns]] = field(
        default_factory=lambda: LRUCache(64)
    )
    """What was measured."""
    n_layers: int = 0
    """Of a tower that runs before all else: stacks may run in any order here."""
    n_behind: int = 0

    @property
    def takes(self) -> PolicyInputs:
        adapter = self.policy.adapter
        return PolicyInputs(adapter.cameras, adapter.state, adapter.instructed)

    @property
    def space(self) -> ChunkSpace:
        return wrapped_space(self.policy.adapter.numbers, *self.shape, self.policy.name)

    @property
    def image_token(self) -> str | None:
        """Nothing in the text marks pictures."""
        return "" if self.policy.adapter.cameras else None

    def looks_ahead(self, _run: Any) -> bool:
        return True

    # --- prompts --------------------------------------------------------------------------

    def prompt(
        self,
        text: str,
        pictures: Sequence[Picture],
        max_positions: int,
        bos: bool | None = None,
        robot: RobotInput | None = None,
    ) -> TokenizedPrompt:
        """Turn an instruction, pictures (one a camera) and a state into a prompt.

        Raises:
            UserError: they are not what the policy is told, its function fails, or the positions
                that were described are not those that run.
        """
        adapter, name = self.policy.adapter, self.policy.name
        if adapter.instructed and not text.strip():
            raise UserError(ErrorKind.PROMPT, "The instruction is empty; type some text.")
        tokens.refuse_unusable_text(text, "instruction", max_positions)
        if len(pictures) != adapter.cameras:
            raise UserError(
                ErrorKind.PICTURE,
                f"{name} sees by {_counted(adapter.cameras, 'camera')}, and "
                f"{_counted(len(pictures), 'picture')} {_were(len(pictures))} given; give one for "
                "each camera.",
            )
        robot = replace(robot or RobotInput(), state=self._state(robot or RobotInput()))
        if robot.step is not None and not 0 <= robot.step < self.n_runs:
            raise UserError(
                ErrorKind.OPTION,
                f"There is no step {robot.step}; layers of {name} run at most "
                f"{_counted(self.n_runs, 'time')} in one action, so steps are 0 to "
                f"{self.n_runs - 1}.",
            )
        told = text if adapter.instructed else ""
        observation = Observation(tuple(one.pixels for one in pictures), told, robot.state)
        prompt = replace(numbered(1, MAIN), text=told, pictures=tuple(pictures), robot=robot)
        if self.table is not None:
            prompt = self._with_positions(prompt, observation)
        return replace(prompt, given=_given(observation, robot))

    def with_draw(self, prompt: TokenizedPrompt, draw: int) -> TokenizedPrompt:
        """Return a prompt with another noise."""
        robot = replace(prompt.robot or RobotInput(), draw=draw)
        [asked] = (prompt.given or {})["asked"]
        return replace(prompt, given=_given(asked.observation, robot), robot=robot)

    def probe(self, _text: str, max_positions: int) -> TokenizedPrompt:
        """Return the prompt that a model proves itself on."""
        pictures = [probe_picture()] * self.policy.adapter.cameras
        return self.prompt(PROBE_TEXT, pictures, max_positions)

    def _state(self, robot: RobotInput) -> tuple[float, ...]:
        n, told = self.policy.adapter.state, robot.state
        if told and (len(told) != n or not np.isfinite(told).all()):
            raise UserError(
                ErrorKind.PROMPT,
                f"{self.policy.name} is told a state of {_counted(n, 'finite number')}, and "
                f"{len(told)} {_were(len(told))} given; give all, or none for zeros.",
            )
        return told or (0.0,) * n

    def _with_positions(self, prompt: TokenizedPrompt, observation: Observation) -> TokenizedPrompt:
        """Return a prompt with the positions of all stacks on it."""
        assert self.table is not None
        runs, adapter, name = (
            self._measured(prompt, observation),
            self.policy.adapter,
            self.policy.name,
        )
        extents = {
            stack: _extent(stack or self._main_label, members, runs, name)
            for stack, members in self.members.items()
        }
        described = self._described(observation)
        queries = {
            stack: stack_positions(
                n,
                stack,
                described.get(stack or self._main_label),
                prompt.pictures,
                stack or self._main_label,
                name,
            )
            for stack, (n, _) in extents.items()
        }
        main = replace(
            queries[MAIN], text=prompt.text, robot=prompt.robot, pictures=prompt.pictures
        )
        queries[MAIN] = main
        sides = {}
        for stack in self.table.stacks:
            n_keys = extents[stack.name][1]
            looked_at = adapter.looks_at.get(stack.name or self._main_label)
            if stack.name:
                sides[stack.queries] = queries[stack.name]
            if looked_at is not None:
                parts = [queries[self._key(other)] for other in looked_at]
                sides[stack.keys] = joined_positions(parts, stack.label, n_keys, name)
            elif stack.keys != stack.queries:
                sides[stack.keys] = numbered(n_keys, stack.keys)
        return replace(main, sides=sides, main=self._main_label)

    @property
    def _main_label(self) -> str:
        return next(iter(self.policy.adapter.stacks))

    def _key(self, stack: str) -> str:
        """Return what heads call a stack."""
        return MAIN if stack == self._main_label else stack

    def _measured(
        self, prompt: TokenizedPrompt, observation: Observation
    ) -> dict[nn.Module, LayerRuns]:
        key = (prompt.text, tuple(one.digest for one in prompt.pictures), observation.state)
        if key not in self.known:
            self.known[key] = self.policy.measured(observation)
        return self.known[key]

    def _described(self, observation: Observation) -> Mapping[str, Any]:
        """Return what the person says of the stacks' positions.

        Raises:
            UserError: their function fails, or names no stack.
        """
        adapter, name = self.policy.adapter, self.policy.name
        if adapter.positions is None:
            return {}
        try:
            described = dict(adapter.positions(observation))
        except Exception as error:
            raise UserError(
                ErrorKind.MODEL, f"{name}: its function positions fails ({said(error)})."
            ) from error
        _refuse_unknown(described, adapter.stacks, "positions", name)
        return described

    # --- at load --------------------------------------------------------------------------

    def finding(
        self, model: WrappedPolicy, forward: Forward, prompt: TokenizedPrompt
    ) -> FoundLayers:
        """Find the attention layers of all stacks, and let them be known by their modules.

        Raises:
            UserError: a stack has none that can be read, layers of a stack differ in their
                positions, or rows are not independent.
        """
        adapter, name = model.adapter, model.name
        _check_names(adapter.stacks, adapter.looks_at, name)
        [asked] = (prompt.given or {})["asked"]
        watched = model.measured(asked.observation)
        calls = dispatching_calls(model, forward)
        sites: dict[nn.Module, AttentionSite] = {}
        for site in calls:
            if site is not None:
                sites.setdefault(site.module, site)
        members = {
            self._key(stack): _members(stack, parts, watched, sites, name)
            for stack, parts in adapter.stacks.items()
        }
        _refuse_shared(members, self._main_label, name)
        stack_of = {layer: stack for stack, layers in members.items() for layer in layers}
        order = [layer for layer in watched if layer in stack_of]
        stacks = [
            self._stack(stack, members[stack], watched)
            for stack in dict.fromkeys(stack_of[layer] for layer in order)
        ]
        places = tuple((stack_of[layer], members[stack_of[layer]].index(layer)) for layer in order)
        n_heads = tuple(watched[layer].n_heads for layer in order)
        model.layers = {layer: i for i, layer in enumerate(order)}
        model.n_runs = {layer: watched[layer].n_runs for layer in order}
        shape = _prove_rows(model, asked)
        sight = replace(
            self,
            table=StackTable(tuple(stacks), places, n_heads),
            members=members,
            n_runs=max(model.n_runs.values()),
            shape=shape,
        )
        return FoundLayers(sight, [sites[layer] for layer in order])

    def _stack(
        self, stack: str, layers: Sequence[nn.Module], watched: Mapping[nn.Module, LayerRuns]
    ) -> Stack:
        label = stack or self._main_label
        n_queries, n_keys = _extent(label, layers, watched, self.policy.name)
        queries = f"of-{label}" if stack else "prompt"  # no blanks: the page puts sides together
        looked_at = self.policy.adapter.looks_at.get(label)
        own = n_queries == n_keys if looked_at is None else list(looked_at) == [label]
        return Stack(
            stack,
            label,
            len(layers),
            max(watched[layer].n_heads for layer in layers),
            queries,
            queries if own else f"keys-of-{label}",
            all(watched[layer].causal for layer in layers) and own,
            any(watched[layer].n_runs > 1 for layer in layers),
        )


def _given(observation: Observation, robot: RobotInput) -> dict[str, np.ndarray]:
    step = LAST_STEP if robot.step is None else robot.step
    given = np.empty(1, dtype=object)
    given[0] = Asked(observation, robot.draw, step)
    return {"asked": given}


def _counted(n: int, noun: str) -> str:
    return f"{n or 'no'} {noun}{'' if n == 1 else 's'}"


def _were(n: int) -> str:
    return "was" if n == 1 else "were"


def _refuse_unknown(
    given: Mapping[str, Any], stacks: Mapping[str, Any], what: str, name: str
) -> None:
    unknown = [repr(stack) for stack in given if stack not in stacks]
    if unknown:
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: {what} names {', '.join(unknown)}, and its stacks are {', '.join(stacks)}.",
        )


def _check_names(
    stacks: Mapping[str, Any], looks_at: Mapping[str, Sequence[str]], name: str
) -> None:
    wrong = [stack for stack in stacks if not _NAME.fullmatch(str(stack))]
    if wrong or not stacks:
        what = f"no stack can be called {wrong[0]!r}" if wrong else "it names no stack"
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: {what}; name each with small letters and underscores, such as vision, "
            "language, expert.",
        )
    _refuse_unknown(looks_at, stacks, "looks_at", name)
    for looked_at in looks_at.values():
        _refuse_unknown(dict.fromkeys(looked_at), stacks, "looks_at", name)


def _members(
    stack: str,
    parts: nn.Module | Sequence[nn.Module],
    watched: Mapping[nn.Module, LayerRuns],
    sites: Mapping[nn.Module, AttentionSite],
    name: str,
) -> tuple[nn.Module, ...]:
    """Return the attention layers of a stack, in the order they first run."""
    each = [parts] if isinstance(parts, nn.Module) else list(parts)
    if not all(isinstance(part, nn.Module) for part in each):
        raise UserError(
            ErrorKind.MODEL, f"{name}: the stack {stack!r} must be a module of torch, or several."
        )
    inside = {module for part in each for module in part.modules()}
    layers = tuple(layer for layer in watched if layer in inside)
    if not layers:
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: no attention layer of the stack {stack!r} runs through transformers' "
            "attention functions, so its heads cannot be read; a policy that sets "
            "_attn_implementation as it acts may set it to eager alone.",
        )
    if any(layer not in sites for layer in layers):
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: in the stack {stack!r} the heads' outputs do not go straight into one output "
            "projection, so a head's share cannot be told apart.",
        )
    return layers


def _refuse_shared(members: Mapping[str, Sequence[nn.Module]], main: str, name: str) -> None:
    seen: dict[nn.Module, str] = {}
    for stack, layers in members.items():
        for layer in layers:
            if layer in seen:
                raise UserError(
                    ErrorKind.MODEL,
                    f"{name}: the stacks {seen[layer] or main!r} and {stack or main!r} have an "
                    "attention layer in common; give each layer to one stack.",
                )
            seen[layer] = stack


def _extent(
    stack: str, layers: Sequence[nn.Module], runs: Mapping[nn.Module, LayerRuns], name: str
) -> tuple[int, int]:
    """Return how many queries and keys a stack has; raise `UserError` if its layers differ."""
    missing = [layer for layer in layers if layer not in runs]
    found = {extent for layer in layers if layer in runs for extent in runs[layer].extents}
    if missing or len(found) != 1:
        shown = ", ".join(f"{q} x {k}" for q, k in sorted(found)[:3]) or "none"
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: layers of the stack {stack!r} join other positions from layer to layer or "
            f"from run to run ({shown} queries x keys); put layers that differ into stacks of "
            "their own.",
        )
    return next(iter(found))


@dataclass(slots=True, eq=False)
class _Upset:
    """Takes away what every layer puts out in the second row of two."""

    def on_call(self, _layer: int, call: Call) -> Tensor:
        z = call.z.clone()
        z[1] = 0
        return z


def _prove_rows(model: WrappedPolicy, asked: Asked) -> tuple[int, int]:
    """Return the shape of an action, (steps, numbers).

    Raises:
        UserError: two rows that are given the same answer differently, or what is done in one row
            is felt in another.
    """
    half = model.places.weight.dtype in (torch.float16, torch.bfloat16)
    allowed = SAME_IN_HALF if half else SAME

    def run(n_rows: int, upset: bool = False) -> Tensor:
        request = TapRequest(n_rows=n_rows, on_call=_Upset().on_call if upset else None)
        ids = torch.zeros(n_rows, 1, dtype=torch.int64)
        with torch.inference_mode(), active(request):
            return model(ids, [asked] * n_rows).logits[:, 0]

    with torch.inference_mode():
        [clean] = model.act(1, asked.draw, asked.observation, None)
    one, two, upset = run(1), run(2), run(2, upset=True)
    largest = max(float(one.abs().max()), 1e-9)
    apart = float((two - one).abs().max())
    if apart > allowed * largest:
        raise UserError(
            ErrorKind.MODEL,
            f"{model.name}: its function act answers two equal rows differently (by {apart:.2g}); "
            "it must give every row the same observation and the same noise, that of draw.",
        )
    mixed = float((upset[0] - one[0]).abs().max())
    if mixed > allowed * largest:
        raise UserError(
            ErrorKind.MODEL,
            f"{model.name}: what is done to heads in one row is felt in another (by {mixed:.2g}); "
            "each layer must be given the rows in their order, the cameras of a row side by side.",
        )
    return (1, len(clean)) if clean.ndim == 1 else (clean.shape[0], clean.shape[1])
