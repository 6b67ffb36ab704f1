"""The page to try things on: its files, and the headers that let it do no more than it needs."""

import hashlib
from pathlib import Path

from fastapi import Request, Response

from serve.errors import NotFound

FOLDER = Path(__file__).parent.parent / "playground"
PAGE = "index.html"
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
"""https://www.w3.org/TR/CSP3/: nothing from other hosts, nothing inline; pictures also from the page's own memory."""


class Playground:
    """The files as they were when the server started."""

    def __init__(self, folder: Path = FOLDER) -> None:
        paths = [path for path in folder.iterdir() if path.suffix in MEDIA_TYPES]
        self._files = {path.name: path.read_bytes() for path in paths}
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
        return Response(self._files[name], media_type=MEDIA_TYPES[Path(name).suffix], headers=headers)
