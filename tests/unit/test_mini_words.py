"""The instructions of the new embedded model: enough of them, of the right edit, and held-out ones that are."""

import random
from itertools import chain

import pytest

from embedded_model import phrases
from embedded_model.mini import phrases_objects, sentences, words
from embedded_model.mini.edits import EDITS, IDENTITY
from embedded_model.mini.object_words import (
    colour_transfer,
    insertion,
    named,
    object_instruction,
    repair,
)
from embedded_model.mini.objects import VERBS, ObjectEdit, random_edit, random_ground
from embedded_model.mini.phrases_looks import AMBIGUOUS, HELD_OUT_OF_TONES, NAMES_OF_TONES
from embedded_model.mini.scenes import COLOURS, PLACES, Object
from embedded_model.mini.shapes import SHAPES
from embedded_model.mini.words import PHRASES, combination, in_mask, instruction, nothing

STAR = Object("star", "red", "top left")
RING = Object("ring", "red", "bottom")
ALL_NAMES = (IDENTITY, *EDITS)


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training sentences without the words, typos and capitals that surround them."""
    monkeypatch.setattr(sentences, "CONTEXT_PROBABILITY", -1)
    monkeypatch.setattr(sentences, "TYPO_PROBABILITY", -1)
    monkeypatch.setattr(sentences, "CAPITAL_PROBABILITY", -1)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_asked_for_in_thousands_of_wordings(edit: str, plainly: None):
    rng = random.Random(edit)
    assert len({instruction(edit, rng) for _ in range(4000)}) > 1000


@pytest.mark.parametrize("verb", VERBS)
def test_an_edit_of_an_object_is_asked_for_in_thousands_of_wordings(verb: str, plainly: None):
    rng = random.Random(verb)
    edits = [e for e in (random_edit(rng, random_ground(rng, 1)) for _ in range(12_000)) if e.verb == verb]
    assert len({object_instruction(e, rng) for e in edits}) > 1500


@pytest.mark.parametrize("edit", EDITS)
def test_a_held_out_edit_has_sentences_enough_for_an_evaluation(edit: str):
    rng = random.Random(edit)
    assert len({instruction(edit, rng, held_out=True) for _ in range(400)}) > 100


def test_no_sentence_is_both_trained_and_held_out(plainly: None):
    rng = random.Random(0)
    for edit in ALL_NAMES:
        trained = {instruction(edit, rng).lower() for _ in range(1500)}
        held_out = {instruction(edit, rng, held_out=True).lower() for _ in range(500)}
        assert not trained & held_out, edit


def test_no_sentence_about_objects_is_both_trained_and_held_out(plainly: None):
    rng = random.Random(0)
    trained, held_out = (
        {object_instruction(random_edit(rng, random_ground(rng, 1), held_out=h), rng, held_out=h) for _ in range(5000)}
        for h in (False, True)
    )
    assert not trained & held_out
    for make in (
        lambda h: repair(rng.choice(("grey", "noise", "shape")), rng, held_out=h),
        lambda h: insertion(STAR, rng.choice(PLACES), rng, held_out=h),
        lambda h: colour_transfer(rng, held_out=h),
        lambda h: nothing(rng, held_out=h),
        lambda h: in_mask(rng.choice(list(EDITS)), rng, held_out=h),
        lambda h: combination(["sepia", "blur"], rng, held_out=h),
    ):
        trained, held_out = ({make(h) for _ in range(1500)} for h in (False, True))
        assert not trained & held_out


def test_held_out_frames_are_not_trained():
    assert not set(phrases.ADJECTIVE_FRAMES) & set(phrases.HELD_OUT_ADJECTIVE_FRAMES)
    assert not set(words.COMMAND_FRAMES) & set(phrases.HELD_OUT_COMMAND_FRAMES)
    assert not set(words.NAME_FRAMES) & set(words.HELD_OUT_NAME_FRAMES)
    assert not set(phrases_objects.ALONGSIDE) & set(phrases_objects.HELD_OUT_ALONGSIDE)
    assert not set(phrases_objects.IN_MASK) & set(phrases_objects.HELD_OUT_IN_MASK)
    assert not set(phrases_objects.INSERTIONS) & set(phrases_objects.HELD_OUT_INSERTIONS)
    assert not set(phrases_objects.COLOUR_TRANSFERS) & set(phrases_objects.HELD_OUT_COLOUR_TRANSFERS)
    for trained, held_out in (
        (phrases_objects.OBJECT_COMMANDS, phrases_objects.HELD_OUT_OBJECT_COMMANDS),
        (phrases_objects.REPAIRS, phrases_objects.HELD_OUT_REPAIRS),
        (phrases_objects.PLACE_NOUNS, phrases_objects.HELD_OUT_PLACE_NOUNS),
    ):
        assert trained.keys() == held_out.keys()
        assert not any(set(trained[key]) & set(held_out[key]) for key in trained)


@pytest.mark.parametrize("edit", ALL_NAMES)
def test_a_held_out_phrase_is_not_within_a_trained_one(edit: str):
    known = PHRASES[edit]
    trained = [f" {p} " for p in (*known.adjectives, *known.commands, *known.names)]
    held_out = (*known.held_out_adjectives, *known.held_out_commands)
    assert held_out
    assert not [p for p in held_out if any(f" {p} " in t for t in trained)]


@pytest.mark.parametrize("edit", ALL_NAMES)
def test_what_only_names_a_result_is_not_put_as_an_order(edit: str):
    known = PHRASES[edit]
    orders = (*known.commands, *known.held_out_commands)
    assert not set(orders) & set(known.names)
    assert not [order for order in orders if order.startswith(("a ", "an ", "like ", "as ", "less ", "more ", "no "))]


def test_the_tables_of_what_tones_leave_out_name_phrases_that_exist():
    known = {
        *chain.from_iterable(phrases.ADJECTIVES.values()),
        *chain.from_iterable(phrases.COMMANDS.values()),
        *phrases.TINT_ADJECTIVES,
        *phrases.TINT_COMMANDS,
    }
    assert known >= AMBIGUOUS
    assert known >= HELD_OUT_OF_TONES
    assert known >= NAMES_OF_TONES


def test_no_phrase_asks_for_two_different_edits():
    """A picture of the night is the one that tones and looks both name."""
    meaning: dict[str, str] = {}
    for edit in ALL_NAMES:
        known = PHRASES[edit]
        for phrase in {
            *known.adjectives,
            *known.commands,
            *known.names,
            *known.held_out_adjectives,
            *known.held_out_commands,
        }:
            assert meaning.setdefault(phrase, edit) == edit, phrase


@pytest.mark.parametrize("held_out", [False, True])
def test_a_sentence_has_no_gaps_and_no_places_left_to_fill(held_out: bool):
    rng = random.Random(0)
    for _ in range(300):
        ground = random_ground(rng, 1)
        for sentence in (
            instruction(rng.choice(ALL_NAMES), rng, held_out=held_out),
            combination(rng.sample(list(EDITS), 2), rng, held_out=held_out),
            in_mask(rng.choice(list(EDITS)), rng, held_out=held_out),
            object_instruction(random_edit(rng, ground), rng, held_out=held_out),
            repair("shape", rng, held_out=held_out),
            insertion(STAR, rng.choice(PLACES), rng, held_out=held_out),
            colour_transfer(rng, held_out=held_out),
        ):
            assert sentence == " ".join(sentence.split())
            assert sentence
            assert not set("{}") & set(sentence)


def test_two_edits_are_asked_for_in_their_order(plainly: None):
    rng = random.Random(0)
    for _ in range(100):
        sentence = combination(["tint_blue", "pixelated"], rng, held_out=True).lower()
        blue = max(sentence.find(word) for word in phrases.TINT_SYNONYMS["blue"])
        assert -1 < blue < max(sentence.find(word) for word in ("pix", "mosaic", "block", "resolution", "8-bit"))


def test_an_object_to_come_is_named_by_all_that_is_not_usual(plainly: None):
    rng = random.Random(0)
    small = ObjectEdit("add", (), None, Object("heart", "green", "bottom right", "small"))
    for _ in range(100):
        sentence = object_instruction(small, rng)
        assert "heart" in sentence
        assert any(word in sentence for word in phrases_objects.COLOUR_WORDS["green"])
        assert any(word in sentence for word in phrases_objects.SIZE_WORDS["small"])
        assert any(noun in sentence for noun in phrases_objects.PLACE_NOUNS["bottom right"])
    usual = ObjectEdit("add", (), None, Object("heart", "green", "centre"))
    assert any(
        not any(word in object_instruction(usual, rng) for word in ("centre", "center", "middle")) for _ in range(50)
    )


def test_an_object_is_named_so_that_no_other_is_meant():
    """Beside a red ring, a red star is never "the red one"; beside another star, it is never "the star"."""
    rng = random.Random(0)
    likes = {
        "shape": [Object("star", "blue", "right")],
        "colour": [RING],
        "both": [Object("star", "blue", "right", "small"), RING],
    }
    for others in likes.values():
        for _ in range(300):
            name = named(STAR, others, rng, held_out=False)
            for other in others:
                assert not could_mean(name, other), (name, str(other))
            assert could_mean(name, STAR)


def could_mean(name: str, thing: Object) -> bool:
    """Whether all that a name says holds for an object."""

    def said(table: dict[str, tuple[str, ...]]) -> set[str]:
        return {key for key, nouns in table.items() if any(f" {noun} " in f" {text} " for noun in nouns)}

    text = name.replace("-coloured", "")
    place = said(phrases_objects.PLACE_NOUNS)
    longest = {p for p in place if not any(p != q and p in q for q in place)}
    return (
        said(phrases_objects.COLOUR_WORDS) <= {thing.colour}
        and said(phrases_objects.SHAPE_NOUNS) <= {thing.shape}
        and said(phrases_objects.SIZE_WORDS) <= {thing.size}
        and longest <= {thing.place}
    )


def test_nothing_unknown_names_what_is_known():
    rng = random.Random(0)
    known = {*SHAPES, *chain.from_iterable(phrases_objects.SHAPE_NOUNS.values())}
    assert not known & set(words.UNKNOWN_THINGS)
    assert "" in {nothing(rng) for _ in range(300)}
    assert all(nothing(rng, held_out=True) for _ in range(300))


def test_every_colour_and_shape_and_place_has_words():
    assert phrases_objects.COLOUR_WORDS.keys() == COLOURS.keys()
    assert phrases_objects.SHAPE_NOUNS.keys() == SHAPES.keys()
    assert set(phrases_objects.PLACE_NOUNS) == set(PLACES)
    assert set(PHRASES) == set(ALL_NAMES)


def test_the_same_seed_asks_in_the_same_words():
    first, again = ([instruction("fog", rng) for _ in range(20)] for rng in (random.Random(3), random.Random(3)))
    assert first == again
