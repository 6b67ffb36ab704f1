"""What of a prompt is read: the beginning that is named has the same tokens, whatever the characters."""

from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from serve.families.prompts import Tokens, part_read, tokenize

LENGTH = 6
SENTENCES = ["make it darker", "don't make it blue, they're red", "a  photo   of 123 cats"]


def byte_level_bpe() -> PreTrainedTokenizerFast:
    """As the embedded model's: lower case, compatibility form, merges of bytes."""
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        SENTENCES * 9,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=["<pad>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>")


def unigram() -> PreTrainedTokenizerFast:
    """As T5's: words, of which a mark is the first token, and pieces of words."""
    pieces = ["<pad>", "</s>", "<unk>", "\u2581", *"abcdefghijklmnopqrstuvwxyz", "ma", "make", "\u2581it", "dark", "er"]
    tokenizer: Any = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {"byte-level BPE": byte_level_bpe(), "unigram": unigram()}
prompts = st.text(st.sampled_from("make itdr'st123é\u0301\u030a日本ﬁ✨👍\t  "), max_size=40) | st.text(max_size=40)


def read_by(name: str, text: str) -> tuple[Tokens]:
    return (tokenize(TOKENIZERS[name], text, LENGTH),)


def ids(name: str, text: str) -> list[int]:
    return read_by(name, text)[0].ids[0].tolist()


@pytest.mark.parametrize("name", TOKENIZERS)
@given(prompt=prompts)
@example("make it darker and darker")
@example("e\u0301" * 20)
@example("make it </s> darker and <pad> darker")
@example("they're they'")
def test_the_part_read_has_the_tokens_of_the_whole(name: str, prompt: str):
    (whole,) = read_by(name, prompt)
    part = part_read(prompt, lambda text: read_by(name, text))
    if part is not None:
        assert len(part) < len(prompt)
        assert prompt.startswith(part)
        assert ids(name, part) == ids(name, prompt)
    elif whole.cut:
        assert all(ids(name, prompt[:end]) != ids(name, prompt) for end in range(len(prompt)))


@pytest.mark.parametrize("name", TOKENIZERS)
@given(prompt=prompts)
def test_a_prompt_is_cut_where_more_room_would_read_more(name: str, prompt: str):
    (tokens,) = read_by(name, prompt)
    roomy = tokenize(TOKENIZERS[name], prompt, 2000)
    assert tokens.cut == (roomy.count > LENGTH)
    assert tokens.count == min(roomy.count, LENGTH)
    assert tokens.ids.shape == tokens.mask.shape == (1, LENGTH)


def test_every_encoder_must_read_the_same():
    """The second reads more of the prompt than the first, and its last word differently where it ends."""

    def both(text: str) -> tuple[Tokens, Tokens]:
        longer = text.split()[:4]
        second = torch.tensor([[len(word) for word in longer] + [0] * (4 - len(longer))])
        end = len("aa bb cc dd") if len(longer) == 4 else len(text)
        return tokenize(TOKENIZERS["unigram"], text[:5], LENGTH), Tokens(second, second, end, cut=True)

    assert part_read("aa bb cc dd ee ff", both) == "aa bb cc dd"


def test_a_prompt_that_changes_its_first_tokens_at_its_very_end_was_read_to_there():
    def first_token_counts_characters(text: str) -> tuple[Tokens]:
        one = torch.tensor([[len(text)]])
        return (Tokens(one, one, end=3, cut=True),)

    assert part_read("make it darker", first_token_counts_characters) is None
