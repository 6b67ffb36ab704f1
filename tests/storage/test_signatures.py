"""Links to Google Cloud Storage and Azure, which no test here can call: checked by the rules that both publish."""

import base64
import hashlib
import hmac
import json
from urllib.parse import quote, urlsplit

import httpx
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from serve.settings import StorageSettings
from serve.storage import object_store

NAME = "0" * 32 + ".png"
ACCOUNT_KEY = base64.b64encode(b"a key of an account").decode()


def link(settings: StorageSettings) -> httpx.URL:
    """Signing needs no network where the keys are at hand."""
    return httpx.URL(object_store.ObjectStore(settings)._link(NAME))  # pyright: ignore[reportPrivateUsage]


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def service_account(key: rsa.RSAPrivateKey) -> str:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(encoding, form, serialization.NoEncryption()).decode()
    return json.dumps({"private_key": pem, "private_key_id": "1", "client_email": "retouch@test.example"})


def test_a_link_to_google_is_signed_as_google_says(key: rsa.RSAPrivateKey):
    """https://cloud.google.com/storage/docs/authentication/signatures: the canonical request and the string to sign."""
    options: dict[str, str | bool] = {"service_account_key": service_account(key)}
    url = link(StorageSettings(url="gs://results/edits", options=options, lifetime_s=600))
    assert (url.host, url.path) == ("storage.googleapis.com", f"/results/edits/{NAME}")
    assert url.params["X-Goog-Expires"] == "601"
    signature = bytes.fromhex(url.params["X-Goog-Signature"])
    query = "&".join(
        f"{quote(name, safe='')}={quote(value, safe='')}"
        for name, value in sorted(url.params.items())
        if name != "X-Goog-Signature"
    )
    request = f"GET\n{url.path}\n{query}\nhost:storage.googleapis.com\n\nhost\nUNSIGNED-PAYLOAD"
    scope = url.params["X-Goog-Credential"].partition("/")[2]
    digest = hashlib.sha256(request.encode()).hexdigest()
    signed = f"GOOG4-RSA-SHA256\n{url.params['X-Goog-Date']}\n{scope}\n{digest}"
    key.public_key().verify(signature, signed.encode(), padding.PKCS1v15(), hashes.SHA256())


def test_a_link_to_azure_is_signed_as_azure_says():
    """https://learn.microsoft.com/rest/api/storageservices/create-service-sas: string to sign from 2020-12-06 on."""
    options: dict[str, str | bool] = {"account_name": "acme", "account_key": ACCOUNT_KEY}
    url = link(StorageSettings(url="az://results/edits", options=options, lifetime_s=600))
    assert (url.host, url.path) == ("acme.blob.core.windows.net", f"/results/edits/{NAME}")
    query = url.params
    resource = f"/blob/acme{urlsplit(str(url)).path}"
    fields = [query["sp"], query["st"], query["se"], resource, "", "", "", query["sv"], query["sr"], *[""] * 7]
    expected = hmac.digest(base64.b64decode(ACCOUNT_KEY), "\n".join(fields).encode(), "sha256")
    assert base64.b64decode(query["sig"]) == expected
    assert (query["sp"], query["sr"]) == ("r", "b")
