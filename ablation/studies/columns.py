"""What is measured when sets of heads are removed: names of columns, and what a set is."""

from models.types import Head

KL, RIGHT, RANK, SAME = range(4)
"""Columns of what removing a set does: KL from the clean prediction and the change of the right
token's log-probability (nats), the right token's rank (1: the likeliest), and whether the likeliest
token is the clean run's (1 or 0)."""

HeadSet = tuple[Head, ...]
