"""Base64 text, plain or in a data URL, to bytes that keep the size limit."""

import re
from collections.abc import Mapping, Sequence

import pybase64

from serve.errors import ImageTooLarge, InvalidBase64, UnsupportedImageFormat
from serve.types import PictureFormat

MIB = 2**20
ONLY_PNG: tuple[PictureFormat, ...] = ("png",)
MEDIA_TYPES: Mapping[PictureFormat, tuple[str, ...]] = {
    "png": ("image/png", "image/apng"),
    "jpeg": ("image/jpeg", "image/jpg"),
    "webp": ("image/webp",),
}

_DATA_URL = re.compile(r"data:(?P<media>[^;,]*)(?P<options>[^,]*),", re.IGNORECASE)
_SHOWN = 40
"""Characters of a client's own text that a message repeats."""


def decode_base64(text: str, param: str, max_bytes: int, formats: Sequence[PictureFormat] = ONLY_PNG) -> bytes:
    """The bytes of plain base64 or of a `data:image/png;base64,` URL. Line breaks are passed over, nothing else is.

    The data URL's media type must be of one of the formats; which the bytes are, their own signature decides later.
    Raises InvalidBase64, UnsupportedImageFormat, and ImageTooLarge before anything is decoded.
    """
    payload = _payload(text, param, formats)
    check_bytes(len(payload) * 3 // 4 - payload[-2:].count("="), param, max_bytes)
    try:
        return pybase64.b64decode(payload, validate=True)
    except ValueError as error:
        raise InvalidBase64(f"{param} is not valid base64: {_reason(payload, error)}", param=param) from None


def check_bytes(count: int, param: str, max_bytes: int) -> None:
    """Raises ImageTooLarge when a picture of `count` bytes passes the limit."""
    if count > max_bytes:
        found, allowed = _mib(count), _mib(max_bytes)
        if found == allowed:
            found, allowed = f"{count} bytes", f"{max_bytes} bytes"
        raise ImageTooLarge(f"{param} is {found}; at most {allowed} are accepted", param=param)


def accepted(formats: Sequence[PictureFormat]) -> str:
    """What a refusal says of them."""
    *others, last = [{"png": "PNG", "jpeg": "JPEG", "webp": "WebP"}[one] for one in formats]
    return f"{', '.join(others)} and {last} are accepted" if others else f"only {last} is accepted"


def _payload(text: str, param: str, formats: Sequence[PictureFormat]) -> str:
    if text[:8].lower().startswith(("http://", "https://")):
        raise InvalidBase64(f"{param} is a link; a picture is sent as base64 or a data URL", param=param)
    if text[:5].lower() == "data:":
        text = _data_url_payload(text, param, formats)
    if "\n" in text or "\r" in text:
        text = text.replace("\r", "").replace("\n", "")
    return text


def _data_url_payload(text: str, param: str, formats: Sequence[PictureFormat]) -> str:
    url = _DATA_URL.match(text)
    if url is None:
        raise InvalidBase64(f"{param} is a data URL without a comma before its data", param=param)
    media = url["media"].strip().lower()
    if not any(media in MEDIA_TYPES[one] for one in formats):
        shown = media[:_SHOWN] or "no media type"
        raise UnsupportedImageFormat(f"{param} is a data URL of {shown}; {accepted(formats)}", param=param)
    if url["options"].lower().rpartition(";")[2].strip() != "base64":
        raise InvalidBase64(f"{param} is a data URL that is not marked as base64", param=param)
    return text[url.end() :]


def _reason(payload: str, error: ValueError) -> str:
    stray = re.search(r"[^A-Za-z0-9+/=]", payload)
    if stray:
        return f"it holds {stray[0]!r} at position {stray.start()}"
    if len(payload) % 4:
        return f"its {len(payload)} characters are no multiple of 4"
    return str(error).lower()


def _mib(count: int) -> str:
    return f"{count / MIB:.1f}".removesuffix(".0") + " MiB" if count >= MIB else f"{count} bytes"
