"""Many sets of ablated heads on one prompt: evaluated exactly, or estimated from a gradient.

What sweep and search stand on. Models whose blocks can be run one by one evaluate the sets as
branches of one shared run (`models.branching`); for the others a set is a row from the bottom up.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from models.attention_tap import TapRequest
from models.blocks import Window
from models.branching import BaseRun, BranchEngine, Editing
from models.budget import MemoryBudget
from models.edits import Intervention, JointPlan, Plan, acted_on_mask, rows_by_layer
from models.errors import ErrorKind, UserError
from models.forward_pass import ForwardPass, beside, log_softmax64
from models.gated_run import GatedRun
from models.head_gradients import Gates
from models.memory_reuse import LARGEST_KEPT
from models.places import Place
from models.stacks import StackTable
from models.types import ENCODER, MAIN, FloatArray, Head, TokenizedPrompt

if TYPE_CHECKING:
    from models.language_model import LanguageModel

Pass = tuple[list[int], Tensor]
"""(indices of the sets of one pass, float64 [n_sets_in_pass, n_vocab]): log-probabilities, of a
`POLICY` the numbers of its action, on the model's device (on the CPU where that has no float64)."""


@dataclass(frozen=True, slots=True, eq=False)
class PosedPrompt:
    """A prompt and an intervention, made ready to be asked about sets of heads."""

    prompt: TokenizedPrompt
    stacks: StackTable
    editings: Mapping[str, Editing]
    """Stack -> what is done to its heads: positions differ between stacks."""
    read: int
    """The position whose prediction is asked for."""
    device: torch.device

    @property
    def editing(self) -> Editing:
        """What is done where all heads are of one stack."""
        [editing] = self.editings.values()
        return editing

    @property
    def main_editing(self) -> Editing:
        """What is done to heads of the main stack."""
        return self.editings.get(MAIN) or self.editing

    def plan(self, head_sets: Sequence[Sequence[Head]]) -> Plan:
        """Plan a batch whose row r has the heads of `head_sets[r]` edited."""
        parts = []
        for name in dict.fromkeys(head.stack for heads in head_sets for head in heads):
            own = [[head for head in heads if head.stack == name] for heads in head_sets]
            rows = rows_by_layer([self.stacks.running(heads) for heads in own], self.device)
            parts.append(self.editings[name].plan(rows))
        return parts[0] if len(parts) == 1 else JointPlan(tuple(parts))

    def editings_by_layer(self) -> dict[int, Editing]:
        """Return layer, counted in the order they run, -> what is done to its heads."""
        return {
            layer: self.editings[name]
            for layer, (name, _) in enumerate(self.stacks.places)
            if name in self.editings
        }


PASS_LOGITS = 2**24
"""How many logits a pass gives at most where those of all positions are kept: 64 MB in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class WholePass:
    """What one set of ablated heads makes of every token of a prompt."""

    index: int
    """Which set it is."""
    token_log_probs: Tensor
    """float64 [n_positions - 1]: of each token of the prompt, the first aside, given those before
    it. What an intervention takes from later positions it knows (`mixes_positions`)."""
    log_probs: Tensor
    """float64 [n_vocab], at the position read."""


class HeadSets:
    """Evaluates sets of heads on one model."""

    def __init__(
        self,
        model: "LanguageModel",
        forward: ForwardPass,
        find_engine: Callable[[], BranchEngine | None],
        budget: MemoryBudget,
        decodes_alone: bool,
    ) -> None:
        """Wrap what evaluates sets.

        Args:
            find_engine: tries out whether sets can branch off a shared run, and returns what
                does it; None if they cannot.
            decodes_alone: whether the decoder can be run on what the encoder has made of a source.
        """
        self._find_engine = find_engine
        self._found: tuple[BranchEngine | None] | None = None
        self._decodes_alone = decodes_alone
        self.budget = budget
        self._model = model
        self._forward = forward

    @property
    def engine(self) -> BranchEngine | None:
        """What evaluates sets as branches of a shared run, or None; found when first needed."""
        with self._model.lock:
            if self._found is None:
                self._found = (self._find_engine(),)
            return self._found[0]

    def pose(
        self,
        prompt: TokenizedPrompt,
        intervention: Intervention,
        heads: Sequence[Head] | None = None,
        position: int | None = None,
        positions: Sequence[Place] | None = None,
    ) -> PosedPrompt:
        """Make an intervention ready for a prompt, once for all that is asked.

        Args:
            heads: those that may be asked about; None for all.
            position: where the prediction is read; None: the model's own choice.
            positions: the positions acted on, among the queries of each head's stack; None for
                all.

        Raises:
            UserError: a part does not exist, or does not fit.
        """
        model = self._model
        asked = model.heads_on(prompt) if heads is None else model.check_heads(heads)
        read = model.resolve_position(prompt, position)
        editings = {}
        for name, members in (model.stacks.by_stack(asked) or {MAIN: ()}).items():
            queries = model.stacks.axes(prompt, name).queries
            acted_on = model.check_positions(queries, positions, prompt)
            editor = intervention.prepare(model, prompt, members, acted_on)
            mask = acted_on_mask(acted_on, len(queries), model.device)
            editings[name] = Editing(editor, mask, read)
        return PosedPrompt(prompt, model.stacks, editings, read, model.device)

    def evaluate(self, posed: PosedPrompt, head_sets: Sequence[Sequence[Head]]) -> Iterator[Pass]:
        """Evaluate sets of ablated heads, as many in a forward pass as memory allows.

        Args:
            head_sets: set i has the heads of `head_sets[i]` ablated; an empty one is the clean
                run. Sets that have heads in common share the work on these.

        Yields:
            Every set once, in an order that suits the work.

        Raises:
            UserError: a head that does not exist, memory ran out, or numbers not finite.
        """
        if not head_sets:
            return
        self._model.check_heads(sorted({head for heads in head_sets for head in heads}))
        if self.engine is None:
            yield from self._rows(posed, head_sets)
            return
        sees = [any(head.stack for head in heads) for heads in head_sets]
        if any(sees):  # the tower runs outside the blocks that rows can branch off from
            yield from self._split(posed, head_sets, sees)
            return
        sets = [frozenset(heads) for heads in head_sets]
        ids = posed.prompt.ids
        with self._forward.computing(1, len(ids)):
            base = self.engine.base_run(ids, sets, posed.main_editing, beside=beside(posed.prompt))
        yield from self._branches(base, sets)

    def evaluate_beside_clean(
        self, posed: PosedPrompt, head_sets: Sequence[Sequence[Head]]
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Evaluate sets of ablated heads as rows, a clean row being one of every pass: in half
        precision batches of other sizes round otherwise, by more than a small head moves.

        Yields:
            (indices of the sets, float64 [n_sets_in_pass, n_vocab], float64 [n_vocab]: the clean
            row), the sets in their order.

        Raises:
            UserError: as `evaluate`.
        """
        self._model.check_heads(sorted({head for heads in head_sets for head in heads}))
        for members in _parts(range(len(head_sets)), max(1, self._rows_at_once(posed) - 1)):
            sets = [(), *(head_sets[i] for i in members)]
            request = TapRequest(plan=posed.plan(sets))
            rows = self._row_logprobs(posed, len(sets), request, None)
            yield members, rows[1:], rows[0]

    def _rows_at_once(self, posed: PosedPrompt) -> int:
        """Return how many rows from the bottom up a pass has room for."""
        prompt = posed.prompt
        known = (prompt.source, prompt.seen, prompt.acting, prompt.compared)
        beside_it = (*known, *prompt.sides.values())
        n = len(prompt) + sum(len(other) for other in beside_it if other is not None)
        return self.budget.rows(Window(0, n), n, writes_scores=True)

    def _split(
        self, posed: PosedPrompt, head_sets: Sequence[Sequence[Head]], sees: Sequence[bool]
    ) -> Iterator[Pass]:
        """Evaluate sets with heads of another tower as rows, the others as branches."""
        parts = [[i for i, one in enumerate(sees) if one is kind] for kind in (True, False)]
        for members, evaluate in zip(parts, (self._rows, self.evaluate), strict=True):
            for indices, log_probs in evaluate(posed, [head_sets[i] for i in members]):
                yield [members[i] for i in indices], log_probs

    def evaluate_everywhere(
        self, posed: PosedPrompt, head_sets: Sequence[Sequence[Head]]
    ) -> Iterator[WholePass]:
        """Evaluate sets of ablated heads at all positions, each set from the bottom up.

        Args:
            head_sets: as of `evaluate`.

        Yields:
            Every set once, in their order.

        Raises:
            UserError: as `evaluate`; or the model does not predict the next token of a prompt.
        """
        prompt = posed.prompt
        if self._model.kind == "masked":
            raise UserError(
                ErrorKind.MODEL,
                f"{self._model.name} predicts at mask tokens, not the token after each; choose a "
                "model that does.",
            )
        self._model.check_heads(sorted({head for heads in head_sets for head in heads}))
        n = len(prompt)
        fitting = self.budget.rows(Window(0, n), n, writes_scores=True)
        rows = max(1, min(fitting, PASS_LOGITS // (n * self._model.n_vocab)))
        for members in _parts(range(len(head_sets)), rows):
            request = TapRequest(plan=posed.plan([head_sets[i] for i in members]))
            ids = [prompt.ids] * len(members)
            logits = self._forward.logits(ids, request, beside=beside(prompt))
            self._forward.refuse_not_finite(logits)
            with self._forward.computing(len(members), n):
                found = [_whole(i, row, posed) for i, row in zip(members, logits, strict=True)]
            yield from found

    def evaluate_by_position(
        self,
        prompt: TokenizedPrompt,
        head_sets: Sequence[Sequence[Head]],
        intervention: Intervention,
        position: int | None = None,
        where: Sequence[int] | None = None,
    ) -> Iterator[tuple[int, Pass]]:
        """Evaluate sets of heads with the intervention at one position at a time.

        Args:
            where: the positions acted on, one after another, from the one read backwards; None
                for every one.

        Yields:
            (position acted on, pass): each set once for each position.

        Raises:
            UserError: as `pose` and `evaluate`.
        """
        read = self._model.resolve_position(prompt, position)
        heads = self._model.check_heads(sorted({head for heads in head_sets for head in heads}))
        queries = self._model.axes_of(prompt, heads).queries
        chosen = list(self._model.check_positions(queries, where) or range(len(queries)))
        # From the position read backwards: what is nearest is cheapest, and tells most.
        chosen.sort(key=lambda at: (at > read, -at))
        everywhere = self.pose(prompt, intervention, heads, read)
        of_tower = any(head.stack for head in heads)
        if of_tower or not self._same_base_everywhere(everywhere.editing):
            for at in chosen:
                posed = self.pose(prompt, intervention, heads, read, [at])
                yield from ((at, found) for found in self.evaluate(posed, head_sets))
            return
        assert self.engine is not None
        # The empty set keeps the shared run clean: what acts at one position is no part of it.
        sets = [*map(frozenset, head_sets), frozenset[Head]()]
        with self._forward.computing(1, len(prompt)):
            clean = self.engine.base_run(
                prompt.ids, sets, everywhere.editing, keep_keys=True, beside=beside(prompt)
            )
        for at in chosen:
            yield from ((at, found) for found in self._branches(clean.acting_at(at), sets[:-1]))

    def estimate(
        self, posed: PosedPrompt, heads: Sequence[Head], score: Callable[[Tensor], Tensor]
    ) -> FloatArray:
        """Estimate what ablating each further head would change, from one backward pass.

        Args:
            heads: those that are ablated already.
            score: float64 log-probabilities [n_vocab] -> a scalar.

        Returns:
            float32 [n_layers, n_heads], with the layers of all stacks in the order they run: the
            estimated change of the score, to first order (`models.head_gradients`); 0 for heads
            ablated already, NaN where there is no head, or none that was posed.

        Raises:
            UserError: as `evaluate`; or a knockout on a model whose pattern only hooks can edit.
        """
        model, editors = self._model, [e.editor for e in posed.editings.values()]
        if not model.dispatches and any(editor.blocked is not None for editor in editors):
            raise UserError(
                ErrorKind.OPTION,
                f"A search with a knockout cannot be screened on {model.name}, whose attention is "
                "only reached by hooks; use the exact strategy.",
            )
        gates = Gates(posed.editings_by_layer())
        request = TapRequest(
            plan=posed.plan([model.check_heads(heads)]),
            on_call=gates.apply,
            watched=1 + max(gates.editings, default=-1),
            left_alone=gates.left_alone,
        )
        mixed = any(editor.mixes_positions for editor in editors)
        causal = model.kind == "causal" and model.stacks.named(MAIN).causal
        looks_back = causal and not mixed and not posed.prompt.pictures
        ids = posed.prompt.ids[: posed.read + 1] if looks_back else posed.prompt.ids
        given = beside(posed.prompt)
        logits = self._forward.logits([ids], request, posed.read, gradients=True, beside=given)
        logits = logits[0, 0]
        self._forward.refuse_not_finite(logits)
        with self._forward.computing(1, len(ids), gradients=True):
            by_layer = gates.estimated_changes(score(log_softmax64(logits)))
        n_heads = max(model.stacks.n_heads)
        changes = np.full((len(model.sites), n_heads), np.nan, dtype=np.float32)
        for layer, change in by_layer.items():
            changes[layer, : len(change)] = change.cpu().numpy()
        return changes

    def gated(self, posed: Sequence[PosedPrompt]) -> GatedRun:
        """Return what runs several prompts with gates on their heads.

        Raises:
            UserError: the model is an encoder-decoder, or an intervention is a knockout.
        """
        self._model.check_one_stack("A gate on every head")
        shape = (self._model.n_layers, self._model.n_heads)
        return GatedRun(self._forward, posed, shape)

    def _same_base_everywhere(self, editing: Editing) -> bool:
        """Whether one shared run serves an intervention at any single position."""
        editor = editing.editor
        return (
            self.engine is not None
            and self._model.stacks.named(MAIN).causal
            and not editor.mixes_positions
            and editor.blocked is None
        )

    def _rows(self, posed: PosedPrompt, head_sets: Sequence[Sequence[Head]]) -> Iterator[Pass]:
        """Evaluate each set as a row from the bottom up: where no head of the encoder is in it,
        from the bottom of the decoder."""
        prompt, stacks = posed.prompt, self._model.stacks
        rows = self._rows_at_once(posed)
        whole, decoder = list(range(len(head_sets))), list[int]()
        if self._decodes_alone:
            touched = [any(head.stack == ENCODER for head in heads) for heads in head_sets]
            whole = [i for i, touches in enumerate(touched) if touches]
            decoder = [i for i, touches in enumerate(touched) if not touches]
        for members in _parts(whole, rows):
            plan = posed.plan([head_sets[i] for i in members])
            yield members, self._row_logprobs(posed, len(members), TapRequest(plan=plan), None)
        encoded = self._forward.encode(prompt.typed.ids) if decoder else None
        for members in _parts(decoder, rows):
            plan = posed.plan([head_sets[i] for i in members])
            request = TapRequest(plan=plan, n_calls=stacks.encoder_layers)
            yield members, self._row_logprobs(posed, len(members), request, encoded)

    def _row_logprobs(
        self, posed: PosedPrompt, n_rows: int, request: TapRequest, encoded: Tensor | None
    ) -> Tensor:
        ids, given = [posed.prompt.ids] * n_rows, beside(posed.prompt)
        logits = self._forward.logits_at(ids, request, posed.read, given, encoded)
        return self._forward.answer(logits)

    def _branches(self, base: BaseRun, sets: Sequence[frozenset[Head]]) -> Iterator[Pass]:
        """Evaluate the sets as branches of one shared run."""
        assert self.engine is not None
        rows = self.budget.rows(base.window, base.n_positions, base.writes_scores)
        passes = self.engine.evaluate(base, sets, rows)
        while True:
            # The lock is held for one pass at a time, so that long studies interleave.
            with self._forward.computing(rows, base.window.count):
                found = next(passes, None)
            if found is None:
                return
            indices, logits = found
            self._forward.refuse_not_finite(logits)
            # Larger pieces of memory would go back to the system, and cost page faults each time.
            n = max(1, LARGEST_KEPT // (8 * logits.shape[-1]))
            for members, part in zip(_parts(indices, n), logits.split(n), strict=True):
                yield members, log_softmax64(part)


def _whole(index: int, logits: Tensor, posed: PosedPrompt) -> WholePass:
    """Return what a set makes of a prompt, from logits [n_positions, n_vocab]."""
    log_probs = log_softmax64(logits)
    following = torch.tensor(posed.prompt.ids[1:], device=log_probs.device)
    of_tokens = log_probs[:-1].gather(1, following[:, None])[:, 0]
    # A copy: a view would keep the log-probabilities of all positions.
    return WholePass(index, of_tokens, log_probs[posed.read].clone())


def _parts(indices: Sequence[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(indices), size):
        yield list(indices[start : start + size])
