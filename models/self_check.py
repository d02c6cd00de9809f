"""What every model must prove when it is loaded, in a few short passes.

1. Attention rows sum to 1 (to at most 1 with sinks) and a causal model never looks ahead.
2. The probabilities shown are those used: pattern times values is z. Where values cannot be
   seen (architectures served by hooks): keeping one head from a key changes that head's part of
   z and no other.
3. Heads add up: the sum over heads of z_h W_O,h, plus the bias, is the attention output.
4. Ablating nothing is bit-identical to running the model without us.
5. Ablating a head changes the logits.
6. After all this the model is unchanged.

Zeroing here is written out and not taken from `ablation`, which is built on top of this.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.attention_hooks import AttentionSite
from models.attention_tap import Call, TapRequest
from models.branching import BranchEngine, Editing, LogitsOf
from models.discovery import projection_weight
from models.edits import RowPlan, acted_on_mask
from models.errors import ErrorKind, UserError
from models.forward_pass import beside
from models.placement import execution_device, weights_at_hand
from models.stacks import StackTable
from models.types import Check, Head, SelfCheck, Stack, TokenizedPrompt

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest error allowed, relative to the largest value compared. A real mistake (a wrong head, a
missing scale) is of order 1; rounding in float32 is about 1e-6, in bfloat16 about 1e-2."""

BRANCHING_LAYERS = 8
"""In about how many layers a row branches off when branching is tried out."""


@dataclass(frozen=True, slots=True)
class _ZeroZ:
    """Sets the selected heads' outputs to zero."""

    blocked: Tensor | None = None
    mixes_positions: bool = False

    def edit_z(self, z: Tensor, layer: int, heads: Tensor, first: int = 0) -> Tensor:
        return torch.zeros_like(z)


@dataclass(frozen=True, slots=True)
class _Blocked:
    """Keeps the selected heads from some (query, key) pairs."""

    blocked: Tensor
    mixes_positions: bool = False

    def edit_z(self, z: Tensor, layer: int, heads: Tensor, first: int = 0) -> Tensor:
        return z


def run_self_check(
    model: nn.Module,
    sites: Sequence[AttentionSite],
    stacks: StackTable,
    dispatches: bool,
    ids: Sequence[Sequence[int]],
    logits_of: LogitsOf,
    given: Mapping[str, Tensor],
) -> SelfCheck:
    """Make a model prove itself on a short prompt, each of its stacks by itself.

    Args:
        ids: one row of token ids.
        logits_of: runs the model on a batch under a request, giving all logits.
        given: the same row as the model itself takes it.

    Raises:
        UserError: a check failed; it says which, and by how much.
    """
    start = time.perf_counter()
    versions = _versions(model)
    with torch.inference_mode():
        plain = model(**given, use_cache=False).logits
        # Numbers of an action may come back in another precision than they were computed in.
        dtypes = {plain.dtype, *(p.dtype for p in sites[0].projection.parameters())}
        tolerance = max(TOLERANCE.get(dtype, 1e-4) for dtype in dtypes)
        seen = _watch(sites, dispatches, ids, logits_of)
        changed = _ablate_each_layer(sites, ids, plain, logits_of)
        groups = [_Group.of(stack, stacks) for stack in stacks.stacks]
        checks = [
            *(check for group in groups for check in _check_patterns(seen, group, tolerance)),
            *(check for group in groups for check in _check_outputs(seen, group, tolerance)),
            *([] if dispatches else [_check_slices(sites, ids, logits_of)]),
            _check_nothing(plain, ids, logits_of),
            *(_check_ablation(changed, group) for group in groups),
        ]
        after = logits_of(ids, TapRequest())
    unchanged = torch.equal(plain, after) and versions == _versions(model)
    checks.append(
        Check(
            "unchanged",
            unchanged,
            None,
            None,
            "After these checks weights and logits are what they were.",
        )
    )
    failed = next((check for check in checks if not check.passed), None)
    if failed is not None:
        raise _refusal(model, failed)
    return SelfCheck(tuple(checks), time.perf_counter() - start)


def _versions(model: nn.Module) -> list[int]:
    """Return how often each weight was written to; offloaded ones come and go unwritten."""
    return [p._version for p in model.parameters() if p.device.type != "meta"]


def branches_rightly(
    engine: BranchEngine,
    sites: Sequence[AttentionSite],
    causal: bool,
    prompt: TokenizedPrompt,
    logits_of: LogitsOf,
    n_before: int = 0,
) -> bool:
    """Return whether rows that branch off block by block give what one row a set gives.

    They do not where a block takes something from elsewhere than the hidden states that enter it,
    or where these have another first axis (Gemma 3n). Tried with single heads in several layers on
    top of a common one, at all positions and, for causal models, at the middle one alone.

    Args:
        sites: of the blocks.
        prompt: a short one.
        logits_of: runs the model on a batch under a request, giving logits at a position; it adds
            what goes beside the ids.
        n_before: attention layers that run before the blocks.
    """
    ids = prompt.ids
    layers = range(0, len(sites), max(1, len(sites) // BRANCHING_LAYERS))
    common = Head(len(sites) // 2, 0)
    singles = [Head(layer, (layer + 1) % sites[layer].n_heads) for layer in layers]
    sets = [frozenset({common, head}) for head in singles if head != common]
    device = execution_device(sites[0].projection)
    middle = len(ids) // 2
    for positions in (None, [middle]) if causal else (None,):
        acted_on = acted_on_mask(positions, len(ids), device)
        editing = Editing(_ZeroZ(), acted_on, len(ids) - 1)
        running = [[Head(h.layer + n_before, h.head) for h in sorted(heads)] for heads in sets]
        rows = RowPlan.for_rows(_ZeroZ(), running, acted_on, device)
        with torch.inference_mode():
            expected = logits_of([ids] * len(sets), TapRequest(plan=rows), len(ids) - 1)[:, 0]
            try:
                base = engine.base_run(ids, sets, editing, beside=beside(prompt))
                passes = list(engine.evaluate(base, sets, len(sets)))
            except (RuntimeError, ValueError, TypeError, LookupError, AttributeError):
                return False
        found = torch.cat([logits for _, logits in passes])
        order = [i for indices, _ in passes for i in indices]
        if found.shape != expected.shape or not same_numbers(found, expected[order]):
            return False
    return True


def same_numbers(found: Tensor, expected: Tensor) -> bool:
    """Whether two computations of the same logits differ by no more than rounding."""
    return _relative_error(found, expected) <= TOLERANCE.get(expected.dtype, 1e-4)


def _refusal(model: nn.Module, failed: Check) -> UserError:
    measured = (
        "" if failed.value is None else f" (error {failed.value:.2g}, at most {failed.limit:.2g})"
    )
    return UserError(
        ErrorKind.MODEL,
        f"{type(model).__name__} failed the self-check '{failed.name}'{measured}, so what would be "
        f"shown could be wrong; it is not supported. Expected: {failed.detail}",
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """The attention layers that are checked together: those of one stack."""

    name: str
    """What is put behind the names of its checks; empty where there is no other stack."""
    layers: tuple[int, ...]
    """Counted in the order they run."""
    causal: bool

    @staticmethod
    def of(stack: Stack, stacks: StackTable) -> "_Group":
        layers = (i for i, (name, _) in enumerate(stacks.places) if name == stack.name)
        several = len(stacks.stacks) > 1
        return _Group(f" ({stack.label})" if several else "", tuple(layers), stack.causal)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What was watched of one pass, by layer."""

    patterns: list[Tensor]
    """[n_heads, n_query, n_key]"""
    value_errors: list[float]
    """How far pattern times values is from z; empty where values cannot be seen."""
    sum_errors: list[float]
    """How far the sum of the heads' shares is from the attention output."""


def _watch(
    sites: Sequence[AttentionSite],
    dispatches: bool,
    ids: Sequence[Sequence[int]],
    logits_of: LogitsOf,
) -> _Seen:
    """Run once, watching every layer."""
    value_errors: dict[int, float] = {}

    def on_call(layer: int, call: Call) -> None:
        if dispatches and call.reading:
            pattern = torch.from_numpy(request.attention[layer]).to(call.z.device)
            value_errors[layer] = _pattern_times_values_error(pattern, call)

    request = TapRequest(
        read={layer: range(site.n_heads) for layer, site in enumerate(sites)},
        keep_z=frozenset(range(len(sites))),
        on_call=on_call,
    )
    outputs = _ProjectionOutputs(sites)
    with outputs:
        logits_of(ids, request)
    patterns = [torch.from_numpy(request.attention[layer]) for layer in range(len(sites))]
    sums = [
        _head_sum_error(site, request.z[layer], output)
        for layer, (site, output) in enumerate(zip(sites, outputs.last_of(sites), strict=True))
    ]
    return _Seen(patterns, [value_errors[i] for i in sorted(value_errors)], sums)


def _check_outputs(seen: _Seen, group: _Group, tolerance: float) -> list[Check]:
    """Return checks 2 and 3."""
    sums = max(seen.sum_errors[layer] for layer in group.layers)
    checks = [
        Check(
            f"heads add up{group.name}",
            sums <= tolerance,
            sums,
            tolerance,
            "The sum over heads of z W_O, plus the bias, equals the attention output "
            "(largest relative error over all layers).",
        )
    ]
    if seen.value_errors:
        error = max(seen.value_errors[layer] for layer in group.layers)
        checks.insert(
            0,
            Check(
                f"pattern is the one used{group.name}",
                error <= tolerance,
                error,
                tolerance,
                "Attention probabilities times values equal the heads' outputs z "
                "(largest relative error over all heads).",
            ),
        )
    return checks


class _ProjectionOutputs:
    """Collects what each output projection returns."""

    def __init__(self, sites: Sequence[AttentionSite]) -> None:
        self._projections = {site.projection for site in sites}
        self._handles: list[Any] = []
        self._seen: dict[nn.Module, list[Tensor]] = {}

    def __enter__(self) -> "_ProjectionOutputs":
        self._handles = [p.register_forward_hook(self._remember) for p in self._projections]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _remember(self, module: nn.Module, _args: Any, output: Tensor) -> None:
        self._seen.setdefault(module, []).append(output)

    def last_of(self, sites: Sequence[AttentionSite]) -> list[Tensor]:
        """Return what each layer's projection returned: of layers that ran several times at the
        last; layers that share a projection in the order they run."""
        return [self._seen[site.projection].pop() for site in reversed(sites)][::-1]


def _pattern_times_values_error(pattern: Tensor, call: Call) -> float:
    assert call.inputs is not None  # asked of dispatching models only
    group = call.inputs.query.shape[1] // call.inputs.value.shape[1]
    n_parts = call.inputs.value.shape[0] // call.z.shape[0]
    of_row = call.inputs.value[:n_parts].float().transpose(0, 1).flatten(1, 2)
    values = of_row.repeat_interleave(group, dim=0)  # [n_heads, key, d_head]
    expected = (pattern @ values).transpose(0, 1)  # [query, n_heads, d_head]
    return _relative_error(expected, call.z[0].float())


def _head_sum_error(site: AttentionSite, z: Tensor, output: Tensor) -> float:
    with weights_at_hand(site.projection):
        weight = projection_weight(site.projection).float()  # [d_model, n_heads * d_head]
        bias = getattr(site.projection, "bias", None)
        bias = None if bias is None else bias.float()
    of_row = output.reshape(z.shape[0], -1, output.shape[-1])[0].float()  # all parts of the row
    total = torch.zeros_like(of_row)
    for head in range(site.n_heads):
        part = slice(head * site.d_head, (head + 1) * site.d_head)
        total += z[0, :, head].float() @ weight[:, part].T
    if bias is not None:
        total += bias
    return _relative_error(total, of_row)


def _relative_error(found: Tensor, expected: Tensor) -> float:
    scale = max(float(expected.abs().max()), torch.finfo(torch.float32).tiny)
    return float((found - expected).abs().max()) / scale


def _check_patterns(seen: _Seen, group: _Group, tolerance: float) -> list[Check]:
    """Return check 1."""
    patterns = [seen.patterns[layer] for layer in group.layers]
    sums = torch.cat([pattern.sum(-1).reshape(-1) for pattern in patterns])
    excess = float((sums - 1).max())
    shortfall = float((1 - sums).max())
    # Sinks take probability away from the keys, so that rows may sum to less than 1; what the
    # sinks take is confirmed by "pattern is the one used".
    has_sinks = shortfall > tolerance
    error = excess if has_sinks else max(excess, shortfall)
    checks = [
        Check(
            ("rows sum to at most 1 (attention sinks)" if has_sinks else "rows sum to 1")
            + group.name,
            error <= tolerance and float(sums.min()) >= 0,
            error,
            tolerance,
            "Each row of each attention pattern sums to 1, or to less where there are sinks.",
        )
    ]
    if group.causal:
        ahead = max(float(pattern.triu(1).abs().max()) for pattern in patterns)
        checks.append(
            Check(
                f"causal{group.name}",
                ahead == 0.0,
                ahead,
                0.0,
                "No position attends to a later one.",
            )
        )
    return checks


def _check_slices(
    sites: Sequence[AttentionSite], ids: Sequence[Sequence[int]], logits_of: LogitsOf
) -> Check:
    """Keep one head at a time from the first key; only that head's part of z may change."""
    n_heads = sites[0].n_heads
    blocked = torch.zeros(sites[0].extent, dtype=torch.bool)
    blocked[-1, 0] = True
    # Row r keeps head r from the key; the last row is clean.
    heads = [*([Head(0, head)] for head in range(n_heads)), []]
    device = execution_device(sites[0].projection)
    plan = RowPlan.for_rows(_Blocked(blocked.to(device)), heads, None, device)
    request = TapRequest(plan=plan, keep_z=frozenset({0}))
    try:
        logits_of(list(ids) * len(heads), request)
    except (UserError, ValueError, RuntimeError) as error:
        # Architectures that take no mask a head; without it the pattern cannot be confirmed.
        raise UserError(
            ErrorKind.MODEL,
            f"{type(sites[0].module).__name__} is not supported: it takes no attention mask for "
            "single heads, so which head a pattern belongs to cannot be confirmed.",
        ) from error
    z = request.z[0].float()  # [n_heads + 1, position, n_heads, d_head]
    change = (z[:-1] - z[-1:]).abs().amax(dim=(1, 3))  # [row, head]
    own = change.diagonal()
    other = float((change - own.diag()).max())
    noise = 1e-6 * float(z.abs().max())
    return Check(
        "each head its own slice",
        other <= noise < float(own.min()),
        other,
        noise,
        "Keeping one head from a key changes its own part of z and no other head's.",
    )


def _check_nothing(plain: Tensor, ids: Sequence[Sequence[int]], logits_of: LogitsOf) -> Check:
    nothing = RowPlan(_ZeroZ(), {}, None)
    ours = logits_of(ids, TapRequest(plan=nothing))
    difference = float((ours - plain).abs().max())
    return Check(
        "ablating nothing",
        torch.equal(ours, plain),
        difference,
        0.0,
        "Ablating no head gives bit-identical logits.",
    )


def _ablate_each_layer(
    sites: Sequence[AttentionSite],
    ids: Sequence[Sequence[int]],
    plain: Tensor,
    logits_of: LogitsOf,
) -> list[bool]:
    """Ablate one head a layer, each in its own row; return in which layers the logits changed."""
    heads = [[Head(layer, layer % site.n_heads)] for layer, site in enumerate(sites)]
    plan = RowPlan.for_rows(_ZeroZ(), heads, None, plain.device)
    # One position is enough, and much less to unembed.
    last = len(ids[0]) - 1
    ablated = logits_of(list(ids) * len(heads), TapRequest(plan=plan), last)
    plain = plain[:, last:]
    # One batch row may round differently from a batch of one; a real change is far larger.
    noise = 1e-6 * float(plain.abs().max())
    changed: list[bool] = ((ablated - plain).abs().amax(dim=(1, 2)) > noise).tolist()
    return changed


def _check_ablation(changed: Sequence[bool], group: _Group) -> Check:
    """Return check 5; a dead head may change nothing."""
    n_changed = sum(changed[layer] for layer in group.layers)
    return Check(
        f"ablating a head{group.name}",
        n_changed > 0,
        None,
        None,
        f"Zeroing one head changed the logits in {n_changed} of {len(group.layers)} layers.",
    )
