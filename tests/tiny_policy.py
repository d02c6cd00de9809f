"""Checkpoints that several tests share."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch

from models.tabletop.files import save_policy
from models.tabletop.policy import new_policy


@cache
def policy_directory() -> Path:
    """Write a policy of the simulated table with random weights, wide enough that heads differ."""
    directory = Path(mkdtemp(prefix="tiny-policy-"))
    torch.manual_seed(0)
    policy = new_policy()
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    save_policy(policy, directory)
    return directory
