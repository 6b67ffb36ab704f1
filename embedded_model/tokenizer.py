"""A byte-level BPE tokenizer trained on the instructions: any Unicode text becomes tokens, a common word one."""

import random

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from embedded_model.edits import EDITS
from embedded_model.wordings import train_prompt, unknown_prompt

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
VOCABULARY_SIZE = 2048
SAMPLES = 60_000


def train_tokenizer(text_length: int, seed: int = 0) -> PreTrainedTokenizerFast:
    """Learns the merges from sampled training sentences; texts are lower-cased, and end with `</s>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[PAD, END, UNKNOWN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(random.Random(seed)), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_max_length=text_length,
        padding_side="right",
    )


def _sentences(rng: random.Random) -> list[str]:
    names = list(EDITS)
    known = [train_prompt([rng.choice(names)], rng) for _ in range(SAMPLES)]
    return known + [unknown_prompt(rng) for _ in range(SAMPLES // 4)]
