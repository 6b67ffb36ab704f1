"""The server itself: where it listens, what a request may ask for, who may ask, and what is kept of answers."""

import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from serve.settings.section import MIB, Section
from serve.types import PictureFormat

Host = Annotated[str, StringConstraints(pattern=r"^(\*\.)?[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*(:[0-9]{1,5})?$")]


class ServerSettings(Section):
    """Where the HTTP server listens. public_url: what links in answers start with; empty: the host the caller used.

    log_format: of the lines in Ray Serve's log files. keep_alive_s: between two signs of life in a stream that has
    nothing to tell. cache_folder: keeps what was measured of the models from one start to the next.
    """

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=1, le=65535)
    public_url: str = ""
    ingress_replicas: int = Field(default=1, ge=1)
    codec_replicas: int = Field(default=1, ge=1)
    codec_threads: int = Field(default=2, ge=1)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"
    keep_alive_s: float = Field(default=15.0, gt=0)
    cache_folder: Path = Path(tempfile.gettempdir()) / "retouch-cache"


class LimitSettings(Section):
    """What a request may ask for; beyond each bound the answer is an error that names it.

    image_formats: of the pictures that are sent; masks are always PNGs.
    """

    body_bytes: int = Field(default=64 * MIB, ge=1024)
    image_bytes: int = Field(default=4 * MIB, ge=1024)
    image_pixels: int = Field(default=40_000_000, ge=256)
    image_formats: tuple[PictureFormat, ...] = Field(default=("png",), min_length=1)
    body_timeout_s: float = Field(default=60.0, gt=0)
    request_timeout_s: float = Field(default=600.0, gt=0)
    bodies_bytes: int = Field(default=512 * MIB, ge=1024)
    requests_in_flight: int = Field(default=256, ge=1)


class LinkSettings(Section):
    """Pictures that a request gives as `https` links. hosts: that they are fetched from, `files.example.com` or, for
    all names below one, `*.example.com`, with a port where it is not 443; empty: links are refused. timeout_s: for all
    of one picture. Private addresses are never fetched from.
    """

    hosts: tuple[Host, ...] = ()
    timeout_s: float = Field(default=10.0, gt=0)


class AuthSettings(Section):
    """Who may use the server. keys_file: of bearer keys, which `retouch keys` writes; None: everybody may.

    allow_anonymous: that everybody may also where the server listens on an address that others can reach.
    """

    keys_file: Path | None = None
    allow_anonymous: bool = False


class IdempotencySettings(Section):
    """Answers of requests with an `Idempotency-Key`, for those who send them again. lifetime_s: how long they are kept,
    those of links for half of `storage.lifetime_s` at most, so that the links still work for whoever gets them.
    max_bytes: of all of them; beyond it the oldest go first. Whoever comes later gets the same picture drawn anew.
    """

    lifetime_s: float = Field(default=3600.0, gt=0)
    max_bytes: int = Field(default=256 * MIB, ge=1024)
