"""Tables of timings: straight lines between points, and files that are refused by the key at fault."""

from pathlib import Path

import pytest

from serve.backends.timing_table import TimingTable, load_table, shipped
from serve.errors import ConfigurationError

PUBLISHED = {1: 0.167, 2: 0.183, 4: 0.240, 8: 0.425, 16: 0.832}
"""Of Qwen-Image on an H200 at 512 px."""


def table(seconds: dict[int, float]) -> TimingTable:
    return TimingTable.model_validate({"source": "s", "components": {"default": [{"seconds": seconds}]}})


@pytest.mark.parametrize(
    ("batch", "expected"), [(1, 1.0), (2, 2.0), (3, 2.5), (4, 3.0), (6, 4.0)], ids=lambda value: f"{value}"
)
def test_times_lie_on_straight_lines_and_the_last_one_goes_on(batch: int, expected: float):
    assert table({4: 3.0, 1: 1.0, 2: 2.0}).seconds("any", batch, tokens=1) == expected


def test_below_the_first_batch_and_with_a_single_one_the_time_holds():
    assert table({4: 3.0, 8: 5.0}).seconds("any", 1, tokens=1) == 3.0
    assert table({1: 3.0}).seconds("any", 64, tokens=1) == 3.0


def test_a_line_that_falls_does_not_go_on_below_its_last_point():
    assert table({1: 3.0, 2: 1.0}).seconds("any", 64, tokens=1) == 1.0


@pytest.mark.parametrize(("tokens", "expected"), [(1, 1.0), (10, 1.0), (15, 2.0), (20, 3.0), (30, 5.0)])
def test_times_lie_on_straight_lines_between_sizes(tokens: int, expected: float):
    points = [{"tokens": 10, "seconds": {1: 0.5, 3: 1.5}}, {"tokens": 20, "seconds": {1: 1.0, 2: 3.0}}]
    sizes = TimingTable.model_validate({"source": "s", "components": {"denoiser": points}})

    assert sizes.seconds("denoiser", 2, tokens) == expected


def test_a_component_of_its_own_goes_before_the_default():
    both = {"denoiser": [{"seconds": {1: 2.0}}], "default": [{"seconds": {1: 1.0}}]}
    mixed = TimingTable.model_validate({"source": "s", "components": both})

    assert [mixed.seconds(name, 1, tokens=1) for name in ("denoiser", "vae_decoder")] == [2.0, 1.0]
    assert mixed.knows("vae_decoder")


def test_the_h200_tables_hold_the_published_figures():
    small, large, both = (load_table(name) for name in ("h200-512px", "h200-1024px", "h200"))

    assert {batch: small.seconds("denoiser", batch, tokens=1024) for batch in PUBLISHED} == PUBLISHED
    assert {batch: both.seconds("denoiser", batch, tokens=1024) for batch in PUBLISHED} == PUBLISHED
    for of_1024_px in (large, both):
        assert [of_1024_px.seconds("denoiser", batch, tokens=4096) for batch in (1, 2, 4)] == pytest.approx(
            [0.243, 0.474, 0.474 + 2 * 0.231]
        )
    assert small.bytes_per_row("denoiser", 1024) < large.bytes_per_row("denoiser", 4096)


@pytest.mark.parametrize("name", shipped())
def test_every_table_that_comes_along_knows_its_source_and_never_gets_faster_by_more_work(name: str):
    shipped_table = load_table(name)

    assert len(shipped_table.source) > 50
    for component in (*shipped_table.components, "denoiser"):
        times = [shipped_table.seconds(component, batch, tokens=1024) for batch in range(1, 65)]
        assert times == sorted(times)


def test_the_linear_table_gains_nothing_from_batches_and_the_zero_table_takes_no_time():
    linear, zero = load_table("linear"), load_table("zero")

    for batch in (1, 5, 64):
        assert linear.seconds("denoiser", batch, tokens=1024) == pytest.approx(0.167 * batch)
        assert zero.seconds("denoiser", batch, tokens=1024) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: s", "key components is missing"),
        ("components: {default: [{seconds: {1: 1}}]}", "key source is missing"),
        ("{source: s, components: {default: [{seconds: {1: 1}}]}, speed: 2}", "unknown key speed"),
        ("{source: s, components: {d: [{second: {1: 1}}]}}", "key components.d.0.seconds is missing"),
        ("{source: s, components: {d: [{seconds: {1: -1}}]}}", r"key components.d.0.seconds.1: .* \(found -1\)"),
        ("{source: s, components: {d: [{seconds: {0: 1}}]}}", r"key components.d.0.seconds.0: .* \(found 0\)"),
        ("{source: s, components: {d: [{seconds: {1: fast}}]}}", r"key components.d.0.seconds.1: .*'fast'"),
        ("{source: s, components: {d: [{seconds: {1: .nan}}]}}", r"key components.d.0.seconds.1: .*nan"),
        ("{source: s, components: {d: []}}", "key components.d: "),
        (
            "{source: s, components: {d: [{seconds: {1: 1}}, {seconds: {1: 2}}]}}",
            "key components.d: of several entries each needs `tokens` of its own",
        ),
        ("[1]", "dictionary"),
        ("a: b: c", "is no good YAML"),
        ("{source: s, components: {d: [{seconds: {1: 1, 1: 2}}]}}", "the key 1 occurs twice"),
    ],
)
def test_a_file_at_fault_is_named_with_its_key(tmp_path: Path, text: str, message: str):
    file = tmp_path / "mine.yaml"
    file.write_text(text)

    with pytest.raises(ConfigurationError, match=message) as raised:
        load_table(str(file))

    assert f"timings {file}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_name_that_no_table_has_is_answered_with_those_there_are():
    with pytest.raises(ConfigurationError, match=r"simulated.timings 'h100' is none of .*h200-512px.*zero"):
        load_table("h100")


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=rf"timings {tmp_path}/none.yaml cannot be read: No such file"):
        load_table(str(tmp_path / "none.yaml"))
