"""A small simulated table, and the policy that ships for it: a vision-language-action model.

`table` is the world (gym-style reset and step), `drawing` its camera, `words` the language of
instructions, states and actions, `policy` the model's architecture and files, `training` how its
weights were made.
"""

from pathlib import Path

NAME = "tabletop"
"""What the policy that ships is called, as a model."""
WEIGHTS = Path(__file__).parent / "weights"
