"""What the program imports is installed by its own requirements, not by those of the tests."""

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("models", "ablation", "viz", "app")


def pinned() -> list[Requirement]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]


def installed_by(wanted: list[Requirement]) -> set[str]:
    """Return the distributions that requirements bring along, by their canonical names."""
    found: set[tuple[str, str]] = set()
    left = [(one, extra) for one in wanted for extra in ("", *one.extras)]
    while left:
        requirement, extra = left.pop()
        name = canonicalize_name(requirement.name)
        if (name, extra) in found:
            continue
        found.add((name, extra))
        try:
            needed = [Requirement(line) for line in requires(name) or ()]
        except PackageNotFoundError:  # of another platform or Python
            continue
        for one in needed:
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                left += [(one, further) for further in ("", *one.extras)]
    return {name for name, _ in found}


def imported() -> Iterator[tuple[Path, str]]:
    """Yield each module of the program, and the top-level package of each of its imports."""
    for path in (ROOT / "main.py", *(p for room in ROOMS for p in (ROOT / room).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield path, node.module.split(".")[0]


def test_every_import_comes_with_the_requirements() -> None:
    available, distributions = installed_by(pinned()), packages_distributions()
    missing = {
        (str(path.relative_to(ROOT)), package)
        for path, package in imported()
        if package not in sys.stdlib_module_names
        and package not in ROOMS
        and not {canonicalize_name(d) for d in distributions.get(package, ())} & available
    }
    assert missing == set()


def test_what_only_tests_need_is_not_among_them() -> None:
    available = installed_by(pinned())
    assert {"torch", "pillow", "starlette", "numpy"} <= available
    assert not {"pytest", "playwright", "hypothesis"} & available
