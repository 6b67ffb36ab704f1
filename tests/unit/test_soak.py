"""What the soak says of memory and pace follows from its samples and records."""

import numpy as np
import pytest

from benchmarks.run import Outcome, Record
from benchmarks.server import Memory
from benchmarks.soak import (
    ALL,
    LEAST_MINUTES,
    STORE,
    STORE_MIB,
    WARMUP_S,
    Sample,
    in_parts,
    main,
    pace,
    report,
    slope,
)

AT_S = [5.0 * number for number in range(100)]
NOISE_MIB = np.random.default_rng(0).normal(0.0, 3.0, len(AT_S))


def test_a_straight_line_has_its_own_slope_and_no_error() -> None:
    found = slope(AT_S, [100 + 2 * at_s / 60 for at_s in AT_S])
    assert found.mib_per_min == pytest.approx(2)
    assert found.standard_error == pytest.approx(0, abs=1e-9)
    assert found.verdict == "grows"


def test_slope_and_standard_error_are_those_of_least_squares_over_the_means_of_whole_minutes() -> None:
    values = [100 + at_s / 60 + noise for at_s, noise in zip(AT_S, NOISE_MIB, strict=True)]
    minutes = [slice(first, first + 12) for first in range(0, len(AT_S) - 11, 12)]
    at_min, means = ([np.mean(each[minute]) for minute in minutes] for each in (np.asarray(AT_S) / 60, values))
    (rise, _), covariance = np.polyfit(at_min, means, 1, cov=True)
    found = slope(AT_S, [*values[:-1], 1e6])
    assert (found.mib_per_min, found.standard_error) == pytest.approx((rise, np.sqrt(covariance[0, 0])))


@pytest.mark.parametrize(
    ("rise", "spread", "verdict"),
    [
        (0.0, 1.0, "flat: below 1 MiB/min"),
        (0.0, 10.0, "not decided"),
        (0.9, 1.0, "grows"),
        (0.5, 0.0, "flat: below 1 MiB/min"),
        (-0.5, 0.0, "flat: below 1 MiB/min"),
        (1.5, 0.1, "grows"),
        (-1.5, 0.1, "falls"),
    ],
)
def test_a_slope_is_flat_only_where_its_error_leaves_no_room_for_growth(
    rise: float, spread: float, verdict: str
) -> None:
    values = [100 + rise * at_s / 60 + spread * noise for at_s, noise in zip(AT_S, NOISE_MIB, strict=True)]
    assert slope(AT_S, values).verdict == verdict


def test_growth_during_the_warm_up_does_not_count() -> None:
    samples = [_sample(at_s, ingress=min(at_s, WARMUP_S), codec=40.0) for at_s in AT_S]
    found = report(samples, [])
    assert found["flat"]
    first_and_last = {"codec": 40, "ingress": WARMUP_S, ALL: 40 + WARMUP_S, STORE: 0}
    assert found["mib"] == {kind: [mib, mib] for kind, mib in first_and_last.items()}


def test_a_soak_that_is_too_short_for_a_slope_is_not_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["soak", "--minutes", "8.9"])
    with pytest.raises(SystemExit):
        main()
    assert "at least 9, the first 5 of which are the warm-up" in capsys.readouterr().err


def test_the_shortest_soak_has_a_slope_with_its_error() -> None:
    at_s = np.arange(0, 60 * LEAST_MINUTES, 5.3)
    found = report([_sample(at, ingress=100.0, codec=40.0) for at in at_s], [])
    assert found["slopes"][ALL]["standard_error"] == pytest.approx(0)


def test_one_kind_of_process_that_grows_is_found_in_all_together() -> None:
    found = report([_sample(at_s, ingress=at_s / 10, codec=40.0) for at_s in AT_S], [])
    assert not found["flat"]
    assert {kind: line["verdict"].startswith("flat") for kind, line in found["slopes"].items()} == {
        "codec": True,
        "ingress": False,
        ALL: False,
        STORE: True,
    }


@pytest.mark.parametrize(("most_mib", "flat"), [(STORE_MIB, True), (STORE_MIB + 1, False)])
def test_an_object_store_that_fills_up_is_no_growth_unless_it_passes_its_size(most_mib: float, flat: bool) -> None:
    samples = [
        Sample(at_s, {"raylet": Memory(rss_mib=900, pss_mib=20 + shared_mib, shared_mib=shared_mib)})
        for at_s in AT_S
        for shared_mib in [most_mib * at_s / AT_S[-1]]
    ]
    assert report(samples, [])["flat"] == flat


def test_images_are_counted_in_the_third_in_which_they_came() -> None:
    records = [_record(1.0), _record(29.9, images=2), _record(30.0), _record(89.0), _record(89.0, outcome="failed")]
    late = _record(95.0)
    assert in_parts([*records, late], duration_s=90.0) == [3 / 30, 1 / 30, 1 / 30]


def test_memory_too_noisy_to_tell_is_not_flat() -> None:
    noisy = [_sample(at_s, ingress=100 + 10 * noise) for at_s, noise in zip(AT_S, NOISE_MIB, strict=True)]
    assert not report(noisy, [])["flat"]


@pytest.mark.parametrize(
    ("thirds", "verdict"),
    [
        ([10.0, 9.9, 9.9], "holds: falls by less than 10%"),
        ([10.0, 11.0, 12.0], "holds: falls by less than 10%"),
        ([11.68, 11.02, 10.15], "falls"),
        ([0.2, 0.2, 0.19], "not decided"),
        ([1.0, 0.0, 0.0], "falls"),
        ([0.0, 0.0, 0.0], "not decided"),
    ],
)
def test_the_pace_holds_or_falls_by_its_thirds_as_far_as_they_tell(thirds: list[float], verdict: str) -> None:
    assert pace(thirds, duration_s=900.0).verdict == verdict


def test_a_fall_has_the_error_of_two_counts() -> None:
    found = pace([1.0, 1.0, 0.5], duration_s=300.0)
    assert found.fall == 0.5
    assert found.standard_error == pytest.approx(0.5 * (1 / 100 + 1 / 50) ** 0.5)


def _sample(at_s: float, **pss_mib: float) -> Sample:
    return Sample(at_s, {kind: Memory(rss_mib=2 * mib, pss_mib=mib) for kind, mib in pss_mib.items()})


def _record(ended_s: float, images: int = 1, outcome: Outcome = "answered") -> Record:
    return Record(0, "small", 0.0, 0.0, ended_s, outcome, rows=images, images=images)
