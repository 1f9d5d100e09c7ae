"""Draws lines of text, turns each upside down as well, and asks which way up they are.

    python client.py --url http://127.0.0.1:8081

Start the server first, as its own first lines say.
"""

import argparse
import sys

from PIL import Image, ImageDraw, ImageFont

from virtex import HttpClient, HttpMessage
from virtex.serial import decode_numpy, encode_pil

TEXTS = ("Water to the wheel", "Hello headrace", "Which way up?")


def draw(text: str) -> Image.Image:
    """A line of text in black on white."""
    font = ImageFont.load_default(36)
    image = Image.new("RGB", (20 + round(font.getlength(text)), 60), "white")
    ImageDraw.Draw(image).text((10, 8), text, "black", font)
    return image


def main() -> None:
    """Send all images in one message, and print what comes back."""
    parser = argparse.ArgumentParser(description="Ask which way up some lines of text are.")
    parser.add_argument("--url", default="http://127.0.0.1:8081")
    url = parser.parse_args().url

    lines = [(text, degrees) for text in TEXTS for degrees in (0, 180)]
    message = HttpMessage(data=[draw(text).rotate(degrees) for text, degrees in lines])
    message.encode(encode_pil)
    with HttpClient(url) as client:
        answer = client.post(message)
    if answer.error:
        sys.exit(answer.error)
    answer.decode(decode_numpy)
    for (text, degrees), (upright, upside_down) in zip(lines, answer.data, strict=True):
        found = "upright" if upright > upside_down else "upside down"
        probability = max(upright, upside_down)
        print(f"{text:18}  turned by {degrees:3}°  is {found:11}  (probability {probability:.3f})")


if __name__ == "__main__":
    main()
