"""Where results that are answered by URL lie: a folder, or a bucket."""

import re
import tempfile
from pathlib import Path
from typing import Self

from pydantic import Field, StrictBool, field_validator, model_validator

from serve.settings.section import MIB, Section

BUCKET_LIFETIME_S = 7 * 24 * 3600
"""What S3 and Google Cloud Storage accept; Azure ends there where the server signs by its identity."""
_BUCKET_URL = re.compile(r"(s3|gs|az)://[^/?#@\s]+(/[^?#\s]*)?")
_BUCKET_KEYS = {"options", "client_options", "public_endpoint", "retry_s"}
_FOLDER_KEYS = {"folder", "secret", "max_bytes"}
_ENDPOINT = re.compile(r"https?://[^/?#@\s]+(/[^?#\s]*)?")


class StorageSettings(Section):
    """Where results that are answered by URL lie: in a folder that the server answers for, or in a bucket.

    lifetime_s: how long a link works at least. folder: of the embedded store. secret: signs its links; empty means one
    is drawn at the first start and kept in the folder. max_bytes: of all its files; results that would pass it are
    refused until others have expired.
    url: of a bucket, and the prefix of its objects; empty means the embedded store. options and client_options: as
    obstore names them, over what it finds in the environment. public_endpoint: where callers reach an S3 that has
    another address for the server. retry_s: how long a failed upload is made again before the answer is 503.
    """

    folder: Path = Path(tempfile.gettempdir()) / "retouch-files"
    secret: str = ""
    lifetime_s: float = Field(default=3600.0, gt=0)
    max_bytes: int = Field(default=2 * 1024 * MIB, ge=16 * MIB)
    url: str = ""
    options: dict[str, str | StrictBool] = Field(default_factory=dict[str, str | StrictBool])
    client_options: dict[str, str | StrictBool] = Field(default_factory=dict[str, str | StrictBool])
    public_endpoint: str = ""
    retry_s: float = Field(default=10.0, ge=0, le=60)

    @field_validator("url")
    @classmethod
    def _a_bucket_is_named(cls, url: str) -> str:
        if url and not _BUCKET_URL.fullmatch(url):
            shown = url.rpartition("@")[2]
            raise ValueError(f"{shown!r} is none of s3://bucket/prefix, gs://bucket/prefix and az://container/prefix")
        return url

    @field_validator("public_endpoint")
    @classmethod
    def _the_public_endpoint_is_an_address(cls, endpoint: str) -> str:
        if endpoint and not _ENDPOINT.fullmatch(endpoint):
            raise ValueError("an endpoint is https://host, or http://host where client_options allow it")
        return endpoint

    @model_validator(mode="after")
    def _keys_are_of_the_store_that_is_used(self) -> Self:
        foreign = _FOLDER_KEYS if self.url else _BUCKET_KEYS
        for key in sorted(self.model_fields_set & foreign):
            used = f"url names {self.url}" if self.url else "url names none"
            raise ValueError(f"{key} is of {'the embedded store' if self.url else 'a bucket'}, and {used}")
        if self.public_endpoint and not self.url.startswith("s3://"):
            raise ValueError("public_endpoint is for s3:// alone; other stores sign for one address")
        if self.url and self.lifetime_s > BUCKET_LIFETIME_S:
            raise ValueError(f"lifetime_s is {self.lifetime_s:g}; signed links of a bucket work for at most 7 days")
        return self
