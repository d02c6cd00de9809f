"""What the callbacks share: the models, what was computed with them, and the long work.

There is one of these for a page server. Nothing in it belongs to one browser tab, but for a
tab's running job and the results it holds a key to.
"""

import threading
import uuid
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from ablation.action_metrics import ACTION_METRIC, chunk_metric
from ablation.interventions import INTERVENTIONS, Intervention
from ablation.metrics import METRICS
from ablation.types import Ablation, MetricInfo
from app.examples import BUILTIN_HEADS, interesting_heads, sharpest_heads, spread_heads
from app.images import Images, table_instruction, table_text
from app.jobs import Jobs
from app.overviews import Overviews, shows_overview
from app.runs import Memory, Outcome, Runs, parse_positions
from app.streams import Streams
from app.view import MAIN_STACK, InterventionForm, View
from app.waits import GivenUp, Wait, Waits, Wanted
from models.errors import ErrorKind, UserError
from models.places import Place
from models.robot import read_state
from models.tabletop import NAME as TABLETOP_NAME
from models.types import (
    CLASSIFIER,
    MAP_KINDS,
    POLICY,
    AttentionMaps,
    Head,
    RobotInput,
    TokenizedPrompt,
)
from viz.extent import Extent

if TYPE_CHECKING:
    from models.language_model import LanguageModel

MAX_FIRST_LOOK_BYTES = 256 * 2**20
"""Attention of every head is measured to choose the first ones only up to this much memory."""


ACTION = "action"
"""The metric that is how far an action changes, as a view has it."""

MAPS_AT_ONCE = 24
"""More maps are drawn on demand, fewer of long prompts: each costs the browser time for its cells
and this process memory for its weights."""
FIRST_QUESTION = "What is in this picture?"
"""What a model that reads pictures is asked first."""
FIRST_INSTRUCTION = "pick up the cup"
"""What a policy is told first that is told something."""
_MAX_CELLS_AT_ONCE = 6 * 1024**2
_MAX_BYTES_AT_ONCE = 6 * 4 * 4096**2


def drawable(chosen: Sequence[Head], pages: int, n_tokens: int) -> tuple[Head, ...]:
    """Return the chosen heads whose maps are drawn, in pages as long as may be drawn at once."""
    by_cells = _MAX_CELLS_AT_ONCE // min(n_tokens, 1024) ** 2
    by_bytes = _MAX_BYTES_AT_ONCE // (4 * n_tokens**2)
    return tuple(chosen[: pages * max(1, min(MAPS_AT_ONCE, by_cells, by_bytes))])


class Registry(Protocol):
    """What the page needs of `models.registry.Registry`."""

    def get(self, name: str, progress: Callable[[str], None] | None = None) -> "LanguageModel": ...
    def available(self) -> list[str]: ...


class Results:
    """Finished studies under keys that only the page which ran them knows."""

    def __init__(self) -> None:
        self._memory = Memory(64 * 2**20)

    def keep(self, result: Any, n_bytes: int) -> str:
        key = uuid.uuid4().hex
        self._memory.put(key, result, n_bytes)
        return key

    def put(self, key: str, result: Any, n_bytes: int) -> None:
        """Keep a result under a key that is there, or was: in the place of what it named."""
        self._memory.put(key, result, n_bytes)

    def get(self, key: str) -> Any:
        """Return the result, or None if it had to make room for others."""
        return self._memory.get(key)


@dataclass(frozen=True, slots=True)
class Services:
    """The one argument that every panel's `register` takes beside the app."""

    registry: Registry
    default_model: str = "builtin"
    runs: Runs = field(default_factory=Runs)
    jobs: Jobs = field(default_factory=Jobs)
    results: Results = field(default_factory=Results)
    waits: Waits = field(default_factory=Waits)
    images: Images = field(default_factory=Images)
    streams: Streams = field(init=False)
    overviews: Overviews = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "streams", Streams(self.runs))
        object.__setattr__(self, "overviews", Overviews(self.runs))

    def model(self, name: str, progress: Callable[[str], None] | None = None) -> "LanguageModel":
        """Return a model, loading it if need be; raise `UserError` if it cannot be loaded."""
        return self.registry.get(name, progress=progress)

    def prompt(self, view: View, model: "LanguageModel") -> TokenizedPrompt:
        """Return `prompt_of` a view, which is kept."""
        return self.runs.prompt(model, view.prompt, view.bos, **_beside(view, model, self.images))

    def outcome(self, view: View, pages: int = 1, maps: bool = True, anew: bool = False) -> Outcome:
        """Return what a view shows, with the attention of the heads that are drawn.

        Args:
            pages: see `drawable`.
            maps: False leaves the attention out.
            anew: whether somebody has just asked for the prompt: all heads are then read for the
                overview also if that was cancelled before.

        An ablation that cannot be done leaves the clean run and says why in `problem`.

        Raises:
            UserError: the clean run itself cannot be done.
        """
        model = self.model(view.model)
        prompt = self.prompt(view, model)
        ablation, problem = ablation_of(view, prompt)
        chosen: Sequence[Head] = view.heads or ()
        if model.reads_pictures:  # the tower's heads see nothing where there is no picture
            running = set(model.heads_on(prompt))
            chosen = [head for head in chosen if head in running]
        heads = drawable(chosen, pages, most_positions(prompt))
        if shows_overview(view) and not maps:
            # The pass that reads all heads predicts too: it shall come first.
            self.overviews.begin(
                model, prompt, ablation, view.stack_name, view.position, anew, view.sink
            )
        flow, refused = self._flow(view, model, prompt, heads if maps else ())
        read = () if flow else heads
        outcome = self.runs.outcome(
            model, prompt, view.position, read if maps else (), ablation, foreseen=read
        )
        return replace(
            outcome,
            maps=flow or outcome.maps,
            problem=problem or outcome.problem,
            refused=refused,
        )

    def _flow(
        self, view: View, model: "LanguageModel", prompt: TokenizedPrompt, heads: Sequence[Head]
    ) -> tuple[tuple[AttentionMaps, ...], UserError | None]:
        """Return the maps of another kind that a view asks for, or why there are none."""
        if view.values == "attention" or not heads:
            return (), None
        if view.ablate:
            what = MAP_KINDS[view.values]
            return (), UserError(
                ErrorKind.OPTION,
                f"{what[0].upper()}{what[1:]} is of the clean run; switch the ablation off to "
                "see it.",
            )
        try:
            return self.runs.flow(model, prompt, heads, view.values), None
        except UserError as problem:
            return (), problem

    def extents(self, view: View, outcome: Outcome) -> tuple[Extent, ...]:
        """Return how far the weights of each map of a view's outcome reach."""
        ablation, _ = ablation_of(view, outcome.prompt)
        model = self.model(view.model)
        return self.runs.extents(model, outcome.prompt, outcome.maps, ablation, view.sink)

    def begin(self, view: View, tab: str) -> None:
        """Begin to compute what a view will show, so that it is there when the panels ask.

        The browser is yet busy with the prompt and its tokens. What goes wrong is said when a
        panel asks. What the tab waits for of an earlier prompt is given up.
        """
        ahead = Wait(tab, wanted(view, "ahead", shows_overview(view)))

        def work() -> None:
            with suppress(UserError, GivenUp), self.waits.start(ahead):
                self.outcome(view, maps=not shows_overview(view), anew=True)

        threading.Thread(target=work, daemon=True).start()

    def settled(self, view: View, model: "LanguageModel") -> View:
        """Return the view with everything left open decided for this model.

        Raises:
            UserError: the prompt cannot be used with this model.
        """
        # First of all: a pair may get no opening token from a tokenizer that gives one otherwise.
        view = replace(view, bos=model.info.adds_bos if view.bos is None else view.bos)
        view = with_images_settled(view, model)
        prompt = self.prompt(view, model)
        if model.kind == "masked" and view.position is None:
            view = _with_mask(view, model)
            prompt = self.prompt(view, model)
        position = view.position if view.position in range(len(prompt)) else None
        existing = set(model.heads_on(prompt))
        heads = tuple(head for head in view.heads or () if head in existing)
        metrics = metrics_of(model)
        metric = view.metric if view.metric in metrics else next(iter(metrics))
        if view.heads is None or (view.heads and not heads):
            heads = first_heads(model, prompt)
        stacks = {stack.name for stack in model.stacks.stacks}
        shows = prompt.main == "" or any(
            positions.cells is not None for positions in (prompt, *prompt.sides.values())
        )
        return replace(
            view,
            model=model.name,
            picture=view.picture if shows or view.picture != "image" else "matrix",
            stack=view.stack if view.stack_name in stacks else MAIN_STACK,
            position=model.resolve_position(prompt, position),
            heads=heads,
            metric=metric,
        )


def metrics_of(model: "LanguageModel") -> dict[str, MetricInfo]:
    """Return what a sweep of a model's heads can measure: for a policy, how its action changes;
    for one that answers with numbers nothing else."""
    if model.chunk is not None:
        return {ACTION: chunk_metric(model.chunk)}
    of_tokens = {name: metric.info for name, metric in METRICS.items()}
    return of_tokens if model.actions is None else {ACTION: ACTION_METRIC, **of_tokens}


def wanted(view: View, kind: str, about: Hashable = None) -> Wanted:
    """Return what a part of the page wants of a view.

    Args:
        about: what it is about beside the prompt; see `Wanted`.
    """
    return Wanted(kind, (view.model, view.prompt, view.second, view.images, view.bos), about)


def acted_of(view: View) -> Hashable:
    """Return what tells the ablation that a view shows from another; None if it shows none."""
    return (view.heads, view.intervention, view.acted) if view.ablate else None


def ablation_of(view: View, prompt: TokenizedPrompt) -> tuple[Ablation | None, UserError | None]:
    """Return the ablation that a view asks for, if it does, or why there can be none."""
    if not view.ablate or not view.heads:
        return None, None
    try:
        return Ablation(view.heads, *intervention_of(view, prompt)), None
    except UserError as problem:
        return None, problem


def prompt_of(view: View, model: "LanguageModel", images: Images | None = None) -> TokenizedPrompt:
    """Return the prompt that a view is about; its second text and its pictures count where the
    model takes them.

    Args:
        images: the pictures that were given, where the view may name some.

    Raises:
        UserError: a text or picture cannot be used with this model.
    """
    return model.tokenize(view.prompt, view.bos, **_beside(view, model, images or Images()))


def _beside(view: View, model: "LanguageModel", images: Images) -> dict[str, Any]:
    """Return what goes with the text of a view as `LanguageModel.tokenize` takes it."""
    if model.kind == "encoder-decoder":
        return {"decoder": view.second}
    if model.takes is not None or (model.reads_pictures and view.images):
        beside = {"pictures": tuple(images.get(name) for name in view.images)}
        if model.takes is None:
            return beside
        told = view.second if model.takes.n_state else ""  # else there is no field for it
        return {**beside, "robot": RobotInput(read_state(told))}
    return {"pair": view.second} if model.pairs and view.second else {}


def most_positions(prompt: TokenizedPrompt) -> int:
    """Return how many positions a prompt has, or what stands beside it if that is longer: a source,
    what a tower sees, texts that it is compared with, further stacks' positions."""
    others = (prompt.typed, prompt.seen, prompt.compared, *prompt.sides.values())
    return max(len(prompt), *(len(other) for other in others if other is not None))


def intervention_of(
    view: View, prompt: TokenizedPrompt
) -> tuple[Intervention, tuple[Place, ...] | None]:
    """Return the intervention that a view describes and the positions it acts on.

    Raises:
        UserError: the form is unfinished, or the positions are not the prompt's.
    """
    return build_intervention(view.intervention), parse_positions(
        view.acted, most_positions(prompt)
    )


def build_intervention(form: InterventionForm) -> Intervention:
    """Make the intervention that a form describes; raise `UserError` if it does not yet."""
    entry = INTERVENTIONS.get(form.name)
    if entry is None:
        raise UserError(
            ErrorKind.INTERVENTION,
            f"There is no intervention {form.name!r}; choose one from the list.",
        )
    values = dict(form.values)
    for parameter in entry.parameters:
        # The table's own sentence is for those who write the notation.
        if parameter.required and parameter.name not in values:
            raise UserError(
                ErrorKind.INTERVENTION,
                f"{entry.label} needs its {parameter.label.lower()}; fill in that field.",
            )
    return entry.build(**values)


def form_problem(form: InterventionForm) -> UserError | None:
    """Return what is wrong with the form of an intervention, or None."""
    try:
        build_intervention(form)
    except UserError as error:
        return error
    return None


def first_heads(model: "LanguageModel", prompt: TokenizedPrompt) -> tuple[Head, ...]:
    """Return the heads that the page opens with."""
    everything = model.heads_on(prompt)
    if model.name == "builtin" and set(BUILTIN_HEADS) <= set(everything):
        return BUILTIN_HEADS
    if model.map_bytes(prompt, everything) > MAX_FIRST_LOOK_BYTES:
        return spread_heads(model.n_layers, model.n_heads)
    if len(model.stacks.stacks) == 1:
        return interesting_heads(model.attention(prompt, everything))
    run = model.run(prompt, position=-1, heads=everything, top_k=1)
    # Where there is but one key, all look at it.
    telling = (maps for maps in run.maps if len(maps.keys) > 1)
    return tuple(head for maps in telling for head in sharpest_heads(maps))


def with_images_settled(view: View, model: "LanguageModel") -> View:
    """Return a view without what shows pictures, for a model that reads text alone; for one that
    reads them, with a picture to begin with if it has none and no text of its own."""
    if not model.reads_pictures:
        picture = "matrix" if view.picture == "image" else view.picture
        view = replace(view, images=(), picture=picture)
        text = view.prompt if model.takes is None else FIRST_INSTRUCTION
        return replace(view, prompt=text) if view.prompt == View().prompt else view
    from models.tabletop.scenes import EXAMPLES as SCENES

    cameras = None if model.takes is None else model.takes.n_pictures
    if cameras is not None:  # one that sees by so many, no fewer
        is_first = not view.images and view.prompt == View().prompt
        view = replace(view, images=(*view.images, *SCENES * cameras)[:cameras])
        if not is_first:
            return view
        text = scene_text(SCENES[0], model)
        return replace(view, prompt=text, picture="image")
    if not view.images and view.prompt != View().prompt and model.kind in (CLASSIFIER, POLICY):
        return replace(view, images=(SCENES[0],))  # they do nothing without one
    if view.images or view.prompt != View().prompt:
        return view
    is_policy = model.name == TABLETOP_NAME or model.kind == POLICY
    text = scene_text(SCENES[0], model) if is_policy else FIRST_QUESTION
    view = replace(view, images=(SCENES[0],), prompt=text, picture="image")
    return view if model.actions is None else replace(view, metric=ACTION)


def scene_text(name: str, model: "LanguageModel") -> str:
    """Return what a model is told in a scene of the table: the instruction, and for policies that
    read it in words where the gripper is."""
    return table_text(name) if model.kind != POLICY else table_instruction(name)


def _with_mask(view: View, model: "LanguageModel") -> View:
    """Give a prompt its mask token at the end if it has none: there the model predicts."""
    mask = model.info.mask_token
    if mask is None or mask in view.prompt or (model.pairs and mask in view.second):
        return view
    return replace(view, prompt=f"{view.prompt} {mask}")
