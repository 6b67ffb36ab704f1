"""Instructions for each edit: phrases put into sentence frames, with fillers, typos and levels of politeness.

The held-out sentences use frames that training never sees, around phrases that it does: they measure whether the model
reads past unfamiliar words. `tests/unit/test_embedded_model.py` checks that the two sets are disjoint.
"""

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from embedded_model.edits import EDITS, IDENTITY, TINTS
from embedded_model.phrases import (
    ADJECTIVE_FRAMES,
    ADJECTIVES,
    COMMAND_FRAMES,
    COMMANDS,
    CONTEXT_WORDS,
    HELD_OUT_ADJECTIVE_FRAMES,
    HELD_OUT_COMMAND_FRAMES,
    HELD_OUT_UNKNOWN,
    PICTURE_NOUNS,
    TINT_ADJECTIVES,
    TINT_COMMANDS,
    TINT_SYNONYMS,
    UNKNOWN_FRAMES,
    UNKNOWN_THINGS,
    UNKNOWN_VERBS,
)

TYPO_PROBABILITY = 0.06
CONTEXT_PROBABILITY = 0.3
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def adjectives(edit: str) -> Sequence[str]:
    """What the picture should become: "warmer", "black and white"."""
    if edit.startswith("tint_"):
        colours = TINT_SYNONYMS[edit.removeprefix("tint_")]
        return [frame.format(colour=colour) for colour in colours for frame in TINT_ADJECTIVES]
    return ADJECTIVES[edit]


def commands(edit: str) -> Sequence[str]:
    """What to do: "brighten {it}", "raise the contrast"."""
    if edit.startswith("tint_"):
        colours = TINT_SYNONYMS[edit.removeprefix("tint_")]
        return [frame.replace("{colour}", colour) for colour in colours for frame in TINT_COMMANDS]
    return COMMANDS[edit]


def train_prompt(edits: Sequence[str], rng: random.Random) -> str:
    """An instruction that asks for `edits` in their order; it is never one of the held-out sentences."""
    while True:
        prompt = " and ".join(_clause(edit, rng) for edit in edits)
        if prompt not in _HELD_OUT_SENTENCES:
            return _with_typos(_decorated(_in_context(prompt, rng), rng), rng)


def unknown_prompt(rng: random.Random) -> str:
    """An instruction that the model was not taught; the right answer is the source."""
    kind = rng.random()
    if kind < 0.12:
        return " ".join(_pseudo_word(rng) for _ in range(rng.randint(1, 5)))
    if kind < 0.2:
        return " ".join(
            rng.choices([*UNKNOWN_THINGS, *PICTURE_NOUNS, "make", "the", "it", "a", "please"], k=rng.randint(1, 5))
        )
    if kind < 0.23:
        return "".join(chr(rng.randint(0xA1, 0x9FFF)) for _ in range(rng.randint(1, 12)))
    sentence = rng.choice(UNKNOWN_FRAMES).format(
        thing=rng.choice(UNKNOWN_THINGS),
        other=rng.choice(UNKNOWN_THINGS),
        verb=rng.choice(UNKNOWN_VERBS),
        colour=rng.choice(list(TINTS)),
        picture=rng.choice(PICTURE_NOUNS),
    )
    if sentence in HELD_OUT_UNKNOWN:
        return unknown_prompt(rng)
    return _with_typos(_decorated(_in_context(sentence, rng), rng), rng)


def held_out_prompts(edit: str) -> Sequence[str]:
    """All held-out sentences of an edit, in a fixed order that mixes frames and phrases."""
    return HELD_OUT[edit]


def _clause(edit: str, rng: random.Random) -> str:
    described, ordered = adjectives(edit), commands(edit)
    if described and (not ordered or rng.random() < 0.5):
        frame, phrase = rng.choice(ADJECTIVE_FRAMES), rng.choice(described)
    else:
        frame, phrase = rng.choice(COMMAND_FRAMES), rng.choice(ordered)
    return _fill(frame, phrase, rng)


def _fill(frame: str, phrase: str, rng: random.Random) -> str:
    picture = rng.choice(PICTURE_NOUNS)
    it = rng.choice(("it", "this", f"the {picture}", f"this {picture}", f"my {picture}"))
    return frame.format(phrase=phrase.format(it=it), it=it, picture=picture)


def _in_context(prompt: str, rng: random.Random) -> str:
    """Some prompts get unrelated words before or after them, so that the model learns to read past such words."""
    if rng.random() > CONTEXT_PROBABILITY:
        return prompt
    before, after = rng.choice(((True, False), (False, True), (True, True)))
    words = [*_unrelated(rng)] * before + [prompt] + [*_unrelated(rng)] * after
    return " ".join(words)


def _unrelated(rng: random.Random) -> list[str]:
    return [_pseudo_word(rng) if rng.random() < 0.25 else rng.choice(CONTEXT_WORDS) for _ in range(rng.randint(1, 6))]


def _pseudo_word(rng: random.Random) -> str:
    return "".join(rng.choices(ALPHABET, k=rng.randint(2, 8)))


def _decorated(prompt: str, rng: random.Random) -> str:
    if rng.random() < 0.15:
        prompt = rng.choice(("please ", "hi, ", "hello! ", "ok ", "now ", "hey ", "so ", "quick one: ")) + prompt
    if rng.random() < 0.2:
        prompt += rng.choice(
            (" please", ".", "!", ", thanks", " thank you", " for me", "?", " :)", " now", ", please.")
        )
    return prompt


def _with_typos(prompt: str, rng: random.Random) -> str:
    return " ".join(
        _misspelt(w, rng) if len(w) > 3 and rng.random() < TYPO_PROBABILITY else w for w in prompt.split(" ")
    )


def _misspelt(word: str, rng: random.Random) -> str:
    i = rng.randrange(1, len(word) - 1)
    match rng.randrange(4):
        case 0:
            return word[:i] + word[i + 1 :]
        case 1:
            return word[:i] + word[i] + word[i:]
        case 2:
            return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        case _:
            return word[:i] + rng.choice(ALPHABET) + word[i + 1 :]


def _held_out_of(edit: str) -> list[str]:
    rng = random.Random(f"held out {edit}")
    sentences = [_fill(frame, phrase, rng) for frame in HELD_OUT_ADJECTIVE_FRAMES for phrase in adjectives(edit)]
    sentences += [_fill(frame, phrase, rng) for frame in HELD_OUT_COMMAND_FRAMES for phrase in commands(edit)]
    rng.shuffle(sentences)
    return sentences


HELD_OUT: Mapping[str, list[str]] = MappingProxyType({edit: _held_out_of(edit) for edit in EDITS})
_HELD_OUT_SENTENCES = frozenset(s for sentences in HELD_OUT.values() for s in sentences)

__all__ = ["HELD_OUT", "IDENTITY", "adjectives", "commands", "held_out_prompts", "train_prompt", "unknown_prompt"]
