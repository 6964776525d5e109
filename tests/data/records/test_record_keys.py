import pytest

from paddle_xc2.data.records.record_keys import misspelt_keys


@pytest.mark.parametrize(
    "record, meant",
    [
        ({"imgae": "a.jpg"}, {"imgae": "image"}),
        ({"Image": "a.jpg"}, {"Image": "image"}),
        ({" images": ["a.jpg"]}, {" images": "images"}),
        ({"imgae": "a.jpg", "iamge": "b.jpg"}, {"imgae": "image", "iamge": "image"}),
        ({"conversatons": [1]}, {"conversatons": "conversations"}),
        ({"message": [1]}, {"message": "messages"}),
        ({"imgae": "a.jpg", "image": "b.jpg"}, {}),  # something else, beside the right one
        ({"imgae": "a.jpg", "image": None}, {"imgae": "image"}),
        ({"imgae": ""}, {}),
        ({"imageId": "7", "image_id": "7", "img_size": 3, "tags": ["x"], "source": "web", "id": "0"}, {}),
    ],
)
def test_misspelt_keys(record, meant):
    assert misspelt_keys(record) == meant
