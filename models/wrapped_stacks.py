"""What a wrapped policy's stacks must be so that their heads can be told apart, and its rows.

Nothing that a person says of their policy is taken on trust.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.attention_hooks import AttentionSite
from models.attention_tap import Call, TapRequest, active
from models.errors import ErrorKind, UserError
from models.wrapped_policy import Asked, LayerRuns, WrappedPolicy

SAME, SAME_IN_HALF = 1e-4, 0.05
"""Rows that are given the same may differ by this part of the largest number at most: in single and
in half precision, where a batch of two rounds otherwise than one (by 0.031 in PI0's shape)."""

_NAME = re.compile(r"[a-z][a-z_]{0,30}")
"""What a stack may be called, so that its heads can be written (`ablation.heads`)."""


def refuse_unknown(
    given: Mapping[str, Any], stacks: Mapping[str, Any], what: str, name: str
) -> None:
    unknown = [repr(stack) for stack in given if stack not in stacks]
    if unknown:
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: {what} names {', '.join(unknown)}, and its stacks are {', '.join(stacks)}.",
        )


def check_names(
    stacks: Mapping[str, Any], looks_at: Mapping[str, Sequence[str]], name: str
) -> None:
    wrong = [stack for stack in stacks if not _NAME.fullmatch(str(stack))]
    if wrong or not stacks:
        what = f"no stack can be called {wrong[0]!r}" if wrong else "it names no stack"
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: {what}; name each with small letters and underscores, such as vision, "
            "language, expert.",
        )
    refuse_unknown(looks_at, stacks, "looks_at", name)
    for looked_at in looks_at.values():
        refuse_unknown(dict.fromkeys(looked_at), stacks, "looks_at", name)


def attention_layers(
    stack: str,
    parts: nn.Module | Sequence[nn.Module],
    watched: Mapping[nn.Module, LayerRuns],
    sites: Mapping[nn.Module, AttentionSite],
    name: str,
) -> tuple[nn.Module, ...]:
    """Return the attention layers of a stack, in the order they first run."""
    each = [parts] if isinstance(parts, nn.Module) else list(parts)
    inside = {module for part in each for module in part.modules()}
    layers = tuple(layer for layer in watched if layer in inside)
    if not layers:
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: no attention layer of the stack {stack!r} runs through transformers' "
            "attention functions, so its heads cannot be read; a policy that sets "
            "_attn_implementation as it acts may set it to eager alone.",
        )
    if any(layer not in sites for layer in layers):
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: in the stack {stack!r} the heads' outputs do not go straight into one output "
            "projection, so a head's share cannot be told apart.",
        )
    return layers


def refuse_shared(members: Mapping[str, Sequence[nn.Module]], main: str, name: str) -> None:
    seen: dict[nn.Module, str] = {}
    for stack, layers in members.items():
        for layer in layers:
            if layer in seen:
                raise UserError(
                    ErrorKind.MODEL,
                    f"{name}: the stacks {seen[layer] or main!r} and {stack or main!r} have an "
                    "attention layer in common; give each layer to one stack.",
                )
            seen[layer] = stack


def extent_of(
    stack: str, layers: Sequence[nn.Module], runs: Mapping[nn.Module, LayerRuns], name: str
) -> tuple[int, int]:
    """Return how many queries and keys a stack has; raise `UserError` if its layers differ."""
    missing = [layer for layer in layers if layer not in runs]
    found = {extent for layer in layers if layer in runs for extent in runs[layer].extents}
    if missing or len(found) != 1:
        shown = ", ".join(f"{q} x {k}" for q, k in sorted(found)[:3]) or "none"
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: layers of the stack {stack!r} join other positions from layer to layer or "
            f"from run to run ({shown} queries x keys); put layers that differ into stacks of "
            "their own.",
        )
    return next(iter(found))


@dataclass(frozen=True, slots=True)
class _Upset:
    """Takes away what every layer puts out in the second row of two."""

    name: str
    """The policy's, for messages."""

    def on_call(self, _layer: int, call: Call) -> Tensor:
        if len(call.z) != 2:
            raise UserError(
                ErrorKind.MODEL,
                f"{self.name}: its function act runs an attention layer once for several rows; let "
                "it give every layer of its stacks each row's own, or leave that stack out.",
            )
        z = call.z.clone()
        z[1] = 0
        return z


def prove_rows(model: WrappedPolicy, asked: Asked) -> tuple[int, int]:
    """Return the shape of an action, (steps, numbers).

    Raises:
        UserError: two rows that are given the same answer differently, or what is done in one row
            is felt in another.
    """
    half = model.places.weight.dtype in (torch.float16, torch.bfloat16)
    allowed = SAME_IN_HALF if half else SAME

    def run(n_rows: int, upset: bool = False) -> Tensor:
        request = TapRequest(n_rows=n_rows, on_call=_Upset(model.name).on_call if upset else None)
        ids = torch.zeros(n_rows, 1, dtype=torch.int64)
        with torch.inference_mode(), active(request):
            return model(ids, [asked] * n_rows).logits[:, 0]

    with torch.inference_mode():
        [clean] = model.act(1, asked.draw, asked.observation, None)
    one = run(1)
    try:
        two = run(2)
    except UserError as error:
        raise UserError(
            ErrorKind.MODEL,
            f"{str(error).rstrip('.')}; with one row it works, so let it give every tensor as many "
            "rows as it is asked for: x.expand(rows, ...).",
        ) from error
    upset = run(2, upset=True)
    largest = max(float(one.abs().max()), 1e-9)
    apart = float((two - one).abs().max())
    if apart > allowed * largest:
        raise UserError(
            ErrorKind.MODEL,
            f"{model.name}: its function act answers two equal rows differently (by {apart:.2g}); "
            "it must give every row the same observation and the same noise, that of draw.",
        )
    mixed = float((upset[0] - one[0]).abs().max())
    if mixed > allowed * largest:
        raise UserError(
            ErrorKind.MODEL,
            f"{model.name}: what is done to heads in one row is felt in another (by {mixed:.2g}); "
            "each layer must be given the rows in their order, the cameras of a row side by side.",
        )
    return (1, len(clean)) if clean.ndim == 1 else (clean.shape[0], clean.shape[1])
