"""Formats that are read, and those that are known and refused."""

import io

import pytest
from PIL import Image

from paddle_xc2.data.images.formats import FORMATS
from paddle_xc2.data.images.pictures import ImageOfOtherKind, image_size_of, load_image


@pytest.mark.parametrize("kind", FORMATS)
def test_kinds_of_files(tmp_path, kind):
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((20, 10)).convert("RGB").save(buffer, kind)
    content = buffer.getvalue()
    (tmp_path / "image.of.any.name").write_bytes(content)
    for image in (content, tmp_path / "image.of.any.name", str(tmp_path / "image.of.any.name")):
        loaded = load_image(image)
        assert (loaded.mode, loaded.size) == ("RGB", (20, 10))
        assert image_size_of(image) == (20, 10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "this is HEIC, as telephones take it, which Pillow does not read; save it as"),
        (b"\xff\x0a\xfa\x1f", "this is JPEG XL, which Pillow does not read; save it as PNG or JPEG"),
        (b"8BPS\0\1", "this is a Photoshop document; save it as PNG or JPEG"),
        (b"%PDF-1.4", "this is a PDF document; save each page as PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "this is PostScript; save it as PNG or JPEG"),
        (b"<svg/>", "this is SVG, which has no pixels; save it as PNG or JPEG"),
        (b'<?xml version="1.0"?>\n<svg xmlns="x">', "this is SVG, which has no pixels"),
        (b"\0" * 128 + b"DICM", "this is DICOM; save it as PNG of 8 bits"),
        (b"PK\3\4...", "this is an archive; unpack it"),
        (b"version https://git-lfs.github.com/spec/v1", "this is a Git LFS pointer, not the file; run git lfs pull"),
        (b"<!DOCTYPE html><html>", "this is a web page, not an image; download the image itself"),
    ],
)
def test_a_sound_file_of_another_kind_is_no_damage(tmp_path, content, message):
    (tmp_path / "image.png").write_bytes(content)
    for read in (load_image, image_size_of):
        with pytest.raises(ImageOfOtherKind, match=message) as caught:
            read(tmp_path / "image.png")
    assert caught.value.rule == "image of another kind"
