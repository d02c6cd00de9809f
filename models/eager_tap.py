"""The tap for policies that ask for eager attention by themselves, whatever they were told.

Some robot policies set `_attn_implementation` to "eager" as they act. transformers has no entry of
that name in its registry and falls back to each architecture's own function. So such an entry is
made: it is that function, unless a request is active in the running thread.
"""

import sys
from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from models.attention_tap import active_request, head_tap

EAGER = "eager"


def tap_eager_too() -> None:
    """Let layers that ask for eager attention serve requests; for good, in all of the process."""
    AttentionInterface.register(EAGER, _eager_or_tapped)


def _eager_or_tapped(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    if active_request() is not None:
        return head_tap(module, query, key, value, attention_mask, **kwargs)
    own = _eager_of(module)
    found: tuple[Tensor, Tensor | None] = own(module, query, key, value, attention_mask, **kwargs)
    return found


def _eager_of(module: nn.Module) -> Any:
    """Return the eager function of the architecture that a layer's class, or one that it is made
    from, belongs to."""
    for kind in type(module).__mro__:
        own = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if own is not None:
            return own
    return sdpa_attention_forward
