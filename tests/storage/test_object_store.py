"""A bucket on a real S3: what its links say, which starts are refused, and what is tried again."""

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from serve.errors import BackendUnavailable, ConfigurationError, NotFound
from serve.settings import BUCKET_LIFETIME_S
from serve.storage import ObjectStore, StoreUnreachable
from tests.http.conftest import free_port
from tests.storage.ceph import Ceph
from tests.storage.conftest import BUCKET, PREFIX, bucket_settings

HOST = "https://images.example.com"


def test_a_link_leads_to_the_bucket_below_the_prefix(store: ObjectStore, ceph: Ceph):
    url = store.put(b"picture", "png", HOST)
    assert re.fullmatch(rf"{ceph.endpoint}/{BUCKET}/{PREFIX}/[0-9a-f]{{32}}\.png\?.*", url)


def test_a_browser_shows_a_result_and_keeps_it_no_longer_than_its_link(store: ObjectStore):
    answer = httpx.get(store.put(b"picture", "webp", HOST))
    assert answer.headers["content-disposition"] == "inline"
    assert answer.headers["cache-control"] == "private, max-age=3600, immutable"


def test_without_a_signature_the_bucket_shows_nothing(store: ObjectStore):
    url = httpx.URL(store.put(b"picture", "png", HOST))
    assert httpx.get(url.copy_with(query=None)).status_code == 403


def test_a_longer_life_cannot_be_claimed_for_a_link(store: ObjectStore):
    url = httpx.URL(store.put(b"picture", "png", HOST))
    assert httpx.get(url).status_code == 200
    assert httpx.get(url.copy_set_param("X-Amz-Expires", "7200")).status_code == 403


def test_a_link_reads_and_does_nothing_else(store: ObjectStore):
    url = store.put(b"picture", "png", HOST)
    assert httpx.put(url, content=b"other").status_code == 403
    assert httpx.delete(url).status_code == 403
    assert httpx.get(url).content == b"picture"


def test_the_longest_lifetime_makes_a_link_that_works(ceph: Ceph):
    store = ObjectStore(bucket_settings(ceph.endpoint, lifetime_s=BUCKET_LIFETIME_S))
    url = store.put(b"picture", "png", HOST)
    assert httpx.URL(url).params["X-Amz-Expires"] == str(7 * 24 * 3600)
    assert httpx.get(url).content == b"picture"


def test_links_are_signed_for_the_address_at_which_callers_reach_the_store(ceph: Ceph):
    public = f"http://localhost:{urlsplit(ceph.endpoint).port}"
    store = ObjectStore(bucket_settings(ceph.endpoint, public_endpoint=public))
    store.check()
    url = store.put(b"picture", "png", HOST)
    assert url.startswith(f"{public}/{BUCKET}/{PREFIX}/")
    assert httpx.get(url).content == b"picture"
    assert httpx.get(url.replace("localhost", "127.0.0.1", 1)).status_code == 403


def test_an_endpoint_of_the_environment_that_hides_the_public_one_stops_the_start(
    ceph: Ceph, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", ceph.endpoint)
    settings = bucket_settings(ceph.endpoint, public_endpoint=f"http://localhost:{urlsplit(ceph.endpoint).port}")
    with pytest.raises(ConfigurationError, match=r"storage\.public_endpoint .* AWS_ENDPOINT_URL_S3"):
        ObjectStore(settings).check()


def test_keys_and_region_are_found_in_the_environment(ceph: Ceph, monkeypatch: pytest.MonkeyPatch):
    settings = bucket_settings(ceph.endpoint)
    for name in ("access_key_id", "secret_access_key", "region"):
        monkeypatch.setenv(f"AWS_{name.upper()}", str(settings.options[name]))
    bare = settings.model_copy(update={"options": {"endpoint": ceph.endpoint}})
    assert httpx.get(ObjectStore(bare).put(b"picture", "png", HOST)).content == b"picture"


@pytest.mark.parametrize(
    ("options", "code"),
    [({"secret_access_key": "wrong"}, "SignatureDoesNotMatch"), ({"access_key_id": "nobody"}, "InvalidAccessKeyId")],
)
def test_wrong_keys_stop_a_start_and_are_a_503_later(ceph: Ceph, options: dict[str, str], code: str):
    store = ObjectStore(bucket_settings(ceph.endpoint, options))
    with pytest.raises(ConfigurationError) as refused:
        store.check()
    assert not isinstance(refused.value, StoreUnreachable)
    said = str(refused.value)
    assert said.startswith(f"storage.url s3://{BUCKET}/{PREFIX} cannot be used: ")
    assert said.endswith(f"403 Forbidden ({code})")
    assert "\n" not in said
    with pytest.raises(BackendUnavailable, match="b64_json"):
        store.put(b"picture", "png", HOST)


def test_a_bucket_that_is_not_there_stops_a_start(ceph: Ceph):
    store = ObjectStore(bucket_settings(ceph.endpoint, url="s3://nowhere"))
    with pytest.raises(ConfigurationError, match=r"storage\.url s3://nowhere cannot be used: .*NoSuchBucket"):
        store.check()
    with pytest.raises(BackendUnavailable):
        store.put(b"picture", "png", HOST)


def test_an_address_where_nothing_listens_is_told_apart_from_a_refusal():
    with pytest.raises(StoreUnreachable, match=rf"storage\.url s3://{BUCKET}/{PREFIX} cannot be reached: "):
        ObjectStore(bucket_settings(f"http://127.0.0.1:{free_port()}")).check()


def test_plain_http_is_used_only_where_it_is_allowed(ceph: Ceph):
    with pytest.raises(ConfigurationError, match=r"needs storage\.client_options \{allow_http: true\}"):
        ObjectStore(bucket_settings(ceph.endpoint, client_options={})).check()


def test_an_upload_waits_for_a_gateway_that_comes_back(ceph: Ceph):
    store = ObjectStore(bucket_settings(ceph.endpoint, retry_s=20))
    ceph.kill_gateway()
    with ThreadPoolExecutor() as pool:
        upload = pool.submit(store.put, b"picture", "png", HOST)
        time.sleep(1)
        assert not upload.done()
        ceph.start_gateway()
        assert httpx.get(upload.result()).content == b"picture"


def test_a_gateway_that_no_longer_answers_is_given_up_in_time(ceph: Ceph):
    store = ObjectStore(bucket_settings(ceph.endpoint, client_options={"allow_http": True, "timeout": "500ms"}))
    ceph.pause_gateway()
    started = time.monotonic()
    with pytest.raises(BackendUnavailable):
        store.put(b"picture", "png", HOST)
    assert time.monotonic() - started < 8
    ceph.resume_gateway()
    assert httpx.get(store.put(b"picture", "png", HOST)).content == b"picture"


def test_a_gateway_that_is_killed_among_uploads_costs_answers_and_no_link(ceph: Ceph):
    store = ObjectStore(bucket_settings(ceph.endpoint, retry_s=0))
    data = bytes(2**20)
    urls: list[str] = []
    refused: list[BackendUnavailable] = []

    def upload() -> None:
        for _ in range(30):
            try:
                urls.append(store.put(data, "png", HOST))
            except BackendUnavailable as error:
                refused.append(error)

    threads = [threading.Thread(target=upload) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(urls) < 10 and threads[0].is_alive():
        time.sleep(0.001)
    ceph.kill_gateway()
    ceph.start_gateway()
    for thread in threads:
        thread.join()
    assert len(urls) + len(refused) == 120
    assert refused
    assert all(httpx.get(url).content == data for url in urls)


def test_nothing_of_the_server_itself_leads_to_a_bucket(store: ObjectStore):
    url = urlsplit(store.put(b"picture", "png", HOST))
    with pytest.raises(NotFound, match="object store"):
        store.read(url.path.rsplit("/", 1)[1], "1", "0")
    assert store.sweep() == 0
