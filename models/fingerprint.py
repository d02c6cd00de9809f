"""What tells one model's weights from another's, in a fraction of a second.

Results that only depend on the weights are kept under it. Two copies of the same checkpoint, in
whatever directory, have the same fingerprint; a model that was trained further has another.
"""

import hashlib
import json
from typing import Any

import torch
from torch import nn

from models.placement import weights_at_hand

SAMPLE = 4096
"""Of each tensor about so many numbers are hashed themselves, evenly spaced; all are summed."""

NOT_THE_MODEL = frozenset({"_name_or_path", "transformers_version"})
"""Entries of a configuration that say where it came from, not what it is."""

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integers by their size in bytes. Their sums do not depend on the order, as sums of floats do."""


def weights_fingerprint(model: nn.Module) -> str:
    """Return a digest of a model's configuration and of all its weights, 64 hexadecimal digits.

    Every number counts, in a sum over the bits of its tensor; a sample is hashed as it stands.
    """
    digest = hashlib.sha256(_configuration(model).encode())
    for name, module in model.named_modules():
        with weights_at_hand(module):
            for own_name, parameter in module.named_parameters(recurse=False):
                _add(digest, f"{name}.{own_name}", parameter.detach())
    return digest.hexdigest()


def _configuration(model: nn.Module) -> str:
    config: Any = getattr(model, "config", None)
    entries: dict[str, Any] = {} if config is None else config.to_dict()
    kept = {name: entry for name, entry in entries.items() if name not in NOT_THE_MODEL}
    return json.dumps([type(model).__name__, kept], sort_keys=True, default=str)


def _add(digest: Any, name: str, weights: torch.Tensor) -> None:
    bits = weights.reshape(-1).view(_INTEGERS[weights.element_size()])
    total = int(bits.sum(dtype=torch.int64))
    digest.update(f"{name} {weights.dtype} {tuple(weights.shape)} {total};".encode())
    sample = bits[:: max(1, bits.numel() // SAMPLE)]
    digest.update(sample.cpu().numpy().tobytes())
