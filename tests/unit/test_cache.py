"""The byte-bounded cache against a plain list of what was used last."""

import hypothesis.strategies as st
from hypothesis import given

from serve.engine.cache import ByteLRU


def fetch(cache: ByteLRU[str], key: str, size: int) -> bool:
    """Whether it was kept; it is put where it was not."""
    kept = cache.get(key)
    if kept is None:
        cache.put(key, f"value of {key}", size)
    return kept is not None


def test_a_kept_value_is_answered_and_counted():
    cache = ByteLRU[str](10)
    assert cache.get("a") is None
    cache.put("a", "value", 10)
    assert cache.get("a") == "value"
    assert (cache.hits, cache.misses) == (1, 1)


def test_looking_whether_a_value_is_kept_is_no_use_of_it():
    cache = ByteLRU[str](20)
    for key in "ab":
        cache.put(key, key, 10)
    assert "a" in cache
    cache.put("c", "c", 10)
    assert [key in cache for key in "abc"] == [False, True, True]
    assert (cache.hits, cache.misses) == (0, 0)


def test_the_least_recently_used_value_goes_first():
    cache = ByteLRU[str](20)
    for key in ("a", "b", "a", "c"):
        fetch(cache, key, 10)
    assert [key in cache for key in "abc"] == [True, False, True]


def test_a_value_larger_than_the_bound_is_not_kept_and_pushes_nothing_out():
    cache = ByteLRU[str](10)
    fetch(cache, "small", 10)
    fetch(cache, "large", 11)
    assert (len(cache), cache.used_bytes) == (1, 10)
    assert "small" in cache


def test_a_bound_of_nothing_keeps_nothing():
    cache = ByteLRU[str](0)
    fetch(cache, "a", 1)
    assert (len(cache), cache.used_bytes) == (0, 0)


def test_a_value_put_again_is_replaced_and_counted_once():
    cache = ByteLRU[str](20)
    cache.put("a", "old", 15)
    cache.put("a", "new", 20)
    assert (cache.get("a"), len(cache), cache.used_bytes) == ("new", 1, 20)


@given(
    bound=st.integers(0, 30),
    sizes=st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 20), min_size=1),
    data=st.data(),
)
def test_any_uses_keep_the_newest_values_that_fit(bound: int, sizes: dict[str, int], data: st.DataObject):
    cache = ByteLRU[str](bound)
    newest_last: list[str] = []
    uses = data.draw(st.lists(st.sampled_from(sorted(sizes)), max_size=40))
    for key in uses:
        assert fetch(cache, key, sizes[key]) == (key in newest_last)
        if sizes[key] > bound:
            continue
        newest_last = [other for other in newest_last if other != key] + [key]
        while sum(sizes[other] for other in newest_last) > bound:
            newest_last.pop(0)
        assert cache.used_bytes == sum(sizes[other] for other in newest_last) <= bound
        assert len(cache) == len(newest_last)
    assert cache.hits + cache.misses == len(uses)
