import io
import warnings

import numpy as np
import pytest
from PIL import Image, ImageFile, PngImagePlugin

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.images import pictures
from paddle_xc2.data.images.pictures import (
    ImageDamaged,
    ImageMissing,
    ImageOfOtherKind,
    ImageTooLarge,
    image_size_of,
    load_image,
)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int, height: int, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, [height, width, 3], dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_modes_become_rgb_as_pillow_converts_them(mode):
    image = noise(20, 10, "L").convert("I").convert("I;16") if mode == "I;16" else noise(20, 10, mode)
    loaded = load_image(saved(image, "TIFF"))
    assert loaded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(loaded), np.asarray(image.convert("RGB")))


def test_16_bit_grey_is_cut_off_at_255():
    image = Image.fromarray(np.array([[0, 255, 256, 65535]], dtype=np.uint16))
    assert np.asarray(load_image(saved(image, "PNG")))[0, :, 0].tolist() == [0, 255, 255, 255]


def test_transparency_is_dropped():
    image = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert load_image(saved(image, "PNG")).getpixel((0, 0)) == (10, 20, 30)


def test_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    content = saved(noise(20, 10), "JPEG", exif=exif)
    assert load_image(content).size == image_size_of(content) == (20, 10)


def test_first_frame_of_an_animation_counts():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    content = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(content).getpixel((0, 0)) == (255, 0, 0)


def test_pil_image_is_taken_as_it_is():
    image = noise(20, 10)
    assert load_image(image) is image
    assert load_image(noise(20, 10, "L")).mode == "RGB"
    assert image_size_of(image) == (20, 10)


def test_file_is_closed(tmp_path):
    (tmp_path / "image.png").write_bytes(saved(noise(20, 10), "PNG"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        load_image(tmp_path / "image.png")
        image_size_of(tmp_path / "image.png")


# What is refused


def test_missing_file(tmp_path):
    for read in (load_image, image_size_of):
        with pytest.raises(ImageMissing) as caught:
            read(tmp_path / "gone.png", "train.json[17]")
        assert str(caught.value) == (
            f"train.json[17]: {tmp_path / 'gone.png'}: there is no such image file; correct the path or add the file"
        )
    assert isinstance(caught.value, DataError)


@pytest.mark.parametrize("content", [b"no image", b"\0" * 100])
def test_not_an_image(tmp_path, content):
    (tmp_path / "image.png").write_bytes(content)
    with pytest.raises(
        ImageDamaged, match=r"^x\[0\]: .*image\.png: this is not an image; replace it, or save it as one"
    ):
        load_image(tmp_path / "image.png", "x[0]")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_cut_file(tmp_path, kind):
    content = saved(noise(200, 100), kind)
    (tmp_path / "image").write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageDamaged, match=rf"{tmp_path}/image: the image can't be read \(.*\); replace the file$"):
        load_image(tmp_path / "image")


def test_flipped_bytes_are_read_or_refused_and_nothing_else():
    generator = np.random.default_rng(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        content = np.frombuffer(saved(noise(40, 30), kind), dtype=np.uint8)
        for _ in range(40):
            damaged = content.copy()
            damaged[generator.integers(0, min(len(content), 200), 3)] = generator.integers(0, 256, 3)
            try:
                assert load_image(damaged.tobytes()).mode == "RGB"
            except DataError as error:
                assert str(error).startswith("the image")


def test_too_many_pixels_by_the_header_alone(monkeypatch):
    content = saved(Image.new("1", (10_001, 10_000)), "PNG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("the pixels were decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            ImageTooLarge, match="10001 x 10000 pixels are more than the 100,000,000 allowed; make it sm"
        ):
            load_image(content)


def test_decompression_bomb():
    content = saved(Image.new("1", (20_000, 20_000)), "PNG")
    for read in (load_image, image_size_of):
        with pytest.raises(ImageTooLarge, match=r"a\[1\]: the image: far more pixels than the 100,000,000 allowed"):
            read(content, "a[1]")


def test_pixel_limit_can_be_set():
    assert load_image(noise(20, 10), max_pixels=200).size == (20, 10)
    with pytest.raises(ImageTooLarge, match="20 x 10 pixels are more than the 199 allowed"):
        load_image(noise(20, 10), max_pixels=199)


def test_too_many_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_FILE_BYTES", 1000)
    (tmp_path / "image.bmp").write_bytes(saved(noise(20, 20), "BMP"))
    with pytest.raises(
        ImageTooLarge, match=r"image\.bmp: 1,254 bytes are more than the 1,000 allowed; make the file sm"
    ):
        load_image(tmp_path / "image.bmp")


def test_the_address_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    noise(3, 2).save(tmp_path / "a b.png")
    for name in (f"file://{tmp_path}/a%20b.png", "~/a b.png", f"{tmp_path}\\a b.png"):
        assert load_image(name).size == image_size_of(name) == (3, 2)


def test_limits_of_the_reader_are_no_damage(tmp_path, monkeypatch):
    info = PngImagePlugin.PngInfo()
    info.add_text("xmp", "x" * 3_000_000, zip=True)
    content = saved(noise(20, 10), "PNG", pnginfo=info)
    assert load_image(content).size == (20, 10)
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 1000)
    with pytest.raises(ImageTooLarge, match="the texts beside its pixels are too large .*; save it without them"):
        load_image(content)
    content = saved(noise(20, 10), "BMP")
    monkeypatch.setattr(ImageFile.ImageFile, "load", raising(OSError("decoder x not available")))
    with pytest.raises(
        ImageOfOtherKind, match="Pillow was built without what reads it .decoder x not available.; save"
    ):
        load_image(content)


def raising(error):
    def load(image):
        raise error

    return load


def test_what_begins_as_an_image(tmp_path):
    content = saved(noise(20, 10), "TIFF")
    (tmp_path / "image.tif").write_bytes(content[:8] + b"\xff" * 100)
    with pytest.raises(
        ImageDamaged, match="this begins as TIFF, but can't be read: it is damaged, or of a kind that Pill"
    ):
        load_image(tmp_path / "image.tif")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ImageDamaged, match="image: 0 x 3 pixels are no picture; give another one"):
        load_image(Image.new("RGB", (0, 3)))
    with pytest.raises(ImageMissing, match="this is a folder, not an image file; correct the path or add the file"):
        load_image(tmp_path)
    with pytest.raises(ImageDamaged, match="empty.png: the file is empty; replace it"):
        load_image(tmp_path / "empty.png")
