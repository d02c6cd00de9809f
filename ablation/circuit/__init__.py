"""Which heads and MLPs carry a prediction, how they feed each other, and the proof of it.

`types` holds what is asked and found, `pairs` and `tasks` the prompts; `question` runs clean and
corrupted prompts and measures; `attribution` scores edges by gradients, `patching` heads exactly;
`pruning` finds the smallest faithful circuit; `discovery` puts all of it together.
"""
