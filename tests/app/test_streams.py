"""Residual streams are read once, and do not hold on to a model that is not looked at."""

from tiny import PROMPT, tiny_model

from app.runs import Runs
from app.streams import Streams


def test_a_stream_is_read_once() -> None:
    model, streams = tiny_model("llama"), Streams(Runs())
    prompt, other = model.tokenize(PROMPT), model.tokenize("The cat")
    first = streams.get(model, prompt)
    assert streams.get(model, other) is not first
    assert streams.get(model, model.tokenize(PROMPT)) is first


def test_another_model_takes_the_place_of_the_last() -> None:
    llama, gpt2, streams = tiny_model("llama"), tiny_model("gpt2"), Streams(Runs())
    prompt = llama.tokenize(PROMPT)
    first = streams.get(llama, prompt)
    assert streams.get(gpt2, prompt).layers[0].wiring is not first.layers[0].wiring
    assert streams.get(llama, prompt) is not first


def test_the_memory_of_a_stream_is_that_of_its_tensors() -> None:
    model = tiny_model("llama")
    stream = model.residual.read(model.tokenize(PROMPT))
    n = len(stream.prompt)
    # Three layers of stream, attention and z, 32 numbers of 4 bytes each.
    assert stream.n_bytes == 3 * 3 * n * 32 * 4
