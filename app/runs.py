"""What the chosen view shows, computed at most once.

A run is known by its content: model, tokens, and what was ablated. Of each run the page keeps
predictions by position and attention by head, within a budget of memory; what is missing is
asked of the model in one forward pass. So are maps of other kinds than attention, how far the
weights of a map reach, and prompts that were tokenised. The maps of a pass stay in the one array
that it wrote them to: they can be long, so they are never copied. Nothing here belongs to a
browser tab.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from cachetools import LRUCache

from ablation.interventions.notation import position_set, read_positions
from ablation.metrics import compare
from ablation.types import Ablation, Comparison
from app.waits import Standing, Turn, one_by_one, step
from models.errors import ErrorKind, UserError
from models.places import Place
from models.types import POLICY, AttentionMaps, Head, Prediction, TokenizedPrompt
from viz.extent import Extent, extent_of

if TYPE_CHECKING:
    from models.language_model import LanguageModel

Value = TypeVar("Value")

TOP_TOKENS = 20
"""How many of the likeliest tokens a kept prediction lists."""

READ_ALL_BYTES = 32 * 2**20
"""Up to this much a pass reads the maps of all heads: that takes a small part of its time, and
whichever head is chosen next is known already."""

FLOW_STEPS: Mapping[str, str] = {
    "moved": "Weighing what is moved",
    "rollout": "Rolling attention out",
}
"""What is done for maps that are no attention, by their kind."""

PROMPT_BYTES = 400
"""About what a token of a tokenised prompt takes: a number and three short texts."""


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What the page shows for one view."""

    prompt: TokenizedPrompt
    before: Prediction
    after: Prediction | None
    """None while nothing is ablated."""
    comparison: Comparison | None
    """None too for a policy that answers with numbers."""
    maps: tuple[AttentionMaps, ...]
    """One for each head asked for; of the ablated run when something is ablated."""
    problem: UserError | None = None
    """Why the ablation asked for could not be done; the rest is the clean run then."""
    refused: UserError | None = None
    """Why the maps are of attention, and not of the kind asked for."""

    @property
    def kind(self) -> str:
        """What the maps show: a key of `MAP_KINDS`."""
        return self.maps[0].kind if self.maps else "attention"


class Memory:
    """The values kept, the least recently used going first when the budget is spent."""

    def __init__(self, max_bytes: int = 512 * 2**20) -> None:
        self._values: LRUCache[Hashable, tuple[int, Any]] = LRUCache(
            max_bytes, getsizeof=lambda item: item[0]
        )
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any:
        with self._lock:
            item = self._values.get(key)
        return None if item is None else item[1]

    def put(self, key: Hashable, value: Any, n_bytes: int) -> None:
        """Keep a value; one larger than the whole budget is not kept."""
        with self._lock:
            if n_bytes <= self._values.maxsize:
                self._values[key] = (n_bytes, value)


class Runs:
    """Asks models what is not known yet."""

    def __init__(self, memory: Memory | None = None, read_all_bytes: int = READ_ALL_BYTES) -> None:
        self._memory = memory or Memory()
        self._read_all_bytes = read_all_bytes
        self._turns: dict[str, Turn] = {}
        self._turns_lock = threading.Lock()

    def prompt(
        self, model: "LanguageModel", text: str, bos: bool | None, **beside: Any
    ) -> TokenizedPrompt:
        """Return `model.tokenize` of a text: a long one takes a while, and is asked for often.

        Args:
            beside: what goes with it, as `decoder`, `pair` or `pictures`.

        Raises:
            UserError: see `LanguageModel.tokenize`.
        """
        key = ("prompt", model.name, text, bos, *sorted(beside.items()))
        prompt: TokenizedPrompt | None = self._memory.get(key)
        if prompt is None:
            prompt = model.tokenize(text, bos, **beside)
            n_tokens = len(prompt) + (0 if prompt.source is None else len(prompt.source))
            n_bytes = len(text) + PROMPT_BYTES * n_tokens
            n_bytes += sum(array.nbytes for array in (prompt.given or {}).values())
            n_bytes += sum(picture.pixels.nbytes for picture in prompt.pictures)
            self._memory.put(key, prompt, n_bytes)
        return prompt

    def outcome(
        self,
        model: "LanguageModel",
        prompt: TokenizedPrompt,
        position: int | None,
        heads: Sequence[Head],
        ablation: Ablation | None,
        foreseen: Sequence[Head] = (),
    ) -> Outcome:
        """Return what a view shows: the clean run, and the ablated one if there is an ablation.

        Args:
            heads: those whose attention is shown.
            foreseen: those that will be asked for next: if there must be a pass for what is shown
                of the run that they are of, it reads them too.
            ablation: None, or one without heads, for the clean run alone.

        Raises:
            UserError: the position or a head does not exist.
        """
        read = model.resolve_position(prompt, position)
        asked = model.check_heads(heads)
        if ablation is None or not ablation.heads:
            before, maps = self._measure(model, prompt, read, asked, None, foreseen)
            return Outcome(prompt, before, None, None, maps)
        before, _ = self._measure(model, prompt, read, (), None)
        try:
            after, maps = self._measure(model, prompt, read, asked, ablation, foreseen)
        except UserError as problem:
            _, maps = self._measure(model, prompt, read, asked, None)
            return Outcome(prompt, before, None, None, maps, problem)
        # Numbers of an action are no distribution that could be told apart from another.
        comparison = None if model.kind == POLICY else compare(before, after)
        return Outcome(prompt, before, after, comparison, maps)

    def flow(
        self, model: "LanguageModel", prompt: TokenizedPrompt, heads: Sequence[Head], kind: str
    ) -> tuple[AttentionMaps, ...]:
        """Return maps of the clean run that are no attention; see `models.attention_flow`.

        Args:
            kind: "moved" for a map of each head, "rollout" for one of each layer of theirs.

        Raises:
            UserError: a head does not exist, or the model does not show what is needed.
        """
        from models.attention_flow import attention_rollout, moved_attention

        run = (run_of(model, prompt, None), kind)
        asked, everything = model.check_heads(heads), model.heads_on(prompt)
        if kind == "rollout":  # in which the first head stands for its layer
            asked, everything = _layers(asked), _layers(everything)
        with self._turn_of(model).taken():
            known = {head: self._known_map(run, head) for head in asked}
            if None in known.values():
                missing = self._to_read(model, everything, prompt, run, asked)
                with step(FLOW_STEPS[kind], len(model.sites)):
                    if kind == "rollout":
                        maps = attention_rollout(model, prompt, [head.layer for head in missing])
                    else:
                        maps = moved_attention(model, prompt, missing)
                self._keep_maps(run, maps)
                read = {one.heads[0]: one for one in _one_by_one(maps)}
                known = {head: known[head] or read[head] for head in asked}
        return tuple(one for head in asked if (one := known[head]) is not None)

    def extents(
        self,
        model: "LanguageModel",
        prompt: TokenizedPrompt,
        maps: Sequence[AttentionMaps],
        ablation: Ablation | None,
        sink: str,
    ) -> tuple[Extent, ...]:
        """Return how far the weights of each map of `outcome` or `flow` reach.

        Args:
            sink: what is done about the first token: a key of `viz.sink.SINKS`.
        """
        if not maps:
            return ()
        run = run_of(model, prompt, ablation if maps[0].ablated else None)
        key = ("extents", run, maps[0].kind, tuple(one.heads for one in maps), sink)
        extents: tuple[Extent, ...] | None = self._memory.get(key)
        if extents is None:
            each = one_by_one("Looking through the maps", maps)
            extents = tuple(extent_of(one, 0, sink) for one in each)
            self._memory.put(key, extents, 100 * len(extents))
        return extents

    @contextmanager
    def awaited(
        self, model: "LanguageModel", standing: Callable[[], Standing | None] | None = None
    ) -> Iterator[None]:
        """Let what is not known of a model wait while the body runs: it may find that (`keep`).

        Args:
            standing: see `Turn.taken`.
        """
        with self._turn_of(model).taken(standing):
            yield

    def keep(
        self,
        model: "LanguageModel",
        prompt: TokenizedPrompt,
        ablation: Ablation | None,
        prediction: Prediction,
    ) -> None:
        """Keep a prediction, of `TOP_TOKENS` tokens, that another pass of the run has given."""
        self._keep_prediction(run_of(model, prompt, ablation), prediction)

    def _measure(
        self,
        model: "LanguageModel",
        prompt: TokenizedPrompt,
        position: int,
        heads: Sequence[Head],
        ablation: Ablation | None,
        foreseen: Sequence[Head] = (),
    ) -> tuple[Prediction, tuple[AttentionMaps, ...]]:
        run = run_of(model, prompt, ablation)
        known = self._known(run, position, heads)  # what is known waits for no pass
        if known is not None:
            return known
        # Two panels ask for the same run at the same moment: the second finds it done.
        with self._turn_of(model).taken():
            known = self._known(run, position, heads)
            if known is not None:
                return known
            maps = {head: self._known_map(run, head) for head in heads}
            read = self._to_read(model, model.heads_on(prompt), prompt, run, (*heads, *foreseen))
            message = "Running the prompt" + (" with the heads ablated" if ablation else "")
            with step(message, len(model.sites)):
                answer = model.run(
                    prompt, position=position, heads=read, ablation=ablation, top_k=TOP_TOKENS
                )
            self._keep_prediction(run, answer.prediction)
            for of_stack in answer.maps:
                self._keep_maps(run, of_stack)
        found = {each.heads[0]: each for several in answer.maps for each in _one_by_one(several)}
        return answer.prediction, tuple(maps[head] or found[head] for head in heads)

    def _known(
        self, run: Hashable, position: int, heads: Sequence[Head]
    ) -> tuple[Prediction, tuple[AttentionMaps, ...]] | None:
        """Return what is asked of a run if all of it is known."""
        prediction: Prediction | None = self._memory.get((run, position))
        maps = [known for head in heads if (known := self._known_map(run, head)) is not None]
        return None if prediction is None or len(maps) < len(heads) else (prediction, tuple(maps))

    def _keep_prediction(self, run: Hashable, prediction: Prediction) -> None:
        self._memory.put((run, prediction.position), prediction, prediction.log_probs.nbytes)

    def _to_read(
        self,
        model: "LanguageModel",
        everything: Sequence[Head],
        prompt: TokenizedPrompt,
        run: Hashable,
        wanted: Sequence[Head],
    ) -> tuple[Head, ...]:
        """Return the heads that a pass reads: of those wanted, or of all, the unknown ones."""
        if model.map_bytes(prompt, everything) <= self._read_all_bytes:
            wanted = everything
        return tuple(h for h in dict.fromkeys(wanted) if self._known_map(run, h) is None)

    def _keep_maps(self, run: Hashable, maps: AttentionMaps) -> None:
        """Keep the maps of one pass, which come and go together as they share their memory."""
        if maps.heads:
            self._memory.put((run, maps.heads), maps, maps.values.nbytes)
        for head in maps.heads:
            self._memory.put((run, head), maps.heads, 1)

    def _known_map(self, run: Hashable, head: Head) -> AttentionMaps | None:
        together = self._memory.get((run, head))
        maps: AttentionMaps | None = together and self._memory.get((run, together))
        return None if maps is None else _one_of(maps, maps.heads.index(head))

    def _turn_of(self, model: "LanguageModel") -> Turn:
        with self._turns_lock:
            return self._turns.setdefault(model.name, Turn())


def _one_by_one(maps: AttentionMaps) -> list[AttentionMaps]:
    """Return the map of each head by itself, as views of the same memory."""
    return [_one_of(maps, index) for index in range(len(maps.heads))]


def _one_of(maps: AttentionMaps, index: int) -> AttentionMaps:
    return replace(maps, heads=maps.heads[index : index + 1], values=maps.values[index : index + 1])


def _layers(heads: Sequence[Head]) -> tuple[Head, ...]:
    """Return the first head of each layer that has any of these."""
    return tuple(dict.fromkeys(Head(head.layer, 0, head.stack) for head in heads))


def map_key(maps: AttentionMaps) -> str:
    """Return what the page calls the map of one head: "5.3", or "5" where it is of a layer."""
    head = maps.heads[0]
    return str(head.layer) if maps.kind == "rollout" else head.short


def run_of(model: "LanguageModel", prompt: TokenizedPrompt, ablation: Ablation | None) -> Hashable:
    """Return what tells one run from another."""
    return (model.name, prompt.content, content(ablation))


def content(ablation: Ablation | None) -> Hashable:
    """Return what tells one ablation from another."""
    if ablation is None:
        return None
    return (ablation.heads, ablation.intervention.spec, ablation.positions)


def parse_positions(text: str, n_tokens: int) -> tuple[Place, ...] | None:
    """Read positions as people type them: "3, 5-7", "image"; nothing, or "all", means all of them.

    Raises:
        UserError: a part that cannot be read, or a number that the prompt does not have.
    """
    if text.strip().lower() in ("", "all"):
        return None
    try:
        places = read_positions(text)
    except UserError as error:
        raise UserError(ErrorKind.POSITION, str(error)) from error
    if places is None:
        return None
    for place in places:
        if isinstance(place, int) and not 0 <= place < n_tokens:
            raise UserError(
                ErrorKind.POSITION,
                f"{place} is outside the prompt, whose positions are 0 to {n_tokens - 1}.",
            )
    return position_set(places, "positions")
