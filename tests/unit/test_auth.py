"""Keys: what the file holds, who is let in, and what becomes of keys while the server runs."""

import logging
import stat
from pathlib import Path

import pytest

from serve import auth
from serve.auth import Keys, Principal, create_key, read_keys, revoke_key
from serve.errors import ConfigurationError, InvalidAPIKey, MissingAPIKey

ENTRY = f"{{name: a, sha256: {'a' * 64}, created: x}}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "keys.yaml"


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "RELOAD_S", 0.0)


def made(path: Path, name: str = "ada", models: tuple[str, ...] | None = None, **limits: int) -> str:
    return create_key(path, name, models, limits)


def test_a_key_lets_its_holder_in_under_its_name(path: Path):
    key = made(path, models=("small", "large"), requests_per_minute=3)
    principal = Keys(path).principal(f"Bearer {key}")
    assert (principal.name, principal.models) == ("ada", {"small", "large"})
    assert principal.limits.requests_per_minute == 3
    assert Keys(path).principal(f"bearer  {key} ") == principal


def test_the_file_holds_no_key_and_is_its_owners_alone(path: Path):
    keys = [made(path, name) for name in ("ada", "bob")]
    text = path.read_text()
    assert not any(key in text or key.removeprefix(auth.PREFIX) in text for key in keys)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(set(keys)) == 2
    assert all(len(key) == len(auth.PREFIX) + 43 for key in keys)


def test_a_mode_that_lets_the_server_read_stays(path: Path):
    made(path)
    path.chmod(0o640)
    made(path, "bob")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("header", ["Bearer wrong", "Bearer ", "Bearer", "Basic YTpi", "é", "rtk-x", "Bearer \udcff"])
def test_whatever_is_no_key_is_refused(path: Path, header: str):
    made(path)
    with pytest.raises(InvalidAPIKey):
        Keys(path).principal(header)


def test_no_header_is_a_missing_key(path: Path):
    made(path)
    with pytest.raises(MissingAPIKey, match="Authorization: Bearer KEY"):
        Keys(path).principal("")


def test_every_key_is_compared_whichever_it_is(path: Path, monkeypatch: pytest.MonkeyPatch):
    first, last = made(path), [made(path, f"user{i}") for i in range(9)][-1]
    compared: list[int] = []
    real = auth.hmac.compare_digest
    monkeypatch.setattr(auth.hmac, "compare_digest", lambda a, b: compared.append(1) or real(a, b))  # pyright: ignore
    for key in (first, last):
        compared.clear()
        Keys(path).principal(f"Bearer {key}")
        assert len(compared) == 10


def test_keys_come_and_go_while_the_server_runs(path: Path):
    ada = made(path)
    keys = Keys(path)
    bob = made(path, "bob")
    assert keys.principal(f"Bearer {bob}").name == "bob"
    revoke_key(path, "ada")
    with pytest.raises(InvalidAPIKey):
        keys.principal(f"Bearer {ada}")
    assert keys.principal(f"Bearer {bob}").name == "bob"


@pytest.mark.parametrize("broken", ["keys: [{name: x}]", "{", "", None])
def test_a_file_that_breaks_or_goes_changes_no_key_but_an_empty_one_has_none(
    path: Path, caplog: pytest.LogCaptureFixture, broken: str | None
):
    key = made(path)
    keys = Keys(path)
    path.unlink() if broken is None else path.write_text(broken)
    with caplog.at_level(logging.ERROR):
        if broken == "":
            with pytest.raises(InvalidAPIKey):
                keys.principal(f"Bearer {key}")
        else:
            assert keys.principal(f"Bearer {key}").name == "ada"
            assert "the keys stay as they were" in caplog.text
    assert key not in caplog.text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("keys: 7", "is no file of keys"),
        ("- a", "is no file of keys"),
        ("keys: [{name: a, sha256: short, created: x}]", "sha256 is wrong"),
        (f"keys: [{ENTRY.replace('}', ', model: y}')}]", "model is wrong"),
        (f"keys: [{ENTRY.replace('}', ', limits: {images_per_minute: 0}}')}]", "images_per_minute"),
        (f"keys: [{ENTRY}, {ENTRY}]", "two keys of the name a"),
    ],
)
def test_a_file_that_is_none_stops_the_start(path: Path, text: str, said: str):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=said):
        Keys(path)


def test_a_file_that_is_not_there_stops_the_start(path: Path):
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        Keys(path)


def test_a_name_is_one_keys_and_must_be_a_name(path: Path):
    made(path)
    with pytest.raises(ConfigurationError, match="a key of the name ada"):
        made(path)
    with pytest.raises(ConfigurationError, match="name is refused"):
        made(path, "a b")
    with pytest.raises(ConfigurationError, match="no key of the name eve"):
        revoke_key(path, "eve")
    assert [key.name for key in read_keys(path)] == ["ada"]


def test_a_model_may_be_allowed_by_its_id_or_an_alias():
    assert Principal(models=frozenset({"tiny"})).may_use(("retouch-tiny", "tiny"))
    assert not Principal(models=frozenset({"other"})).may_use(("retouch-tiny", "tiny"))
    assert Principal().may_use(("anything",))
