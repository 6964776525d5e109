import io

import numpy as np
import paddle
import pytest
from PIL import Image

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.images.given_images import given_image, given_images
from paddle_xc2.data.images.pictures import load_image

PIXELS = np.random.default_rng(0).integers(0, 256, [5, 7, 3], np.uint8)


def pixels_of(image):
    return np.asarray(load_image(given_image(image)))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    return path


def test_files_in_every_form(file):
    content = file.read_bytes()
    forms = [
        file,
        str(file),
        file.as_uri(),
        content,
        bytearray(content),
        memoryview(content),
        io.BytesIO(content),
        Image.open(file),
    ]
    for form in forms:
        np.testing.assert_array_equal(pixels_of(form), PIXELS)


def test_a_file_that_is_open_for_text(file):
    with pytest.raises(DataError, match="image is a file opened for text; open it with mode rb"):
        given_image(io.StringIO("text"))


@pytest.mark.parametrize(
    "array",
    [
        PIXELS,
        PIXELS.astype(np.int64),
        PIXELS / 255,
        (PIXELS / 255).astype(np.float16).astype(np.float32),
        PIXELS.transpose(2, 0, 1),
        PIXELS.transpose(2, 0, 1) / 255,
        np.concatenate([PIXELS, np.full([5, 7, 1], 9, np.uint8)], axis=2),
        paddle.to_tensor(PIXELS),
        PIXELS / 255 + 1e-4,
    ],
    ids=["uint8", "int64", "float", "half", "channels first", "both", "alpha", "tensor", "rounding"],
)
def test_arrays(array):
    np.testing.assert_array_equal(pixels_of(array), PIXELS)


def test_grey_and_masks():
    grey = PIXELS[:, :, 0]
    for array in (grey, grey[:, :, None], grey[None], grey / 255):
        np.testing.assert_array_equal(pixels_of(array), np.repeat(grey[:, :, None], 3, axis=2))
    assert pixels_of(grey > 100).max() == 255


def test_a_float_tensor_stays_what_it_is():
    tensor = paddle.zeros([1, 4, 64])
    assert given_image(tensor) is tensor


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, r"^image is None; expected a path, an http\(s\) or data address, the bytes of a file, a PIL image"),
        (7, r"image is 7 \(int\); expected a path"),
        ({"url": "x"}, r"image is {'url': 'x'} \(dict\)"),
        (np.zeros([2]), r"image is an array of shape \[2\] and dtype float64; expected \[height, width, 3\]"),
        (np.zeros([0, 4, 3], np.uint8), r"shape \[0, 4, 3\] and dtype uint8; expected"),
        (np.zeros([6, 4, 5], np.uint8), r"shape \[6, 4, 5\] and dtype uint8; expected"),
        (np.full([4, 4, 3], 200.0), r"with values from 200 to 200; floats must be between 0 and 1. Give values up to"),
        (np.full([4, 4, 3], np.nan), "floats must be between 0 and 1"),
        (np.full([4, 4], 300), "with values from 300 to 300; integers must be between 0 and 255"),
        (np.full([4, 4], "a"), "dtype <U1; expected uint8, or floats between 0 and 1"),
    ],
)
def test_what_is_no_picture(image, message):
    with pytest.raises(DataError, match=message):
        given_image(image)


def test_several(file):
    assert given_images(None) == [] == given_images([])
    assert len(given_images(file)) == 1 and len(given_images((file, PIXELS))) == 2
    assert [image.size for image in given_images(np.stack([PIXELS, PIXELS]))] == [(7, 5)] * 2
    with pytest.raises(DataError, match=r"image\[1\] is None; expected"):
        given_images([file, None])


def test_addresses_are_fetched_into_the_cache(monkeypatch, tmp_path, file):
    import base64

    monkeypatch.setenv("PADDLE_XC2_CACHE", str(tmp_path / "cache"))
    np.testing.assert_array_equal(
        pixels_of("data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()), PIXELS
    )
    monkeypatch.setattr("paddle_xc2.data.images.given_images.ImageCache.fetch", lambda self, url: file)
    np.testing.assert_array_equal(pixels_of("https://example.org/a.png"), PIXELS)
