"""Floating-point operations of ablation passes, counted from the shapes of a model's weights.

Only the matrix products are counted, two operations a multiply-add: norms, softmax and activations
are a per cent or so of them. With T positions, d = d_model, H query heads and K key heads of width
e, and m the entries of the MLP's matrices (two of d x 4d for GPT-2, three with a gate for Llama), a
row needs

    query             2 T d He          its output projection     2 T He d
    keys and values   4 T d Ke          MLP                       2 T m
    attention         2 H e T (T + 1)   unembedding, one position 2 d V

The attention is the causal half: T (T + 1) / 2 pairs of a query and a key, once for the scores and
once for the weighted sum of the values, each 2 e operations a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a decoder's shape the number of operations depends on."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    d_head: int
    n_mlp_weights: int
    """Entries of the MLP's matrices in one block."""
    n_vocab: int

    @staticmethod
    def of(model: Any) -> "ModelShape":
        """Read the shape of a transformers model: GPT-2's or Llama's kind, all blocks alike.

        Raises:
            ValueError: the attention's matrices are not those that this count is written for.
        """
        config = model.config.get_text_config()
        d_model, n_heads = config.hidden_size, config.num_attention_heads
        n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
        d_head = getattr(config, "head_dim", None) or d_model // n_heads
        blocks = blocks_of(model)
        attention, other = _matrix_entries(blocks[0])
        expected = 2 * d_model * d_head * (n_heads + n_kv_heads)
        if attention != expected or any(_matrix_entries(b) != (attention, other) for b in blocks):
            raise ValueError(
                f"{type(model).__name__}: the blocks differ, or hold {attention} attention weights "
                f"where queries, keys, values and the output projection make {expected}."
            )
        n_vocab = model.get_output_embeddings().weight.shape[0]
        return ModelShape(len(blocks), d_model, n_heads, n_kv_heads, d_head, other, n_vocab)

    # --- One row, in operations. ---

    def query(self, n: int) -> int:
        """Count the query projection at n positions; the output projection is as large."""
        return 2 * n * self.d_model * self.n_heads * self.d_head

    def keys_and_values(self, n: int) -> int:
        return 4 * n * self.d_model * self.n_kv_heads * self.d_head

    def causal_attention(self, n: int) -> int:
        return 2 * self.n_heads * self.d_head * n * (n + 1)

    def last_query_attention(self, n: int) -> int:
        """Count the attention of one query over n keys."""
        return 4 * self.n_heads * self.d_head * n

    def output_and_mlp(self, n: int) -> int:
        return self.query(n) + 2 * n * self.n_mlp_weights

    def block(self, n: int) -> int:
        """Count a whole block over n positions."""
        projections = self.query(n) + self.keys_and_values(n)
        return projections + self.causal_attention(n) + self.output_and_mlp(n)

    def last_block(self, n: int) -> int:
        """Count a block of whose output only the last position is wanted."""
        at_last = self.query(1) + self.last_query_attention(n) + self.output_and_mlp(1)
        return self.keys_and_values(n) + at_last

    def unembedding(self) -> int:
        return 2 * self.d_model * self.n_vocab

    def forward(self, n: int) -> int:
        """Count one whole forward pass, unembedded at the last position only."""
        return self.n_layers * self.block(n) + self.unembedding()


def blocks_of(model: Any) -> list[nn.Module]:
    """Return the decoder's blocks: the module list as long as the model is deep."""
    n_layers = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    return list(lists[0])


def _matrix_entries(block: nn.Module) -> tuple[int, int]:
    """Return the entries of a block's matrices: the attention's, and all others."""
    sizes = [(name, p.numel()) for name, p in block.named_parameters() if p.ndim > 1]
    attention = sum(n for name, n in sizes if "attn" in name)
    return attention, sum(n for _, n in sizes) - attention


def growing_batch_flops(shape: ModelShape, n: int, born: Sequence[int]) -> int:
    """Count the growing batch in which every row runs every block from its birth on in full.

    This is the yardstick that the program's time is held against. One clean row runs all blocks;
    before block l, `born[l]` copies of it are appended; every row is unembedded at the last
    position.

    Args:
        n: positions of the prompt.
        born: for each layer, how many of its heads are ablated, each in a row of its own.
    """
    rows = 1
    total = 0
    for new in born:
        rows += new
        total += rows * shape.block(n)
    return total + rows * shape.unembedding()


def needed_flops(shape: ModelShape, n: int, born: Sequence[int]) -> int:
    """Count what the same answers need when nothing is computed twice or in vain.

    In the block where a row is born its attention is the clean row's, less one head: only the
    output projection and the MLP are computed anew. In the last block only keys and values are
    needed at all positions, everything else at the last one.

    Args: as for `growing_batch_flops`.
    """
    total = (shape.n_layers - 1) * shape.block(n) + shape.last_block(n)  # the clean row
    for layer, new in enumerate(born):
        if layer == shape.n_layers - 1:
            row = shape.output_and_mlp(1)
        else:
            between = shape.n_layers - 2 - layer
            row = shape.output_and_mlp(n) + between * shape.block(n) + shape.last_block(n)
        total += new * row
    return total + (1 + sum(born)) * shape.unembedding()


def born_in_search(shape: ModelShape, chosen_layers: Sequence[int]) -> list[list[int]]:
    """Return, for each step of an exact search, how many heads each layer has left to try.

    Args:
        chosen_layers: the layer of each step's head, in the order found.
    """
    left = [shape.n_heads] * shape.n_layers
    steps = []
    for layer in chosen_layers:
        steps.append(list(left))
        left[layer] -= 1
    return steps
