"""Pictures behind signed links: who may read them, how long, and what happens when the disk or a process fails."""

import multiprocessing
import os
import pickle
import re
import resource
import string
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
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
from serve.storage import LocalStore, Storage, StorageFull
from serve.storage.local import ABANDONED_S, FULL_DISK_RETRY_S, GRACE_S
from serve.types import OutputFormat

MIB = 2**20
LIMIT = 16 * MIB
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


def put_until_refused(folder: Path, rounds: int) -> tuple[list[str], int]:
    """The links, and how often the store was full."""
    store = LocalStore(configured(folder, max_bytes=LIMIT))
    urls: list[str] = []
    refused = 0
    for _ in range(rounds):
        try:
            urls.append(store.put(os.urandom(LIMIT // 40), "png", HOST))
        except StorageFull:
            refused += 1
        store.sweep()
    return urls, refused


def test_processes_that_fill_one_folder_at_the_same_time_keep_its_limit_and_every_link(pool: Pool, folder: Path):
    done = pool.starmap(put_until_refused, [(folder, 15)] * 4, chunksize=1)
    urls = [url for urls, _ in done for url in urls]
    store = LocalStore(configured(folder, max_bytes=LIMIT))
    read_back = [read(store, taken_apart(url)) for url in urls]
    assert {len(data) for data in read_back} == {LIMIT // 40}
    assert 40 <= len(urls) <= 44  # the limit holds 40; each process may be writing one that the others do not see
    assert len(urls) + sum(refused for _, refused in done) == 60
    assert {path.name for path in folder.iterdir()} == {".secret", *(taken_apart(url).name for url in urls)}


def test_the_store_closes_what_it_makes_to_other_users(store: LocalStore, folder: Path):
    link = put(store)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (folder, folder / ".secret", folder / link.name)}
    assert modes == {folder.name: 0o700, ".secret": 0o600, link.name: 0o600}


def test_links_follow_the_clock_wherever_it_jumps(store: LocalStore, clock: Clock):
    start, link = clock.now, put(store)
    clock.now = start + 10 * LIFETIME_S
    with pytest.raises(LinkExpired):
        read(store, link)
    clock.now = start - 10 * LIFETIME_S
    assert read(store, link)
    meanwhile = put(store)
    store.sweep()
    clock.now = start
    assert read(store, link)
    with pytest.raises(LinkExpired):
        read(store, meanwhile)


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


def test_a_full_store_refuses_and_every_link_goes_on_working(folder: Path, clock: Clock):
    store = LocalStore(configured(folder, max_bytes=LIMIT), clock)
    links: list[Link] = []
    for _ in range(4):
        links.append(put(store, bytes(LIMIT // 4)))
        clock.now += 10
    for data in (b"x", bytes(LIMIT // 4)):
        with pytest.raises(StorageFull):
            put(store, data)
    assert store.sweep() == 0
    assert [len(read(store, link)) for link in links] == [LIMIT // 4] * 4
    assert pictures(folder) == {link.name for link in links}


def refusal(store: LocalStore, data: bytes = b"x") -> StorageFull:
    with pytest.raises(StorageFull) as caught:
        put(store, data)
    return caught.value


def test_a_full_store_tells_when_the_first_file_goes_and_has_room_then(folder: Path, clock: Clock):
    clock.now = 1_000_000.0
    store = LocalStore(configured(folder, max_bytes=LIMIT), clock)
    first = put(store, bytes(LIMIT // 2))
    clock.now += 100
    second = put(store, bytes(LIMIT // 2))
    assert refusal(store).retry_after_s == LIFETIME_S + GRACE_S - 100
    clock.now += LIFETIME_S + GRACE_S - 101
    assert refusal(store).retry_after_s == 1
    clock.now += 1
    third = put(store, bytes(LIMIT // 2))
    assert pictures(folder) == {second.name, third.name}
    assert first.name not in pictures(folder)
    assert refusal(store).retry_after_s == 100


def test_a_store_that_was_full_when_it_started_takes_files_once_others_expire(folder: Path, clock: Clock):
    put(LocalStore(configured(folder, max_bytes=LIMIT), clock), bytes(LIMIT))
    store = LocalStore(configured(folder, max_bytes=LIMIT), clock)
    wait_s = refusal(store).retry_after_s
    assert wait_s is not None
    clock.now += wait_s
    assert read(store, put(store)) == b"picture"


def test_a_store_learns_of_what_others_put_before_they_can_pass_the_limit_by_far(folder: Path, clock: Clock):
    one, other = (LocalStore(configured(folder, max_bytes=LIMIT), clock) for _ in range(2))
    put(one, b"x")
    put(other, bytes(LIMIT - 1024))
    size = LIMIT // 256
    taken = 0
    with suppress(StorageFull):
        for _ in range(64):
            put(one, bytes(size))
            taken += size
    assert size <= taken <= LIMIT // 64 + size


def test_a_refusal_knows_of_files_that_came_after_the_last_look(folder: Path, clock: Clock):
    clock.now = 1_000_000.0
    store = LocalStore(configured(folder, max_bytes=LIMIT), clock)
    put(store, b"x")
    assert refusal(store, bytes(LIMIT)).retry_after_s == LIFETIME_S + GRACE_S


def test_room_that_somebody_makes_by_hand_is_seen_at_the_next_sweep(folder: Path, clock: Clock):
    store = LocalStore(configured(folder, max_bytes=LIMIT), clock)
    link = put(store, bytes(LIMIT))
    refusal(store)
    (folder / link.name).unlink()
    store.sweep()
    assert read(store, put(store)) == b"picture"


def test_a_picture_that_can_never_fit_is_refused_without_a_time_to_try_again(folder: Path, clock: Clock):
    store = LocalStore(configured(folder, max_bytes=LIMIT), clock)
    assert refusal(store, bytes(LIMIT + 1)).retry_after_s is None
    assert read(store, put(store)) == b"picture"


def test_a_full_store_is_a_503_that_says_what_else_works_and_survives_pickling(folder: Path, clock: Clock):
    store = LocalStore(configured(folder, max_bytes=LIMIT), clock)
    put(store, bytes(LIMIT))
    error = refusal(store)
    assert isinstance(error, BackendUnavailable)
    assert (error.status, error.code, error.retryable) == (503, "backend_unavailable", True)
    assert error.message == (
        "the store of results is full (16.0 MiB of 16.0 MiB); try again later, or ask for b64_json"
    )
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), arrived.message, arrived.retry_after_s) == (StorageFull, error.message, error.retry_after_s)


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
    for _ in range(100):  # more than the limit in all
        with files_no_bigger_than(4096), pytest.raises(StorageFull) as full:
            store.put(bytes(MIB), "png", HOST)
        assert full.value.retry_after_s == FULL_DISK_RETRY_S
    assert {path.name for path in folder.iterdir()} == {".secret"}
    assert read(store, put(store, bytes(32 * MIB))) == bytes(32 * MIB)


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
