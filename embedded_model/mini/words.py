"""Instructions for the edits of whole pictures, for several of them, and for none: phrases in sentence frames.

A sentence that is held out has a frame that training never sees, around a phrase that it may see or not;
`object_words` does the same for objects, holes and second pictures.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from embedded_model import phrases
from embedded_model.mini.edits import EDITS, IDENTITY
from embedded_model.mini.phrases_looks import (
    AMBIGUOUS,
    FILTER_COMMANDS,
    FILTER_NAMES,
    HELD_OUT_FILTER_COMMANDS,
    HELD_OUT_NOUN_COMMANDS,
    HELD_OUT_OF_TONES,
    LOOKS,
    NAMES_OF_TONES,
    NOUN_COMMANDS,
    NOUN_NAMES,
    Look,
)
from embedded_model.mini.phrases_objects import (
    ADJECTIVE_CLAUSES,
    ALONGSIDE,
    CLAUSES,
    HELD_OUT_ALONGSIDE,
    HELD_OUT_IN_MASK,
    IN_MASK,
)
from embedded_model.mini.sentences import pseudo_word, spoken, with_article
from embedded_model.mini.tones import TINTS

HELD_OUT_PHRASE_PROBABILITY = 0.5  # that a held-out frame also holds a phrase that is never trained
EVERYWHERE = "{phrase} everywhere"  # a frame that suits no object and no geometry
COMMAND_FRAMES = tuple(f for f in phrases.COMMAND_FRAMES if f != EVERYWHERE)
KNOWN_SHAPES = frozenset({"star"})  # of the things that the first model did not know
UNKNOWN_THINGS = tuple(t for t in phrases.UNKNOWN_THINGS if t not in KNOWN_SHAPES)
UNKNOWN_FRAMES = tuple(f for f in phrases.UNKNOWN_FRAMES if f != "rotate the {picture}")
NAME_FRAMES = (
    "{phrase}",
    "{phrase}",
    "{phrase}",
    "just {phrase}",
    "edit {it}: {phrase}",
    "{phrase} for this {picture}",
)
HELD_OUT_NAME_FRAMES = ("what about {phrase}", "{phrase} this time", "my choice: {phrase}")
FOREIGN_START, FOREIGN_END = 0xA1, 0x9FFF  # accents, other alphabets, Chinese characters
KEEP_SHARE = 0.3  # of the requests for nothing ask to keep the picture


Kind = Literal["adjective", "command", "name"]


@dataclass(frozen=True)
class Phrases:
    """What the picture should become ("warmer"), what to do ("brighten {it}"), and what that is called ("a sketch")."""

    adjectives: tuple[str, ...]
    commands: tuple[str, ...]
    names: tuple[str, ...]
    held_out_adjectives: tuple[str, ...]
    held_out_commands: tuple[str, ...]


def instruction(edit: str, words: random.Random, *, held_out: bool = False) -> str:
    """Asks for an edit of `EDITS`, or for none."""
    sentence = _sentence(edit, words, held_out)
    return sentence if held_out else spoken(sentence, words)


def combination(edits: Sequence[str], words: random.Random, *, held_out: bool = False) -> str:
    """Asks for several edits in their order."""
    sentence = _clause(edits[0], words, held_out)
    for edit in edits[1:]:
        sentence += words.choice(HELD_OUT_ALONGSIDE if held_out else ALONGSIDE) + _clause(edit, words, held_out)
    return sentence if held_out else spoken(sentence, words)


def in_mask(edit: str, words: random.Random, *, held_out: bool = False) -> str:
    """Asks for an edit under a mask; the mask may go without saying."""
    sentence = _clause(edit, words, held_out)
    if held_out:
        return f"{sentence} {words.choice(HELD_OUT_IN_MASK)}"
    where = f" {words.choice(IN_MASK)}" if words.random() < 0.5 else ""
    return spoken(sentence + where, words)


def nothing(words: random.Random, *, held_out: bool = False) -> str:
    """Asks for nothing, or for what the model was not taught: the right answer is the source."""
    if words.random() < KEEP_SHARE:
        return instruction(IDENTITY, words, held_out=held_out)
    if held_out:
        return words.choice(phrases.HELD_OUT_UNKNOWN)
    (kind,) = words.choices(tuple(UNKNOWN), tuple(UNKNOWN.values()))
    return kind(words)


def fill(template: str, words: random.Random, **values: str) -> str:
    """A template with `it` and `picture` in words, after `values` are put in."""
    picture = words.choice(phrases.PICTURE_NOUNS)
    it = words.choice(("it", "it", "this", f"the {picture}", f"this {picture}", f"my {picture}"))
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", value)
    return template.replace("{it}", it).replace("{picture}", picture)


def commanded(command: str, words: random.Random, *, held_out: bool = False) -> str:
    """A command in a sentence frame; a statement ("it should ...", "i need ...") is a sentence already."""
    if " should " in command or " would " in command or command.startswith("i "):
        return fill(command, words)
    frames = phrases.HELD_OUT_COMMAND_FRAMES if held_out else COMMAND_FRAMES
    return fill(words.choice(frames), words, phrase=command)


def _sentence(edit: str, words: random.Random, held_out: bool) -> str:
    phrase, kind = _phrase(edit, words, held_out)
    match kind:
        case "command":
            return commanded(phrase, words, held_out=held_out)
        case "adjective":
            frames = phrases.HELD_OUT_ADJECTIVE_FRAMES if held_out else phrases.ADJECTIVE_FRAMES
        case "name":
            frames = HELD_OUT_NAME_FRAMES if held_out else NAME_FRAMES
    return fill(words.choice(frames), words, phrase=phrase)


def _clause(edit: str, words: random.Random, held_out: bool) -> str:
    phrase, kind = _phrase(edit, words, held_out)
    frames = {"adjective": ADJECTIVE_CLAUSES, "command": CLAUSES, "name": ("{phrase}",)}[kind]
    return fill(words.choice(frames), words, phrase=phrase)


def _phrase(edit: str, words: random.Random, held_out: bool) -> tuple[str, Kind]:
    known = PHRASES[edit]
    adjectives, others = known.adjectives, (*known.commands, *known.names)
    if held_out and words.random() < HELD_OUT_PHRASE_PROBABILITY:
        adjectives, others = known.held_out_adjectives, known.held_out_commands
    share = 0.5 if edit not in LOOKS else 0.3  # the commands of looks have more to say
    if adjectives and (not others or words.random() < share):
        return words.choice(adjectives), "adjective"
    phrase = words.choice(others)
    return phrase, "name" if phrase in known.names else "command"


def _unknown_request(words: random.Random) -> str:
    sentence = words.choice(UNKNOWN_FRAMES).format(
        thing=words.choice(UNKNOWN_THINGS),
        other=words.choice(UNKNOWN_THINGS),
        verb=words.choice(phrases.UNKNOWN_VERBS),
        colour=words.choice(tuple(TINTS)),
        picture=words.choice(phrases.PICTURE_NOUNS),
    )
    return spoken(sentence, words)


def _no_words(_: random.Random) -> str:
    return ""


def _pseudo_words(words: random.Random) -> str:
    return " ".join(pseudo_word(words) for _ in range(words.randint(1, 5)))


def _loose_words(words: random.Random) -> str:
    return " ".join(words.choices([*UNKNOWN_THINGS, "make", "the", "it", "a", "please"], k=words.randint(1, 5)))


def _foreign_letters(words: random.Random) -> str:
    return "".join(chr(words.randint(FOREIGN_START, FOREIGN_END)) for _ in range(words.randint(1, 12)))


def _phrases_of(edit: str) -> Phrases:
    """The phrases of the tables of tones and of looks; the former are one list, of which some are held out."""
    tone_adjectives, tone_commands = _tone_phrases(edit)
    look = LOOKS.get(edit, Look())
    tone_names = [(phrase, entry) for phrase, entry in tone_commands if entry in NAMES_OF_TONES]
    tone_commands = [(phrase, entry) for phrase, entry in tone_commands if entry not in NAMES_OF_TONES]
    return Phrases(
        adjectives=(*_kept(tone_adjectives, held_out=False), *look.adjectives),
        commands=(
            *_kept(tone_commands, held_out=False),
            *look.commands,
            *_of_look(look, NOUN_COMMANDS, FILTER_COMMANDS),
        ),
        names=(*_kept(tone_names, held_out=False), *look.names, *_of_look(look, NOUN_NAMES, FILTER_NAMES)),
        held_out_adjectives=(*_kept(tone_adjectives, held_out=True), *look.held_out_adjectives),
        held_out_commands=(
            *_kept(tone_commands, held_out=True),
            *look.held_out_commands,
            *_of_look(look, HELD_OUT_NOUN_COMMANDS, HELD_OUT_FILTER_COMMANDS),
        ),
    )


def _tone_phrases(edit: str) -> tuple[Sequence[tuple[str, str]], Sequence[tuple[str, str]]]:
    """Adjectives and commands, each with the entry of the table that it comes from."""
    if not edit.startswith("tint_"):
        return [(a, a) for a in phrases.ADJECTIVES.get(edit, ())], [(c, c) for c in phrases.COMMANDS.get(edit, ())]
    colours = phrases.TINT_SYNONYMS[edit.removeprefix("tint_")]
    described, ordered = (
        [(_coloured(template, colour), template) for colour in colours for template in templates]
        for templates in (phrases.TINT_ADJECTIVES, phrases.TINT_COMMANDS)
    )
    return described, ordered


def _coloured(template: str, colour: str) -> str:
    return template.replace("a {colour}", with_article(colour)).replace("{colour}", colour)


def _kept(entries: Sequence[tuple[str, str]], *, held_out: bool) -> tuple[str, ...]:
    kept = (p for p, entry in entries if entry not in AMBIGUOUS and (entry in HELD_OUT_OF_TONES) == held_out)
    return tuple(kept)


def _of_look(look: Look, of_noun: Sequence[str], of_filter: Sequence[str]) -> tuple[str, ...]:
    of_nouns = (c.replace("{noun}", with_article(n)) for n in look.nouns for c in of_noun)
    of_filters = (c.replace("{filter}", with_article(f)).replace("{bare}", f) for f in look.filters for c in of_filter)
    return (*of_nouns, *of_filters)


PHRASES: Mapping[str, Phrases] = MappingProxyType({edit: _phrases_of(edit) for edit in (IDENTITY, *EDITS)})
UNKNOWN: Mapping[Callable[[random.Random], str], float] = MappingProxyType(
    {_unknown_request: 0.72, _no_words: 0.08, _pseudo_words: 0.12, _loose_words: 0.05, _foreign_letters: 0.03}
)
