"""Bytes to uint8 arrays and back: what a client sends as a picture, and what it is answered.

The way in is `decode_base64`, then `decode_picture` or `decode_mask`; `cover`, `cover_mask` and `fit_reference` bring
pixels to the sizes that `auto_size` and `draw_size` name; the way out is `compose`, then `encode`. All functions are
pure, keep no global state and release the interpreter lock in their long parts, so that they may run in threads.
"""

from serve.codec.base64 import ONLY_PNG, check_bytes, decode_base64
from serve.codec.blend import compose
from serve.codec.encode import encode
from serve.codec.form import FormReader
from serve.codec.geometry import (
    auto_size,
    cover,
    cover_mask,
    draw_size,
    fit_reference,
    largest_drawn,
    largest_read,
    square_reference,
)
from serve.codec.picture import MaskMode, decode_mask, decode_picture
from serve.codec.provenance import Note, drawn_note, told_prompt, untouched_note

__all__ = [
    "ONLY_PNG",
    "FormReader",
    "MaskMode",
    "Note",
    "auto_size",
    "check_bytes",
    "compose",
    "cover",
    "cover_mask",
    "decode_base64",
    "decode_mask",
    "decode_picture",
    "draw_size",
    "drawn_note",
    "encode",
    "fit_reference",
    "largest_drawn",
    "largest_read",
    "square_reference",
    "told_prompt",
    "untouched_note",
]
