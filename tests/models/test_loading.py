"""From a name to a model: what loads, and one clear sentence for everything that does not."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import PROMPT, tiny_directory, tiny_torch_model
from transformers import (
    AutoConfig,
    BertConfig,
    BertLMHeadModel,
)

from models.attention_tap import ATTENTION_NAME
from models.errors import ErrorKind, UserError
from models.loading import load_pretrained, resolve_device, resolve_dtype
from models.registry import load_model


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of the test's own, to be damaged."""
    return Path(shutil.copytree(tiny_directory("gpt2"), tmp_path / "checkpoint"))


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(name: str | Path, kind: ErrorKind = ErrorKind.MODEL) -> str:
    with pytest.raises(UserError) as caught:
        load_pretrained(name, device="cpu")
    assert caught.value.kind is kind
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.endswith(".")
    return sentence


# --- what loads ---


def test_weights_arrive_unchanged_and_in_float32(checkpoint: Path) -> None:
    model, tokenizer = load_pretrained(checkpoint, device="cpu")
    expected = load_file(checkpoint / "model.safetensors")
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    assert model.config._attn_implementation == ATTENTION_NAME
    assert tokenizer.decode(tokenizer(PROMPT)["input_ids"]) == PROMPT


def test_dtype_is_float32_whatever_the_checkpoint_says(tmp_path: Path) -> None:
    tiny_torch_model("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    for path in tiny_directory("llama").glob("tokenizer*"):
        shutil.copy(path, tmp_path)
    for asked, expected in ((None, torch.float32), ("bfloat16", torch.bfloat16)):
        model, _ = load_pretrained(tmp_path, device="cpu", dtype=asked)
        assert model.get_input_embeddings().weight.dtype is expected


def test_architectures_that_do_not_dispatch_are_eager() -> None:
    model, _ = load_pretrained(tiny_directory("bloom"), device="cpu")
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_encoders_predict_at_masks(family: str) -> None:
    model, _ = load_pretrained(tiny_directory(family), device="cpu")
    assert type(model).__name__.endswith("ForMaskedLM")


def test_a_decoder_made_of_an_encoder_is_causal(tmp_path: Path) -> None:
    small = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = BertConfig(vocab_size=320, intermediate_size=16, is_decoder=True, **small)
    BertLMHeadModel(config).save_pretrained(tmp_path)
    for path in tiny_directory("bert").glob("tokenizer*"):
        shutil.copy(path, tmp_path)
    model, _ = load_pretrained(tmp_path, device="cpu")
    assert type(model) is BertLMHeadModel


def test_pickled_weights_of_plain_tensors(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    torch.save(tensors, checkpoint / "pytorch_model.bin")
    model, _ = load_pretrained(checkpoint, device="cpu")
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


def test_a_path_may_start_with_a_tilde(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert load_pretrained("~/checkpoint", device="cpu")[0] is not None


def test_loading_says_nothing_on_the_terminal(
    checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    load_pretrained(checkpoint, label="mine", device="cpu", progress=said.append)
    assert capfd.readouterr() == ("", "")
    assert said == ["Loading mine"]


# --- what does not ---


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~nobody/x", "missing.gguf"])
def test_a_path_that_does_not_exist(name: str) -> None:
    assert "There is no directory or file" in refusal(name)


@pytest.mark.parametrize("name", ["", "   ", "a\0b"])
def test_no_name(name: str) -> None:
    assert "No model was named" in refusal(name)


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    assert "it has no config.json" in refusal(tmp_path)
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    assert str(tmp_path / "x.gguf") in refusal(tmp_path)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x")
    assert "give a .gguf file or the directory" in refusal(path)


def test_names_that_are_too_long() -> None:
    assert len(refusal("x" * 100_000)) < 200
    assert "File name too long" in refusal("x" * 500)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; un-skip as another user")
def test_a_directory_that_may_not_be_read(checkpoint: Path) -> None:
    checkpoint.chmod(0)
    assert "Permission denied" in refusal(checkpoint)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "not valid JSON"),
        ("[]", "names no model_type"),
        ('{"vocab_size": 3}', "names no model_type"),
        ('{"model_type": "zzz"}', "does not know the architecture 'zzz'"),
        ('{"model_type": "zzz", "auto_map": {"AutoConfig": "a.B"}}', "such code is never run"),
        ('{"model_type": "gpt2", "n_head": "many"}', "its configuration cannot be used"),
    ],
)
def test_configurations_that_are_refused(checkpoint: Path, content: str, expected: str) -> None:
    (checkpoint / "config.json").write_text(content)
    assert expected in refusal(checkpoint)


def test_code_beside_a_known_architecture_is_not_run(checkpoint: Path) -> None:
    marker = checkpoint / "ran"
    code = f"open({str(marker)!r}, 'w')"
    (checkpoint / "modeling_evil.py").write_text(code)
    (checkpoint / "tokenization_evil.py").write_text(code)
    edit_config(
        checkpoint,
        auto_map={
            "AutoConfig": "modeling_evil.C",
            "AutoModelForCausalLM": "modeling_evil.M",
            "AutoTokenizer": ["tokenization_evil.T", None],
        },
    )
    load_pretrained(checkpoint, device="cpu")
    assert not marker.exists()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (AutoConfig.for_model("whisper"), "an encoder-decoder that predicts no tokens"),
        (AutoConfig.for_model("vit_mae"), "no language model that predicts tokens"),
        (AutoConfig.for_model("qwen2_audio"), "more than text (audio)"),
    ],
)
def test_architectures_that_are_not_supported_yet(
    tmp_path: Path, config: Any, expected: str
) -> None:
    config.save_pretrained(tmp_path)
    sentence = refusal(tmp_path)
    assert expected in sentence
    assert "not supported yet" in sentence


def test_no_processor(tmp_path: Path) -> None:
    AutoConfig.for_model("gemma3").save_pretrained(tmp_path)
    assert "has no processor for pictures" in refusal(tmp_path)


def test_no_tokenizer(checkpoint: Path) -> None:
    for path in checkpoint.glob("tokenizer*"):
        path.unlink()
    assert "has no tokenizer" in refusal(checkpoint)


def test_a_damaged_tokenizer(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{")
    assert "its tokenizer cannot be loaded" in refusal(checkpoint)


def test_no_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert "its weights cannot be loaded" in refusal(checkpoint)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.99])
def test_truncated_weights(checkpoint: Path, keep: float) -> None:
    path = checkpoint / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert "a weight file is damaged" in refusal(checkpoint)


def test_truncated_pickled_weights(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    path = checkpoint / "pytorch_model.bin"
    torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "its weights cannot be loaded" in refusal(checkpoint)


class Evil:
    """What a pickle can make a careless reader do."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_that_run_code_are_refused(checkpoint: Path, zipped: bool) -> None:
    (checkpoint / "model.safetensors").unlink()
    marker, path = checkpoint / "ran", checkpoint / "pytorch_model.bin"
    content = {"transformer.wte.weight": Evil(marker)}
    if zipped:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content, protocol=2))
    assert "more than plain tensors" in refusal(checkpoint)
    assert not marker.exists()


def test_missing_weights_are_never_made_up(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    sentence = refusal(checkpoint)
    assert "lacks weights" in sentence
    assert "transformer.h.1.mlp.c_fc.weight" in sentence


def test_weights_of_another_size(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    tensors["transformer.h.1.mlp.c_fc.weight"] = torch.zeros(3, 3)
    save_file(tensors, path, metadata={"format": "pt"})
    assert "other sizes than config.json says" in refusal(checkpoint)


def test_a_head_for_another_task_is_missing_weights(tmp_path: Path) -> None:
    shutil.copytree(tiny_directory("bert"), tmp_path, dirs_exist_ok=True)
    path = tmp_path / "model.safetensors"
    tensors = {k: v for k, v in load_file(path).items() if not k.startswith("cls.")}
    save_file(tensors, path, metadata={"format": "pt"})
    edit_config(tmp_path, architectures=["BertForSequenceClassification"])
    assert "made for another task" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"GGUF" + b"\0" * 40])
def test_damaged_gguf_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    assert "damaged" in refusal(path)


# --- devices and dtypes ---


def test_auto_is_a_device_of_this_machine() -> None:
    assert resolve_device("auto").type in {"cpu", "cuda", "mps"}
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta", "tpu", ""])
def test_devices_that_are_not_there(name: str) -> None:
    with pytest.raises(UserError) as caught:
        resolve_device(name)
    assert caught.value.kind is ErrorKind.DEVICE
    assert repr(name) in str(caught.value)


def test_a_device_is_checked_before_anything_is_loaded() -> None:
    with pytest.raises(UserError) as caught:
        load_model("/nowhere", device="cuda:99")
    assert caught.value.kind is ErrorKind.DEVICE


def test_dtypes() -> None:
    assert resolve_dtype(None) is torch.float32
    assert resolve_dtype("bfloat16") is torch.bfloat16
    assert resolve_dtype(torch.float16) is torch.float16
    for wrong in ("int8", "float64", torch.int64):
        with pytest.raises(UserError, match="There is no dtype"):
            resolve_dtype(wrong)
