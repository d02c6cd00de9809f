"""How strongly what a head writes enters the queries, keys and values of later heads.

Composition scores of Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits": with
W_OV a head's way from the stream into the stream, and W_QK the product by which it scores, the
score of an earlier head 1 with a later head 2 is

    Q: |W_QK2^T W_OV1| / |W_QK2| |W_OV1|    K: |W_QK2 W_OV1| / ...    V: |W_OV2 W_OV1| / |W_OV2| ...

in Frobenius norms. Matrices of independent random directions score about 1 / sqrt(d_model).

The matrices are not looked up by name but taken from the model as it runs: queries, keys and values
are linear in the stream once the scales of norms are fixed, so that their gradients are the
weights, norms included. They are read at position 0, where a rotary embedding does not turn.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ablation.evaluation import stop_if
from models.errors import ErrorKind, UserError
from models.forward_pass import float64_device
from models.language_model import LanguageModel
from models.residual_stream import LayerTerms, ResidualStream
from models.types import FloatArray

KINDS = ("query", "key", "value")


@dataclass(frozen=True, slots=True, eq=False)
class Composition:
    """The scores of all pairs of a model's heads."""

    scores: FloatArray
    """float32 [3, n_heads, n_heads], of `KINDS`; [kind, later, earlier], in the order of
    `all_heads`; NaN where the first head is not in a later layer than the second."""
    chance: float
    """What independent random directions score, about."""


@dataclass(frozen=True, slots=True, eq=False)
class _Maps:
    """One layer's heads as linear maps, folded so that norms of products need small matrices.

    The norm of A^T B C is that of S B R with S^2 = A A^T and R^2 = C C^T.
    """

    reads: Tensor
    """[3, n_heads, d, d_model]: S B of what each head does with its query, key and value input."""
    writes: Tensor
    """[n_heads, d_model, d]: B R of its way out."""


def composition_scores(
    model: LanguageModel,
    progress: Callable[[int], None] | None = None,
    cancel: threading.Event | None = None,
) -> Composition:
    """Return the composition scores of all pairs of heads, from the weights alone.

    Args:
        progress: called with the number of each layer that is done.

    Raises:
        Cancelled: the work was cancelled.
        UserError: the model shows no queries and keys, its blocks do something else than add to
            the residual stream, or it is an encoder-decoder.
    """
    model.check_one_stack("Composition of heads")
    if not model.dispatches:
        raise UserError(
            ErrorKind.MODEL,
            f"{model.info.architecture} computes attention where its queries and keys cannot be "
            "seen, so that composition scores cannot be read off; the rest works as ever.",
        )
    opening = model.opening_id
    one_token = model.prompt_of_ids([model.ordinary_ids()[0] if opening is None else opening])
    stream = model.residual.read(one_token)
    firsts = _first_heads(stream)
    n = firsts[-1]
    scores = torch.full((len(KINDS), n, n), torch.nan)
    earlier: list[Tensor] = []
    for layer, terms in enumerate(stream.layers):
        stop_if(cancel)
        maps = _maps(model, stream, terms)
        rows = slice(firsts[layer], firsts[layer + 1])
        for below, writes in enumerate(earlier):
            scores[:, rows, firsts[below] : firsts[below + 1]] = _norms(maps.reads, writes)
        scores[:, rows] /= _sizes(maps.reads).cpu()[..., None]
        # Norms of the earlier heads are divided out here, once for all later ones.
        earlier.append(maps.writes / _sizes(maps.writes)[:, None, None])
        if progress is not None:
            progress(layer)
    return Composition(scores.numpy(), stream.embedding.shape[-1] ** -0.5)


def _first_heads(stream: ResidualStream) -> list[int]:
    """Return the number of each layer's first head, and how many there are in all."""
    firsts = [0]
    for terms in stream.layers:
        firsts.append(firsts[-1] + terms.n_heads)
    return firsts


def _sizes(matrices: Tensor) -> Tensor:
    """Return Frobenius norms [...] of [..., rows, columns], not quite 0: what does nothing scores
    0, not NaN."""
    return torch.linalg.matrix_norm(matrices).clamp_min(torch.finfo(matrices.dtype).tiny)


def _norms(reads: Tensor, writes: Tensor) -> Tensor:
    """Return norms of products, [3, n_later, n_earlier]."""
    kinds, n_later, d, d_model = reads.shape
    n_earlier, _, d_out = writes.shape
    flat = reads.reshape(-1, d_model) @ writes.to(reads.device).transpose(0, 1).reshape(d_model, -1)
    blocks = flat.reshape(kinds, n_later, d, n_earlier, d_out)
    return blocks.square().sum(dim=(2, 4)).sqrt().cpu()


def _maps(model: LanguageModel, stream: ResidualStream, terms: LayerTerms) -> _Maps:
    """Return one layer's heads as linear maps of the stream."""
    inputs, leaf, _ = model.residual.attention_inputs(stream, terms.layer)
    n_heads = inputs.query.shape[1]
    query, key, value = (
        _jacobian(vectors[0, :, 0], leaf).repeat_interleave(n_heads // vectors.shape[1], dim=0)
        for vectors in (inputs.query, inputs.key, inputs.value)
    )  # [n_heads, d, d_model] each
    out = _ways_out(terms, value.shape[1])  # [n_heads, d_head, d_model]
    reads = [_root(key) @ query, _root(query) @ key, _root(out) @ value]
    size = max(part.shape[1] for part in reads)
    padded = [torch.nn.functional.pad(part, (0, 0, 0, size - part.shape[1])) for part in reads]
    return _Maps(torch.stack(padded), out.transpose(1, 2) @ _root(value))


def _jacobian(vectors: Tensor, leaf: Tensor) -> Tensor:
    """Return the gradients of vectors [n, d] of one position, float32 [n, d, d_model]."""
    flat = vectors.reshape(-1)
    each = torch.eye(flat.numel(), dtype=flat.dtype, device=flat.device)
    found = torch.autograd.grad(flat, leaf, each, retain_graph=True, is_grads_batched=True)[0]
    return found.reshape(*vectors.shape, -1).float()


def _ways_out(terms: LayerTerms, d_head: int) -> Tensor:
    """Return what each entry of each head's z writes, float32 [n_heads, d_head, d_model]."""
    each = torch.eye(d_head, device=terms.z.device)
    z = each[:, None].expand(-1, terms.n_heads, -1)
    written = terms.wiring.through_projection(z, range(terms.n_heads))
    if terms.post_norm is None:
        return written
    return terms.post_norm.with_scale(written, torch.ones_like(written[..., :1]))


def _root(rows: Tensor) -> Tensor:
    """Return the symmetric root of A A^T for A [n_heads, d, d_model], [n_heads, d, d]."""
    gram = (rows @ rows.transpose(1, 2)).to(float64_device(rows.device)).double()
    values, vectors = torch.linalg.eigh(gram)
    root = (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.transpose(1, 2)
    return root.float().to(rows.device)
