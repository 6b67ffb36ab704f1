"""Instructions about objects, holes and second pictures.

An object is named by as much as tells it from the others: "the star" where there is one, "the star on the left" where
there are two.
"""

import random
from collections.abc import Sequence

from embedded_model.mini.objects import ObjectEdit
from embedded_model.mini.phrases_objects import (
    ANY_SHAPE,
    AT,
    COLOUR_TRANSFERS,
    COLOUR_WORDS,
    COLOURED,
    DAMAGED,
    FIRST,
    HELD_OUT_COLOUR_TRANSFERS,
    HELD_OUT_COLOURED,
    HELD_OUT_INSERTIONS,
    HELD_OUT_OBJECT_COMMANDS,
    HELD_OUT_PLACE_NOUNS,
    HELD_OUT_REPAIRS,
    HELD_OUT_SHAPE_NOUNS,
    INSERTIONS,
    OBJECT_COMMANDS,
    PLACE_NOUNS,
    REPAIRS,
    SECOND,
    SHAPE_NOUNS,
    SIZE_WORDS,
    TO,
)
from embedded_model.mini.scenes import Object
from embedded_model.mini.sentences import spoken, with_article
from embedded_model.mini.words import commanded, fill

DEFAULT_PLACE = "centre"  # of an object to come, where no place is named
DEFAULT_SIZE = "big"
HELD_OUT_NOUN_PROBABILITY = 0.5


def object_instruction(edit: ObjectEdit, words: random.Random, *, held_out: bool = False) -> str:
    """Asks for an edit of a drawn scene."""
    table = HELD_OUT_OBJECT_COMMANDS if held_out else OBJECT_COMMANDS
    subject, result = edit.subject, edit.result
    values: dict[str, str] = {}
    if subject is not None:
        values["object"] = named(subject, [o for o in edit.before if o is not subject], words, held_out=held_out)
    if result is not None:
        values["new"] = _new(edit, result, words, held_out)
        values["colour"] = words.choice(COLOUR_WORDS[result.colour])
        values["to"] = words.choice(TO).replace("{place}", _place_noun(result.place, words, held_out))
        values["at"] = _at_or_nothing(result.place, words, held_out)
    return _finished(words.choice(table[edit.verb]), words, held_out, **values)


def repair(damage: str, words: random.Random, *, colour: str = "grey", held_out: bool = False) -> str:
    """Asks to fill what a mask covers: the damage is "grey", "noise", or a "shape" of a colour."""
    command = words.choice((HELD_OUT_REPAIRS if held_out else REPAIRS)[damage])
    region = words.choice(DAMAGED[damage])
    if damage == "shape" and words.random() < 0.5:
        region = f"the {words.choice(COLOUR_WORDS[colour])} {words.choice(ANY_SHAPE)}"
    return _finished(command, words, held_out, region=region)


def insertion(shown: Object, place: str, words: random.Random, *, held_out: bool = False) -> str:
    """Asks to draw the object of the second picture into the first; the centre may go without saying."""
    commands = HELD_OUT_INSERTIONS if held_out else INSERTIONS
    if place != DEFAULT_PLACE:
        commands = [c if "{at}" in c else f"{c} {{at}}" for c in commands]
    at = "" if place == DEFAULT_PLACE and words.random() < 0.5 else _at(place, words, held_out)
    noun = _noun(
        shown, words.choice(("shape", "colour shape", "colour any", "size colour shape")).split(), words, held_out
    )
    what = words.choice(("the shape", "the shape", "the object", "the figure", f"the {noun}"))
    values = {"object": what, "first": words.choice(FIRST), "second": words.choice(SECOND), "at": at}
    return _finished(words.choice(commands), words, held_out, **values)


def colour_transfer(words: random.Random, *, held_out: bool = False) -> str:
    """Asks for the colours of the second picture."""
    commands = HELD_OUT_COLOUR_TRANSFERS if held_out else COLOUR_TRANSFERS
    return _finished(words.choice(commands), words, held_out, first=words.choice(FIRST), second=words.choice(SECOND))


def named(thing: Object, others: Sequence[Object], words: random.Random, *, held_out: bool) -> str:
    """The object in words that fit no other one: "the star", "the red one", "the small star at the top"."""
    forms = [
        "size colour shape place",
        "colour shape place",
        "colour shape",
        "colour shape",
        "shape place",
        "any place",
    ]
    if all(o.shape != thing.shape for o in others):
        forms += ["shape", "shape"]
    if all(o.colour != thing.colour for o in others):
        forms += ["colour any"]
    if all((o.size, o.shape) != (thing.size, thing.shape) for o in others):
        forms += ["size shape"]
    if not others:
        forms += ["any"]
    form = words.choice(forms).split()
    noun = _noun(thing, form, words, held_out)
    return f"the {noun} {_at(thing.place, words, held_out)}" if "place" in form else f"the {noun}"


def _new(edit: ObjectEdit, result: Object, words: random.Random, held_out: bool) -> str:
    """An object to come; a colour that stays, and the usual size, may go without saying."""
    form = ["shape"]
    if edit.subject is None or edit.subject.colour != result.colour or words.random() < 0.4:
        form.append("colour")
    if edit.subject is None and (result.size != DEFAULT_SIZE or words.random() < 0.4):
        form.append("size")
    return with_article(_noun(result, form, words, held_out))


def _noun(thing: Object, form: Sequence[str], words: random.Random, held_out: bool) -> str:
    parts: list[str] = []
    if "size" in form:
        parts.append(words.choice(SIZE_WORDS[thing.size]))
    unusual = held_out and words.random() < HELD_OUT_NOUN_PROBABILITY
    if "colour" in form:
        frame = HELD_OUT_COLOURED if unusual else words.choice(COLOURED)
        parts.append(frame.replace("{colour}", words.choice(COLOUR_WORDS[thing.colour])))
    if "any" in form:
        parts.append(words.choice(ANY_SHAPE))
    elif unusual:
        parts.append(words.choice(HELD_OUT_SHAPE_NOUNS).replace("{shape}", thing.shape))
    else:
        parts.append(words.choice(SHAPE_NOUNS[thing.shape]))
    return " ".join(parts)


def _at_or_nothing(place: str, words: random.Random, held_out: bool) -> str:
    unnamed = place == DEFAULT_PLACE and not held_out and words.random() < 0.5
    return "" if unnamed else _at(place, words, held_out)


def _at(place: str, words: random.Random, held_out: bool) -> str:
    noun = _place_noun(place, words, held_out)
    kind = "middle" if place == DEFAULT_PLACE else "corner" if " " in place else "edge"
    return words.choice(AT[kind]).replace("{place}", noun)


def _place_noun(place: str, words: random.Random, held_out: bool) -> str:
    unusual = held_out and words.random() < HELD_OUT_NOUN_PROBABILITY
    return words.choice((HELD_OUT_PLACE_NOUNS if unusual else PLACE_NOUNS)[place])


def _finished(command: str, words: random.Random, held_out: bool, **values: str) -> str:
    sentence = commanded(fill(command, words, **values), words, held_out=held_out)
    sentence = " ".join(sentence.split())  # a place that goes without saying leaves two spaces
    return sentence if held_out else spoken(sentence, words)
