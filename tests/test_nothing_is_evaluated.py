"""Nothing that a browser or a file sends is ever evaluated: the program has no way to do it, but
for the file of Python that a person names on their own command line."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    ROOT / "main.py",
    *(
        path
        for room in ("models", "ablation", "viz", "app")
        for path in ROOT.glob(f"{room}/**/*.py")
    ),
]

SCRIPTS = [*ROOT.glob("assets/*.js"), *ROOT.glob("viz/standalone/*.js")]

RUNNING_FILES = {"exec_module", "run_path", "run_module"}
EVALUATING = {"eval", "exec", "compile", "__import__", "system", "popen", "execv", *RUNNING_FILES}
"""Names of functions that run what they are given."""

RUNS_A_FILE = ROOT / "models" / "policy_files.py"
"""What may, once; `tests/models/test_policy_files.py` holds which names get there."""

UNSAFE_KEYWORDS = {
    ("shell", True),
    ("trust_remote_code", True),
    ("weights_only", False),
    ("dangerously_allow_html", True),
    ("dangerously_allow_code", True),
}
"""Keyword arguments that would let a value be run or read as HTML."""

UNSAFE_MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib"}


def unsafe_places(tree: ast.AST) -> Iterator[str]:
    """Yield what a syntax tree does that could run what it is given."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            # `re.compile` makes a pattern, and `model.eval()` runs nothing.
            harmless = ast.unparse(function) == "re.compile" or not node.args
            if name in EVALUATING and not harmless:
                yield f"line {node.lineno}: {name}"
            for keyword in node.keywords:
                value = getattr(keyword.value, "value", None)
                if (keyword.arg, value) in UNSAFE_KEYWORDS and isinstance(value, bool):
                    yield f"line {node.lineno}: {keyword.arg}={value}"
            if ast.unparse(function) in {"pickle.load", "pickle.loads"}:
                yield f"line {node.lineno}: pickle"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            if UNSAFE_MODULES & {module.split(".")[0] for module in modules}:
                yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_can_run_what_it_is_given(path: Path) -> None:
    found = list(unsafe_places(ast.parse(path.read_text("utf-8"))))
    if path == RUNS_A_FILE:
        assert [place.partition(": ")[2] for place in found] == ["exec_module"]
    else:
        assert found == []


def test_files_are_run_by_the_registry_alone() -> None:
    """Who imports what runs them: the registry, which asks who named them."""
    importing = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if "load_policy_file" in path.read_text("utf-8") and path != RUNS_A_FILE
    ]
    assert importing == ["models/registry.py"]
    allowing = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if "run_python=" in path.read_text("utf-8")
    ]
    assert sorted(allowing) == ["app/cli/question.py", "models/registry.py"]


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "builtins.exec(text)",
        "os.system(command)",
        "run(command, shell=True)",
        "from_pretrained(name, trust_remote_code=True)",
        "torch.load(path, weights_only=False)",
        "pickle.loads(body)",
        "import dill",
        "runpy.run_path(path)",
    ],
)
def test_the_test_would_notice(line: str) -> None:
    assert list(unsafe_places(ast.parse(line)))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_evaluates_anything(path: Path) -> None:
    script = path.read_text("utf-8")
    for forbidden in ("eval(", "new Function", "innerHTML", "outerHTML", "document.write"):
        assert forbidden not in script
