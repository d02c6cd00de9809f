"""How many sets of heads go through the model in one pass."""

from dataclasses import dataclass

import psutil  # type: ignore[import-untyped]
import torch
from torch import nn

from models.blocks import Window
from models.cores import n_cores

GIGABYTE = 1e9

FREE_SHARE = 0.5
"""Share of the memory free at the time that one pass may take, if nothing else is asked for."""

CPU_WIDEST_BYTES = 6 * 2**20
"""About how large the widest tensor of a pass gets on a CPU, for each core. Larger passes are no
faster (they outgrow the caches), and a pass is also the grain of progress and of cancelling."""

CPU_LEAST_POSITIONS = 128
"""Rows times positions below which a core's matrix products are slower."""

LIVE_HIDDEN = 10
"""About how many tensors of a block's hidden size live at once, the query, key and value among
them (measured on GPT-2 and Llama blocks, rounded up)."""

LIVE_WIDE = 3
"""The same for tensors of the MLP's inner size."""

SCORE_COPIES = 5
"""How many tensors [n_heads, n_query, n_key] in float32 live at once where attention writes its
scores out: scores, masked, softmax and what these are made from (measured, rounded up)."""


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What one pass may take, and what a row of it needs."""

    device: torch.device
    item_bytes: int
    """Bytes of one number of the model's dtype."""
    d_model: int
    d_inner: int
    """The widest linear map of a block."""
    n_heads: int
    n_vocab: int
    memory_gb: float | None
    """Gigabytes (10^9 bytes) that a pass may take; None for a share of what is free."""

    @staticmethod
    def of(
        model: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        n_heads: int,
        n_vocab: int,
        memory_gb: float | None,
    ) -> "MemoryBudget":
        embedding = model.get_input_embeddings()  # type: ignore[operator]
        unembedding = model.get_output_embeddings()  # type: ignore[operator]
        widths = [
            max(parameter.shape[-2:])
            for module in model.modules()
            if module is not unembedding and not isinstance(module, nn.Embedding)
            for parameter in module.parameters(recurse=False)
            if parameter.ndim >= 2
        ]
        return MemoryBudget(
            device=device,
            item_bytes=dtype.itemsize,
            d_model=int(embedding.weight.shape[1]),
            d_inner=int(max(widths, default=1)),
            n_heads=n_heads,
            n_vocab=n_vocab,
            memory_gb=memory_gb,
        )

    def rows(self, window: Window, n_keys: int, writes_scores: bool) -> int:
        """Return how many sets of heads to evaluate in one pass, at least one.

        Args:
            window: the positions computed for each set.
            n_keys: how many positions its queries attend to.
            writes_scores: whether attention writes its scores or a mask a head out, as fused
                attention does not.
        """
        if window.count == 0:
            return 1
        fit = int(self._bytes() / self._bytes_per_row(window.count, n_keys, writes_scores))
        if self.device.type == "cpu":
            positions = max(
                CPU_WIDEST_BYTES // (self.item_bytes * self.d_inner), CPU_LEAST_POSITIONS
            )
            fit = min(fit, n_cores() * positions // window.count)
        return max(1, fit)

    def _bytes_per_row(self, n_positions: int, n_keys: int, writes_scores: bool) -> float:
        per_position = LIVE_HIDDEN * self.d_model + LIVE_WIDE * self.d_inner
        # Keys and values of positions that are not computed anew are copied for each row.
        copied = 2 * self.d_model * (n_keys - n_positions)
        # Logits in the model's dtype, log-probabilities and two temporaries in float64.
        distribution = self.n_vocab * (self.item_bytes + 3 * 8)
        scores = SCORE_COPIES * self.n_heads * n_positions * n_keys * 4 if writes_scores else 0
        return (n_positions * per_position + copied) * self.item_bytes + distribution + scores

    def _bytes(self) -> float:
        if self.memory_gb is not None:
            return self.memory_gb * GIGABYTE
        return FREE_SHARE * self.free()

    def free(self) -> float:
        """Return how many bytes are free on the device at the moment."""
        if self.device.type == "cuda":
            # What torch keeps for reuse is free for a pass, though not for others.
            kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(
                self.device
            )
            return float(torch.cuda.mem_get_info(self.device)[0] + kept)
        return float(psutil.virtual_memory().available)
