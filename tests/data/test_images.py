"""One image of a file: whatever its mode, it is decoded as RGB, or refused in one line with the true reason."""

import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from regvit_lightning.data import images
from regvit_lightning.data.images import as_rgb, decode, open_image, rotation
from tests.data.one_line import complaint


def refusal(path):
    return complaint(open_image, str(path))


def test_grayscale_palette_and_alpha_become_rgb(tmp_path):
    for mode in ("L", "P", "RGBA", "CMYK"):
        path = tmp_path / f"{mode}.tif"
        Image.new(mode, (4, 4)).save(path)
        assert open_image(str(path)).mode == "RGB"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "AVIF", "TIFF"])
def test_images_of_8_bits_are_those_of_pillow_bit_for_bit(tmp_path, form):
    path = tmp_path / "x.jpg"  # the content decides, not the name
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path, form)
    with Image.open(path) as image:
        assert (np.asarray(open_image(str(path))) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_is_scaled_to_8(tmp_path, form):
    """65535 is white, 257 n is n, and what lies between goes to the nearer one."""
    values = np.array([[0, 128, 129, 257, 12_850, 65_278, 65_535]], np.uint16)
    path = tmp_path / f"x.{form.lower()}"
    Image.fromarray(values).save(path, form)
    assert np.asarray(open_image(str(path)))[0, :, 1].tolist() == [0, 0, 1, 1, 50, 254, 255]


@pytest.mark.parametrize(("kind", "name"), [(np.float32, "floating-point numbers"), (np.int32, "32-bit integers")])
def test_pixels_without_a_range_are_refused(tmp_path, kind, name):
    Image.fromarray(np.full((4, 4), 0.5 if kind is np.float32 else 70_000, kind)).save(tmp_path / "x.tif")
    assert f"its pixels are {name} without a stated range; convert it" in refusal(tmp_path / "x.tif")


@pytest.mark.parametrize("before", [True, False])
def test_a_png_with_much_text_is_decoded(tmp_path, before):
    """Two megabytes of text in one compressed chunk, before and after the pixels: more than Pillow takes."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    content = buffer.getvalue()
    text = b"note\0\0" + zlib.compress(b"a" * 2_000_000)
    chunk = len(text).to_bytes(4, "big") + b"zTXt" + text + zlib.crc32(b"zTXt" + text).to_bytes(4, "big")
    place = content.index(b"IDAT" if before else b"IEND") - 4
    path = tmp_path / "x.png"
    path.write_bytes(content[:place] + chunk + content[place:])
    with pytest.raises(ValueError, match="MAX_TEXT"), Image.open(path) as image:
        image.load()
    assert (np.asarray(open_image(str(path))) == pixels).all()
    assert PngImagePlugin.MAX_TEXT_CHUNK == 1 << 20  # the limit of others is left as it is


def test_an_image_above_pillows_limit_is_told_to_be_shrunk(tmp_path):
    Image.new("1", (20_000, 9_000)).save(tmp_path / "x.png")
    assert "it has more than 178,956,970 pixels, Pillow's limit; shrink it" in refusal(tmp_path / "x.png")


def test_postscript_never_reaches_ghostscript(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png", "EPS")
    assert "not an image" in refusal(tmp_path / "x.png")


def test_a_pipe_does_not_block_and_a_folder_is_named(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    assert "it is not a plain file" in refusal(tmp_path / "x.jpg")
    (tmp_path / "y.jpg").mkdir()
    assert "it is a folder" in refusal(tmp_path / "y.jpg")
    assert "No such file" in refusal(tmp_path / "z.jpg")
    assert "unreadable" in refusal(f"{tmp_path}/\0.jpg")


def test_pixels_stay_as_stored_and_the_rotation_is_told(tmp_path):
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    assert (np.asarray(open_image(str(tmp_path / "x.png"))) == pixels).all()
    assert decode(str(tmp_path / "x.png"), "image", rotation) == 6


def samples():
    contents = []
    for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF", "AVIF"):
        buffer = io.BytesIO()
        Image.fromarray(np.random.default_rng(1).integers(0, 256, (12, 9, 3), dtype=np.uint8)).save(buffer, form)
        contents.append(buffer.getvalue())
    return contents


SAMPLES = samples()


@given(
    content=st.sampled_from(SAMPLES),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), max_size=6),
    end=st.floats(0, 1),
)
def test_damaged_content_is_an_image_or_one_line(content, changes, end):
    damaged = bytearray(content)
    for place, replacement in changes:
        start = int(place * len(damaged))
        damaged[start : start + len(replacement)] = replacement
    line = complaint(decode, bytes(damaged[: int((0.2 + end) * len(damaged))]), "image x", as_rgb)
    assert not line or line.startswith("unreadable image x: ")


def test_no_other_file_of_the_library_opens_images():
    folder = Path(images.__file__).parents[1]
    opening = [file.name for file in folder.rglob("*.py") if "Image.open(" in file.read_text(encoding="utf-8")]
    assert opening == ["images.py"]
