"""Pillow images as text: PNG, or TIFF for what PNG cannot hold, in base64."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from ._body import family, from_text, needed, to_text, wrong_family

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 1 << 26
"""The most pixels of an image that the decoders take, 67,108,864, unless told otherwise."""

FILE_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What `decode_pil_from_bytes` reads."""

_INSTALL = '"headrace[image]"'
_MODE_KEY = "virtex-mode"
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_PNG_LAYOUTS = {"HSV": "RGB", "La": "LA", "RGBa": "RGBA", "RGBX": "RGBA"}
"""Modes that a PNG holds under another mode's name, with their own in a text chunk."""
_TIFF_PIXEL_BYTES = {"CMYK": 4, "YCbCr": 3, "LAB": 3, "I": 4, "F": 4, "I;16B": 2, "PA": 2}
_KEPT_INFO = ("transparency", "icc_profile")


def encode_pil(image: Image.Image) -> str:
    """An image as base64 of a PNG, or of an uncompressed TIFF for a mode that PNG cannot hold.

    Mode, size, pixels, palette, transparency and colour profile are carried; what else a file
    brought in `info`, such as its resolution, is not.

    Raises:
        TypeError: It is no image of Pillow.
        ValueError: It has several frames, no pixels, or a mode or palette that neither format
            holds exactly.
        ModuleNotFoundError: Pillow is not installed.
    """
    with needed("encode_pil", "pillow", install=_INSTALL):
        from PIL import Image, PngImagePlugin
    if not isinstance(image, Image.Image):
        raise TypeError(f"encode_pil: expected an image of Pillow, got {type(image).__name__}")
    try:
        is_animated = getattr(image, "is_animated", False)
        frames = getattr(image, "n_frames", "several") if is_animated else 1
    except Exception as error:  # it came from a file, whose next frame is looked for only now
        raise ValueError(f"encode_pil: expected one frame, got a corrupt one: {error}") from None
    if frames != 1:
        raise ValueError(f"encode_pil: expected one frame, got {frames}: send image.copy() of one")
    if 0 in image.size:
        raise ValueError(f"encode_pil: expected at least one pixel, got the size {image.size}")
    stream = io.BytesIO()
    mode = image.mode
    options: dict[str, Any] = {"icc_profile": image.info.get("icc_profile")}
    if mode in _PNG_LAYOUTS:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text(_MODE_KEY, mode)
        pixels = Image.frombytes(_PNG_LAYOUTS[mode], image.size, image.tobytes())
        pixels.save(stream, "PNG", **options)
    elif mode in _PNG_MODES:
        # Fewer bits would be chosen by the palette, whatever the pixels are.
        try:
            image.save(stream, "PNG", **options, **({"bits": 8} if mode == "P" else {}))
        except UnboundLocalError as error:  # what Pillow's writer makes of a palette that is lost
            raise ValueError(f"encode_pil: expected a palette, got none: {error}") from None
    elif mode in _TIFF_PIXEL_BYTES:
        image.save(stream, "TIFF", compression=None, **options)
    else:
        known = ", ".join((*_PNG_MODES, *_PNG_LAYOUTS, *_TIFF_PIXEL_BYTES))
        raise ValueError(f"encode_pil: expected an image of mode {known}, got {mode}")
    body = stream.getvalue()
    if image.palette is not None or "transparency" in image.info:
        _check_colours(image, _open(body, "encode_pil", None))
    return to_text(body)


def decode_pil(text: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image that `encode_pil` wrote.

    Args:
        text: What `encode_pil` wrote.
        max_pixels: The most that width times height may be, which the image's header must say
            before anything is unpacked.

    Raises:
        TypeError: `text` is no text.
        ValueError: It is no base64, another family's body, corrupt, or of more pixels.
        ModuleNotFoundError: Pillow is not installed.
    """
    with needed("decode_pil", "pillow", install=_INSTALL):
        import PIL.Image  # noqa: F401  (without it, nothing below works)
    return _open(from_text(text, "decode_pil"), "decode_pil", max_pixels)


def decode_pil_from_bytes(text: str, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in a file of the usual formats, from the base64 of the file's bytes.

    The first frame is loaded; those of an animation when you seek to them.

    Args:
        text: What `encode_bytes` makes of a BMP, GIF, JPEG, PNG, PPM, TIFF or WebP file.
        max_pixels: The most that width times height may be, which the image's header must say
            before anything is unpacked.

    Raises:
        TypeError: `text` is no text.
        ValueError: It is no base64, no image of these formats, corrupt, or of more pixels.
        ModuleNotFoundError: Pillow is not installed.
    """
    function = "decode_pil_from_bytes"
    with needed(function, "pillow", install=_INSTALL):
        import PIL.Image  # noqa: F401  (without it, nothing below works)
    body = from_text(text, function)
    if family(body) not in ("a PNG image", "a TIFF image", "something unknown"):
        raise wrong_family(body, expected="an image file", function=function)
    _check_webp(body, max_pixels, function)
    return _load(body, FILE_FORMATS, function, max_pixels)


def _open(body: bytes, function: str, max_pixels: int | None) -> Image.Image:
    """The image in a body that `encode_pil` made."""
    from PIL import Image

    if family(body) not in ("a PNG image", "a TIFF image"):
        raise wrong_family(body, expected="a PNG or TIFF image", function=function)
    opened = _load(body, ("PNG", "TIFF"), function, max_pixels)
    info: dict[Any, Any] = {
        key: opened.info[key] for key in _KEPT_INFO if opened.info.get(key) is not None
    }
    mode = opened.info.get(_MODE_KEY) if opened.format == "PNG" else None
    if mode is not None:
        if _PNG_LAYOUTS.get(mode) != opened.mode:
            found = f"{str(mode)[:20]!r} in {opened.mode}"
            raise ValueError(
                f"{function}: expected a mode of {', '.join(_PNG_LAYOUTS)}, got {found}"
            )
        image = Image.frombytes(mode, opened.size, opened.tobytes())
    else:
        image = opened.copy()  # a plain image, without the file's class and notes
    image.info = info
    return image


def _load(
    body: bytes, formats: tuple[str, ...], function: str, max_pixels: int | None
) -> Image.Image:
    """The image in a file, its pixels read."""
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(body), formats=formats)
        width, height = image.size
    except Exception as error:  # each format fails in its own way
        raise ValueError(f"{function}: expected an image file: {error}") from None
    if max_pixels is not None and width * height > max_pixels:
        raise _too_large(width, height, max_pixels, function)
    if image.format == "TIFF":
        _check_tiff(image, body, formats, function, max_pixels)
    try:
        image.load()
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
        raise ValueError(f"{function}: expected a whole image: {found}") from None
    return image


def _check_tiff(
    image: Any, body: bytes, formats: tuple[str, ...], function: str, max_pixels: int | None
) -> None:
    """Refuse a TIFF whose tiles take more memory than its size tells."""
    if formats != FILE_FORMATS:
        width, height = image.size
        needs = width * height * _TIFF_PIXEL_BYTES.get(image.mode, len(body) + 1)
        if any(tile[0] != "raw" for tile in image.tile) or needs > len(body):
            found = f"{image.mode} of {width} by {height} pixels in {len(body)} bytes"
            raise ValueError(f"{function}: expected an uncompressed TIFF image, got {found}")
    across, down = image.tag_v2.get(322, 1), image.tag_v2.get(323, 1)
    if not (isinstance(across, int) and isinstance(down, int)):
        raise ValueError(f"{function}: expected tiles of whole numbers of pixels")
    if max_pixels is not None and across * down > max_pixels:
        raise _too_large(across, down, max_pixels, function)


def _check_webp(body: bytes, max_pixels: int, function: str) -> None:
    """Refuse a WebP image that is too large: Pillow allocates on opening it."""
    if not (body[:4] == b"RIFF" and body[8:12] == b"WEBP"):
        return
    kind = body[12:16]
    if kind == b"VP8X":
        width = int.from_bytes(body[24:27], "little") + 1
        height = int.from_bytes(body[27:30], "little") + 1
    elif kind == b"VP8L":
        bits = int.from_bytes(body[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width = int.from_bytes(body[26:28], "little") & 0x3FFF
        height = int.from_bytes(body[28:30], "little") & 0x3FFF
    if width * height > max_pixels:
        raise _too_large(width, height, max_pixels, function)


def _too_large(width: int, height: int, max_pixels: int, function: str) -> ValueError:
    found = f"{width} by {height}"
    return ValueError(f"{function}: expected an image of at most {max_pixels} pixels, got {found}")


def _check_colours(image: Image.Image, decoded: Image.Image) -> None:
    """Refuse an image whose palette or transparency did not come through."""
    if image.palette is not None:
        same = decoded.palette is not None and image.palette.mode == decoded.palette.mode
        if not same or image.getpalette() != decoded.getpalette():
            found = f"one of {image.palette.mode} with {len(image.palette.palette)} bytes"
            raise ValueError(f"encode_pil: mode {image.mode} cannot carry its palette, {found}")
    sent, came = (_alphas(each.info.get("transparency")) for each in (image, decoded))
    if sent != came:
        raise ValueError(f"encode_pil: mode {image.mode} cannot carry its transparency")
    if image.tobytes() != decoded.tobytes():
        raise ValueError(f"encode_pil: mode {image.mode} cannot carry pixels beyond its palette")


def _alphas(transparency: Any) -> Any:
    """A palette's transparency in one form: one transparent colour may be told in two."""
    if isinstance(transparency, bytes):
        shown = transparency.rstrip(b"\xff")
        if shown.endswith(b"\0") and not shown[:-1].strip(b"\xff"):
            return len(shown) - 1
        return shown
    return transparency
