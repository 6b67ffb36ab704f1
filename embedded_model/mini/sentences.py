"""What surrounds an instruction in the mouths of people: unrelated words, politeness, typos."""

import random

from embedded_model.phrases import CONTEXT_WORDS

CONTEXT_PROBABILITY = 0.3
TYPO_PROBABILITY = 0.05
CAPITAL_PROBABILITY = 0.25
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
OPENINGS = ("please ", "hi, ", "hello! ", "ok ", "now ", "hey ", "so ", "quick one: ")
ENDINGS = (" please", ".", "!", ", thanks", " thank you", " for me", "?", " :)", " now", ", please.")


def spoken(instruction: str, words: random.Random) -> str:
    """The instruction as somebody might put it."""
    return _with_capitals(_with_typos(_decorated(_in_context(instruction, words), words), words), words)


def pseudo_word(words: random.Random) -> str:
    """Letters, or the beginning of one word and the end of another."""
    if words.random() < 0.5:
        return "".join(words.choices(ALPHABET, k=words.randint(2, 8)))
    first, second = words.choices(CONTEXT_WORDS, k=2)
    return first[: words.randint(2, 6)].strip() + second[-words.randint(2, 6) :].strip()


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeio8' else 'a'} {noun}"


def _in_context(instruction: str, words: random.Random) -> str:
    """Some get unrelated words before or after them, so that the model learns to read past such words."""
    if words.random() > CONTEXT_PROBABILITY:
        return instruction
    before, after = words.choice(((True, False), (False, True), (True, True)))
    return " ".join([*_unrelated(words)] * before + [instruction] + [*_unrelated(words)] * after)


def _unrelated(words: random.Random) -> list[str]:
    return [
        pseudo_word(words) if words.random() < 0.4 else words.choice(CONTEXT_WORDS) for _ in range(words.randint(1, 4))
    ]


def _decorated(instruction: str, words: random.Random) -> str:
    if words.random() < 0.15:
        instruction = words.choice(OPENINGS) + instruction
    if words.random() < 0.2:
        instruction += words.choice(ENDINGS)
    return instruction


def _with_capitals(instruction: str, words: random.Random) -> str:
    return instruction.capitalize() if words.random() < CAPITAL_PROBABILITY else instruction


def _with_typos(instruction: str, words: random.Random) -> str:
    return " ".join(
        _misspelt(w, words) if len(w) > 3 and words.random() < TYPO_PROBABILITY else w for w in instruction.split(" ")
    )


def _misspelt(word: str, words: random.Random) -> str:
    i = words.randrange(1, len(word) - 1)
    match words.randrange(4):
        case 0:
            return word[:i] + word[i + 1 :]
        case 1:
            return word[:i] + word[i] + word[i:]
        case 2:
            return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        case _:
            return word[:i] + words.choice(ALPHABET) + word[i + 1 :]
