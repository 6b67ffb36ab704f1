"""What an answered file tells of its own making, in the places where each format's readers look for it.

| | PNG | JPEG, WebP |
|---|---|---|
| the program and its version | text `Software` | EXIF `Software` |
| the parameters, a JSON object | text `retouch` | EXIF `UserComment` |
| that a model drew in it | XMP `DigitalSourceType` | XMP `DigitalSourceType` |

A note depends on the request and the seed alone: the same edit is the same file at any time and in any company.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

from PIL import Image
from PIL.ExifTags import IFD, Base

SOFTWARE = f"Retouch {version('retouch')}"
TEXT_KEYWORD = "retouch"
XMP_KEYWORD = "XML:com.adobe.xmp"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
"""The IPTC's word for a picture that a generative model has edited."""

PROMPT_CHARACTERS = 4000
"""Of a longer prompt the rest is left out: EXIF ends at 64 KiB in a JPEG, and a character takes up to 12 of them."""

_ASCII = b"ASCII\0\0\0"
_XMP = f"""<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


@dataclass(frozen=True, slots=True)
class Note:
    """parameters: a JSON object in ASCII, so that every reader of text agrees on it. xmp: empty where no model drew."""

    parameters: str
    xmp: str

    def exif(self) -> bytes:
        """The EXIF block that JPEG and WebP carry."""
        exif = Image.Exif()
        exif[Base.Software] = SOFTWARE
        exif.get_ifd(IFD.Exif)[Base.UserComment] = _ASCII + self.parameters.encode()
        return exif.tobytes()


def drawn_note(parameters: Mapping[str, object]) -> Note:
    """Of a picture that a model has drawn. parameters: what another run needs to draw it again."""
    return Note(_json({**parameters, "server": SOFTWARE}), _XMP)


def told_prompt(prompt: str) -> dict[str, object]:
    """The parameters that tell a prompt; one that is cut says how long it was."""
    told: dict[str, object] = {"prompt": prompt[:PROMPT_CHARACTERS]}
    return told if len(prompt) <= PROMPT_CHARACTERS else {**told, "prompt_characters": len(prompt)}


def untouched_note(size: str) -> Note:
    """Of a picture that is the source brought to `size`: no model, seed or prompt has part in it."""
    return Note(_json({"edited": False, "strength": 0.0, "size": size, "server": SOFTWARE}), "")


def _json(parameters: Mapping[str, object]) -> str:
    return json.dumps(parameters, ensure_ascii=True)
