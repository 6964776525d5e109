import pytest
from PIL import Image

from paddle_xc2.data.boxes import draw_boxes, in_pixels, parse_boxes
from paddle_xc2.data.conversation import DataError

# Texts, what upstream's `_fetch_all_box_with_ref` reads in them, and its pixels on a picture of 90 x 70.
UPSTREAM = [
    ("<ref> 圆 </ref><box>(500,300),(899,851)</box>", [("圆", (500, 300, 899, 851))], [(45, 21, 80, 59)]),
    (
        "<ref>dogs</ref><box>(1,2),(3,4)</box><box>(5,6),(700,800)</box>",
        [("dogs", (1, 2, 3, 4)), (None, (5, 6, 700, 800))],
        [(0, 0, 0, 0), (0, 0, 62, 56)],
    ),
    (
        "two: <box>(10,20),(30,40)</box> and <ref>cat</ref> then <box>(0,0),(999,999)</box>.",
        [(None, (10, 20, 30, 40)), (None, (0, 0, 999, 999))],
        [(0, 1, 2, 2), (0, 0, 89, 69)],
    ),
    ("no boxes here", [], []),
    ("<box>1,2,3,4</box>", [(None, (1, 2, 3, 4))], [(0, 0, 0, 0)]),
]


@pytest.mark.parametrize(("text", "places", "pixels"), UPSTREAM)
def test_boxes_are_upstreams(text, places, pixels):
    found = parse_boxes(text)
    assert [(one.get("ref"), one["box"]) for one in found] == places
    assert [in_pixels(one["box"], 90, 70) for one in found] == pixels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<box>(1,2),(3,4),(5,6)</box>", r'a box holds "\(1,2\),\(3,4\),\(5,6\)", expected \(x1,y1\),\(x2,y2\)'),
        ("<box>(a,b),(c,d)</box>", "expected .* whole numbers from 0 to 1000"),
        ("<ref>open <box>(1,2),(3,4)</box>", "<box> stands within <ref>"),
        ("</ref>", "</ref> stands alone"),
        ("<box>(1,2),(3,4)", "<box> is not closed"),
    ],
)
def test_boxes_that_are_none(text, message):
    with pytest.raises(DataError, match=message):
        parse_boxes(text)


def test_boxes_are_drawn():
    image = Image.new("RGB", (100, 50), "black")
    drawn = draw_boxes(image, "<ref>圆</ref><box>(900,800),(100,200)</box><box>(500,0),(1000,1000)</box>")
    assert drawn.getpixel((10, 30)) == (255, 0, 0) and drawn.getpixel((50, 49)) == (0, 255, 0)
    assert image.getbbox() is None  # the picture itself stays as it is
