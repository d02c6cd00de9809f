"""What the program is measured against: one forward pass a head, in the two ways people write it.

(a) transformers and a plain hook on the output projection; (b) TransformerLens's bridge with a hook
on `hook_z`, one forward pass a head, and one a layer with its heads as rows.
"""

import logging
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from benchmarks.flops import blocks_of
from benchmarks.subjects import Subject
from models import Head

PROJECTIONS = {
    "gpt2": "attn.c_proj",
    "llama": "self_attn.o_proj",
}
"""Model type -> where a block has the output projection of its attention."""


class Loop(Protocol):
    """Something that ablates one head a forward pass."""

    name: str

    def logits(self, ids: Sequence[int], head: Head) -> Tensor:
        """Return the logits [n_vocab] at the last position with one head's z set to zero."""
        ...


class PlainLoop:
    """The loop everybody writes. Its unembedding runs at the last position only."""

    name = "hook loop"

    def __init__(self, subject: Subject) -> None:
        self.model: Any = subject.load_plain()
        path = PROJECTIONS[self.model.config.model_type]  # a KeyError names what is not known here
        self._projections = [block.get_submodule(path) for block in blocks_of(self.model)]
        self._n_heads = self.model.config.num_attention_heads

    def logits(self, ids: Sequence[int], head: Head) -> Tensor:
        def zero(_module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            z = args[0].clone()  # [1, position, n_heads * d_head]
            d_head = z.shape[-1] // self._n_heads
            z[..., head.head * d_head : (head.head + 1) * d_head] = 0
            return (z,)

        handle = self._projections[head.layer].register_forward_pre_hook(zero)
        try:
            with torch.inference_mode():
                output = self.model(
                    input_ids=torch.tensor([list(ids)]), use_cache=False, logits_to_keep=1
                )
                return output.logits[0, -1]
        finally:
            handle.remove()


class LensLoop:
    """TransformerLens 4.3 as its users write it: its bridge computes the logits of every position.

    Nothing is folded or centred (`enable_compatibility_mode` is not called), so that its logits are
    the model's own. No hub is asked: the bridge takes over a model that is already loaded.
    """

    name = "TL loop"

    def __init__(self, subject: Subject) -> None:
        from transformer_lens.model_bridge import TransformerBridge
        from transformers import AutoTokenizer

        logging.getLogger("transformer_lens").setLevel(logging.ERROR)
        self._bridge = TransformerBridge.boot_transformers(
            str(subject.directory),
            hf_model=subject.load_plain(),
            tokenizer=AutoTokenizer.from_pretrained(subject.directory),
            device="cpu",
            dtype=torch.float32,
        )

    def logits(self, ids: Sequence[int], head: Head) -> Tensor:
        def zero(z: Tensor, hook: object) -> Tensor:
            z[:, :, head.head] = 0  # [1, position, n_heads, d_head]
            return z

        return self._run([list(ids)], head.layer, zero)[0, -1]

    def layer_logits(self, ids: Sequence[int], layer: int) -> Tensor:
        """Return the logits [n_heads, n_vocab] at the last position, row h without head h."""
        rows = torch.arange(self._bridge.cfg.n_heads)

        def zero(z: Tensor, hook: object) -> Tensor:
            z[rows, :, rows] = 0  # [n_heads, position, n_heads, d_head]
            return z

        return self._run([list(ids)] * len(rows), layer, zero)[:, -1]

    def _run(self, ids: list[list[int]], layer: int, zero: Any) -> Tensor:
        with torch.inference_mode():
            return self._bridge.run_with_hooks(
                torch.tensor(ids),
                return_type="logits",
                fwd_hooks=[(f"blocks.{layer}.attn.hook_z", zero)],
            )


Item = TypeVar("Item")


def spread(items: Sequence[Item], n: int) -> list[Item]:
    """Return at most n of the items, spread evenly over all of them."""
    n = min(n, len(items))
    return [items[(2 * i + 1) * len(items) // (2 * n)] for i in range(n)]
