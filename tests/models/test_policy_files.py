"""Files of Python that wrap a policy: what goes wrong is said in a sentence, and none runs but the
one that was named on the command line."""

from pathlib import Path

import pytest
from tiny_wrapped import FLOW, flow_file

from app import permalink
from app.panels.page import open_first, opened, switched
from app.services import Services
from app.view import View
from models.errors import UserError
from models.registry import Registry, load_model

GOOD = FLOW


def written(tmp_path: Path, source: str) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(source)
    return path


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = (", r"mine\.py: it cannot be run \(line 1: SyntaxError: '\(' was never closed\)"),
        ("import os\nimport nothing_of_this_name", r"\(line 2: ModuleNotFoundError: No module"),
        ("a = 1", r"mine\.py defines no function policy\(\); let it return the policy"),
        ("policy = 3", r"defines no function policy\(\)"),
        (
            "def policy():\n    raise OSError('no checkpoint')",
            r"its function policy\(\) fails \(line 2: OSError: no checkpoint\)",
        ),
        (
            "from json import loads\ndef policy():\n    return loads('{')",
            r"fails \(line 3: JSONDecodeError: Expecting property name",
        ),
        ("def policy():\n    raise SystemExit(3)", r"fails \(line 2: SystemExit: 3\)"),
        ("def policy():\n    return {}", r"returns a dict; let it return a models\.policy_adapter"),
        ("def policy(path):\n    return path", r"fails \(TypeError: policy\(\) missing 1 required"),
        ("\0", r"mine\.py: it cannot be run"),
        (
            GOOD.replace("act,", "None,", 1),
            r"mine\.py: in its Policy act must be a function \(rows, draw, observation\)",
        ),
        (
            GOOD.replace("limits=(0, 1)", "limits=(1, 0)"),
            r"its numbers are wrong: limits are a smallest number and a larger one",
        ),
        (GOOD.replace("limits=(0, 1), ", ""), r"some have limits and others not"),
        (
            GOOD.replace("            Number(", "            *[Number('x')] * 9, Number("),
            r"its numbers are wrong: 30 are named, and it answers with 6",
        ),
        (
            GOOD.replace("torch.Generator().manual_seed(draw)", "None"),
            r"answers two equal rows differently",
        ),
        (
            GOOD.replace("seen.state", "seen.arm"),
            r"act fails \(line \d+: AttributeError: 'Observation'",
        ),
        (
            GOOD.replace("value.expand(rows, *value.shape[1:])", "value"),
            r"act fails .*; with one row it works, so let it give every tensor as many rows",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_a_sentence(
    tmp_path: Path, source: str, said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_model(written(tmp_path, source), run_python=True)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no file '.*none\.py'; check its path"):
        load_model(tmp_path / "none.py", run_python=True)


@pytest.mark.parametrize("option", [{"device": "cpu"}, {"dtype": "float32"}])
def test_the_file_chooses_device_and_dtype(option: dict[str, str]) -> None:
    with pytest.raises(UserError, match="say nothing; leave them out"):
        load_model(flow_file(), run_python=True, **option)  # type: ignore[arg-type]


def test_what_lies_beside_the_file_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "parts_beside_it.py").write_text(GOOD)
    model = load_model(written(tmp_path, "from parts_beside_it import policy"), run_python=True)
    assert model.info.self_check.passed


# --- what never runs ----------------------------------------------------------------------


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A file that says so if it is run."""
    return written(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")


def test_no_name_makes_a_file_run_but_the_command_lines(trap: Path, tmp_path: Path) -> None:
    for name in (trap, str(trap)):
        with pytest.raises(UserError, match="run only if it is named on the command line"):
            load_model(name)
    for registry in (Registry(), Registry(own="gpt2"), Registry(own=str(flow_file()))):
        with pytest.raises(UserError, match="run only if it is named on the command line"):
            registry.get(str(trap))
    spellings = [f"{trap}#a|b", f" {trap}", f"{trap} ", f"{trap}/", f"file://{trap}", f"{trap}\0"]
    for name in spellings:
        with pytest.raises(UserError):
            Registry(own=str(flow_file())).get(name)
    assert not (tmp_path / "ran").exists()


def test_neither_a_link_nor_the_picker_makes_a_file_run(trap: Path, tmp_path: Path) -> None:
    services = Services(Registry(own=str(flow_file())), str(flow_file()))
    default = View(model=str(flow_file()))
    view, _, failure = open_first(services, default, default)
    assert failure is None
    assert view.model == str(flow_file())
    with pytest.raises(UserError, match="run only if it is named on the command line"):
        switched(services, view, str(trap))
    wanted, problem = opened(str(permalink.encode(View(model=str(trap)))), default)
    assert problem is None
    view, model, failure = open_first(services, wanted, default)
    assert "run only if it is named on the command line" in str(failure)
    assert model.name == view.model == str(flow_file())
    assert not (tmp_path / "ran").exists()


def test_the_one_that_was_named_is_run_once(tmp_path: Path) -> None:
    count = tmp_path / "count"
    noting = f"with open({str(count)!r}, 'a') as file:\n    file.write('x')\n"
    path = written(tmp_path, noting + GOOD)
    registry = Registry(own=str(path))
    assert registry.get(str(path)) is registry.get(f"{path.parent}/./{path.name}")
    assert count.read_text() == "x"
