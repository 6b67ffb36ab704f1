"""The bodies of requests: this server's JSON, or the multipart form of OpenAI's clients.

A body is a row of chunks, so that a thousand requests with the same picture hold its bytes once.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.pictures import Pictures
from benchmarks.plan import Edit
from benchmarks.workload import Value

OPENAI_FIELDS = frozenset(
    {"prompt", "model", "n", "size", "response_format", "output_format", "output_compression", "user"}
    | {"quality", "background", "input_fidelity"}
)
"""Text fields of OpenAI's own images API; the others are extensions."""
ALL = "all"
BOUNDARY = "retouch-bench-3f9a51c07e8d42b6"

Form = Literal["json", "multipart"]


@dataclass(frozen=True, slots=True)
class Body:
    content_type: str
    chunks: tuple[bytes, ...]

    @property
    def bytes(self) -> int:
        return sum(len(chunk) for chunk in self.chunks)


@dataclass(frozen=True, slots=True)
class Shape:
    """How edits become bodies.

    model: empty leaves the field out. extra_fields: in multipart, the extension fields (`num_inference_steps`,
    `strength`, `guidance_scale`, `seed`, ...) that the server knows, or `all`; the others are left out, since each
    server has its own and many refuse, or pass over, those of others. JSON carries every field.
    """

    form: Form = "json"
    model: str = ""
    extra_fields: frozenset[str] = frozenset()

    def sends(self, field: str) -> bool:
        return self.form == "json" or field in OPENAI_FIELDS | self.extra_fields or ALL in self.extra_fields

    def withheld(self, edit: Edit) -> list[str]:
        """The edit's fields that its body leaves out."""
        return [name for name in edit.fields if not self.sends(name)]

    def runs_as_planned(self, edit: Edit) -> bool:
        """Whether the body carries what decides how many steps run."""
        return not {"num_inference_steps", "strength"} & set(self.withheld(edit))

    def body(self, edit: Edit, pictures: Pictures) -> Body:
        fields = {name: value for name, value in edit.fields.items() if self.sends(name)}
        if self.model:
            fields["model"] = self.model
        fields["response_format"] = "b64_json"
        return _json(edit, fields, pictures) if self.form == "json" else _multipart(edit, fields, pictures)


def _json(edit: Edit, fields: Mapping[str, Value], pictures: Pictures) -> Body:
    chunks = [b'{"images": ["', pictures.encoded(edit.images[0]).base64]
    for image in edit.images[1:]:
        chunks += [b'", "', pictures.encoded(image).base64]
    chunks.append(b'"], ')
    if edit.mask:
        chunks += [b'"mask": "', pictures.encoded(edit.mask).base64, b'", ']
    chunks.append(json.dumps(fields)[1:].encode())
    return Body("application/json", tuple(chunks))


def _multipart(edit: Edit, fields: Mapping[str, Value], pictures: Pictures) -> Body:
    """Text parts first, then one `image`, or several `image[]`, then `mask`: as OpenAI's Python client does."""
    texts = "".join(
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{_text(value)}\r\n'
        for name, value in fields.items()
    )
    chunks = [texts.encode()]
    name = "image" if len(edit.images) == 1 else "image[]"
    for number, image in enumerate(edit.images):
        chunks += [_file(name, f"image-{number}.png"), pictures.encoded(image).png, b"\r\n"]
    if edit.mask:
        chunks += [_file("mask", "mask.png"), pictures.encoded(edit.mask).png, b"\r\n"]
    chunks.append(f"--{BOUNDARY}--\r\n".encode())
    return Body(f"multipart/form-data; boundary={BOUNDARY}", tuple(chunks))


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _file(name: str, filename: str) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'
    return f"--{BOUNDARY}\r\n{disposition}\r\nContent-Type: image/png\r\n\r\n".encode()
