"""Video file -> one picture of labelled frames -> float32 [3, height, width], as XComposer-2.5 looks at videos.

Follows `load_video`, `frame2img` and `Video_transform` in the checkpoint's `ixc_utils.py`: a frame per second, at most
32 of them, one below the other (or side by side, if they are upright), each under its number. Otherwise than there

- the labels are set in DejaVu Sans Mono, which comes with matplotlib, as wide as upstream's SimHei;
- frames are found by seeking, and only those wanted are kept; upstream decodes and keeps one for every second;
- videos slower than a frame in two seconds, at which upstream fails, give all their frames;
- of an AVI file with H.264, which does not say when a frame is shown, a frame's neighbour may be taken.

PyAV decodes; it comes with the `video` extra and is imported where it is used.
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import re
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from paddle_xc2.data.images.pictures import ImageDamaged, ImageError, ImageMissing, ImageTooLarge, image_name
from paddle_xc2.data.images.pixels import normalized
from paddle_xc2.files.local_path import local_path

# A video is refused beyond these. The first bounds the decoder's memory (it keeps up to 17 frames), the others time.
MAX_FRAME_PIXELS = 8192 * 4320
MAX_FRAMES = 1_000_000
MAX_FILE_BYTES = 4 * 1024**3

MAX_SAMPLED_FRAMES = 32

# Pixels of the picture of frames.
_FRAME_SIDE = 1120  # longer side of a frame
_LABEL_HEIGHT = 40  # above each frame, or above all if they stand side by side
_GAP = 10  # after each frame, with a line in its middle
_LINE_WIDTH = 2

# At this size a letter is 20 pixels wide and the baseline is where it is in upstream's font at 40.
_FONT, _FONT_SIZE, _BASELINE = "DejaVuSansMono.ttf", 33, 34

_SUFFIXES = {".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm", ".wmv", ".flv", ".mpg", ".mpeg"}
_STARTS = re.compile(
    rb"....ftyp(?!avi[fs]|hei[cmsx]|hev[cmsx]|mi[af]1|msf1|crx )"  # MP4 and QuickTime; the others are still pictures
    rb"|....(moov|mdat|wide|free|skip)"  # older QuickTime
    rb"|RIFF....AVI "
    rb"|\x1a\x45\xdf\xa3"  # Matroska, WebM
    rb"|\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # Windows Media
    re.DOTALL,
)

# Not all that FFmpeg knows: play lists and the like name further files and addresses, which it would open; broadcast
# formats have no index to find frames by.
_FORMATS = ("mov", "matroska", "avi", "asf")
# Their index lists every frame and is read when the file is opened.
_INDEXED_FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "avi")

_ROTATIONS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


def is_video(image) -> bool:
    """Whether a path or the bytes of a file are a video: by its name, else by how the file starts.

    A PIL image is none, and neither is an animated picture.
    """
    if isinstance(image, (str, Path)):
        path = local_path(image)
        if path.suffix.lower() in _SUFFIXES:
            return True
        try:
            with open(path, "rb") as file:
                image = file.read(16)
        except (OSError, ValueError):  # reading the picture will say what is wrong
            return False
    return isinstance(image, bytes) and _STARTS.match(image) is not None


def video_pixels(video, tile: int, source: str = "") -> np.ndarray:
    """The picture of a video's frames, its shorter side at one tile: float32 [3, height, width], normalised.

    Args:
        video: path, or bytes of a file.
        tile: pixels, side of a tile. The longer side is filled up to whole tiles with white, below or at the right.
        source: where the video was asked for, for messages: "train.json[17]".
    Raises: ImageError, a DataError, if it can't be read, is too large or PyAV is not installed.
    """
    sheet = frame_sheet(video, source)
    upright = sheet.width < sheet.height
    if upright:  # as upstream, which resizes a lying picture
        sheet = sheet.transpose(Image.Transpose.TRANSPOSE)
    long = _resized_long_side(*sheet.size, tile)
    resized = sheet.resize((long, tile), Image.Resampling.BILINEAR)
    canvas = Image.new("RGB", (math.ceil(long / tile) * tile, tile), (255, 255, 255))
    canvas.paste(resized)
    return normalized(canvas.transpose(Image.Transpose.TRANSPOSE) if upright else canvas)


def video_size(video, tile: int, source: str = "") -> tuple[int, int]:
    """(width, height) in pixels of `video_pixels`; arguments and errors as there.

    Of MP4, QuickTime and AVI files only the header and the first frame are read, others are read through; nothing but
    the first frame is decoded.
    """
    with _opened(video, image_name(video, source)) as (container, stream):
        first, count = _first_frame(container, stream)
        sheet = _layout(len(_sampled(count, stream)), *_rotated_size(first)).sheet
    grid = math.ceil(_resized_long_side(max(sheet), min(sheet), tile) / tile) * tile, tile
    return grid if sheet[0] >= sheet[1] else grid[::-1]


def frame_sheet(video, source: str = "") -> Image.Image:
    """The sampled frames of a video on one white RGB picture, each under its label. Arguments as of `video_pixels`."""
    with _opened(video, image_name(video, source)) as (container, stream):
        count = _indexed_frames(container, stream)
        times, keys = _timeline(container, stream)
        count = len(times) if count is None else count
        sampled = _sampled(count, stream)
        if count > len(times):
            raise ImageDamaged(f"only {len(times):,} of its {count:,} frames are there; replace the file")
        frames = _frames_at(container, stream, [times[index] for index in sampled], keys)
        sheet = None
        for index, frame in enumerate(frames):
            if sheet is None:
                layout = _layout(len(sampled), *_rotated_size(frame))
                sheet = Image.new("RGB", layout.sheet, "white")
            _place(sheet, layout, index, len(sampled), _rotated_image(frame))
    return sheet


class _Layout(NamedTuple):
    """Pixels (width, height): of a frame, from one frame to the next, of the whole picture."""

    frame: tuple[int, int]
    step: tuple[int, int]
    sheet: tuple[int, int]


def _layout(count: int, width: int, height: int) -> _Layout:
    ratio = width / height
    if width > height:
        frame = _FRAME_SIDE, max(1, int(_FRAME_SIDE / ratio))
        step = frame[1] + _LABEL_HEIGHT + _GAP
        return _Layout(frame, (0, step), (frame[0], count * step))
    frame = max(1, int(_FRAME_SIDE * ratio)), _FRAME_SIDE
    step = frame[0] + _GAP
    return _Layout(frame, (step, 0), (count * step, frame[1] + _LABEL_HEIGHT))


def _place(sheet: Image.Image, layout: _Layout, index: int, count: int, image: Image.Image) -> None:
    """Puts a frame with its label into the picture, and a line between it and the next."""
    (width, height), (left, top) = layout.frame, (layout.step[0] * index, layout.step[1] * index)
    sheet.paste(image.resize((width, height), Image.Resampling.BILINEAR), (left, top + _LABEL_HEIGHT))
    draw = ImageDraw.Draw(sheet)
    draw.text((left, top + _BASELINE), f"<IMAGE {index}>", font=_label_font(), fill="black", anchor="ls")
    if index + 1 < count:
        if layout.step[1]:
            y = top + _LABEL_HEIGHT + height + _GAP // 2
            draw.line([(0, y), (sheet.width, y)], fill="black", width=_LINE_WIDTH)
        else:
            x = left + width + _GAP // 2
            draw.line([(x, 0), (x, sheet.height)], fill="black", width=_LINE_WIDTH)


@functools.lru_cache
def _label_font() -> ImageFont.FreeTypeFont:
    import matplotlib  # here, because few data sets hold videos

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", _FONT), _FONT_SIZE)


def _resized_long_side(long: int, short: int, new_short: int) -> int:
    """Pixels of the longer side when the shorter becomes `new_short`, rounded as upstream."""
    return int(new_short * (long / short))


def _sampled(count: int, stream) -> list[int]:
    """Which of `count` frames are looked at: one a second, and of more than 32 those, 32 spread evenly."""
    if not count:
        raise ImageDamaged("there is no frame in it; replace the file")
    if count > MAX_FRAMES:
        raise ImageTooLarge(f"{count:,} frames are more than the {MAX_FRAMES:,} allowed; cut the video")
    seconds = range(0, count, max(1, round(float(stream.average_rate or 0))))
    if len(seconds) <= MAX_SAMPLED_FRAMES:
        return list(seconds)
    # One part more than frames: upstream leaves out the end of the video.
    step = len(seconds) / (MAX_SAMPLED_FRAMES + 1)
    return [seconds[int(index * step)] for index in range(MAX_SAMPLED_FRAMES)]


@contextlib.contextmanager
def _opened(video, name: str):
    """Yields (container, video stream), ready to be decoded. What goes wrong inside is said with the video's name."""
    try:
        import av  # here, because it is optional
    except ImportError as error:
        raise ImageError(
            f'{name}: videos are read with the package av, which is missing; run: pip install --no-deps "av>=17,<18"'
        ) from error
    if isinstance(video, bytes):
        file = io.BytesIO(video)
    else:
        path = local_path(video)
        if not path.is_file():
            raise ImageMissing(f"{name}: there is no such video file; correct the path or add the file")
        num_bytes = path.stat().st_size
        if num_bytes > MAX_FILE_BYTES:
            raise ImageTooLarge(
                f"{name}: {num_bytes:,} bytes are more than the {MAX_FILE_BYTES:,} allowed; make the file smaller"
            )
        file = f"file:{path}"  # so that nothing in front of a colon is taken for a protocol
    options = {"format_whitelist": ",".join(_FORMATS)}
    try:
        with av.open(file, options=options, metadata_errors="replace") as container:  # titles in any encoding
            yield container, _video_stream(container)
    except av.FFmpegError as error:
        raise ImageDamaged(
            f"{name}: the video can't be read ({error.strerror}); replace the file, or convert it to MP4 with H.264"
        ) from error
    except ImageError as error:
        raise type(error)(f"{name}: {error}") from error


def _video_stream(container):
    """What a player would show."""
    import av

    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:  # a cover
        raise ImageDamaged("there are no moving pictures in this file; replace it")
    context = stream.codec_context
    if context is None:
        raise ImageDamaged("its pictures are of a kind that can't be decoded; convert it to MP4 with H.264")
    if context.width * context.height > MAX_FRAME_PIXELS:
        raise ImageTooLarge(
            f"frames of {context.width} x {context.height} pixels are more than the {MAX_FRAME_PIXELS:,} allowed; "
            "make them smaller"
        )
    context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}  # where the frames are larger than the header says
    context.thread_count = 1  # data is loaded in several processes
    return stream


def _first_frame(container, stream):
    """(the first frame that is shown, number of frames). Reads on to the end only where there is no whole index."""
    count, counted, first = _indexed_frames(container, stream), 0, None
    for packet in container.demux(stream):
        if first is None:
            first = next(iter(packet.decode()), None)
        if first is not None and count is not None:
            break
        counted += _time(packet) is not None and not packet.is_discard
        if counted > MAX_FRAMES:
            break
    if first is None:
        raise ImageDamaged("no frame can be decoded; replace the file")
    return first, counted if count is None else count


def _indexed_frames(container, stream) -> int | None:
    """Number of frames that are shown, from the file's index; None if that is missing or not whole."""
    index = stream.index_entries
    if container.format.name not in _INDEXED_FORMATS or not len(index) or stream.duration is None:
        return None
    # A file in fragments may list those of the first alone, but says how long the whole is.
    if index[len(index) - 1].timestamp - index[0].timestamp < 0.9 * stream.duration * (1 - 1 / len(index)):
        return None
    return sum(not entry.is_discard for entry in index)


def _timeline(container, stream) -> tuple[list[int], list[int]]:
    """(times of all frames that are shown, times of those that decoding can start at), ascending, in the stream's unit.

    Reads the file to its end, decodes nothing.
    """
    times, keys = [], []
    for packet in container.demux(stream):
        time = _time(packet)
        if time is None:
            continue
        if packet.is_keyframe:
            keys.append(time)
        if not packet.is_discard:
            times.append(time)
        if len(times) > MAX_FRAMES:
            break
    return sorted(times), sorted(keys)


def _frames_at(container, stream, times: list[int], keys: list[int]) -> Iterator:
    """Yields the frame of each of `times`, ascending; the one after, or the last, where that can't be had."""
    wanted, frames, frame = set(times), None, None
    for time in times:
        key = (keys or times)[max(0, bisect_right(keys, time) - 1)]
        if frame is None or _time(frame) < key:
            frames = _decoded_from(key, container, stream, wanted)
        frame = next((later for later in frames if _time(later) is not None and _time(later) >= time), frame)
        if frame is None:
            raise ImageDamaged("no frame can be decoded; replace the file")
        yield frame


def _decoded_from(key: int, container, stream, wanted: set[int]) -> Iterator:
    """Yields frames from that at `key` on, in the order in which they are shown; not all but those `wanted`."""
    container.seek(key, stream=stream)
    for packet in container.demux(stream):
        # Frames that no other is made from are left out unless wanted: half the work, the same pixels.
        needed = _time(packet) is None or _time(packet) in wanted
        stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
        yield from packet.decode()


def _time(packet_or_frame) -> int | None:
    """When it is shown, in the stream's unit; when it is decoded where the file does not say (some AVI files)."""
    return packet_or_frame.dts if packet_or_frame.pts is None else packet_or_frame.pts


def _rotated_image(frame) -> Image.Image:
    """RGB, as it is to be looked at: telephones store upright videos lying."""
    image, turn = frame.to_image(), _ROTATIONS.get(frame.rotation % 360)
    return image if turn is None else image.transpose(turn)


def _rotated_size(frame) -> tuple[int, int]:
    return (frame.height, frame.width) if frame.rotation % 180 == 90 else (frame.width, frame.height)
