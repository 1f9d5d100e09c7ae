from __future__ import annotations

import base64
import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from virtex.serial import decode_pil, decode_pil_from_bytes, encode_bytes, encode_pil
from virtex.serial.pillow import MAX_PIXELS

_PIXEL_BYTES = {
    "L": 1,
    "LA": 2,
    "La": 2,
    "P": 1,
    "RGB": 3,
    "RGBA": 4,
    "RGBa": 4,
    "RGBX": 4,
    "CMYK": 4,
    "YCbCr": 3,
    "LAB": 3,
    "HSV": 3,
    "I": 4,
    "F": 4,
    "I;16": 2,
    "I;16B": 2,
}


@st.composite
def _images(draw: st.DrawFn, mode: str) -> Image.Image:
    width, height = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    if mode == "1":
        bits = draw(st.lists(st.booleans(), min_size=width * height, max_size=width * height))
        return Image.fromarray(np.array(bits).reshape(height, width))
    if mode == "PA":
        return draw(_images("P")).convert("PA")
    size = width * height * _PIXEL_BYTES[mode]
    image = Image.frombytes(mode, (width, height), draw(st.binary(min_size=size, max_size=size)))
    if mode == "P":
        image.putpalette(
            draw(st.binary(min_size=3, max_size=768).filter(lambda p: len(p) % 3 == 0))
        )
        clear = st.none() | st.integers(0, 255) | st.binary(min_size=1, max_size=256)
        transparency = draw(clear)
        if transparency is not None:
            image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize("mode", ["1", "PA", *_PIXEL_BYTES])
@settings(max_examples=40)
@given(st.data())
def test_images_of_every_mode_come_back(mode: str, data: st.DataObject) -> None:
    image = data.draw(_images(mode))
    try:
        text = encode_pil(image)
    except ValueError as error:
        # Only what no file holds, and by name.
        assert mode in ("P", "PA") and "cannot carry" in str(error)
        return
    found = decode_pil(text)
    assert type(found) is Image.Image
    assert (found.mode, found.size) == (image.mode, image.size)
    assert found.tobytes() == image.tobytes()
    assert found.getpalette() == image.getpalette()
    found.putpixel((0, 0), found.getpixel((0, 0)))  # type: ignore[arg-type]  # it can be changed


def test_a_whole_palette_and_its_transparency_come_back() -> None:
    image = Image.frombytes("P", (16, 16), bytes(range(256)))
    image.putpalette(bytes(range(256)) * 3)
    for transparency in (0, 255, bytes(range(256))):
        image.info["transparency"] = transparency
        assert decode_pil(encode_pil(image)) == image
    both = Image.frombytes("PA", (16, 16), bytes(range(256)) * 2)
    both.putpalette(bytes(range(256)) * 3)
    assert decode_pil(encode_pil(both)) == both


@pytest.mark.parametrize(("mode", "clear"), [("L", 7), ("RGB", (1, 2, 3)), ("I;16", 300)])
def test_a_transparent_colour_comes_back(mode: str, clear: Any) -> None:
    image = Image.new(mode, (2, 2))
    image.info["transparency"] = clear
    assert decode_pil(encode_pil(image)) == image


def test_numbers_that_are_no_colours_come_back() -> None:
    pixels = np.array([[np.nan, np.inf], [-0.0, 1e-40]], "f4")
    assert np.array(decode_pil(encode_pil(Image.fromarray(pixels)))).tobytes() == pixels.tobytes()


def test_a_colour_profile_comes_back_and_the_rest_of_the_file_does_not() -> None:
    for mode in ("RGB", "CMYK"):
        image = Image.new(mode, (2, 2))
        image.info.update(icc_profile=b"profile" * 9, dpi=(1, 1), comment="secret")
        assert decode_pil(encode_pil(image)).info == {"icc_profile": b"profile" * 9}


@pytest.mark.parametrize("mode", ["I;16L", "I;16N"])
def test_a_mode_without_a_file_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match=f"expected an image of mode 1, L, .*, got {mode}"):
        encode_pil(Image.new(mode, (1, 1)))


def test_a_palette_that_no_file_holds_is_refused() -> None:
    image = Image.frombytes("P", (2, 2), bytes(range(4)))
    image.putpalette(bytes(range(16)), "RGBA")
    with pytest.raises(ValueError, match="mode P cannot carry its palette, one of RGBA"):
        encode_pil(image)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
def test_an_image_without_pixels_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected at least one pixel, got the size"):
        encode_pil(Image.new("L", size))


def _animation(format: str) -> bytes:
    stream = io.BytesIO()
    frames = [Image.new("RGB", (4, 4), (80 * number, 0, 0)) for number in range(3)]
    frames[0].save(stream, format, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def test_one_frame_of_an_animation_is_sent_at_a_time() -> None:
    with Image.open(io.BytesIO(_animation("GIF"))) as image:
        with pytest.raises(ValueError, match="expected one frame, got 3"):
            encode_pil(image)
        assert decode_pil(encode_pil(image.copy())).size == (4, 4)


@pytest.mark.parametrize("wrong", [b"bytes", np.zeros((2, 2)), None])
def test_what_is_no_image_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="encode_pil: expected an image of Pillow, got"):
        encode_pil(wrong)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _bomb(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1_000_000), 9)
    parts = _chunk(b"IHDR", header), _chunk(b"IDAT", rows), _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("decode", [decode_pil, decode_pil_from_bytes], ids=["pil", "bytes"])
@pytest.mark.parametrize(
    "size", [(1 << 30, 1 << 30), (1 << 13, (1 << 13) + 1)], ids=["huge", "big"]
)
def test_an_image_of_too_many_pixels_is_refused_by_its_header(
    decode: Any, size: tuple[int, int]
) -> None:
    text = encode_bytes(_bomb(*size))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=f"{decode.__name__}: expected an image"):
            decode(text)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_the_limit_can_be_set() -> None:
    text = encode_pil(Image.new("L", (10, 10)))
    assert decode_pil(text, max_pixels=100).size == (10, 10)
    for decode in (decode_pil, decode_pil_from_bytes):
        with pytest.raises(ValueError, match="at most 99 pixels, got 10 by 10"):
            decode(text, max_pixels=99)
    assert MAX_PIXELS < Image.MAX_IMAGE_PIXELS  # type: ignore[operator]  # so that ours speaks first


def test_the_image_of_a_lying_tiff_is_refused() -> None:
    body = base64.b64decode(encode_pil(Image.new("F", (3, 3))))
    wide = body.replace(struct.pack("<HHII", 256, 4, 1, 3), struct.pack("<HHII", 256, 4, 1, 8000))
    if wide == body:  # the width may stand as a short number
        wide = body.replace(
            struct.pack("<HHIHH", 256, 3, 1, 3, 0), struct.pack("<HHIHH", 256, 3, 1, 8000, 0)
        )
    assert wide != body
    with pytest.raises(ValueError, match="expected an uncompressed TIFF image, got F of 8000 by 3"):
        decode_pil(encode_bytes(wide))


def test_a_tiff_of_another_writer_is_refused() -> None:
    stream = io.BytesIO()
    Image.new("CMYK", (3, 3)).save(stream, "TIFF", compression="tiff_lzw")
    with pytest.raises(ValueError, match="expected an uncompressed TIFF image"):
        decode_pil(encode_bytes(stream.getvalue()))


@pytest.mark.parametrize("format", ["BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP"])
def test_image_files_of_the_usual_formats_are_read(format: str) -> None:
    image = Image.new("RGB", (5, 4), (255, 0, 0))
    stream = io.BytesIO()
    image.save(stream, format)
    found = decode_pil_from_bytes(encode_bytes(stream.getvalue()))
    assert (found.format, found.size) == (format, (5, 4))
    red, green, blue = found.convert("RGB").getpixel((2, 2))  # type: ignore[misc]
    assert red > 250 and green < 5 and blue < 5


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_the_frames_of_an_animation_can_be_read(format: str) -> None:
    found = decode_pil_from_bytes(encode_bytes(_animation(format)))
    assert len(list(ImageSequence.Iterator(found))) == 3


def test_an_image_whose_next_frame_is_corrupt_is_not_sent() -> None:
    body = _animation("GIF")
    at = body.index(b",", body.index(b",") + 1)  # where the second frame says how large it is
    image = decode_pil_from_bytes(encode_bytes(body[: at + 6]))
    with pytest.raises(ValueError, match="encode_pil: expected one frame, got a corrupt one"):
        encode_pil(image)


@pytest.mark.parametrize("lossless", [True, False])
def test_a_large_webp_is_refused_before_it_is_opened(lossless: bool) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (200, 300)).save(stream, "WEBP", lossless=lossless)
    with pytest.raises(ValueError, match="at most 59999 pixels, got 200 by 300"):
        decode_pil_from_bytes(encode_bytes(stream.getvalue()), max_pixels=59_999)
    with pytest.raises(ValueError, match="at most 15 pixels, got 4 by 4"):
        decode_pil_from_bytes(encode_bytes(_animation("WEBP")), max_pixels=15)


_FILES = [base64.b64decode(encode_pil(Image.new(mode, (6, 6)))) for mode in ("RGB", "HSV", "CMYK")]
for _format in ("BMP", "GIF", "JPEG", "TIFF", "WEBP"):
    _stream = io.BytesIO()
    Image.new("RGB", (6, 6), (1, 2, 3)).save(_stream, _format)
    _FILES.append(_stream.getvalue())


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it finds odd in a file
@given(st.data())
def test_a_changed_file_gives_an_image_or_a_value_error(data: st.DataObject) -> None:
    body = bytearray(data.draw(st.sampled_from(_FILES)))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    del body[data.draw(st.integers(1, len(body))) :]
    for decode in (decode_pil, decode_pil_from_bytes):
        try:
            found = decode(encode_bytes(body), max_pixels=10_000)
        except ValueError:
            continue
        assert found.width * found.height <= 10_000
        found.tobytes()
