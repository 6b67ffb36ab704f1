"""The pages for people, from this server alone: the playground, and the API's reference to read."""

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePath

from fastapi import Request, Response
from fastapi.openapi.docs import get_swagger_ui_html

from serve.errors import NotFound

PLAYGROUND = files("serve") / "playground"
PAGE = "index.html"
SWAGGER_UI = files("fastapi_offline") / "static"
"""What FastAPI's own page would fetch from another host."""
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Of the playground, https://www.w3.org/TR/CSP3/: nothing from other hosts, nothing inline; pictures also from the
page's own memory."""


class WebFiles:
    """The files of a folder as they were when the server started."""

    def __init__(self, folder: Traversable) -> None:
        kept = [file for file in folder.iterdir() if PurePath(file.name).suffix in MEDIA_TYPES]
        self._files = {file.name: file.read_bytes() for file in kept}
        self._tags = {name: f'"{hashlib.sha256(data).hexdigest()[:32]}"' for name, data in self._files.items()}

    def answer(self, name: str, request: Request) -> Response:
        """The file, or that the browser has it already: it asks each time, so that its modules fit together.

        Raises NotFound.
        """
        if name not in self._files:
            raise NotFound(f"there is nothing at {request.url.path}")
        headers = {
            "etag": self._tags[name],
            "cache-control": "no-cache",
            "content-security-policy": POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        if request.headers.get("if-none-match") == self._tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(self._files[name], media_type=MEDIA_TYPES[PurePath(name).suffix], headers=headers)


def reference(title: str) -> Response:
    """The page at `/docs`. Its addresses are relative, so that it works behind a path prefix."""
    return get_swagger_ui_html(
        openapi_url="openapi.json",
        title=title,
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="playground/icon.svg",
        swagger_ui_parameters={"validatorUrl": None},
    )
