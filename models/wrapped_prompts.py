"""Pictures, instruction and state to the prompt of a policy that a person wrapped, and its stacks.

How many positions a stack has on a prompt is measured, by running the policy once on it: what the
person says of them must be as many, and without a word from them they are numbered.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from cachetools import LRUCache
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import PreTrainedTokenizerFast

from models import tokens
from models.attention_hooks import AttentionSite
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
from models.wrapped_stacks import (
    attention_layers,
    check_names,
    extent_of,
    prove_rows,
    refuse_shared,
    refuse_unknown,
)

LAST_STEP = 10**9
"""More runs than any layer has in one action: the last one is read."""
PROBE_TEXT = "pick up the cup"


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
        if self.table is None:
            return replace(prompt, given=_given(observation, robot))
        runs = self._measured(prompt, observation)
        prompt = self._with_positions(prompt, observation, runs)
        n_runs = {layer: found.n_runs for layer, found in runs.items()}
        return replace(prompt, given=_given(observation, robot, n_runs))

    def with_draw(self, prompt: TokenizedPrompt, draw: int) -> TokenizedPrompt:
        """Return a prompt with another noise."""
        robot = replace(prompt.robot or RobotInput(), draw=draw)
        [asked] = (prompt.given or {})["asked"]
        return replace(prompt, given=_given(asked.observation, robot, asked.n_runs), robot=robot)

    def probe(self, _text: str, max_positions: int) -> TokenizedPrompt:
        """Return the prompt that a model proves itself on."""
        pictures = [probe_picture()] * self.policy.adapter.cameras
        return self.prompt(PROBE_TEXT, pictures, max_positions)

    def _state(self, robot: RobotInput) -> tuple[float, ...]:
        n, told = self.policy.adapter.state, robot.state
        if told and (len(told) != n or not np.isfinite(told).all()):
            raise UserError(
                ErrorKind.STATE,
                f"{self.policy.name} is told a state of {_counted(n, 'finite number')}, and "
                f"{len(told)} {_were(len(told))} given; give all, or none for zeros.",
            )
        return told or (0.0,) * n

    def _with_positions(
        self,
        prompt: TokenizedPrompt,
        observation: Observation,
        runs: Mapping[nn.Module, LayerRuns],
    ) -> TokenizedPrompt:
        """Return a prompt with the positions of all stacks on it.

        Args:
            runs: how the attention layers run on it.
        """
        assert self.table is not None
        adapter, name = self.policy.adapter, self.policy.name
        extents = {
            stack: extent_of(stack or self._main_label, members, runs, name)
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
        with self.policy.turn:
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
            described = dict(adapter.positions(observation.copied()))
        except Exception as error:  # a person's function may raise anything
            raise UserError(
                ErrorKind.MODEL, f"{name}: its function positions fails ({said(error)})."
            ) from error
        refuse_unknown(described, adapter.stacks, "positions", name)
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
        check_names(adapter.stacks, adapter.looks_at, name)
        [asked] = (prompt.given or {})["asked"]
        watched = model.measured(asked.observation)
        calls = dispatching_calls(model, forward)
        sites: dict[nn.Module, AttentionSite] = {}
        for site in calls:
            if site is not None:
                sites.setdefault(site.module, site)
        members = {
            self._key(stack): attention_layers(stack, parts, watched, sites, name)
            for stack, parts in adapter.stacks.items()
        }
        refuse_shared(members, self._main_label, name)
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
        shape = prove_rows(model, asked)
        sight = replace(
            self,
            table=StackTable(tuple(stacks), places, n_heads),
            members=members,
            n_runs=max(model.n_runs.values()),
            shape=shape,
        )
        sight._with_positions(prompt, asked.observation, watched)  # what is said is held against it
        return FoundLayers(sight, [sites[layer] for layer in order])

    def _stack(
        self, stack: str, layers: Sequence[nn.Module], watched: Mapping[nn.Module, LayerRuns]
    ) -> Stack:
        label = stack or self._main_label
        n_queries, n_keys = extent_of(label, layers, watched, self.policy.name)
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


def _given(
    observation: Observation, robot: RobotInput, n_runs: Mapping[nn.Module, int] | None = None
) -> dict[str, np.ndarray]:
    step = LAST_STEP if robot.step is None else robot.step
    given = np.empty(1, dtype=object)
    given[0] = Asked(observation, robot.draw, step, n_runs or {})
    return {"asked": given}


def _counted(n: int, noun: str) -> str:
    return f"{n or 'no'} {noun}{'' if n == 1 else 's'}"


def _were(n: int) -> str:
    return "was" if n == 1 else "were"
