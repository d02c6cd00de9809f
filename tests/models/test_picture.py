"""Reading pictures: what is taken, and the one sentence about what is not."""

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from models.errors import ErrorKind, UserError
from models.picture import Picture, read_picture


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def checks(size: tuple[int, int] = (20, 12)) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_a_png_is_read_to_the_last_bit(tmp_path: Path) -> None:
    image = checks()
    path = tmp_path / "checks.png"
    path.write_bytes(file_of(image))
    picture = read_picture(path)
    assert (picture.width, picture.height, picture.name) == (20, 12, "checks.png")
    np.testing.assert_array_equal(picture.pixels, np.array(image))
    assert picture == read_picture(picture.png())
    assert picture != read_picture(file_of(checks((12, 20))))


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "1", "LA", "RGBA"])
def test_other_kinds_of_channels_become_red_green_and_blue(mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    picture = read_picture(file_of(checks().convert(mode), kind))
    assert picture.pixels.shape == (12, 20, 3)
    expected = np.array(checks().convert(mode).convert("RGB"))
    np.testing.assert_allclose(picture.pixels, expected, atol=1)


def test_what_is_see_through_stands_on_white() -> None:
    clear = Image.new("RGBA", (10, 10), (200, 0, 0, 0))
    np.testing.assert_array_equal(read_picture(file_of(clear)).pixels, 255)


def test_a_camera_that_was_held_upright_is_followed() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    picture = read_picture(file_of(checks(), "JPEG", exif=exif))
    assert (picture.width, picture.height) == (12, 20)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not a picture that can be read"),
        (b"hello, this is text", "is not a picture that can be read"),
        (file_of(checks())[:60], "is not a picture that can be read"),
        (
            file_of(checks(), "GIF", save_all=True, append_images=[checks((20, 12)).rotate(90)]),
            "is animated",
        ),
        (file_of(Image.new("RGB", (10_001, 10_000)), "PNG"), "million pixels"),
        (file_of(Image.new("RGB", (6_500, 6_500)), "PNG"), "42 million pixels"),
        (file_of(Image.new("RGB", (4, 100))), "4 x 100 pixels"),
        (file_of(Image.new("I;16", (10, 10))), "more than 8 bits"),
        (b"x" * 30_000_001, "a file of 30 MB"),
    ],
)
def test_what_is_no_picture_is_refused_in_a_sentence(content: bytes, said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        read_picture(content, "frog.png")
    assert refused.value.kind is ErrorKind.PICTURE
    assert str(refused.value).startswith("frog.png")
    assert str(refused.value).endswith(".")


def test_a_photograph_with_a_preview_inside_is_one_picture() -> None:
    from PIL import MpoImagePlugin  # noqa: F401 - makes the format known

    content = file_of(checks(), "MPO", save_all=True, append_images=[checks((10, 6))])
    picture = read_picture(content)
    assert (picture.width, picture.height) == (20, 12)


@given(st.binary(max_size=400), st.sampled_from(["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"]))
def test_damaged_files_never_crash(noise: bytes, kind: str) -> None:
    content = bytearray(file_of(checks(), kind))
    for i, byte in enumerate(noise):
        content[(i * 7919) % len(content)] ^= byte
    with contextlib.suppress(UserError):
        assert read_picture(bytes(content)).pixels.shape[2] == 3


def test_a_path_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.png.*No such file"):
        read_picture(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match="cannot be read"):
        read_picture(tmp_path)


def test_pixels_must_be_bytes_of_three_channels() -> None:
    with pytest.raises(ValueError, match="uint8"):
        Picture(np.zeros((4, 4)), "flat")
