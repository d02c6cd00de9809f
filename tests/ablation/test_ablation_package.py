"""The room's front door: every name of the contract, and none of torch before it is needed."""

import subprocess
import sys

import pytest

import ablation


def test_every_promised_name_is_there() -> None:
    for name in ablation.__all__:
        assert getattr(ablation, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sweep'"):
        ablation.__getattr__("sweep")


TORCHLESS = [
    "types",
    "attribution_types",
    "circuit.corruption",
    "circuit.pair_files",
    "circuit.pairs",
    "circuit.tasks",
    "circuit.tasks.ioi",
    "heads",
    "metrics",
    "head_metrics",
    "interventions",
]


@pytest.mark.parametrize("module", ["ablation", *(f"ablation.{name}" for name in TORCHLESS)])
def test_values_pull_in_no_torch(module: str) -> None:
    code = f"import {module}, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
