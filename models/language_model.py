"""The one class that the rest of the program talks to: tokenise, run, read attention, ablate."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import tokens
from models.actions import ActionSpace, followed_by, read_actions
from models.attention_hooks import AttentionSite, install_hooks
from models.attention_reading import AttentionReader, MapWriter, OfStack
from models.attention_tap import TapRequest, dispatches
from models.blocks import watched_blocks
from models.branching import BranchEngine
from models.budget import MemoryBudget
from models.chunks import ChunkSpace, chunk_space
from models.discovery import find_dispatching_sites, find_returning_sites
from models.edge_patching import EdgePatching
from models.edits import AblationLike, Intervention, Plan
from models.errors import ErrorKind, UserError
from models.fingerprint import weights_fingerprint
from models.forward_pass import ForwardPass, beside
from models.fused import fuse
from models.head_sets import HeadSets
from models.layerwise import Layerwise, refuse_hooked
from models.model_facts import (
    architecture_of,
    decoder_start,
    kind_of,
    max_positions_of,
    tells_pairs_apart,
)
from models.picture import Picture
from models.picture_classifier import ClassProcessor, PictureAlone, class_named
from models.picture_prompts import picture_reader
from models.placement import execution_device, weights_at_hand
from models.places import Place, resolved
from models.policy_prompts import PolicyProcessor, PolicySight
from models.residual_reader import ResidualReader
from models.self_check import branches_rightly, run_self_check, same_numbers
from models.stacks import Axes, StackTable
from models.types import (
    CLASSIFIER,
    MAIN,
    POLICY,
    AttentionMaps,
    Head,
    ModelInfo,
    PolicyInputs,
    Prediction,
    RobotInput,
    TokenDetail,
    TokenizedPrompt,
    TokenProbability,
)
from models.vision import Sight
from models.wrapped_prompts import WrappedProcessor, WrappedSight


@dataclass(frozen=True, slots=True)
class Run:
    """What one forward pass gave."""

    prediction: Prediction
    maps: tuple[AttentionMaps, ...]
    """One for each stack that the heads asked for are of; without heads, an empty one."""

    @property
    def attention(self) -> AttentionMaps:
        """The maps of heads that are all of one stack."""
        [maps] = self.maps
        return maps


class LanguageModel:
    """A loaded model with its tokenizer.

    Building one finds its attention layers and makes it prove itself (`models.self_check`); a
    model that fails raises `UserError`. All methods may be called from any thread: each forward
    pass takes the model's lock, so that long studies of several pages interleave.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        name: str,
        memory_gb: float | None = None,
        actions: Path | None = None,
    ) -> None:
        """Wrap a transformers model and tokenizer.

        Args:
            model: a causal or masked language model, an encoder-decoder or a model that reads
                pictures too, loaded with
                `attn_implementation` set to `attention_tap.ATTENTION_NAME` if it dispatches, to
                "eager" if it does not.
            processor: its tokenizer; of a model that reads pictures, what holds it.
            name: what the user called it.
            memory_gb: gigabytes (10^9 bytes) that one pass over many sets of heads may take; None
                for a share of what is free.
            actions: the file that says which of its tokens are actions (`models.actions`), if it is
                there.
        """
        self.name = name
        self.lock = threading.RLock()
        self._model = model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        tokenizer = getattr(processor, "tokenizer", processor)
        self._reader = tokens.TokenReader.of(tokenizer)
        self._sight: Sight | PictureAlone | PolicySight | WrappedSight | None = None
        if isinstance(processor, ClassProcessor):
            self._sight = PictureAlone.of(model, processor, name)
        elif isinstance(processor, PolicyProcessor):
            self._sight = PolicySight.of(model, processor, self._reader, name)
        elif isinstance(processor, WrappedProcessor):
            self._sight = WrappedSight(model)
        elif hasattr(processor, "image_processor"):
            self._sight = Sight.of(model, picture_reader(model, processor, self._reader, name))
        self.device = execution_device(model.get_input_embeddings())
        self.dtype: torch.dtype = model.get_input_embeddings().weight.dtype
        if self.dtype == torch.float32 and not isinstance(processor, WrappedProcessor):
            fuse(model)  # of a person's own policy nobody knows what it changes as it acts
        self.kind = kind_of(model, tokenizer)
        self.pairs = tells_pairs_apart(model, tokenizer)
        self.max_positions = max_positions_of(model, tokenizer)
        self._pass = ForwardPass(model, name, self.lock)
        self.dispatches = dispatches(type(model))
        self.sites = self._find_sites()
        self.stacks = self._find_stacks()
        one_stack = self.kind not in ("encoder-decoder", POLICY)
        self._blocks = watched_blocks(model, self._main_sites) if one_stack else None
        self.n_layers = self.stacks.named(MAIN).n_layers
        self.n_heads = self.stacks.named(MAIN).n_heads
        self.n_kv_heads = max(site.n_kv_heads for site in self.sites)
        self.d_head = max(site.d_head for site in self.sites)
        self.n_vocab = int(self._probe_logits(TapRequest()).shape[-1])
        budget = MemoryBudget.of(
            model,
            self.device,
            self.dtype,
            max(stack.n_heads for stack in self.stacks.stacks),
            self.n_vocab,
            memory_gb,
        )
        self.head_sets = HeadSets(
            self, self._pass, self._find_engine, budget, self._decodes_alone()
        )
        self.actions: ActionSpace | None = None
        self.chunk: ChunkSpace | None = None
        """What the numbers of a `POLICY` mean."""
        if isinstance(self._sight, PolicySight):
            self.chunk = chunk_space(self._sight, actions)
        elif isinstance(self._sight, WrappedSight):
            self.chunk = self._sight.space
        elif actions is not None:
            self.actions = read_actions(actions, self._reader, self.n_vocab)
        self.info = self._describe()

    # --- text -----------------------------------------------------------------------------

    def tokenize(
        self,
        text: str,
        bos: bool | None = None,
        *,
        decoder: str | None = None,
        pair: str | None = None,
        pictures: Sequence[Picture] = (),
        robot: RobotInput | None = None,
    ) -> TokenizedPrompt:
        """Turn text into a prompt.

        Args:
            text: for an encoder-decoder, what its encoder reads: the `source` of the prompt.
            bos: whether a beginning-of-sequence token stands in front; None leaves it to the
                tokenizer.
            decoder: what an encoder-decoder's decoder has written so far; the token that starts it
                is put in front. None and the empty text leave that token alone.
            pair: for an encoder that tells sentences apart, the second sentence of a pair.
            pictures: for a model that reads them. They stand where the text has the model's image
                token, in front of it if it has none.
            robot: what a `POLICY` is given of the robot.

        Raises:
            UserError: the text is empty, gives no tokens, or exceeds the model's context; or the
                model has no decoder beside an encoder, knows no pairs, or reads no pictures.
        """
        if robot is not None and self.kind != POLICY:
            raise UserError(
                ErrorKind.PROMPT,
                f"{self.name} is told no state beside its prompt; leave that out.",
            )
        if pictures or self.kind in (CLASSIFIER, POLICY):
            if pair is not None or decoder:
                raise UserError(
                    ErrorKind.PROMPT,
                    "A prompt with pictures takes no second text; leave that out.",
                )
            return self._tokenize_pictures(text, bos, pictures, robot)
        if pair is not None and not self.pairs:
            raise UserError(
                ErrorKind.PROMPT,
                f"{self.name} does not tell the sentences of a pair apart; leave the second out.",
            )
        prompt = tokens.tokenize(self._reader, text, self.max_positions, bos, pair)
        self._check_embedded(prompt.ids)
        return self.with_decoder(prompt, decoder)

    def _tokenize_pictures(
        self,
        text: str,
        bos: bool | None,
        pictures: Sequence[Picture],
        robot: RobotInput | None,
    ) -> TokenizedPrompt:
        if self._sight is None:
            raise UserError(
                ErrorKind.PICTURE,
                f"{self.name} reads text alone; leave the picture out, or choose a model that "
                "reads pictures (tabletop).",
            )
        if isinstance(self._sight, PolicySight | WrappedSight):
            return self._sight.prompt(text, pictures, self.max_positions, bos, robot)
        prompt = self._sight.prompt(text, pictures, self.max_positions, bos)
        self._check_embedded(prompt.ids)
        if self.actions is not None:
            prompt = replace(prompt, kinds=self.actions.kinds(prompt))
        return prompt

    def with_draw(self, prompt: TokenizedPrompt, draw: int) -> TokenizedPrompt:
        """Return the prompt of a `POLICY` with another noise."""
        if not isinstance(self._sight, PolicySight | WrappedSight):
            raise ValueError(f"{self.name} takes no noise")
        return self._sight.with_draw(prompt, draw)

    def followed_by(self, prompt: TokenizedPrompt, added: Sequence[int]) -> TokenizedPrompt:
        """Return a prompt with tokens behind it, as if the model had answered them."""
        return followed_by(prompt, added, self._reader)

    def with_decoder(self, source: TokenizedPrompt, text: str | None) -> TokenizedPrompt:
        """Return the prompt of an encoder-decoder that reads `source` and has written `text`.

        Other models' prompts stay as they are.

        Raises:
            UserError: the text exceeds the model's context; or the model has no decoder beside an
                encoder, and there is text for it.
        """
        if self.kind == "encoder-decoder":
            start = decoder_start(self._model, self._reader.tokenizer, self.name)
            prompt = tokens.decoder_prompt(
                self._reader, text or "", start, self.max_positions, source
            )
            self._check_embedded(prompt.ids)
            return prompt
        if text:
            raise UserError(
                ErrorKind.PROMPT,
                f"{self.name} is no encoder-decoder, so there is no decoder text; leave it out.",
            )
        return source

    def prompt_of_ids(self, ids: Sequence[int], decoder_ids: Sequence[int] = ()) -> TokenizedPrompt:
        """Return the prompt made of these token ids (random stimuli, for example).

        Args:
            ids: for an encoder-decoder, what its encoder reads.
            decoder_ids: what an encoder-decoder's decoder has written so far; the token that starts
                it is put in front.

        Raises:
            UserError: there is no id, or one that the model has no embedding of; or there are ids
                for a decoder that the model does not have.
        """
        if not len(ids):
            raise UserError(ErrorKind.PROMPT, "A prompt needs at least one token id; give some.")
        self.refuse_text_alone("A prompt of token ids")
        self._check_embedded([*ids, *decoder_ids])
        prompt = tokens.prompt_of_ids(self._reader, [int(i) for i in ids])
        if self.kind == "encoder-decoder":
            start = decoder_start(self._model, self._reader.tokenizer, self.name)
            written = [start, *(int(i) for i in decoder_ids)]
            return replace(tokens.prompt_of_ids(self._reader, written), source=prompt)
        if len(decoder_ids):
            raise UserError(
                ErrorKind.PROMPT,
                f"{self.name} is no encoder-decoder, so there is no decoder text; leave it out.",
            )
        return prompt

    def _check_embedded(self, ids: Sequence[int]) -> None:
        """Refuse tokens without an embedding: a tokenizer may have got more than its model has."""
        n_rows = self._model.get_input_embeddings().weight.shape[0]
        for token_id in ids:
            if not 0 <= token_id < n_rows:
                raise UserError(
                    ErrorKind.PROMPT,
                    f"The model has no embedding of the token {self._reader.label(token_id)} "
                    f"(id {token_id}; its ids run from 0 to {n_rows - 1}); leave it out.",
                )

    def has_bos(self, prompt: TokenizedPrompt) -> bool:
        """Return whether a prompt begins with the token that opens a sequence; pictures may stand
        in front of it."""
        if prompt.pictures:
            return self.opening_id in prompt.ids
        return prompt.typed.ids[0] == self.opening_id

    @property
    def opening_id(self) -> int | None:
        """The id of the token that opens a sequence; None where the tokenizer has none."""
        return tokens.bos_id(self._reader.tokenizer)

    def ordinary_ids(self) -> list[int]:
        """Return the ids of the tokens that stand for text: none special or added, all embedded."""
        n_rows = self._model.get_input_embeddings().weight.shape[0]
        apart = self._reader.special_ids | self._reader.literal.keys()
        return [i for i in range(min(len(self._reader.tokenizer), n_rows)) if i not in apart]

    def resolve_token(self, target: int | str) -> int:
        """Return the one token id that an id or a text names, or raise `UserError`."""
        if self.kind == CLASSIFIER and isinstance(target, str):
            names = [self.describe_token(i).text for i in range(self.n_vocab)]
            return class_named(target, names)
        return tokens.single_token(self._reader, target, self.n_vocab)

    def resolve_position(self, prompt: TokenizedPrompt, position: int | None = None) -> int:
        """Return the position at which predictions are read, counted from 0.

        Args:
            position: negative numbers count from the end. None: the last position, the first mask
                token for a model that predicts at mask tokens, or the first position for a
                classifier.

        Raises:
            UserError: outside the prompt, or a masked model's prompt has no mask token.
        """
        n = len(prompt)
        if position is None and self.kind == CLASSIFIER:
            return 0
        if position is None:
            return n - 1 if self.kind != "masked" else self._mask_position(prompt)
        if not -n <= position < n:
            text = "prompt" if prompt.source is None else "decoder text"
            raise UserError(
                ErrorKind.POSITION,
                f"Position {position} is outside the {text}; its {n} positions are 0 to {n - 1} "
                f"(or -{n} to -1 from the end).",
            )
        return position % n

    def _resolve_queries(self, prompt: TokenizedPrompt, queries: Sequence[int]) -> tuple[int, ...]:
        return tuple(self.resolve_position(prompt, query) for query in queries)

    def _mask_position(self, prompt: TokenizedPrompt) -> int:
        mask_id = self._reader.tokenizer.mask_token_id
        if mask_id in prompt.ids:
            return prompt.ids.index(mask_id)
        raise UserError(
            ErrorKind.PROMPT,
            f"{self.name} predicts at a mask token, and the prompt has none; put "
            f"{self._reader.tokenizer.mask_token} where it should predict, or choose a position.",
        )

    def describe_token(self, token_id: int, log_prob: float = float("nan")) -> TokenProbability:
        """Return a token with its text and label, and the probability that goes with it."""
        text = self._reader.text(token_id) if token_id < len(self._reader.tokenizer) else ""
        return TokenProbability(
            id=int(token_id),
            text=text,
            label=text if self.kind == CLASSIFIER else self._reader.label(token_id),
            prob=float(np.exp(log_prob)),
            log_prob=float(log_prob),
        )

    # --- heads ----------------------------------------------------------------------------

    def all_heads(self, stack: str | None = MAIN) -> tuple[Head, ...]:
        """Return every head of a stack, the main one by default, in (layer, head) order; for None
        those of all stacks, one stack after another."""
        return self.stacks.heads(stack)

    def axes_of(self, prompt: TokenizedPrompt, heads: Sequence[Head]) -> Axes:
        """Return the positions that the attention of heads joins.

        Raises:
            UserError: the heads are of several stacks.
        """
        return self.stacks.axes(prompt, self.stacks.stack_of(heads).name)

    def check_heads(self, heads: Sequence[Head]) -> tuple[Head, ...]:
        """Return the heads as given, or raise `UserError` naming the first that does not exist."""
        self.stacks.check(heads, self.name)
        return tuple(heads)

    def layers_of(self, heads: Sequence[Head]) -> list[int]:
        """Return the attention layers that heads are in, counted in the order they run."""
        return sorted({self.stacks.run_layer(head) for head in heads})

    def check_positions(
        self,
        prompt: TokenizedPrompt,
        positions: Sequence[Place] | None,
        whole: TokenizedPrompt | None = None,
    ) -> tuple[int, ...] | None:
        """Return positions counted from 0, sorted and each once; None, meaning all, as it is.

        Args:
            whole: see `named_positions`.

        Raises:
            UserError: one that the prompt does not have, or none at all.
        """
        if positions is None:
            return None
        if not positions:
            raise UserError(
                ErrorKind.POSITION,
                "No position is named for the intervention to act on; name some, or none for all.",
            )
        return resolved(positions, prompt, partial(self.resolve_position, prompt), whole)

    def refuse_text_alone(self, what: str) -> None:
        """Refuse what gives a model text without pictures, where it does nothing without them.

        Args:
            what: the subject of the sentence, singular.

        Raises:
            UserError: the model needs pictures.
        """
        if self.kind in (CLASSIFIER, POLICY):
            does = "does nothing without pictures"
            if not self.reads_pictures:
                does = "answers with the numbers of an action"
            raise UserError(
                ErrorKind.MODEL,
                f"{what} is text alone, and {self.name} {does}; choose a model that reads text.",
            )

    def check_one_stack(self, what: str) -> None:
        """Refuse what is only there for models whose attention layers all read the same positions.

        Args:
            what: the subject of the sentence, singular: "The residual stream in parts".

        Raises:
            UserError: the model is an encoder-decoder, or reads pictures.
        """
        if self.reads_pictures:
            raise UserError(
                ErrorKind.MODEL,
                f"{what} needs a model that reads text alone, and {self.name} reads pictures; its "
                "attention maps, ablations and searches work as ever.",
            )
        if self.kind == POLICY:
            raise UserError(
                ErrorKind.MODEL,
                f"{what} needs a model that predicts tokens, and {self.name} answers with the "
                "numbers of an action; its attention maps, ablations and searches work as ever.",
            )
        if len(self.stacks.stacks) > 1:
            raise UserError(
                ErrorKind.MODEL,
                f"{what} needs a model with one stack of attention layers, and {self.name} is an "
                "encoder-decoder; its attention maps, ablations and searches work as ever.",
            )

    @property
    def reads_pictures(self) -> bool:
        """Whether its prompts may have pictures in them."""
        if isinstance(self._sight, WrappedSight):
            return self._sight.takes.n_pictures != 0
        return self._sight is not None

    @property
    def takes(self) -> PolicyInputs | None:
        """What a `POLICY` is told."""
        return self._sight.takes if isinstance(self._sight, PolicySight | WrappedSight) else None

    @property
    def last_layer_is_idle(self) -> bool:
        """Whether of the main stack's last layer nothing is read but keys and values, by an action
        expert, so that what its heads put out goes nowhere."""
        return isinstance(self._sight, PolicySight)

    def heads_on(self, prompt: TokenizedPrompt) -> tuple[Head, ...]:
        """Return every head that runs on a prompt and can be looked at: those of the vision tower
        only where the prompt has its positions."""
        heads = self.all_heads(None)
        if prompt.seen is not None:
            return heads
        blind = {stack.name for stack in self.stacks.stacks if stack.queries == "picture"}
        return tuple(head for head in heads if head.stack not in blind)

    def map_bytes(self, prompt: TokenizedPrompt, heads: Sequence[Head]) -> int:
        """Return the memory that the attention maps of heads take, in bytes."""
        n_bytes = 0
        for name, members in self.stacks.by_stack(heads).items():
            axes = self.stacks.axes(prompt, name)
            n_bytes += 4 * len(members) * len(axes.queries) * len(axes.keys)
        return n_bytes

    # --- questions ------------------------------------------------------------------------

    def predict(
        self,
        prompt: TokenizedPrompt,
        position: int | None = None,
        ablation: AblationLike | None = None,
        top_k: int = 10,
    ) -> Prediction:
        """Return the distribution of the token after `position` (at it, for a masked model)."""
        return self.run(prompt, position=position, ablation=ablation, top_k=top_k).prediction

    def attention(
        self,
        prompt: TokenizedPrompt,
        heads: Sequence[Head],
        ablation: AblationLike | None = None,
        queries: Sequence[int] | None = None,
    ) -> AttentionMaps:
        """Return attention probabilities of the given heads, in the given order.

        Args:
            heads: of one stack, as the positions of stacks differ.
            queries: the positions whose rows are wanted, in that order; negative ones count from
                the end, None stands for all.
        """
        self.stacks.stack_of(self.check_heads(heads))
        # A prompt without a mask token can be looked at, if not predicted from.
        return self.run(
            prompt, position=-1, heads=heads, ablation=ablation, queries=queries, top_k=1
        ).attention

    def run(
        self,
        prompt: TokenizedPrompt,
        *,
        position: int | None = None,
        heads: Sequence[Head] = (),
        ablation: AblationLike | None = None,
        queries: Sequence[int] | None = None,
        top_k: int = 10,
    ) -> Run:
        """Predict and read attention in one forward pass.

        Args:
            position: where the prediction is read; see `resolve_position`.
            heads: those whose attention is read.
            queries: the positions whose rows of attention are read, of heads of one stack; None
                for all.

        Raises:
            UserError: a head or position does not exist, the intervention does not fit, or the
                model's numbers are not finite.
        """
        position = self.resolve_position(prompt, position)
        wanted = self.check_heads(heads)
        ablated = ablation is not None and bool(ablation.heads)
        maps = self._unread_maps(prompt, wanted, queries, ablated)
        # The pass writes straight into the result: a second copy of long maps is not affordable.
        read: dict[int, list[int]] = {}
        places: dict[int, list[np.ndarray]] = {}
        for of_stack in maps:
            running = self.stacks.running(of_stack.heads)
            for head, place in zip(running, of_stack.values, strict=True):
                read.setdefault(head.layer, []).append(head.head)
                places.setdefault(head.layer, []).append(place)
        request = TapRequest(read=read, queries=maps[0].queries, reader=MapWriter(places))
        if ablation is not None and ablated:
            request.plan = self._plan_row(prompt, ablation, position)
        logits = self._pass.logits_at([prompt.ids], request, position, beside(prompt))
        return Run(self.prediction_from(self._pass.answer(logits)[0], position, top_k), maps)

    def batch_log_probs(
        self, prompts: Sequence[TokenizedPrompt], ablation: AblationLike | None = None
    ) -> Tensor:
        """Return what different prompts of equal length and like pictures predict at their ends.

        Args:
            ablation: the same for all; its intervention is made ready for the first prompt, so one
                that takes something from the prompt itself does not belong here.

        Returns:
            float64 [n_prompts, n_vocab], natural log-probabilities.

        Raises:
            UserError: the ablation does not fit, or numbers are not finite.
        """
        first, last = prompts[0], len(prompts[0]) - 1
        if any(len(prompt) != len(first) for prompt in prompts):
            raise ValueError("prompts of a batch must be of equal length")
        request = TapRequest()
        if ablation is not None and ablation.heads:
            posed = self.head_sets.pose(
                first, ablation.intervention, ablation.heads, last, ablation.positions
            )
            request.plan = posed.plan([ablation.heads] * len(prompts))
        together = {
            name: np.concatenate([(prompt.given or {})[name] for prompt in prompts])
            for name in first.given or {}
        }
        ids = [prompt.ids for prompt in prompts]
        return self._pass.answer(self._pass.logits_at(ids, request, last, together, stacked=True))

    def read_attention(
        self,
        prompt: TokenizedPrompt,
        reader: AttentionReader,
        ablation: AblationLike | None = None,
        position: int = -1,
        top_k: int = 10,
        stack: str = MAIN,
    ) -> Prediction:
        """Hand the attention of every head of a stack to a reader, block by block, in one pass.

        Layer by layer, the heads of a layer in their order. Nothing is kept, so that memory stays
        bounded however long the prompt. What the reader raises ends the pass.

        Returns:
            What the same pass predicts at `position`.

        Raises:
            UserError: there is no such stack or position, the intervention does not fit, or the
                model's numbers are not finite.
        """
        position = self.resolve_position(prompt, position)
        layers = self.stacks.layers(stack)
        request = TapRequest(
            read={running: range(self.sites[running].n_heads) for running in layers},
            reader=OfStack(reader, layers),
            z_from_weights=True,
        )
        if ablation is not None and ablation.heads:
            request.plan = self._plan_row(prompt, ablation, position)
        logits = self._pass.logits_at([prompt.ids], request, position, beside(prompt))
        return self.prediction_from(self._pass.answer(logits)[0], position, top_k)

    def token_detail(self, prompt: TokenizedPrompt, position: int, top_k: int = 5) -> TokenDetail:
        """Return what is known of one position: its token, its embedding, its prediction."""
        position = self.resolve_position(prompt, position)
        token_id = prompt.ids[position]
        embedding = self._model.get_input_embeddings()
        norm = float("nan")
        if token_id < embedding.weight.shape[0]:  # what stands for a picture may have no row
            with weights_at_hand(embedding):
                norm = float(embedding.weight[token_id].float().norm())
        return TokenDetail(
            position=position,
            id=token_id,
            text=prompt.texts[position],
            label=prompt.labels[position],
            kind=prompt.kinds[position],
            embedding_norm=norm,
            prediction=self.predict(prompt, position, top_k=top_k),
        )

    def head_outputs(self, prompt: TokenizedPrompt, layers: Sequence[int]) -> dict[int, Tensor]:
        """Return the clean z of whole layers, from one forward pass.

        Args:
            layers: attention layers, counted in the order they run (`layers_of`).

        Returns:
            layer -> [position, n_heads, d_head], on the model's device.

        Raises:
            UserError: a layer runs several times, each with another z.
        """
        names = {self.stacks.places[i][0] for i in layers}
        again = [stack for stack in self.stacks.stacks if stack.repeats and stack.name in names]
        if again:
            raise UserError(
                ErrorKind.INTERVENTION,
                f"What the heads of the {again[0].label} put out differs from step to step, so it "
                "cannot be taken from another run; choose an intervention that takes nothing from "
                "one, such as zero.",
            )
        request = TapRequest(keep_z=frozenset(layers))
        self.watch(prompt, request)
        return {layer: z[0] for layer, z in request.z.items()}

    def watch(
        self,
        prompt: TokenizedPrompt,
        request: TapRequest,
        ablation: AblationLike | None = None,
    ) -> None:
        """Run a prompt, clean or ablated, for what a request reads on the way."""
        last = len(prompt) - 1
        if ablation is not None and ablation.heads:
            request.plan = self._plan_row(prompt, ablation, last)
        self._pass.logits_at([prompt.ids], request, last, beside(prompt))

    @cached_property
    def residual(self) -> ResidualReader:
        """What tells apart the parts of the residual stream; made when first asked for.

        Raises:
            UserError: the model is an encoder-decoder, or its blocks do something else than add to
                the stream.
        """
        self.check_one_stack("The residual stream in parts")
        probe = [self._probe_prompt.ids]
        return ResidualReader(self._model, self.sites, self._blocks, self._pass, probe)

    @cached_property
    def edges(self) -> EdgePatching:
        """What patches and scores the edges between its parts; made when first asked for.

        Raises:
            UserError: as `residual`; or its attention does not dispatch.
        """
        if not self.dispatches:
            raise refuse_hooked(type(self._model).__name__)
        reader = self.residual
        assert self._blocks is not None  # or there is no reader
        layerwise = Layerwise(
            self._blocks, reader.wiring, reader.norms, self._pass, self._probe_prompt.ids
        )
        has_windows = self.kind == "causal" and self.branches
        return EdgePatching(layerwise, self._pass, reader.ending, has_windows)

    @property
    def branches(self) -> bool:
        """Whether sets of heads branch off a shared run (`models.branching`); if not, each set is
        a row of its own from the bottom up: slower, and as right."""
        return self.head_sets.engine is not None

    def ablated_logprobs(
        self,
        prompt: TokenizedPrompt,
        head_sets: Sequence[Sequence[Head]],
        intervention: Intervention,
        position: int | None = None,
        positions: Sequence[Place] | None = None,
    ) -> Tensor:
        """Evaluate several sets of ablated heads; see `HeadSets.evaluate`.

        Returns:
            float64 [n_sets, n_vocab], natural log-probabilities of the sets in their order.
        """
        asked = sorted({head for heads in head_sets for head in heads})
        question = self.head_sets.pose(prompt, intervention, asked, position, positions)
        passes = list(self.head_sets.evaluate(question, head_sets))
        order = [i for indices, _ in passes for i in indices]
        rows = torch.cat([log_probs for _, log_probs in passes])
        return rows[torch.tensor(order).argsort().to(rows.device)]

    def prediction_from(
        self, log_probs: Tensor | np.ndarray, position: int, top_k: int = 10
    ) -> Prediction:
        """Return the `Prediction` of one row of log-probabilities, float64 [n_vocab]."""
        row = log_probs.cpu().numpy() if isinstance(log_probs, Tensor) else log_probs
        if self.kind == POLICY:
            return Prediction(position, (), float("nan"), row)
        probs = np.exp(row)
        leaders = np.argsort(-row, kind="stable")[:top_k]
        # A token of probability 0 adds nothing to the entropy.
        entropy = -float(np.sum(probs * np.where(probs > 0, row, 0.0)))
        top = tuple(self.describe_token(int(i), float(row[i])) for i in leaders)
        return Prediction(position, top, max(0.0, entropy), row)

    @cached_property
    def fingerprint(self) -> str:
        """What tells these weights from others; see `models.fingerprint`."""
        return weights_fingerprint(self._model)

    @property
    def n_bytes(self) -> int:
        """Memory that the weights take, in bytes."""
        return sum(p.numel() * p.element_size() for p in self._model.parameters())

    # --- parts ----------------------------------------------------------------------------

    def _unread_maps(
        self,
        prompt: TokenizedPrompt,
        heads: Sequence[Head],
        queries: Sequence[int] | None,
        ablated: bool,
    ) -> tuple[AttentionMaps, ...]:
        """Return the maps of each stack's heads, with room for what a pass will write there."""
        if queries is not None:
            self.stacks.stack_of(heads)
        found = []
        for name, members in (self.stacks.by_stack(heads) or {MAIN: ()}).items():
            axes = self.stacks.axes(prompt, name)
            rows = None if queries is None else self._resolve_queries(axes.queries, queries)
            shape = (len(members), len(axes.queries if rows is None else rows), len(axes.keys))
            looked_at = None if axes.own else axes.keys
            values = np.empty(shape, dtype=np.float32)
            maps = AttentionMaps(members, values, axes.queries, ablated, rows, looked_at=looked_at)
            found.append(maps)
        return tuple(found)

    def _plan_row(self, prompt: TokenizedPrompt, ablation: AblationLike, position: int) -> Plan:
        """Plan a batch of one row with the ablation's heads edited."""
        posed = self.head_sets.pose(
            prompt, ablation.intervention, ablation.heads, position, ablation.positions
        )
        return posed.plan([ablation.heads])

    # --- at load --------------------------------------------------------------------------

    @property
    def _n_before(self) -> int:
        """How many attention layers run before the language model's: the vision tower's."""
        return 0 if self._sight is None else self._sight.n_layers

    @property
    def _main_sites(self) -> list[AttentionSite]:
        """The language model's attention layers: those behind the vision tower's, and before an
        action expert's; all of them where there is neither."""
        n_behind = 0 if self._sight is None else self._sight.n_behind
        return self.sites[self._n_before : len(self.sites) - n_behind]

    @cached_property
    def _probe_prompt(self) -> TokenizedPrompt:
        """A prompt of a few different ordinary token ids: the self-check's short prompt.

        Source and decoder text of an encoder-decoder differ in length: it tells its stacks apart.
        """
        n_ids = len(self._reader.tokenizer)
        ordinary = [i for i in range(n_ids // 2, n_ids) if i not in self._reader.special_ids]
        step = max(1, len(ordinary) // 8)
        ids = ordinary[::step][:7]
        if self._sight is not None:
            text = self._reader.tokenizer.decode(ids[:3])
            return self._sight.probe(text, self.max_positions)
        prompt = tokens.prompt_of_ids(self._reader, ids)
        if self.kind != "encoder-decoder":
            return prompt
        start = decoder_start(self._model, self._reader.tokenizer, self.name)
        decoder = tokens.prompt_of_ids(self._reader, [start, *ids[1:4]])
        return replace(decoder, source=prompt)

    def _probe_logits(self, request: TapRequest) -> Tensor:
        prompt = self._probe_prompt
        return self._pass.logits([prompt.ids], request, beside=beside(prompt))

    def _find_sites(self) -> list[AttentionSite]:
        prompt = self._probe_prompt
        given = self._pass.inputs([prompt.ids], beside(prompt))

        def forward() -> None:
            try:
                with torch.inference_mode():
                    logits = self._model(**given, use_cache=False).logits
            except (
                ArithmeticError,
                AttributeError,
                LookupError,
                RuntimeError,
                TypeError,
                ValueError,
            ) as error:
                raise UserError(
                    ErrorKind.MODEL,
                    f"{type(self._model).__name__} is not supported: it does not run on token ids "
                    f"alone ({type(error).__name__}: {str(error).split(chr(10))[0][:160]}).",
                ) from error
            self._pass.refuse_not_finite(logits)

        one_stack = self.kind != "encoder-decoder"
        if self._sight is not None:
            if not self.dispatches:
                raise UserError(
                    ErrorKind.MODEL,
                    f"{type(self._model).__name__} is not supported: models that read pictures "
                    "must look their attention function up in transformers' registry.",
                )
            found = self._sight.finding(self._model, forward, prompt)
            self._sight = found.sight
            return found.sites
        if self.dispatches:
            return find_dispatching_sites(self._model, forward, one_stack)
        n, n_source = len(prompt), len(prompt.typed)
        extents = {(n, n), (n, n_source), (n_source, n_source)}
        sites = find_returning_sites(self._model, forward, extents, one_stack)
        for layer, site in enumerate(sites):
            install_hooks(site, layer)
        return sites

    def _find_stacks(self) -> StackTable:
        if isinstance(self._sight, WrappedSight):
            assert self._sight.table is not None  # since the layers were found
            return self._sight.table
        if self._sight is not None:
            seeing, causal = (
                self.sites[: self._n_before],
                not self._sight.looks_ahead(self._probe_logits),
            )
            acting = self.sites[self._n_before + len(self._main_sites) :]
            if isinstance(self._sight, PictureAlone) and acting:
                causal = not self._sight.reads_ahead
                return StackTable.of_picture_and_texts(self._main_sites, acting, causal)
            return StackTable.of_vision_and_language(seeing, self._main_sites, causal, acting)
        if self.kind != "encoder-decoder":
            return StackTable.of_one(self.sites, causal=self.kind == "causal")
        prompt = self._probe_prompt
        n_source = len(prompt.typed)
        return StackTable.of_encoder_decoder(self._model, self.sites, n_source, len(prompt))

    def _find_engine(self) -> BranchEngine | None:
        """Return what evaluates sets of heads as branches, if that is right for this model."""
        if not self.dispatches or self._blocks is None or self.kind == "encoder-decoder":
            return None
        causal = self.stacks.named(MAIN).causal
        sites = self._main_sites
        engine = BranchEngine.install(
            self._model, sites, self._blocks, causal, self._pass.logits, self._n_before
        )
        probe = self._probe_prompt
        logits = partial(self._pass.logits, beside=beside(probe))
        proven = branches_rightly(engine, sites, causal, probe, logits, self._n_before)
        return engine if proven else None

    def _decodes_alone(self) -> bool:
        """Return whether an encoder-decoder's decoder, run on what its encoder has made of a
        source, gives the same numbers as both together; tried on two rows."""
        if self.kind != "encoder-decoder":
            return False
        prompt = self._probe_prompt
        rows, given = [prompt.ids] * 2, beside(prompt)
        expected = self._pass.logits(rows, TapRequest(), beside=given)
        request = TapRequest(n_calls=self.stacks.encoder_layers)
        try:
            encoded = self._pass.encode(prompt.typed.ids)
            found = self._pass.logits(rows, request, beside=given, encoded=encoded)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError):
            return False
        return request.n_calls == len(self.sites) and same_numbers(found, expected)

    def _describe(self) -> ModelInfo:
        tokenizer = self._reader.tokenizer
        opening = tokens.bos_id(tokenizer)
        first = tokenizer("a", verbose=False)["input_ids"][:1]
        probe = self._probe_prompt
        return ModelInfo(
            name=self.name,
            architecture=architecture_of(self._model),
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            n_kv_heads=self.n_kv_heads,
            d_head=self.d_head,
            n_parameters=sum(p.numel() for p in self._model.parameters()),
            n_vocab=self.n_vocab,
            max_positions=self.max_positions,
            kind=self.kind,
            mask_token=tokenizer.mask_token if self.kind == "masked" else None,
            bos_token=None if opening is None else self._reader.label(opening),
            adds_bos=opening is not None and (first == [opening] or self.kind == POLICY),
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            self_check=run_self_check(
                self._model,
                self.sites,
                self.stacks,
                self.dispatches,
                [probe.ids],
                partial(self._pass.logits, beside=beside(probe)),
                self._pass.inputs([probe.ids], beside(probe)),
            ),
            stacks=self.stacks.stacks,
            pairs=self.pairs,
            image_token=None if self._sight is None else self._sight.image_token,
            takes=self.takes,
        )
