"""What every store promises, the embedded one and a bucket on a real S3."""

import re
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from serve.errors import BackendUnavailable
from serve.types import OutputFormat
from tests.storage.ceph import Ceph
from tests.storage.faces import HOST, EmbeddedFace, Face, S3Face


@pytest.fixture(params=["embedded", "s3"])
def face(request: pytest.FixtureRequest, tmp_path: Path) -> Face:
    if request.param == "embedded":
        return EmbeddedFace(tmp_path / "files")
    ceph: Ceph = request.getfixturevalue("ceph")
    return S3Face(ceph)


def name_of(url: str) -> str:
    return urlsplit(url).path.rsplit("/", 1)[1]


def signature_of(url: str) -> str:
    """The name of the query's field; each store has its own."""
    (name,) = (key for key in httpx.URL(url).params if key.lower().endswith("signature"))
    return name


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_link_gives_the_bytes_and_their_type_to_whoever_has_it(face: Face, output_format: OutputFormat):
    data = bytes(range(256)) * 100
    url = face.open().put(data, output_format, HOST)
    assert face.fetch(url) == (200, f"image/{output_format}", data)


def test_a_picture_of_many_megabytes_comes_back_whole(face: Face):
    data = bytes(range(256)) * 50_000
    assert face.fetch(face.open().put(data, "png", HOST)).data == data


def test_names_are_128_random_bits_and_say_the_format(face: Face):
    store = face.open()
    names = {name_of(store.put(b"same", "webp", HOST)) for _ in range(20)}
    assert len(names) == 20
    assert all(re.fullmatch(r"[0-9a-f]{32}\.webp", name) for name in names)


def test_a_changed_signature_is_forbidden(face: Face):
    url = httpx.URL(face.open().put(b"picture", "png", HOST))
    name = signature_of(str(url))
    right = url.params[name]
    wrong = right[:-1] + ("0" if right[-1] != "0" else "1")
    assert face.fetch(str(url)).status == 200
    assert face.fetch(str(url.copy_set_param(name, wrong))).status == 403


def test_a_link_of_one_picture_opens_no_other(face: Face):
    store = face.open()
    mine, other = (httpx.URL(store.put(b"picture", "png", HOST)) for _ in range(2))
    assert face.fetch(str(mine.copy_with(path=other.path))).status == 403


def test_a_link_works_for_its_lifetime_and_not_after_it(face: Face):
    url = face.open(lifetime_s=3).put(b"picture", "png", HOST)
    put_at = time.time()
    while time.time() < put_at + 1.5:
        assert face.fetch(url).status == 200
        time.sleep(0.2)
    time.sleep(put_at + 5.2 - time.time())  # both count in whole seconds, of which the store may add one
    assert face.fetch(url).status == 403


def test_a_link_to_what_somebody_took_away_is_not_found(face: Face):
    url = face.open().put(b"picture", "png", HOST)
    face.lose(name_of(url))
    assert face.fetch(url).status == 404


def test_a_store_that_is_away_is_a_503_to_try_again_and_answers_no_link(face: Face):
    store = face.open()
    before = store.put(b"before", "png", HOST)
    face.go_away()
    with pytest.raises(BackendUnavailable) as refused:
        store.put(b"lost", "png", HOST)
    assert (refused.value.status, refused.value.retryable) == (503, True)
    face.come_back()
    assert face.fetch(before).data == b"before"
    assert face.fetch(store.put(b"after", "png", HOST)).data == b"after"


def test_a_store_that_works_passes_its_check_again_and_again(face: Face):
    store = face.open()
    store.check()
    store.check()
