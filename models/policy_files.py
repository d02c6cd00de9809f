"""A file of Python in which a person wraps a policy of their own (`models.policy_adapter`).

Its code runs with all the rights of this program. So nothing but a person's own command line, or
their own Python, ever names such a file: no name that the page, a link or another file holds makes
it run (`models.registry`).
"""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from torch import nn

from models.checkpoints import unreadable
from models.errors import ErrorKind, UserError
from models.loading import exclusive_and_quiet
from models.policy_adapter import Number, Policy
from models.wrapped_policy import WrappedPolicy, said_where
from models.wrapped_prompts import WrappedProcessor, wrapped_processor

FUNCTION = "policy"
"""What the function is called that returns the policy."""
SUFFIX = ".py"


def is_policy_file(name: str | Path) -> bool:
    """Whether a name is one of a file of Python."""
    try:
        return str(name).endswith(SUFFIX) and not Path(name).expanduser().is_dir()
    except (OSError, ValueError, RuntimeError):
        return False


def load_policy_file(name: str | Path) -> tuple[WrappedPolicy, WrappedProcessor]:
    """Run a file of Python and wrap the policy that it returns, ready for a `LanguageModel`.

    Raises:
        UserError: it is not there, its code fails, or returns something else; the message says
            which, and in which line.
    """
    path = Path(name).expanduser()
    try:
        if not path.is_file():
            raise UserError(ErrorKind.MODEL, f"There is no file {str(name)!r}; check its path.")
        path.read_bytes()
    except OSError as error:
        raise unreadable(str(name), error) from error
    function = getattr(_module_of(path), FUNCTION, None)
    if not callable(function):
        raise UserError(
            ErrorKind.MODEL,
            f"{path.name} defines no function {FUNCTION}(); let it return the policy "
            "(models.policy_adapter has the form).",
        )
    with _failing_in(path, f"its function {FUNCTION}() fails"), exclusive_and_quiet():
        found = function()
    return wrapped(found, path.name)


def wrapped(policy: Policy, name: str = "policy") -> tuple[WrappedPolicy, WrappedProcessor]:
    """Return a policy as a `LanguageModel` takes it, with what stands for its processor.

    Raises:
        UserError: it is none, or one of its parts is something else than it should be.
    """
    if not isinstance(policy, Policy):
        raise UserError(
            ErrorKind.MODEL,
            f"{name}: its function {FUNCTION}() returns a {type(policy).__name__}; let it return a "
            "models.policy_adapter.Policy.",
        )
    _check_parts(policy, name)
    return WrappedPolicy(policy, name), wrapped_processor()


def _check_parts(policy: Policy, name: str) -> None:
    """Refuse a policy whose parts are of other kinds: Python has not looked."""
    counts = (policy.cameras, policy.state)
    wrong = (
        (not isinstance(policy.model, nn.Module), "model must be a module of torch"),
        (not callable(policy.act), "act must be a function (rows, draw, observation)"),
        (not isinstance(policy.stacks, Mapping), "stacks must be a dict, name -> module"),
        (
            not all(_is_one_or_several(part, nn.Module) for part in _values(policy.stacks)),
            "each of stacks must be a module of torch, or a list of them",
        ),
        (not all(isinstance(n, int) and n >= 0 for n in counts), "cameras and state are counts"),
        (
            not isinstance(policy.numbers, Sequence)
            or not all(isinstance(one, Number) for one in policy.numbers),
            "numbers must be a list of Number",
        ),
        (
            policy.positions is not None and not callable(policy.positions),
            "positions must be a function (observation)",
        ),
        (
            not all(_has_limits(one) for one in policy.numbers if isinstance(one, Number)),
            "the limits of a Number are a smallest number and a largest",
        ),
        (not isinstance(policy.looks_at, Mapping), "looks_at must be a dict, stack -> stacks"),
        (
            not all(_is_list_of(stacks, str) for stacks in _values(policy.looks_at)),
            "each of looks_at must be a list of stacks' names",
        ),
    )
    for is_wrong, what in wrong:
        if is_wrong:
            raise UserError(ErrorKind.MODEL, f"{name}: in its Policy {what}.")


def _values(given: Any) -> Collection[Any]:
    return given.values() if isinstance(given, Mapping) else ()


def _is_list_of(given: Any, kind: type) -> bool:
    of_kind = isinstance(given, Sequence) and not isinstance(given, str)
    return of_kind and all(isinstance(one, kind) for one in given)


def _is_one_or_several(given: Any, kind: type) -> bool:
    return isinstance(given, kind) or _is_list_of(given, kind)


def _has_limits(number: Number) -> bool:
    limits: Any = number.limits
    return limits is None or (_is_list_of(limits, int | float) and len(limits) == 2)  # type: ignore[arg-type]


def _module_of(path: Path) -> Any:
    """Run a file and return its module. What lies beside it can be imported from it."""
    spec = spec_from_file_location(f"policy_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(ErrorKind.MODEL, f"{path.name} cannot be read as Python.")
    module = module_from_spec(spec)
    beside = str(path.resolve().parent)
    if beside not in sys.path:
        sys.path.append(beside)  # last: what this program imports stays what it is
    sys.modules[spec.name] = module  # dataclasses and pickle look it up there
    with _failing_in(path, "it cannot be run"):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _failing_in(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a person's code raises into a sentence that names the line."""
    try:
        with redirect_stdout(sys.stderr):  # what it prints must not stand among results
            yield
    except (UserError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        where = said_where(error, str(path))
        raise UserError(ErrorKind.MODEL, f"{path.name}: {what} ({where}).") from error
