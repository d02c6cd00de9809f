"""One model's forward pass: its lock, its options, and what can go wrong in it, said in words."""

import inspect
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from models.attention_edits import refuse_empty_queries
from models.attention_tap import TapRequest, active
from models.errors import ErrorKind, UserError, is_out_of_memory
from models.model_facts import is_encoder_decoder
from models.pass_watch import held
from models.placement import execution_device
from models.types import POLICY, TokenizedPrompt

Beside = Mapping[str, Sequence[int] | np.ndarray]
"""What the model is given beside the ids of a prompt, the same for each row of a batch: keyword ->
a number for each position (of the source, or of the prompt); of pictures, an array whose first axis
is repeated for each row."""


def beside(prompt: TokenizedPrompt) -> Beside:
    """Return what goes into the model with the ids of a prompt."""
    given: dict[str, Sequence[int] | np.ndarray] = {}
    if prompt.source is not None:
        given["input_ids"] = prompt.source.ids
    if prompt.segments is not None:
        given["token_type_ids"] = prompt.segments
    if prompt.given is not None:
        given |= prompt.given
    return given


class ForwardPass:
    """Runs a model. Each pass takes the model's lock, so that long studies interleave."""

    def __init__(self, model: Any, name: str, lock: threading.RLock) -> None:
        """Args: name: what the user called the model, for messages."""
        self.name = name
        self.device = execution_device(model.get_input_embeddings())
        self._model = model
        self._dtype = model.get_input_embeddings().weight.dtype
        self._lock = lock
        self._options = _options(model)
        self._gives_numbers = getattr(model, "kind", None) == POLICY
        self._ids_name = "decoder_input_ids" if is_encoder_decoder(model) else "input_ids"

    def logits_at(
        self,
        ids: Sequence[Sequence[int]],
        request: TapRequest,
        position: int,
        beside: Beside | None = None,
        encoded: Tensor | None = None,
        stacked: bool = False,
    ) -> Tensor:
        """Run a batch of prompts of equal length; return logits [batch, n_vocab] at a position.

        Raises:
            UserError: memory ran out, or the logits are not finite.
        """
        logits = self.logits(
            ids, request, position, beside=beside, encoded=encoded, stacked=stacked
        )[:, 0]
        self.refuse_not_finite(logits)
        return logits

    def logits(
        self,
        ids: Sequence[Sequence[int]],
        request: TapRequest,
        position: int | Sequence[int] | None = None,
        gradients: bool = False,
        beside: Beside | None = None,
        encoded: Tensor | None = None,
        stacked: bool = False,
    ) -> Tensor:
        """Run a batch; return logits [batch, 1, n_vocab], or [batch, position, n_vocab] for all.

        Args:
            position: one, or several, whose logits come in their order; None for all.
            ids: of the prompts, an encoder-decoder's being those of its decoder.
            beside: what goes in with them.
            encoded: what the encoder makes of the source (`encode`), [1, n_source, d_model]. With
                it the decoder alone runs; `request` counts its layers on from the encoder's.
            stacked: whether arrays of `beside` are of the whole batch, each row with its own.

        Raises:
            UserError: memory ran out, or a knockout left a query no key.
        """
        given: dict[str, Any] = {**self.inputs(ids, beside, stacked)}
        if encoded is not None:
            del given["input_ids"]
            given["encoder_outputs"] = BaseModelOutput(encoded.expand(len(ids), -1, -1))
        options = dict(self._options)
        wanted = [position] if isinstance(position, int) else position
        sliced = wanted is not None and "logits_to_keep" in options
        if sliced:
            options["logits_to_keep"] = torch.tensor(wanted, device=self.device)
        else:
            options.pop("logits_to_keep", None)
        request.n_rows = len(ids)
        n_rows, n_positions = len(ids), len(ids[0]) + len((beside or {}).get("input_ids", ()))
        with self.computing(n_rows, n_positions, gradients), active(request):
            logits: Tensor = self._model(**given, **options).logits
        refuse_empty_queries(request.left_alone)
        return logits if wanted is None or sliced else logits[:, list(wanted)]

    def answer(self, logits: Tensor) -> Tensor:
        """Return what a model answers, in float64, from logits [..., n]: log-probabilities; of a
        `POLICY` the numbers themselves."""
        if self._gives_numbers:
            return logits.to(float64_device(logits.device)).to(torch.float64)
        return log_softmax64(logits)

    def encode(self, ids: Sequence[int]) -> Tensor:
        """Return what an encoder-decoder's encoder makes of a source, [1, n_source, d_model]."""
        batch = torch.tensor([list(ids)], device=self.device)
        with self.computing(1, len(ids)):
            hidden: Tensor = self._model.get_encoder()(input_ids=batch).last_hidden_state
        return hidden

    def inputs(
        self, ids: Sequence[Sequence[int]], beside: Beside | None = None, stacked: bool = False
    ) -> dict[str, Any]:
        """Return a batch as the model takes it: keyword -> int64 [batch, position]; pictures as
        their processor made them, one row's behind the other's; what a wrapped policy is given as
        a list, one a row."""
        batch: dict[str, Any] = {
            self._ids_name: torch.tensor([list(row) for row in ids], device=self.device)
        }
        for name, row in (beside or {}).items():
            if isinstance(row, np.ndarray) and row.dtype == object:  # taken as it is
                batch[name] = list(row) * (1 if stacked else len(ids))
            elif isinstance(row, np.ndarray):
                array = torch.from_numpy(row).to(self.device)
                if array.is_floating_point():
                    array = array.to(self._dtype)
                times = 1 if stacked else len(ids)
                batch[name] = array.repeat(times, *[1] * (array.ndim - 1))
            else:
                batch[name] = torch.tensor([list(row)] * len(ids), device=self.device)
        return batch

    @contextmanager
    def computing(self, n_rows: int, n_positions: int, gradients: bool = False) -> Iterator[None]:
        """Hold the model's lock; say in a sentence if memory runs out.

        Args:
            n_rows, n_positions: the size of what is computed, for that sentence.
            gradients: whether autograd is on.
        """
        mode = torch.enable_grad() if gradients else torch.inference_mode()
        try:
            with held(self._lock), mode:
                yield
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory(n_rows, n_positions) from error

    def refuse_not_finite(self, logits: Tensor) -> None:
        """Raise `UserError` if there is a NaN or an infinity among the logits."""
        largest = logits.amax()  # NaN if there is one; -inf, of tokens ruled out, is no fault
        if bool(largest.isnan() | (largest == torch.inf)):
            raise UserError(
                ErrorKind.NUMBERS,
                f"{self.name} returned numbers that are not finite (NaN or infinity); its weights "
                "may be damaged, or the dtype too narrow: try --dtype float32.",
            )

    def _out_of_memory(self, n_rows: int, n_positions: int) -> UserError:
        return UserError(
            ErrorKind.DEVICE,
            f"Memory ran out in a forward pass of {n_rows} x {n_positions:,} tokens on "
            f"{self.device}; use a shorter prompt, a smaller model, less --memory-gb, or another "
            "--device.",
        )


def log_softmax64(logits: Tensor) -> Tensor:
    """Return natural log-probabilities in float64 from logits [..., n_vocab]."""
    at = float64_device(logits.device)
    return torch.log_softmax(logits.to(at).to(torch.float64), dim=-1)


def float64_device(device: torch.device) -> torch.device:
    """Return where float64 numbers about this device's results live: Apple's GPUs have none."""
    return torch.device("cpu") if device.type == "mps" else device


def _options(model: nn.Module) -> dict[str, Any]:
    """Return the keyword arguments that this model's forward takes of those that we use."""
    accepted = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {"use_cache": False}
    # Unknown keywords are silently ignored by transformers; only give what is declared.
    if "logits_to_keep" in accepted:
        options["logits_to_keep"] = 0
    return options
