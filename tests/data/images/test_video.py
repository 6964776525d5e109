"""Videos made on the spot, whose frames show their own number in twelve black and white stripes."""

import io
import sys
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from paddle_xc2.data.conversation import DataError
from paddle_xc2.data.images import video
from paddle_xc2.data.images.downloads import ImageCache
from paddle_xc2.data.images.pictures import ImageDamaged, ImageError, ImageMissing, ImageTooLarge
from paddle_xc2.data.images.pixels import normalized
from paddle_xc2.data.images.video import frame_sheet, is_video, video_pixels, video_size
from paddle_xc2.data.processor import XComposer2Processor
from paddle_xc2.data.records.conversations import load_conversations
from paddle_xc2.families.table import family_named
from paddle_xc2.text.tokenizer import XComposer2Tokenizer
from tests.tiny import tiny_model, tiny_tokenizer

NUM_STRIPES = 12
KINDS = {
    "h264.mp4": {},
    "h264.mov": {},
    "h264.mkv": {},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "first_fragment_in_header.mp4": {"container_options": {"movflags": "frag_keyframe+default_base_moof+global_sidx"}},
    "mpeg4_b_frames.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "wmv2.wmv": {"codec": "wmv2"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
}


@pytest.fixture
def av():
    return pytest.importorskip("av", reason='videos are read with the package av: pip install --no-deps "av>=17,<18"')


@pytest.fixture
def make_video(av, tmp_path):
    """Function that writes a video and returns its path."""

    def make(
        name, count, rate=2, size=(96, 48), codec="libx264", options=None, container_options=None, times=None, turn=0
    ):
        path = tmp_path / name
        with av.open(str(path), "w", options=container_options or {}) as container:
            stream = container.add_stream(codec, rate=rate)
            stream.width, stream.height = size
            stream.pix_fmt = "yuv420p"
            # Key frames where they are asked for, not at every new number.
            stream.options = {"threads": "1", "sc_threshold": "0", **(options or {})}
            stream.codec_context.gop_size = 10
            if turn:
                stream.set_display_rotation(turn)
            for index in range(count):
                frame = av.VideoFrame.from_image(numbered(index, size))
                frame.pts = index if times is None else times[index]
                frame.time_base = 1 / Fraction(rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return make


def numbered(index: int, size) -> Image.Image:
    """Stripes that are the binary digits of `index`, the lowest at the left; one is white."""
    stripes = Image.new("L", (NUM_STRIPES, 1))
    stripes.putdata([255 * (index >> bit & 1) for bit in range(NUM_STRIPES)])
    return stripes.resize(size, Image.Resampling.NEAREST).convert("RGB")


def number_in(image: Image.Image) -> int:
    middle = np.asarray(image.convert("L"))[image.height // 2]
    bits = [middle[int((bit + 0.5) * image.width / NUM_STRIPES)] > 127 for bit in range(NUM_STRIPES)]
    return sum(int(bit) << place for place, bit in enumerate(bits))


def numbers_in(sheet: Image.Image) -> list[int]:
    """The numbers of frames twice as wide as high, stacked with 40 pixels above and 10 below each."""
    height = sheet.width // 2
    assert sheet.height % (height + 50) == 0
    tops = range(40, sheet.height, height + 50)
    return [number_in(sheet.crop((0, top, sheet.width, top + height))) for top in tops]


# --- which frames


@pytest.mark.parametrize("kind", KINDS)
def test_the_frames_are_upstreams_in_every_container(make_video, kind, monkeypatch):
    monkeypatch.setattr(video, "_FRAME_SIDE", 112)  # ten times smaller than upstream's: resizing is slow
    path = make_video(kind, 90, **KINDS[kind])
    # 45 seconds: 32 of 45 frames, and as upstream the step is that of 33.
    assert numbers_in(frame_sheet(path)) == [2 * int(index * (45 / 33)) for index in range(32)]
    assert video_size(path, 28) == video_pixels(path, 28).shape[:0:-1]


@pytest.mark.parametrize(
    ("count", "rate", "expected"),
    [
        (1, 2, [0]),
        (2, 2, [0]),
        (3, 2, [0, 2]),
        (90, 30, [0, 30, 60]),
        (91, Fraction(30000, 1001), [0, 30, 60, 90]),
        (6, Fraction(5, 2), [0, 2, 4]),  # Python rounds a half to the even number, and so does upstream
        (3, Fraction(1, 4), [0, 1, 2]),  # upstream fails below half a frame a second
        (32, 1, list(range(32))),
        (33, 1, list(range(32))),
        (100, 1, [int(index * (100 / 33)) for index in range(32)]),
    ],
)
def test_one_frame_a_second_and_at_most_32(count, rate, expected):
    assert video._sampled(count, SimpleNamespace(average_rate=Fraction(rate))) == expected


def test_frames_count_where_they_come_at_different_times(make_video):
    times = [index if index < 20 else 20 + 3 * (index - 20) for index in range(40)]
    path = make_video("varying.mp4", 40, rate=4, times=times)
    # 40 frames in 20 seconds: two a second.
    assert numbers_in(frame_sheet(path)) == list(range(0, 40, 2))
    assert video_size(path, 28)[1] == video_pixels(path, 28).shape[1]


def test_what_an_editor_cut_off_is_not_shown(av, make_video, tmp_path):
    whole, cut = make_video("whole.mp4", 40), tmp_path / "cut.mp4"
    with av.open(str(whole)) as source, av.open(str(cut), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:  # 13 frames end before the new beginning: decoded, but not shown
                start = int(13 / 2 / stream.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copy
                target.mux(packet)
    assert numbers_in(frame_sheet(cut)) == list(range(13, 40, 2))
    assert video_size(cut, 28)[1] == video_pixels(cut, 28).shape[1]


def test_a_wrong_index_costs_no_frame(make_video):
    path = make_video("wrong.mkv", 60)
    content, cues = path.read_bytes(), path.read_bytes().index(b"\x1c\x53\xbb\x6b")
    for second in range(5, 30, 5):  # all key frames at once
        entry = b"\xb3\x82" + (1000 * second).to_bytes(2, "big")
        assert content.count(entry, cues) == 1
        content = content[:cues] + content[cues:].replace(entry, b"\xb3\x82" + second.to_bytes(2, "big"))
    path.write_bytes(content)
    assert numbers_in(frame_sheet(path)) == list(range(0, 60, 2))


def test_decoding_starts_once_at_each_key_frame(make_video, monkeypatch):
    starts, decoded_from = [], video._decoded_from
    monkeypatch.setattr(video, "_decoded_from", lambda key, *rest: starts.append(key) or decoded_from(key, *rest))
    path = make_video("video.mp4", 60)  # a key frame in ten, every second frame is wanted
    assert numbers_in(frame_sheet(path)) == list(range(0, 60, 2))
    assert len(starts) == len(set(starts)) == 6


def test_frames_of_another_size_are_made_as_large_as_the_first(av, tmp_path, monkeypatch):
    path = tmp_path / "growing.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv420p"
        for index in range(2):
            container.mux(stream.encode(av.VideoFrame.from_image(numbered(index, (96, 48)))))
        larger = av.CodecContext.create("mpeg4", "w")
        larger.width, larger.height, larger.pix_fmt, larger.time_base = 192, 192, "yuv420p", Fraction(1)
        for index in range(2, 4):
            for packet in larger.encode(av.VideoFrame.from_image(numbered(index, (192, 192)))):
                packet.pts = packet.dts = index
                packet.stream = stream
                container.mux(packet)
    assert numbers_in(frame_sheet(path)) == [0, 1, 2, 3]
    monkeypatch.setattr(video, "MAX_FRAME_PIXELS", 96 * 48)
    with pytest.raises(ImageDamaged, match=r"growing\.avi: the video can't be read \(.*\); "):
        frame_sheet(path)


def test_frames_left_out_change_no_pixel(av, make_video):
    path = make_video("b_frames.mp4", 40, options={"bf": "3", "b-adapt": "0"})
    with av.open(str(path)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    with video._opened(path, "") as (container, stream):
        times, keys = video._timeline(container, stream)
        for index, frame in zip(
            (0, 3, 4, 21, 38),
            video._frames_at(container, stream, [times[index] for index in (0, 3, 4, 21, 38)], keys),
            strict=True,
        ):
            np.testing.assert_array_equal(np.asarray(frame.to_image()), np.asarray(frames[index]))


# --- how they are laid out


@pytest.mark.parametrize(
    ("count", "size", "frame", "sheet", "pixels"),
    [
        (3, (96, 48), (1120, 560), (1120, 3 * 610), (560, 2 * 560)),
        (1, (96, 48), (1120, 560), (1120, 610), (2 * 560, 560)),
        (3, (48, 96), (560, 1120), (3 * 570, 1160), (2 * 560, 560)),
        (2, (64, 64), (1120, 1120), (2 * 1130, 1160), (2 * 560, 560)),
        (32, (96, 54), (1120, 630), (1120, 32 * 680), (560, 20 * 560)),
        (1, (4000, 2), (1120, 1), (1120, 51), (22 * 560, 560)),
    ],
)
def test_sizes(count, size, frame, sheet, pixels):
    layout = video._layout(count, *size)
    assert (layout.frame, layout.sheet) == (frame, sheet)
    long = video._resized_long_side(max(sheet), min(sheet), 560)
    assert max(pixels) - 560 < long <= max(pixels)


def test_frames_stand_below_each_other_under_their_labels(make_video):
    sheet = np.asarray(frame_sheet(make_video("video.mp4", 3, rate=1)))
    assert sheet.shape == (3 * 610, 1120, 3)
    for index in range(3):
        band = sheet[610 * index : 610 * (index + 1)]
        label = band[:40].min(axis=(0, 2)) < 128
        assert label[:180].any() and not label[180:].any()  # nine letters of 20 pixels
        assert number_in(Image.fromarray(band[40:600])) == index
        line = band[600:].max(axis=(1, 2)) < 128
        assert line.sum() == (2 if index < 2 else 0)
        assert (band[600:][~line] == 255).all()
    labels = [sheet[610 * index : 610 * index + 40] for index in range(3)]
    assert not (labels[0] == labels[1]).all() and (labels[0][:, :120] == labels[1][:, :120]).all()


def test_upright_frames_stand_side_by_side(make_video):
    sheet = np.asarray(frame_sheet(make_video("video.mp4", 3, rate=1, size=(48, 96))))
    assert sheet.shape == (1160, 3 * 570, 3)
    for index in range(3):
        band = sheet[:, 570 * index : 570 * (index + 1)]
        assert band[:40, :180].min() < 128 and (band[:40, 180:560] == 255).all()
        assert number_in(Image.fromarray(band[40:, :560])) == index
        line = band[:, 560:].max(axis=(0, 2)) < 128
        assert line.sum() == (2 if index < 2 else 0)


def test_turned_frames_are_turned_back(av, tmp_path):
    path = tmp_path / "telephone.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv420p"
        stream.set_display_rotation(90)  # counter-clockwise: what is stored at the left is shown below
        frame = Image.new("RGB", (96, 48), "black")
        frame.paste("white", (0, 0, 48, 48))
        container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    sheet = frame_sheet(path)
    assert sheet.size == (570, 1160)
    assert sheet.getpixel((280, 40 + 200)) < (20, 20, 20) and sheet.getpixel((280, 40 + 900)) > (235, 235, 235)
    assert video_size(path, 560) == (560, 3 * 560)


def test_pixels_are_the_sheet_a_tile_wide_on_white(make_video):
    path = make_video("video.mp4", 3, rate=1)
    pixels, white = video_pixels(path, 56), normalized(Image.new("RGB", (1, 1), "white"))
    assert pixels.shape == (3, 2 * 56, 56) and pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[:, 91:], np.broadcast_to(white, (3, 112 - 91, 56)))  # 56 * 1830 / 1120 = 91.5
    sheet = frame_sheet(path).transpose(Image.Transpose.TRANSPOSE).resize((91, 56), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(pixels[:, :91], normalized(sheet.transpose(Image.Transpose.TRANSPOSE)))
    side_by_side = video_pixels(make_video("upright.mp4", 3, rate=1, size=(48, 96)), 56)
    np.testing.assert_array_equal(side_by_side[:, :, 82:], np.broadcast_to(white, (3, 56, 112 - 82)))


# --- what is a video


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_is_known_by_its_content(make_video, kind, tmp_path):
    path = make_video(kind, 2, **KINDS[kind])
    nameless = path.rename(tmp_path / "0123abc")
    assert is_video(nameless) and is_video(str(nameless)) and is_video(nameless.read_bytes())
    assert frame_sheet(nameless).size == frame_sheet(nameless.read_bytes()).size
    assert video_size(nameless.read_bytes(), 28) == video_size(nameless, 28)


def test_pictures_are_no_videos(tmp_path):
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000"):
        buffer = io.BytesIO()
        Image.new("RGB", (20, 10)).save(buffer, kind)
        (tmp_path / "picture").write_bytes(buffer.getvalue())
        assert not is_video(tmp_path / "picture") and not is_video(buffer.getvalue())
    assert not is_video(b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00") and is_video(b"\x00\x00\x00\x1cftypisom\x00\x00")
    assert not is_video(Image.new("RGB", (20, 10))) and not is_video(tmp_path / "missing") and not is_video("a\0b")
    assert is_video(tmp_path / "missing.MP4")


# --- errors


def test_without_the_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImageError) as caught:
        video_size(tmp_path / "video.mp4", 560, "train.json[17]")
    assert str(caught.value) == (
        f"train.json[17]: {tmp_path / 'video.mp4'}: videos are read with the package av, which is missing; "
        'run: pip install --no-deps "av>=17,<18"'
    )


def check_refused(image, kind, message):
    for read in (video_size, video_pixels):
        with pytest.raises(kind, match=rf"^train\.json\[17\]: .*{message}$") as caught:
            read(image, 28, "train.json[17]")
        assert "\n" not in str(caught.value)


def test_a_missing_file(av, tmp_path):
    check_refused(tmp_path / "video.mp4", ImageMissing, r"video\.mp4: there is no such video file; .* add the file")


def test_a_file_that_is_no_video(av, tmp_path):
    (tmp_path / "video.mp4").write_bytes(bytes(1000))
    advice = "replace the file, or convert it to MP4 with H.264"
    check_refused(tmp_path / "video.mp4", ImageDamaged, rf"video\.mp4: the video can't be read \(.*\); {advice}")


def test_a_play_list_is_not_followed(make_video, tmp_path):
    make_video("target.mp4", 2)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile target.mp4\n")
    check_refused(tmp_path / "list.mp4", ImageDamaged, r"the video can't be read \(.*\); .*")


def test_a_name_with_a_colon_is_a_name(make_video, monkeypatch, tmp_path):
    path = make_video("video.mp4", 2).rename(tmp_path / "12:30.mp4")
    monkeypatch.chdir(tmp_path)
    assert frame_sheet(path.name).size == (1120, 610)


def test_a_file_that_is_cut_off(make_video):
    path = make_video("video.mp4", 40, options={"bf": "0"}, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) * 2 // 3])
    assert video_size(path, 28) == (28, 28 * 11)  # the header is whole
    with pytest.raises(ImageDamaged, match=r"video\.mp4: only \d+ of its 40 frames are there; replace the file$"):
        video_pixels(path, 28)
    path.write_bytes(path.read_bytes()[:500])
    check_refused(path, ImageDamaged, r"the video can't be read \(.*\); .*")


def test_a_video_without_pictures(av, tmp_path):
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    check_refused(tmp_path / "sound.mp4", ImageDamaged, "there are no moving pictures in this file; replace it")


def test_frames_that_no_decoder_takes(make_video):
    path = make_video("video.mp4", 4)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"xxx1"))
    advice = "convert it to MP4 with H.264"
    check_refused(path, ImageDamaged, f"its pictures are of a kind that can't be decoded; {advice}")


def test_frames_that_are_damaged(make_video):
    path = make_video("video.mp4", 4)
    content = bytearray(path.read_bytes())
    start, end = content.index(b"mdat") + 4, content.index(b"moov") - 4
    content[start:end] = bytes(end - start)
    path.write_bytes(content)
    check_refused(path, ImageDamaged, r"(no frame can be decoded; replace the file|the video can't be read \(.*\); .*)")


def test_no_frame_at_all():
    with pytest.raises(ImageDamaged, match="^there is no frame in it; replace the file$"):
        video._sampled(0, SimpleNamespace(average_rate=Fraction(1)))


def test_limits(make_video, monkeypatch):
    path = make_video("video.mp4", 4)
    with monkeypatch.context() as limit:
        limit.setattr(video, "MAX_FRAME_PIXELS", 96 * 48 - 1)
        message = "frames of 96 x 48 pixels are more than the 4,607 allowed; make them smaller"
        check_refused(path, ImageTooLarge, message)
    with monkeypatch.context() as limit:
        limit.setattr(video, "MAX_FILE_BYTES", 100)
        check_refused(path, ImageTooLarge, r"[\d,]+ bytes are more than the 100 allowed; make the file smaller")
    for kind in ("video.mp4", "video.mkv"):
        path = make_video(kind, 4)
        with monkeypatch.context() as limit:
            limit.setattr(video, "MAX_FRAMES", 2)
            check_refused(path, ImageTooLarge, r"\d frames are more than the 2 allowed; cut the video")


def test_random_damage_raises_nothing_else(make_video):
    generator = np.random.default_rng(0)
    for kind in ("h264.mp4", "h264.mkv", "mpeg4_b_frames.avi"):
        content = np.frombuffer(make_video(kind, 4, **KINDS[kind]).read_bytes(), np.uint8)
        for _ in range(20):
            damaged = content.copy()
            damaged[generator.integers(0, len(content), 8)] = generator.integers(0, 256)
            try:
                width, height = video_size(damaged.tobytes(), 28)
                assert width % 28 == height % 28 == 0
            except ImageError as error:
                assert "\n" not in str(error)


# --- where an image path goes


@pytest.fixture
def processor(tmp_path):
    tokenizer = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path / "tokenizer"))
    return XComposer2Processor(family_named("xcomposer2d5-7b"), tokenizer, 560)


def test_a_training_record_takes_a_video(make_video, processor, tmp_path):
    make_video("clip.mp4", 3, rate=1)
    turns = [{"from": "human", "value": "What happens?"}, {"from": "bot", "value": "Nothing."}]
    example = processor.encode_sample({"image": ["clip.mp4"], "conversations": turns}, image_folder=tmp_path)
    assert [pixels.shape for pixels in example.pixel_values] == [(3, 2 * 560, 560)]
    assert example.image_mask.sum() == (2 * 1 + 1) * 400 + 1 + (2 + 1) * 20
    (tmp_path / "train.json").write_text('[{"conversations": [["<img>clip.mp4</img>What happens?", "Nothing."]]}]')
    (conversation,) = load_conversations(tmp_path / "train.json")
    assert conversation.images == (tmp_path / "clip.mp4",)


def test_a_prompt_takes_videos_and_pictures(make_video, processor):
    clip, image = str(make_video("clip.mp4", 3, rate=1)), Image.new("RGB", (560, 560))
    example = processor.encode_chat("<ImageHere><ImageHere> Which is longer?", [clip, image])
    assert [pixels.shape for pixels in example.pixel_values] == [(3, 1120, 560), (3, 560, 560)]
    np.testing.assert_array_equal(example.pixel_values[0], processor.image_transform(clip, training=True))
    # Upstream's limits of tiles are for pictures.
    few = XComposer2Processor(processor.family, processor.tokenizer, 560, hd_num=1)
    assert few.num_image_tokens(clip) == processor.num_image_tokens(clip, num_images=2) == 1261


def test_a_video_that_cannot_be_read_is_named_with_its_record(processor, tmp_path):
    pytest.importorskip("av", reason='videos are read with the package av: pip install --no-deps "av>=17,<18"')
    (tmp_path / "clip.mp4").write_bytes(b"nothing")
    turns = [["<img>clip.mp4</img>What happens?", "Nothing."]]
    with pytest.raises(ImageDamaged, match=r"^record: .*clip\.mp4: the video can't be read"):
        processor.encode_sample({"conversations": turns}, image_folder=tmp_path)


def test_other_families_say_that_they_take_none(tmp_path):
    for name, size in (("xcomposer2-vl-7b", 490), ("xcomposer2-4khd-7b", 336)):
        side = XComposer2Processor(family_named(name), None, size)
        for read in (side.image_transform, side.num_image_tokens):
            with pytest.raises(DataError) as caught:
                read("clip.mp4", True, "train.json[17]")
            assert str(caught.value) == (
                f"train.json[17]: clip.mp4: this is a video, and {name} takes pictures only; "
                "use a picture, or xcomposer2d5-7b"
            )


def test_a_video_by_address(make_video, monkeypatch, tmp_path):
    content = make_video("clip.mp4", 3, rate=1).read_bytes()
    cache = ImageCache(tmp_path / "cache")
    monkeypatch.setattr(cache, "_get", lambda url, name: content)
    assert frame_sheet(cache.fetch("https://example.org/clip")).size == (1120, 3 * 610)


def test_chat_about_a_video(make_video, tmp_path):
    from paddle_xc2.generation.engine import Engine
    from paddle_xc2.generation.sampling_settings import SamplingSettings
    from paddle_xc2.generation.served_model import ServedModel
    from paddle_xc2.generation.session import ChatSession, ChatSettings

    clip = make_video("clip.mp4", 2, rate=2)
    model = tiny_model(xc2_family="xcomposer2d5-7b", img_size=560, max_position_embeddings=2048)
    tokenizer = XComposer2Tokenizer.from_pretrained(tiny_tokenizer(tmp_path / "tokenizer"))
    settings = {"do_sample": False, "max_new_tokens": 3, "repetition_penalty": 1.0}
    answer, _ = model.chat(tokenizer, "What happens?", str(clip), **settings)
    with Engine(model) as engine:
        conversation = ChatSession(engine, ServedModel.of(model, tokenizer), ChatSettings(SamplingSettings(), 3))
        conversation.add_image(str(clip))
        assert conversation.ask_whole("What happens?").text == answer
        with pytest.raises(ImageMissing, match="missing.mp4: there is no such video file"):
            conversation.add_image(str(tmp_path / "missing.mp4"))
