"""The byte-bounded cache against a plain list of what was used last."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from serve.engine.cache import ByteLRU


def fetch(cache: ByteLRU[str], key: str, size: int) -> str:
    return cache.fetch(key, lambda: f"value of {key}", lambda _: size)


def never() -> str:
    raise AssertionError("the value was kept")


def test_a_kept_value_is_not_computed_again():
    cache = ByteLRU[str](10)
    fetch(cache, "a", 10)
    assert cache.fetch("a", never, len) == "value of a"
    assert (cache.hits, cache.misses) == (1, 1)


def test_the_least_recently_used_value_goes_first():
    cache = ByteLRU[str](20)
    for key in ("a", "b", "a", "c"):
        fetch(cache, key, 10)
    cache.fetch("a", never, len)
    with pytest.raises(AssertionError, match="the value was kept"):
        cache.fetch("b", never, len)


def test_a_value_larger_than_the_bound_is_answered_and_pushes_nothing_out():
    cache = ByteLRU[str](10)
    fetch(cache, "small", 10)
    assert fetch(cache, "large", 11) == "value of large"
    assert (len(cache), cache.used_bytes) == (1, 10)
    cache.fetch("small", never, len)


def test_a_bound_of_nothing_keeps_nothing():
    cache = ByteLRU[str](0)
    fetch(cache, "a", 1)
    assert len(cache) == 0


def test_what_cannot_be_computed_is_not_kept():
    cache = ByteLRU[str](10)
    with pytest.raises(AssertionError):
        cache.fetch("a", never, len)
    assert fetch(cache, "a", 1) == "value of a"
    assert cache.misses == 2


@given(
    bound=st.integers(0, 30),
    sizes=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 20), min_size=1),
    data=st.data(),
)
def test_any_uses_keep_the_newest_values_that_fit(bound: int, sizes: dict[str, int], data: st.DataObject):
    cache = ByteLRU[str](bound)
    newest_last: list[str] = []
    for key in data.draw(st.lists(st.sampled_from(sorted(sizes)), max_size=40)):
        hits = cache.hits
        fetch(cache, key, sizes[key])
        assert (cache.hits > hits) == (key in newest_last)
        if sizes[key] > bound:
            continue
        newest_last = [other for other in newest_last if other != key] + [key]
        while sum(sizes[other] for other in newest_last) > bound:
            newest_last.pop(0)
        assert cache.used_bytes == sum(sizes[other] for other in newest_last) <= bound
        assert len(cache) == len(newest_last)
