"""Tiny random models whose tokenizer keeps the words of the task sets whole."""

from functools import cache

from tiny import tiny_torch_model
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from ablation.circuit import words
from models.attention_tap import ATTENTION_NAME
from models.language_model import LanguageModel


def words_tokenizer(digits_a_token: int) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer that knows the words of the tasks.

    Args:
        digits_a_token: digits stand in tokens of so many from the left, as in GPT-4's tokenizer
            (3) or Llama's (1).
    """
    tokenizer = Tokenizer(models.BPE())
    digits = Regex(rf"\d{{1,{digits_a_token}}}")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(digits, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tables = (words.CAPITALS, words.COUNTRY_OF, words.LANGUAGE_OF, words.NOUNS)
    kinds = (words.WOMEN, words.MEN, words.THINGS, words.ADJECTIVES, ["is are was were has have"])
    listed = [*(word for table in tables for pair in table.items() for word in pair)]
    listed += [word for kind in (*kinds, *words.TELLING_KINDS, *words.OTHER_KINDS) for word in kind]
    numbers = [f" {i:0{digits_a_token}}" for i in range(10**digits_a_token)]
    tokenizer.train_from_iterator([*(f" {word}" for word in listed), *numbers] * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", model_max_length=128
    )


@cache
def words_model(digits_a_token: int = 1) -> LanguageModel:
    """Return a random GPT-2 with that tokenizer; shared and read-only."""
    tokenizer = words_tokenizer(digits_a_token)
    model = tiny_torch_model("gpt2", vocab_size=len(tokenizer))
    model.set_attn_implementation(ATTENTION_NAME)
    return LanguageModel(model, tokenizer, f"words-{digits_a_token}")
