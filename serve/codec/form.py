"""A multipart body, as OpenAI's clients send it, taken apart while it comes in.

Pictures are the parts named `image` or `images`, with or without `[]`, in the order that they come, and `mask`; each a
file, or text in base64; one that holds nothing is none, since browsers send a field that was left empty. What a file is
called, and the type that its sender gives it, say nothing. Every other part is the text of a field.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

from multipart import MultipartError, MultipartSegment, PushMultipartParser

from serve.codec.base64 import check_bytes
from serve.errors import InvalidRequest
from serve.types import Form, Picture

MOST_PARTS = 256
MASK = "mask"
SHOWN_CHARACTERS = 40
"""Of a part's name."""

_IMAGES = re.compile(r"images?(\[[0-9]{0,3}\])?")


@dataclass(slots=True)
class _Part:
    """param: what an error calls it. size: of its body so far, of which `chunks` may hold less."""

    name: str
    param: str
    is_file: bool
    chunks: list[bytes] = field(default_factory=list[bytes])
    size: int = 0


class FormReader:
    """Takes the body in pieces of any size. image_bytes: that a file may have. fields: names of the texts that are
    read; of others only the name is kept.

    What is wrong with it is raised at the end: a client that is still sending would not see the answer. Nothing is kept
    of a file beyond its limit, and of a body that is no form.
    """

    def __init__(self, boundary: str, image_bytes: int, fields: Collection[str]) -> None:
        self._parser = PushMultipartParser(boundary, max_segment_count=MOST_PARTS)
        self._image_bytes = image_bytes
        self._fields = fields
        self._images: list[Picture] = []
        self._mask: Picture | None = None
        self._texts: dict[str, str] = {}
        self._part: _Part | None = None
        self._fault: InvalidRequest | None = None

    @property
    def held_bytes(self) -> int:
        """Of the part that is coming in."""
        return 0 if self._part is None else sum(map(len, self._part.chunks))

    def feed(self, chunk: bytes) -> None:
        if self._parser.error is not None:
            return
        try:
            for event in self._parser.parse(chunk):
                if isinstance(event, MultipartSegment):
                    self._part = self._begun(event)
                elif event is None:
                    self._end()
                else:
                    self._add(event)
        except MultipartError as error:
            self._refuse(_no_form(error))

    def close(self) -> Form:
        """The whole form. Raises InvalidRequest: the first thing that is wrong with it."""
        if self._parser.error is None:
            try:
                self._parser.close()
            except MultipartError as error:
                self._refuse(_no_form(error))
        if self._fault is not None:
            raise self._fault
        return Form(tuple(self._images), self._mask, self._texts)

    def _begun(self, segment: MultipartSegment) -> _Part:
        name = segment.name or ""
        param = f"images[{len(self._images)}]" if _IMAGES.fullmatch(name) else name[:SHOWN_CHARACTERS]
        return _Part(name, param, is_file=segment.filename is not None)

    def _add(self, data: bytes) -> None:
        assert self._part is not None
        part = self._part
        part.size += len(data)
        if not part.is_file or part.size <= self._image_bytes:
            part.chunks.append(bytes(data))

    def _end(self) -> None:
        assert self._part is not None
        part, self._part = self._part, None
        try:
            self._keep(part)
        except InvalidRequest as fault:
            self._refuse(fault)

    def _keep(self, part: _Part) -> None:
        if part.is_file:
            check_bytes(part.size, part.param, self._image_bytes)
        if _IMAGES.fullmatch(part.name):
            self._images += filter(None, [_picture(part)])
        elif part.name in self._texts or (part.name == MASK and self._mask):
            raise InvalidRequest(f"{part.param} was sent twice; it can be sent once", param=part.param)
        elif part.name == MASK:
            self._mask = _picture(part)
        else:
            self._texts[part.name] = _text(part) if part.name in self._fields else ""

    def _refuse(self, fault: InvalidRequest) -> None:
        self._fault = self._fault or fault


def _picture(part: _Part) -> Picture:
    return b"".join(part.chunks) if part.is_file else _text(part)


def _text(part: _Part) -> str:
    try:
        return b"".join(part.chunks).decode()
    except UnicodeDecodeError:
        raise InvalidRequest(f"{part.param} is no text in UTF-8", param=part.param) from None


def _no_form(error: MultipartError) -> InvalidRequest:
    told = str(error)[:1].lower() + str(error)[1:]
    return InvalidRequest(f"the body is no multipart/form-data as it says: {told}")
