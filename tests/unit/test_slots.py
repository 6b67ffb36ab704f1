"""Seats of a batch against a plain list of what was asked for, over many orders of rows."""

import weakref
from collections.abc import Hashable

import hypothesis.strategies as st
import torch
from hypothesis import given

from serve.engine.slots import Slots
from serve.families.base import Inputs

SEATS = 4


def inputs(number: float) -> Inputs:
    return {"latents": torch.full((1, 3, 2), number), "text": torch.full((1, 5), number)}


def numbers(batch: Inputs) -> list[float]:
    """One for each seat, which all elements of its inputs have."""
    seats = [torch.cat([tensor[seat].flatten() for tensor in batch.values()]) for seat in range(len(batch["text"]))]
    assert all((seat == seat[0]).all() for seat in seats)
    return [float(seat[0]) for seat in seats]


def seated(
    slots: Slots, rows: list[tuple[Hashable, Inputs]], called: int | None = None
) -> tuple[list[float], list[int]]:
    batch, seats = slots.fill(rows, len(rows) if called is None else called)
    return numbers(batch), seats


def changed_under_the_engine(row: Inputs) -> None:
    """What nobody may do; it tells here whether a tensor is copied a second time."""
    row["text"].fill_(-1)
    row["latents"].fill_(-1)


def test_rows_sit_side_by_side_in_the_order_they_came():
    assert seated(Slots(inputs(0), SEATS), [("a", inputs(1)), ("b", inputs(2))]) == ([1, 2], [0, 1])


def test_a_batch_is_as_large_as_the_call_and_what_is_beyond_its_rows_is_filler():
    slots = Slots(inputs(9), SEATS)
    assert seated(slots, [("a", inputs(1))], called=1) == ([1], [0])
    assert seated(slots, [("a", inputs(1))], called=4) == ([1, 9, 9, 9], [0])


def test_a_tensor_that_stays_the_same_is_copied_once():
    slots, row = Slots(inputs(0), SEATS), inputs(1)
    seated(slots, [("a", row)])
    changed_under_the_engine(row)
    assert seated(slots, [("a", row)]) == ([1], [0])


def test_a_tensor_that_is_another_is_copied_and_the_others_of_its_row_are_not():
    slots, row = Slots(inputs(0), SEATS), inputs(1)
    seated(slots, [("a", row)])
    changed_under_the_engine(row)
    batch, _ = slots.fill([("a", {**row, "latents": torch.full((1, 3, 2), 7.0)})], 1)
    assert (batch["latents"].unique().tolist(), batch["text"].unique().tolist()) == ([7], [1])


def test_a_row_keeps_its_seat_in_a_changed_company():
    slots, row = Slots(inputs(0), SEATS), inputs(2)
    seated(slots, [("a", inputs(1)), ("b", row), ("c", inputs(3))])
    changed_under_the_engine(row)
    assert seated(slots, [("d", inputs(4)), ("b", row)]) == ([4, 2], [0, 1])
    assert seated(slots, [("b", row), ("e", inputs(5)), ("f", inputs(6))]) == ([5, 2, 6], [1, 0, 2])


def test_a_row_beyond_a_smaller_call_moves_and_is_copied_again():
    slots, row = Slots(inputs(0), SEATS), inputs(3)
    seated(slots, [("a", inputs(1)), ("b", inputs(2)), ("c", row)])
    changed_under_the_engine(row)
    assert seated(slots, [("c", row)]) == ([-1], [0])


def test_a_row_that_sat_out_is_copied_again():
    slots, row = Slots(inputs(0), SEATS), inputs(1)
    seated(slots, [("a", row)])
    seated(slots, [("b", inputs(2))])
    changed_under_the_engine(row)
    assert seated(slots, [("a", row)]) == ([-1], [0])


def test_rows_without_a_name_are_always_copied():
    slots, row = Slots(inputs(0), SEATS), inputs(1)
    seated(slots, [(None, row), (None, inputs(2))])
    changed_under_the_engine(row)
    assert seated(slots, [(None, inputs(3)), (None, inputs(4))]) == ([3, 4], [0, 1])


def test_vacated_seats_hold_on_to_nobody():
    slots, row = Slots(inputs(0), SEATS), inputs(1)
    seated(slots, [("a", row)])
    slots.vacate()
    changed_under_the_engine(row)
    assert seated(slots, [("a", row)]) == ([-1], [0])


def test_a_row_that_sits_out_is_not_held_on_to():
    slots, row = Slots(inputs(0), SEATS), inputs(2)
    seated(slots, [("a", inputs(1)), ("b", row)])
    held = weakref.ref(row["text"])
    seated(slots, [("a", inputs(1))])
    del row
    assert held() is None


def test_the_batch_has_the_memory_format_of_its_rows():
    picture = torch.zeros(1, 8, 6, 4).contiguous(memory_format=torch.channels_last)
    batch, _ = Slots({"latents": picture}, SEATS).fill([("a", {"latents": picture})], 2)
    assert batch["latents"].is_contiguous(memory_format=torch.channels_last)


@given(calls=st.lists(st.lists(st.integers(0, 6), unique=True, max_size=SEATS), max_size=12), filled=st.booleans())
def test_every_row_finds_its_own_numbers_at_its_seat_whoever_sat_there(calls: list[list[int]], filled: bool):
    """Each row has a text for good and other latents at each call."""
    slots = Slots(inputs(-1), SEATS)
    texts = {row: torch.full((1, 5), float(row)) for row in range(7)}
    for tick, rows in enumerate(calls):
        asked: list[tuple[Hashable, Inputs]] = [
            (row, {"latents": torch.full((1, 3, 2), 100.0 * tick + row), "text": texts[row]}) for row in rows
        ]
        batch, seats = slots.fill(asked, SEATS if filled else len(rows))
        assert len(set(seats)) == len(rows)
        for (_, row), seat in zip(asked, seats, strict=True):
            assert all(torch.equal(batch[name][seat], tensor[0]) for name, tensor in row.items())
