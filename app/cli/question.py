"""From options to what is asked: a loaded model, prompts, positions, an ablation."""

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.cli.terminal import Terminal
from models.errors import ErrorKind, UserError
from models.places import Place
from models.robot import read_state
from models.types import Head, RobotInput, TokenizedPrompt

if TYPE_CHECKING:
    from ablation.interventions import Intervention
    from ablation.types import Ablation
    from models.language_model import LanguageModel
    from models.picture import Picture

TARGET_ID = "id:"
"""In front of a number, makes a target of a token id."""

Target = int | str
"""A token, by its id or its text."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What every command is about."""

    model: "LanguageModel"
    prompts: tuple[TokenizedPrompt, ...]
    """At least one."""
    read_at: int | None
    """Where predictions are read, as asked: negative numbers count from the end of each prompt;
    None leaves it to the model."""
    intervention: "Intervention"
    acted_on: tuple[Place, ...] | None
    """The positions that the intervention acts on, as asked; None for all."""

    @property
    def prompt(self) -> TokenizedPrompt:
        """The first prompt: most commands have no other."""
        return self.prompts[0]

    @property
    def position(self) -> int:
        """Where the first prompt's prediction is read, from 0."""
        return self._position(self.prompt)

    @property
    def positions(self) -> tuple[Place, ...] | None:
        """Those of the first prompt that the intervention acts on, from 0; None for all."""
        if len(self.model.stacks.stacks) > 1:  # which positions they are depends on the heads
            return self.acted_on
        return self.model.check_positions(self.prompt, self.acted_on)

    def heads(self, text: str) -> tuple[Head, ...]:
        """Read heads as a person writes them; raise `UserError` if there are none."""
        return read_heads(self.model, text)

    def ablation(self, heads: str | None) -> "Ablation | None":
        """Return the ablation of the given heads; None if none are given."""
        from ablation import Ablation

        if heads is None:
            return None
        return Ablation(self.heads(heads), self.intervention, self.positions)

    def to_json(self, intervention: str | None) -> dict[str, Any]:
        """Return the keys that all results share; they are about the first prompt.

        Where there are several prompts, `prompts` has each.
        """
        shared = {
            "model": self.model.name,
            **self._prompt_json(self.prompt),
            "intervention": intervention,
            "positions": None if self.positions is None else list(self.positions),
        }
        if len(self.prompts) == 1:
            return shared
        return {**shared, "prompts": [self._prompt_json(prompt) for prompt in self.prompts]}

    def targets_json(self, targets: Target | list[Target] | None) -> dict[str, Any]:
        """Return the target of each prompt, where there are several."""
        if targets is None or len(self.prompts) == 1:
            return {}
        each = targets if isinstance(targets, list) else [targets] * len(self.prompts)
        tokens = [self.model.describe_token(self.model.resolve_token(target)) for target in each]
        return {"targets": [{"id": token.id, "text": token.text} for token in tokens]}

    def describe(self) -> str:
        """Say in a line what was asked of which model."""
        if len(self.prompts) > 1:
            return f"{self.model.name}: the mean over {len(self.prompts)} prompts"
        label = self.prompt.unique_labels[self.position]
        return f"{self.model.name}: the prediction at {label} (position {self.position})"

    def _position(self, prompt: TokenizedPrompt) -> int:
        return self.model.resolve_position(prompt, self.read_at)

    def _prompt_json(self, prompt: TokenizedPrompt) -> dict[str, Any]:
        return {**prompt.to_json(), "position": self._position(prompt)}


def pose(options: Namespace, terminal: Terminal) -> Question:
    """Load the model and read the options that all commands share.

    Raises:
        UserError: an option that cannot be used.
    """
    with terminal.sentences() as say:
        # Importing takes seconds too, so it is done where a person sees that something goes on.
        from ablation import parse_intervention
        from ablation.heads import check_notation
        from ablation.interventions.notation import read_positions, resolve_positions

        # Before the model, as these need none and loading takes a while.
        for option in ("heads", "ablate"):
            check_notation(getattr(options, option, None) or "")
        intervention = parse_intervention(options.intervention)
        acted_on = None if options.positions is None else read_positions(options.positions)
        model = open_model(options, options.model, say)
    texts = [options.prompt] if isinstance(options.prompt, str) else options.prompt
    given = given_beside(options)
    prompts = tuple(model.tokenize(text, options.bos, **given) for text in texts)
    for prompt in prompts:
        model.resolve_position(prompt, options.position)
        if len(model.stacks.stacks) == 1:
            resolve_positions(acted_on, prompt)
    return Question(model, prompts, options.position, intervention, acted_on)


def given_beside(options: Namespace) -> dict[str, Any]:
    """Return what goes with the text of a prompt, as `LanguageModel.tokenize` takes it.

    Raises:
        UserError: a picture that cannot be read.
    """
    given: dict[str, Any] = {"decoder": options.decoder, "pair": options.pair}
    if options.image:
        given["pictures"] = [picture_named(name) for name in options.image]
    if options.state is not None or options.noise or options.step is not None:
        given["robot"] = RobotInput(read_state(options.state or ""), options.noise, options.step)
    return given


def picture_named(name: str) -> "Picture":
    """Return a picture by its path, or a scene of the simulated table by its name.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    from app.images import TABLE, table_picture
    from models.picture import read_picture

    return table_picture(name) if name.startswith(TABLE) else read_picture(name)


def open_model(options: Namespace, name: str, say: Callable[[str], None]) -> "LanguageModel":
    """Load a model as the options ask; raise `UserError` if it cannot be done.

    Args:
        name: of the model: that of the options, or another one that is treated alike.
        say: called with sentences while it is loaded.
    """
    from models.registry import load_model

    return load_model(
        name,
        run_python=True,
        device=options.device,
        dtype=options.dtype,
        pass_memory_gb=options.memory_gb,
        device_map=options.device_map,
        progress=say,
    )


def read_heads(model: "LanguageModel", text: str) -> tuple[Head, ...]:
    """Read heads of a model as a person writes them; raise `UserError` if there are none."""
    from ablation import parse_heads
    from ablation.heads import HEAD_NOTATION

    stacks = model.stacks.stacks
    # The only stack of a policy may be called by its name too: a person gave it.
    named = len(stacks) > 1 or model.takes is not None
    heads = parse_heads(text, model.n_layers, model.n_heads, stacks if named else ())
    if not heads:
        raise UserError(ErrorKind.HEADS, f"No heads are named; write {HEAD_NOTATION}.")
    return model.check_heads(heads)


def read_target(text: str | None) -> Target | None:
    """Return the token that `--target` names: its text, or its id written `id:1234`."""
    if text is not None and text.startswith(TARGET_ID) and text[len(TARGET_ID) :].isdecimal():
        return int(text[len(TARGET_ID) :])
    return text


def read_targets(texts: Sequence[str] | None) -> Target | list[Target] | None:
    """Return what `--target` names, given once for all prompts, or once for each."""
    targets = [target for target in map(read_target, texts or ()) if target is not None]
    if len(targets) > 1:
        return targets
    return targets[0] if targets else None
