"""JPEGs and WebPs, which a server takes where its operator allows them: Pillow reads them."""

from collections.abc import Callable, Mapping
from io import BytesIO

import numpy as np
from PIL import ExifTags
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.WebPImagePlugin import WebPImageFile

from serve.codec.png import Raster
from serve.types import PictureFormat, Size

_READERS: Mapping[str, type[ImageFile]] = {"jpeg": JpegImageFile, "webp": WebPImageFile}
"""`Image.open` would refuse large pictures by a bound of its own."""


class BrokenPhoto(ValueError):
    """What is wrong, in words that continue a sentence."""


def read(data: bytes, kind: PictureFormat, check: Callable[[Size], None]) -> Raster:
    """The pixels of the first frame, 8 bits a sample, CMYK and grey as RGB. Raises BrokenPhoto.

    check: called with the size that the header tells, before anything is decompressed; what it raises is passed on.
    """
    try:
        with _READERS[kind](BytesIO(data)) as image:
            check(image.size)
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            pixels = np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise BrokenPhoto(str(error)[:100] or "it cannot be read") from None
    alpha = pixels[..., 3] if pixels.shape[2] == 4 else None
    return Raster(pixels[..., :3], alpha, orientation if orientation in range(1, 9) else 1)
