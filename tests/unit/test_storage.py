"""Pictures behind signed links: who may read them, how long, and what happens when the disk or a process fails."""

import multiprocessing
import os
import re
import resource
import string
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing.pool import Pool
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from serve.errors import BackendUnavailable, ConfigurationError, InvalidSignature, LinkExpired, NotFound
from serve.settings import StorageSettings
from serve.storage import LocalStore, Storage
from serve.storage.local import ABANDONED_S, GRACE_S
from serve.types import OutputFormat

MIB = 2**20
HOST = "https://images.example.com"
LIFETIME_S = 3600.0


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand."""

    now: float

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Link:
    name: str
    expires: str
    signature: str


def taken_apart(url: str) -> Link:
    query = parse_qs(urlsplit(url).query, strict_parsing=True)
    return Link(urlsplit(url).path.removeprefix("/v1/files/"), query["expires"][0], query["signature"][0])


def configured(folder: Path, *, secret: str = "", max_bytes: int = 64 * MIB) -> StorageSettings:
    return StorageSettings(folder=folder, secret=secret, lifetime_s=LIFETIME_S, max_bytes=max_bytes)


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
def store(folder: Path, clock: Clock) -> LocalStore:
    return LocalStore(configured(folder), clock)


def put(store: Storage, data: bytes = b"picture", output_format: OutputFormat = "png") -> Link:
    return taken_apart(store.put(data, output_format, HOST))


def pictures(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def read(store: LocalStore, link: Link) -> bytes:
    return store.read(link.name, link.expires, link.signature).data


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_link_gives_back_the_bytes_and_their_media_type(store: LocalStore, output_format: OutputFormat):
    link = put(store, b"\x00\xff" * 1000, output_format)
    found = store.read(link.name, link.expires, link.signature)
    assert found == (b"\x00\xff" * 1000, f"image/{output_format}")


@pytest.mark.parametrize("base_url", [HOST, f"{HOST}/", "http://127.0.0.1:8000/behind/a/path"])
def test_a_link_is_a_complete_url_on_the_base_that_was_asked_for(store: LocalStore, base_url: str):
    url = store.put(b"x", "png", base_url)
    pattern = re.escape(base_url.rstrip("/")) + r"/v1/files/[0-9a-f]{32}\.png\?expires=\d+&signature=[0-9a-f]{64}"
    assert re.fullmatch(pattern, url)


def rfc_2104(key: bytes, text: bytes) -> str:
    """HMAC with SHA-256 as the RFC spells it out, for keys below the hash's block of 64 bytes."""
    inner, outer = (bytes(byte ^ pad for byte in key.ljust(64, b"\0")) for pad in (0x36, 0x5C))
    return sha256(outer + sha256(inner + text).digest()).hexdigest()


def test_a_configured_secret_signs_the_links_and_is_not_written_down(folder: Path):
    link = put(LocalStore(configured(folder, secret="correct horse")))
    assert link.signature == rfc_2104(b"correct horse", f"{link.name}\n{link.expires}".encode())
    assert not (folder / ".secret").exists()


def test_no_two_links_share_a_name(store: LocalStore):
    assert len({put(store).name for _ in range(200)}) == 200


def test_a_link_works_for_its_lifetime_and_no_longer(store: LocalStore, clock: Clock):
    start, link = clock.now, put(store)
    clock.now = start + LIFETIME_S
    assert read(store, link) == b"picture"
    clock.now = start + LIFETIME_S + 1.001
    with pytest.raises(LinkExpired):
        read(store, link)


@pytest.mark.parametrize("field", ["expires", "signature"])
@pytest.mark.parametrize("value", ["", "0", "x", "é", "\ud800", "9" * 5000, "\x00"])
def test_a_malformed_link_is_refused_as_not_signed(store: LocalStore, field: str, value: str):
    link = put(store)
    parts = {"expires": link.expires, "signature": link.signature, field: value}
    with pytest.raises(InvalidSignature):
        store.read(link.name, **parts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_to_one_character_of_a_link_is_refused(store: LocalStore, data: st.DataObject):
    link = put(store)
    field = data.draw(st.sampled_from(["name", "expires", "signature"]))
    value = str(getattr(link, field))
    at = data.draw(st.integers(0, len(value)))
    cut = data.draw(st.integers(0, 1))
    changed = value[:at] + data.draw(st.text(string.printable, max_size=2)) + value[at + cut :]
    assume(changed != value)
    parts = {"name": link.name, "expires": link.expires, "signature": link.signature, field: changed}
    with pytest.raises(InvalidSignature if field != "name" else (InvalidSignature, NotFound)):
        store.read(**parts)


def test_a_later_expiry_cannot_be_claimed_with_the_signature_of_an_earlier_one(store: LocalStore):
    link = put(store)
    with pytest.raises(InvalidSignature):
        store.read(link.name, str(int(link.expires) + 1), link.signature)


def test_another_spelling_of_the_same_expiry_is_refused(store: LocalStore):
    link = put(store)
    for spelling in (f"+{link.expires}", f"0{link.expires}", f" {link.expires}", f"{link.expires}.0"):
        with pytest.raises(InvalidSignature):
            store.read(link.name, spelling, link.signature)


def test_a_link_of_one_file_does_not_open_another(store: LocalStore):
    first, second = put(store), put(store)
    with pytest.raises(InvalidSignature):
        store.read(second.name, first.expires, first.signature)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".secret", "../secret.png", "a/b.png", "a\x00.png", "a.png", f"{'0' * 32}.png/", "é" * 32]
)
def test_a_name_that_the_store_never_gave_is_not_found(store: LocalStore, name: str):
    link = put(store)
    with pytest.raises(NotFound):
        store.read(name, link.expires, link.signature)


def test_only_a_valid_link_tells_whether_a_file_exists(store: LocalStore, folder: Path):
    link = put(store)
    (folder / link.name).unlink()
    with pytest.raises(InvalidSignature):
        store.read(link.name, link.expires, "0" * 64)
    with pytest.raises(NotFound):
        read(store, link)


def test_stores_of_one_folder_share_their_secret_and_others_do_not(folder: Path, tmp_path: Path):
    link = put(LocalStore(configured(folder)))
    assert read(LocalStore(configured(folder)), link) == b"picture"
    with pytest.raises(InvalidSignature):
        read(LocalStore(configured(tmp_path / "other")), link)


def one_link_each(folders: list[Path]) -> list[str]:
    return [LocalStore(configured(folder)).put(b"picture", "png", HOST) for folder in folders]


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with multiprocessing.get_context("spawn").Pool(4) as workers:
        yield workers


def test_processes_that_start_at_once_agree_on_one_secret(pool: Pool, tmp_path: Path):
    # Who comes first draws the secret and so loses time: the others catch up, and most folders see a race.
    folders = [tmp_path / str(i) for i in range(200)]
    for links in zip(folders, *pool.map(one_link_each, [folders] * 4, chunksize=1), strict=True):
        store = LocalStore(configured(links[0]))
        assert [read(store, taken_apart(url)) for url in links[1:]] == [b"picture"] * 4
        assert (links[0] / ".secret").exists()
        assert len(list(links[0].iterdir())) == 5


def put_and_sweep(folder: Path, rounds: int) -> list[str]:
    store = LocalStore(configured(folder, max_bytes=MIB))
    urls: list[str] = []
    for _ in range(rounds):
        urls.append(store.put(os.urandom(MIB // 20), "png", HOST))
        store.sweep()
    return urls


def test_processes_may_put_and_sweep_at_the_same_time(pool: Pool, folder: Path):
    urls = [url for urls in pool.starmap(put_and_sweep, [(folder, 25)] * 4, chunksize=1) for url in urls]
    store = LocalStore(configured(folder, max_bytes=MIB))
    store.sweep()
    left = pictures(folder)
    readable = [read(store, link) for link in map(taken_apart, urls) if link.name in left]
    assert len(readable) == len(left)
    assert 0 < sum(map(len, readable)) <= MIB
    assert all(len(data) == MIB // 20 for data in readable)
    assert {path.name for path in folder.iterdir()} - left == {".secret"}


def test_the_store_closes_what_it_makes_to_other_users(store: LocalStore, folder: Path):
    link = put(store)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, folder / ".secret", folder / link.name)}
    assert modes == {folder.name: 0o700, ".secret": 0o600, link.name: 0o600}


def test_a_sweep_removes_what_has_expired_and_keeps_the_rest(store: LocalStore, folder: Path, clock: Clock):
    old = put(store)
    clock.now += LIFETIME_S + 1
    young = put(store)
    assert store.sweep() == 0
    assert pictures(folder) == {old.name, young.name}
    clock.now += GRACE_S + 1
    assert store.sweep() == 1
    assert pictures(folder) == {young.name}


def test_links_outlive_a_restart_with_a_shorter_lifetime(store: LocalStore, folder: Path, clock: Clock):
    link = put(store)
    clock.now += 600
    restarted = LocalStore(StorageSettings(folder=folder, lifetime_s=60), clock)
    assert restarted.sweep() == 0
    assert read(restarted, link) == b"picture"


def test_beyond_the_limit_a_sweep_removes_the_oldest_first(folder: Path, clock: Clock):
    store = LocalStore(configured(folder, max_bytes=MIB), clock)
    names: list[str] = []
    for _ in range(5):
        names.append(put(store, bytes(MIB // 3)).name)
        clock.now += 10
    assert store.sweep() == 2
    assert pictures(folder) == set(names[2:])
    assert store.sweep() == 0


def test_a_sweep_clears_up_after_a_process_that_died_while_writing(store: LocalStore, folder: Path, clock: Clock):
    abandoned = folder / f".{'0' * 32}.tmp"
    abandoned.write_bytes(b"half a pict")
    store.sweep()
    assert abandoned.exists()
    clock.now = time.time() + ABANDONED_S + 1
    store.sweep()
    assert not abandoned.exists()


def test_a_sweep_leaves_files_alone_that_are_not_the_stores(store: LocalStore, folder: Path, clock: Clock):
    (folder / "notes.txt").write_text("mine")
    (folder / "photo.png").write_text("mine")
    clock.now += 10 * LIFETIME_S
    assert store.sweep() == 0
    assert pictures(folder) == {"notes.txt", "photo.png"}


def test_a_sweep_keeps_the_secret_from_looking_old_to_cleaners_of_temporary_folders(store: LocalStore, folder: Path):
    os.utime(folder / ".secret", (0, 0))
    store.sweep()
    assert (folder / ".secret").stat().st_mtime > 0


@contextmanager
def files_no_bigger_than(size: int) -> Generator[None]:
    """The kernel refuses to write past `size`, as it does on a full disk: some bytes are written, then an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_is_a_503_and_leaves_nothing_behind(store: LocalStore, folder: Path):
    with files_no_bigger_than(4096), pytest.raises(BackendUnavailable):
        store.put(bytes(MIB), "png", HOST)
    assert {path.name for path in folder.iterdir()} == {".secret"}
    assert read(store, put(store)) == b"picture"


def test_a_folder_that_vanished_is_a_503(store: LocalStore, folder: Path):
    link = put(store)
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(BackendUnavailable):
        put(store)
    with pytest.raises(BackendUnavailable):
        store.sweep()
    with pytest.raises(NotFound):
        read(store, link)


def test_a_file_that_cannot_be_read_is_a_503(store: LocalStore, folder: Path):
    link = put(store)
    (folder / link.name).unlink()
    (folder / link.name).mkdir()
    with pytest.raises(BackendUnavailable):
        read(store, link)


def test_a_folder_that_cannot_be_made_stops_the_start_and_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigurationError, match=re.escape(f"storage.folder {folder} ")):
            LocalStore(configured(folder))


def test_a_damaged_secret_stops_the_start(folder: Path):
    folder.mkdir()
    (folder / ".secret").touch()
    with pytest.raises(ConfigurationError, match="is damaged"):
        LocalStore(configured(folder))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_stops_the_start(folder: Path):
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    with pytest.raises(ConfigurationError, match="another user"):
        LocalStore(configured(folder))
