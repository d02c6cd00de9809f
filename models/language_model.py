"""The one class that the rest of the program talks to: tokenise, run, read attention, ablate."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import tokens
from models.attention_hooks import AttentionSite, install_hooks
from models.attention_reading import AttentionReader, MapWriter
from models.attention_tap import TapRequest, dispatches
from models.blocks import watched_blocks
from models.branching import BranchEngine
from models.budget import MemoryBudget
from models.discovery import find_dispatching_sites, find_returning_sites
from models.edits import AblationLike, Intervention, RowPlan, acted_on_mask
from models.errors import ErrorKind, UserError
from models.fingerprint import weights_fingerprint
from models.forward_pass import ForwardPass, log_softmax64
from models.fused import fuse
from models.head_sets import HeadSets
from models.placement import execution_device, weights_at_hand
from models.residual_reader import ResidualReader
from models.self_check import branches_rightly, run_self_check
from models.types import (
    AttentionMaps,
    Head,
    ModelInfo,
    Prediction,
    TokenDetail,
    TokenizedPrompt,
    TokenProbability,
)

NO_LIMIT = 1_000_000
"""The context of architectures that state none."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one forward pass gave."""

    prediction: Prediction
    attention: AttentionMaps


class LanguageModel:
    """A loaded model with its tokenizer.

    Building one finds its attention layers and makes it prove itself (`models.self_check`); a
    model that fails raises `UserError`. All methods may be called from any thread: each forward
    pass takes the model's lock, so that long studies of several pages interleave.
    """

    def __init__(
        self, model: Any, tokenizer: Any, name: str, memory_gb: float | None = None
    ) -> None:
        """Wrap a transformers model and tokenizer.

        Args:
            model: a causal or masked language model loaded with `attn_implementation` set to
                `attention_tap.ATTENTION_NAME` if it dispatches, to "eager" if it does not.
            name: what the user called it.
            memory_gb: gigabytes (10^9 bytes) that one pass over many sets of heads may take; None
                for a share of what is free.
        """
        self.name = name
        self.lock = threading.RLock()
        self._model = model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._reader = tokens.TokenReader.of(tokenizer)
        self.device = execution_device(model.get_input_embeddings())
        self.dtype: torch.dtype = model.get_input_embeddings().weight.dtype
        if self.dtype == torch.float32:
            fuse(model)
        self.kind = "masked" if _predicts_at_mask(model, tokenizer) else "causal"
        self.max_positions = _max_positions(model, tokenizer)
        self._pass = ForwardPass(model, name, self.lock)
        self.dispatches = dispatches(type(model))
        self.sites = self._find_sites()
        self._blocks = watched_blocks(model, self.sites)
        self.n_layers = len(self.sites)
        self.n_heads = max(site.n_heads for site in self.sites)
        self.n_kv_heads = max(site.n_kv_heads for site in self.sites)
        self.d_head = max(site.d_head for site in self.sites)
        self.n_vocab = int(self._pass.logits(self._probe_prompt(), TapRequest()).shape[-1])
        budget = MemoryBudget.of(
            model, self.device, self.dtype, self.n_heads, self.n_vocab, memory_gb
        )
        self.head_sets = HeadSets(self, self._pass, self._find_engine(), budget)
        self.info = self._describe()

    # --- text -----------------------------------------------------------------------------

    def tokenize(self, text: str, bos: bool | None = None) -> TokenizedPrompt:
        """Turn text into a prompt.

        Args:
            bos: whether a beginning-of-sequence token stands in front; None leaves it to the
                tokenizer.

        Raises:
            UserError: the text is empty, gives no tokens, or exceeds the model's context.
        """
        prompt = tokens.tokenize(self._reader, text, self.max_positions, bos)
        self._check_embedded(prompt.ids)
        return prompt

    def prompt_of_ids(self, ids: Sequence[int]) -> TokenizedPrompt:
        """Return the prompt made of these token ids (random stimuli, for example).

        Raises:
            UserError: there is no id, or one that the model has no embedding of.
        """
        if not len(ids):
            raise UserError(ErrorKind.PROMPT, "A prompt needs at least one token id; give some.")
        self._check_embedded(ids)
        return tokens.prompt_of_ids(self._reader, [int(i) for i in ids])

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
        """Return whether a prompt begins with the token that opens a sequence."""
        return prompt.ids[0] == self.opening_id

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
        return tokens.single_token(self._reader, target, self.n_vocab)

    def resolve_position(self, prompt: TokenizedPrompt, position: int | None = None) -> int:
        """Return the position at which predictions are read, counted from 0.

        Args:
            position: negative numbers count from the end. None: the last position, or the first
                mask token for a model that predicts at mask tokens.

        Raises:
            UserError: outside the prompt, or a masked model's prompt has no mask token.
        """
        n = len(prompt)
        if position is None:
            return n - 1 if self.kind == "causal" else self._mask_position(prompt)
        if not -n <= position < n:
            raise UserError(
                ErrorKind.POSITION,
                f"Position {position} is outside the prompt; its {n} positions are 0 to {n - 1} "
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
        return TokenProbability(
            id=int(token_id),
            text=self._reader.text(token_id) if token_id < len(self._reader.tokenizer) else "",
            label=self._reader.label(token_id),
            prob=float(np.exp(log_prob)),
            log_prob=float(log_prob),
        )

    # --- heads ----------------------------------------------------------------------------

    def all_heads(self) -> tuple[Head, ...]:
        """Return every head, in (layer, head) order."""
        return tuple(
            Head(layer, head)
            for layer, site in enumerate(self.sites)
            for head in range(site.n_heads)
        )

    def check_heads(self, heads: Sequence[Head]) -> tuple[Head, ...]:
        """Return the heads as given, or raise `UserError` naming the first that does not exist."""
        for head in heads:
            in_model = head.stack == "" and 0 <= head.layer < self.n_layers
            if not in_model or not 0 <= head.head < self.sites[head.layer].n_heads:
                raise UserError(
                    ErrorKind.HEADS,
                    f"There is no head {head} in {self.name}: layers run from 0 to "
                    f"{self.n_layers - 1}, heads from 0 to {self.n_heads - 1}.",
                )
        return tuple(heads)

    def check_positions(
        self, prompt: TokenizedPrompt, positions: Sequence[int] | None
    ) -> tuple[int, ...] | None:
        """Return positions counted from 0, sorted and each once; None, meaning all, as it is.

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
        return tuple(sorted({self.resolve_position(prompt, p) for p in positions}))

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
            queries: the positions whose rows are wanted, in that order; negative ones count from
                the end, None stands for all.
        """
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
            queries: the positions whose rows of attention are read; None for all.

        Raises:
            UserError: a head or position does not exist, the intervention does not fit, or the
                model's numbers are not finite.
        """
        position = self.resolve_position(prompt, position)
        wanted = self.check_heads(heads)
        rows = None if queries is None else self._resolve_queries(prompt, queries)
        n = len(prompt)
        values = np.empty((len(wanted), n if rows is None else len(rows), n), dtype=np.float32)
        read = _by_layer(wanted)
        # The pass writes straight into the result: a second copy of long maps is not affordable.
        places = {layer: [values[i] for i in members] for layer, members in read.items()}
        request = TapRequest(
            read={layer: [wanted[i].head for i in members] for layer, members in read.items()},
            queries=rows,
            reader=MapWriter(places),
        )
        if ablation is not None and ablation.heads:
            request.plan = self._plan_row(prompt, ablation)
        logits = self._pass.logits_at([prompt.ids], request, position)
        prediction = self.prediction_from(log_softmax64(logits)[0], position, top_k)
        maps = AttentionMaps(wanted, values, prompt, request.plan is not None, rows)
        return Run(prediction, maps)

    def read_attention(
        self,
        prompt: TokenizedPrompt,
        reader: AttentionReader,
        ablation: AblationLike | None = None,
        position: int = -1,
        top_k: int = 10,
    ) -> Prediction:
        """Hand the attention of every head to a reader, block by block, in one forward pass.

        Layer by layer, the heads of a layer in their order. Nothing is kept, so that memory stays
        bounded however long the prompt. What the reader raises ends the pass.

        Returns:
            What the same pass predicts at `position`.

        Raises:
            UserError: there is no such position, the intervention does not fit, or the model's
                numbers are not finite.
        """
        position = self.resolve_position(prompt, position)
        read = {layer: range(site.n_heads) for layer, site in enumerate(self.sites)}
        request = TapRequest(read=read, reader=reader, z_from_weights=True)
        if ablation is not None and ablation.heads:
            request.plan = self._plan_row(prompt, ablation)
        logits = self._pass.logits_at([prompt.ids], request, position)
        return self.prediction_from(log_softmax64(logits)[0], position, top_k)

    def token_detail(self, prompt: TokenizedPrompt, position: int, top_k: int = 5) -> TokenDetail:
        """Return what is known of one position: its token, its embedding, its prediction."""
        position = self.resolve_position(prompt, position)
        token_id = prompt.ids[position]
        embedding = self._model.get_input_embeddings()
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

        Returns:
            layer -> [position, n_heads, d_head], on the model's device.
        """
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
        if ablation is not None and ablation.heads:
            request.plan = self._plan_row(prompt, ablation)
        self._pass.logits_at([prompt.ids], request, len(prompt) - 1)

    @cached_property
    def residual(self) -> ResidualReader:
        """What tells apart the parts of the residual stream; made when first asked for.

        Raises:
            UserError: this model's blocks do something else than add to the stream.
        """
        return ResidualReader(
            self._model, self.sites, self._blocks, self._pass, self._probe_prompt()
        )

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
        positions: Sequence[int] | None = None,
    ) -> Tensor:
        """Evaluate several sets of ablated heads; see `HeadSets.evaluate`.

        Returns:
            float64 [n_sets, n_vocab], natural log-probabilities of the sets in their order.
        """
        question = self.head_sets.pose(prompt, intervention, None, position, positions)
        passes = list(self.head_sets.evaluate(question, head_sets))
        order = [i for indices, _ in passes for i in indices]
        rows = torch.cat([log_probs for _, log_probs in passes])
        return rows[torch.tensor(order).argsort().to(rows.device)]

    def prediction_from(
        self, log_probs: Tensor | np.ndarray, position: int, top_k: int = 10
    ) -> Prediction:
        """Return the `Prediction` of one row of log-probabilities, float64 [n_vocab]."""
        row = log_probs.cpu().numpy() if isinstance(log_probs, Tensor) else log_probs
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

    def _plan_row(self, prompt: TokenizedPrompt, ablation: AblationLike) -> RowPlan:
        """Plan a batch of one row with the ablation's heads edited."""
        heads = self.check_heads(ablation.heads)
        positions = self.check_positions(prompt, ablation.positions)
        editor = ablation.intervention.prepare(self, prompt, heads, positions)
        acted_on = acted_on_mask(positions, len(prompt), self.device)
        return RowPlan.for_rows(editor, [heads], acted_on, self.device)

    # --- at load --------------------------------------------------------------------------

    def _probe_prompt(self) -> list[list[int]]:
        """Return one row of a few different ordinary token ids: the self-check's short prompt."""
        n_ids = len(self._reader.tokenizer)
        ordinary = [i for i in range(n_ids // 2, n_ids) if i not in self._reader.special_ids]
        step = max(1, len(ordinary) // 8)
        return [ordinary[::step][:7]]

    def _find_sites(self) -> list[AttentionSite]:
        ids = self._probe_prompt()

        def forward() -> None:
            batch = torch.tensor(ids, device=self.device)
            try:
                with torch.inference_mode():
                    logits = self._model(input_ids=batch, use_cache=False).logits
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

        if self.dispatches:
            sites = find_dispatching_sites(self._model, forward)
        else:
            sites = find_returning_sites(self._model, forward, len(ids[0]))
        if not self.dispatches:
            for layer, site in enumerate(sites):
                install_hooks(site, layer)
        return sites

    def _find_engine(self) -> BranchEngine | None:
        """Return what evaluates sets of heads as branches, if that is right for this model."""
        if not self.dispatches or self._blocks is None:
            return None
        causal = self.kind == "causal"
        engine = BranchEngine.install(
            self._model, self.sites, self._blocks, causal, self._pass.logits
        )
        ids = self._probe_prompt()[0]
        proven = branches_rightly(engine, self.sites, causal, ids, self._pass.logits)
        return engine if proven else None

    def _describe(self) -> ModelInfo:
        tokenizer = self._reader.tokenizer
        opening = tokens.bos_id(tokenizer)
        first = tokenizer("a", verbose=False)["input_ids"][:1]
        return ModelInfo(
            name=self.name,
            architecture=type(self._model).__name__,
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
            adds_bos=opening is not None and first == [opening],
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            self_check=run_self_check(
                self._model,
                self.sites,
                self.dispatches,
                self.kind,
                self._probe_prompt(),
                self._pass.logits,
            ),
        )


def _by_layer(heads: Sequence[Head]) -> Mapping[int, Sequence[int]]:
    """Return for each layer which of the heads, by index, are its own."""
    by_layer: dict[int, list[int]] = {}
    for i, head in enumerate(heads):
        by_layer.setdefault(head.layer, []).append(i)
    return by_layer


def _predicts_at_mask(model: Any, tokenizer: Any) -> bool:
    return type(model).__name__.endswith("ForMaskedLM") and tokenizer.mask_token_id is not None


def _max_positions(model: Any, tokenizer: Any) -> int:
    """Return how many tokens fit the model's context."""
    text = model.config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            limit = value
            break
    else:
        limit = NO_LIMIT
    for name, module in model.named_modules():
        # RoBERTa counts positions from behind its padding index: the rows up to it serve no token.
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            limit = min(limit, module.num_embeddings - padding - 1)
    stated = int(min(tokenizer.model_max_length, NO_LIMIT))
    return min(limit, stated)
