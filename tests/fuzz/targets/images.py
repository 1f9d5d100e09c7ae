"""Images: any bytes are an image that comes back as it is, or a ValueError.

Of an image that says to have more pixels than are allowed, nothing is unpacked.

An input is a byte for the function, and the file.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib

from PIL import Image

from virtex.serial import decode_bytes, decode_pil, decode_pil_from_bytes, encode_bytes, encode_pil

MEASURED = ("virtex.serial.pillow", "virtex.serial._body")
TOKENS = (
    *(
        b"\x89PNG\r\n\x1a\n",
        b"II*\0",
        b"MM\0*",
        b"IHDR",
        b"PLTE",
        b"tRNS",
        b"IDAT",
        b"IEND",
        b"iCCP",
    ),
    *(b"virtex-mode\0HSV", b"tEXt", b"BM", b"GIF89a", b"\xff\xd8\xff\xe0", b"P6 2 2 255 ", b"P5"),
    *(b"RIFF", b"WEBPVP8X", b"WEBPVP8L", b"WEBPVP8 ", b"acTL", b"fcTL", b"zTXt", b"eXIf"),
)
MAX_PIXELS = 4096


def check(data: bytes) -> None:
    if not data:
        return
    is_ours, body = data[0] & 1, data[1:]
    text = encode_bytes(repaired(body) if data[0] & 2 else body)
    try:
        with warnings.catch_warnings(action="ignore"):
            image = (decode_pil if is_ours else decode_pil_from_bytes)(text, max_pixels=MAX_PIXELS)
    except ValueError as error:
        assert len(str(error)) < 1000
        return
    assert image.width * image.height <= MAX_PIXELS
    pixels = image.tobytes()
    try:
        again = decode_pil(encode_pil(image))
    except ValueError as error:
        assert "encode_pil: " in str(error)
        return
    assert (again.mode, again.size, again.tobytes()) == (image.mode, image.size, pixels)


def repaired(body: bytes) -> bytes:
    """A PNG whose checksums are right, so that the search gets past them."""
    out, at = bytearray(body[:8]), 8
    while at + 8 <= len(body):
        size = int.from_bytes(body[at : at + 4], "big")
        end = at + 8 + size
        if end > len(body):
            break
        part = body[at + 4 : end]
        out += body[at : at + 4] + part + struct.pack(">I", zlib.crc32(part))
        at = end + 4
    return bytes(out) + body[at:]


def seeds() -> list[bytes]:
    found = []
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "HSV", "CMYK", "F", "I", "LAB"):
        image = Image.new(mode, (2, 3), 1)
        if mode == "P":
            image.putpalette(bytes(range(12)))
            image.info["transparency"] = 1
        body = decode_bytes(encode_pil(image))
        found += [b"\x01" + body, b"\x03" + body]
    for kind in ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"):
        stream = io.BytesIO()
        Image.new("RGB", (3, 2), (1, 2, 3)).save(stream, kind)
        found.append(b"\x00" + stream.getvalue())
    for kind in ("GIF", "PNG", "TIFF", "WEBP", "JPEG"):
        stream = io.BytesIO()
        Image.new("L", (MAX_PIXELS // 8, 9)).save(stream, kind)
        found += [b"\x00" + stream.getvalue(), b"\x01" + stream.getvalue()]
    return found
