"""A bucket of S3, Google Cloud Storage or Azure, behind links that the store itself answers.

Nothing is ever deleted: a rule of the bucket does that, which knows what else lies there. An object that nobody has a
link to, since its upload was not confirmed, goes the same way.
"""

import logging
import math
import re
import secrets
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, S3Store

from serve.errors import BackendUnavailable, ConfigurationError, NotFound
from serve.settings import BUCKET_LIFETIME_S, StorageSettings
from serve.storage.base import StoredFile, StoreUnreachable
from serve.types import OutputFormat

if TYPE_CHECKING:
    from obstore.store import RetryConfig  # a type alone, which is not there at run time

logger = logging.getLogger(__name__)
Bucket = S3Store | GCSStore | AzureStore
STORES: Mapping[str, type[Bucket]] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
NAME_BYTES = 16
CHECK_NAME = "retouch-start-check"
TIMEOUT = "10s"
"""Of one attempt, where `client_options` name none."""
_FAULTS = (BaseError, OSError, ValueError)
"""What obstore raises: errors of its own, FileNotFoundError and ValueError."""
_REFUSALS = (PermissionDeniedError, UnauthenticatedError, FileNotFoundError, ValueError)
"""Those that stay until the configuration, or the bucket, is another."""
_CODE = re.compile(r"<Code>(\w+)</Code>")


class ObjectStore:
    """Implements `Storage`."""

    def __init__(self, settings: StorageSettings) -> None:
        """Open the bucket, without asking it anything. Raises ConfigurationError: obstore refuses an option."""
        self._url = settings.url
        self._lifetime_s = settings.lifetime_s
        self._public_endpoint = settings.public_endpoint
        self._bucket = self._signer = _opened(settings, settings.options)
        if settings.public_endpoint:
            self._signer = _opened(settings, {**self._bucket.config, "endpoint": settings.public_endpoint})
        if settings.public_endpoint.startswith("http://") and not _allows_http(self._bucket):
            raise ConfigurationError(
                f"storage.public_endpoint {settings.public_endpoint} is not https; "
                "links to it need storage.client_options {allow_http: true}"
            )

    def put(self, data: bytes, output_format: OutputFormat, base_url: str) -> str:
        """Keep one picture; see `Storage.put`. An upload that fails is made again for `retry_s`."""
        name = f"{secrets.token_hex(NAME_BYTES)}.{output_format}"
        try:
            self._upload(name, data, f"image/{output_format}")
            return self._link(name)
        except _FAULTS as error:
            logger.warning("a result was not stored: %s", _told(error))
            raise BackendUnavailable(
                "the store of results does not take them at present; try again, or ask for b64_json"
            ) from error

    def read(self, name: str, expires: str, signature: str) -> StoredFile:
        """Raises NotFound: no link leads here."""
        raise NotFound("there is no such file; results lie in an object store, which answers their links")

    def sweep(self) -> int:
        """None: the bucket has a rule for that."""
        return 0

    def check(self) -> None:
        """Write one small object, read it back and sign a link to it; see `Storage.check`.

        A wrong bucket, key or permission would otherwise show only in the answers to callers, and a missing permission
        to read only in links that do not work. The object has a fixed name, so that nothing need be deleted.
        """
        with _start_fails(self._url):
            self._upload(CHECK_NAME, b"Retouch can write here.\n", "text/plain")
            obstore.get(self._bucket, CHECK_NAME).bytes()
            link = self._link(CHECK_NAME)
        if not link.startswith(self._public_endpoint):
            raise ConfigurationError(
                f"storage.public_endpoint {self._public_endpoint} has no effect: "
                "the variable AWS_ENDPOINT_URL_S3 stands above it; name that endpoint in storage.options instead"
            )

    def _upload(self, name: str, data: bytes, media_type: str) -> None:
        """In one request: an object of several parts could be left half-made."""
        kept_s = math.ceil(self._lifetime_s)
        headers = {
            "Content-Type": media_type,
            "Content-Disposition": "inline",
            "Cache-Control": f"private, max-age={kept_s}, immutable",
        }
        obstore.put(self._bucket, name, data, attributes=headers, use_multipart=False)

    def _link(self, name: str) -> str:
        # Signatures count whole seconds from the one that has begun.
        works_s = min(math.ceil(self._lifetime_s) + 1, BUCKET_LIFETIME_S)
        return obstore.sign(self._signer, "GET", name, timedelta(seconds=works_s))


def _opened(settings: StorageSettings, options: Mapping[str, Any]) -> Bucket:
    client: Any = {"timeout": TIMEOUT, **settings.client_options}
    config: Any = dict(options)
    kind = STORES[settings.url.partition(":")[0]]
    try:
        return kind.from_url(settings.url, config=config, client_options=client, retry_config=_retry(settings.retry_s))
    except _FAULTS as error:
        raise ConfigurationError(f"storage.url {settings.url} or its options: {_told(error)}") from None


def _retry(retry_s: float) -> "RetryConfig":
    """After server errors, lost connections and timeouts; time is the bound, not a count."""
    return {
        "max_retries": 1000,
        "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
        "retry_timeout": timedelta(seconds=retry_s),
    }


def _allows_http(bucket: Bucket) -> bool:
    return str((bucket.client_options or {}).get("allow_http")).lower() == "true"


@contextmanager
def _start_fails(url: str) -> Generator[None]:
    """obstore's errors as sentences for who configures the server."""
    try:
        yield
    except _REFUSALS as error:
        raise ConfigurationError(f"storage.url {url} cannot be used: {_told(error)}") from None
    except _FAULTS as error:
        raise StoreUnreachable(f"storage.url {url} cannot be reached: {_told(error)}") from None


def _told(error: Exception) -> str:
    """One line without the dump of obstore's own objects, and of a store's answer the code alone."""
    text = str(error).partition("\n\nDebug source")[0]
    line, answer, _ = text.partition(": <?xml")
    line = " ".join(line.split())
    code = _CODE.search(text)
    if answer and code:
        return f"{line} ({code[1]})"
    if "builder error" in line:
        return f"{line}; an endpoint that is not https needs storage.client_options {{allow_http: true}}"
    return line
