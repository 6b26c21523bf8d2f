"""Videos: topics whose messages are packets of one, each of which says what changed since the one before it.

Packets are decoded once, in the order in which they were recorded, and no sooner than a picture is asked for; only that
one becomes RGB. After a packet that is damaged or missing there is no picture until the next key frame, rather than one
that looks right. Packets without B-frames are expected, as Foxglove's schema demands it and ROS drivers write them;
with them a picture comes out late, and those of the last packets not at all.

Through FFmpeg (PyAV, the extra ``viz``).
"""

from __future__ import annotations

import importlib.util
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from perception.errors import missing_extra
from perception.logs.decoding import CODECS
from perception.logs.messages import Image, LogError, Message

if TYPE_CHECKING:
    import av

_DECODERS = {"h264": "h264", "h265": "hevc", "vp9": "vp9", "av1": "libdav1d"}
_MOST_PENDING = 600, 1 << 28  # packets, and their bytes, that nobody has asked for; far more than frames wait for
_MOST_PIXELS = 1 << 24  # twice those of 4K; a damaged header may claim any number, and a decoder keeps sixteen pictures
_FRAMES_KEPT = 8
_NO_KEY_FRAME = "pictures of a video before its first key frame"
_DAMAGED = "pictures of a video from a damaged or missing packet to the next key frame"
_OUT_OF_ORDER = "pictures of a video that come late in it, as with B-frames"


class NoPicture(LogError):
    """A picture of a video that others keep from being decoded. The text is the same for all of one reason."""


@dataclass(frozen=True, eq=False, slots=True)
class VideoImage(Image):
    """A packet that knows its place in its video."""

    video: Video | None = None
    number: int = 0


class Videos:
    """The videos of one pass over a log."""

    def __init__(self) -> None:
        self._videos: dict[tuple[str, str], Video] = {}  # by topic and codec

    def joined(self, message: Message) -> Message:
        """The message with a packet that :func:`picture` can decode; any other message as it is. In recorded order."""
        image = message.data
        if not isinstance(image, Image) or image.encoding not in CODECS:
            return message
        key = message.topic, image.encoding
        if key not in self._videos:
            self._videos[key] = Video(image.encoding)
        return replace(message, data=self._videos[key].add(image))


def picture(image: Image) -> np.ndarray:
    """uint8 [H, W, 3] RGB of a packet.

    Raises:
        NoPicture: see the class.
        LogError: PyAV is not installed; a packet outside of its video.
    """
    if not isinstance(image, VideoImage) or image.video is None:
        raise LogError(f"a packet of {image.encoding} was expected in the order of its video, found it alone")
    return image.video.picture(image.number)


class _Packet(NamedTuple):
    number: int
    data: bytes
    begins: bool  # see the function


class Video:
    """The packets of one topic, of which those that were not asked for yet are kept, and decoded when they are many."""

    def __init__(self, codec: str):
        self._codec = codec
        self._decoder: Decoder | None = None
        self._pending: deque[_Packet] = deque()
        self._bytes = self._count = 0
        self._decoded: dict[int, av.VideoFrame | np.ndarray] = {}  # the last few, and what became RGB
        self._missed: dict[int, str] = {}

    def add(self, image: Image) -> VideoImage:
        number, data = self._count, bytes(image.data)  # not the whole chunk of the file that it lies in
        self._count += 1
        self._pending.append(_Packet(number, data, begins(self._codec, data)))
        self._bytes += len(data)
        while len(self._pending) > _MOST_PENDING[0] or self._bytes > _MOST_PENDING[1]:
            self._skip_or_decode()
        size = image.width, image.height
        return VideoImage(image.frame_id, image.encoding, data, *size, video=self, number=number)

    def picture(self, number: int) -> np.ndarray:
        while self._pending and number not in self._decoded and self._is_wanted(self._pending[0].number, number):
            self._decode_next()
        frame = self._decoded.get(number)
        if frame is None:
            raise NoPicture(self._missed.get(number, _OUT_OF_ORDER))
        if not isinstance(frame, np.ndarray):
            frame = self._decoded[number] = frame.to_ndarray(format="rgb24")
        return frame

    def size(self) -> tuple[int, int]:
        """Height and width; raises NoPicture where no packet that is kept tells them."""
        for frame in self._decoded.values():
            return (frame.shape[0], frame.shape[1]) if isinstance(frame, np.ndarray) else (frame.height, frame.width)
        size = first_size(self._codec, (packet.data for packet in self._pending))
        if size is None:
            raise NoPicture(_NO_KEY_FRAME)
        return size

    def _is_wanted(self, packet: int, number: int) -> bool:
        """Whether a packet is decoded for a picture: those after its own are where B-frames hold it back."""
        return packet <= number or (number not in self._missed and packet <= number + _FRAMES_KEPT)

    def _skip_or_decode(self) -> None:
        """Go on to the next key frame, if one is there: nobody asked for the pictures before it."""
        if not any(packet.begins for packet in islice(self._pending, 1, None)):
            self._decode_next()
            return
        self._next()
        while not self._pending[0].begins:
            self._next()
        self._decoder = None

    def _next(self) -> _Packet:
        packet = self._pending.popleft()
        self._bytes -= len(packet.data)
        return packet

    def _decode_next(self) -> None:
        number, data, _ = self._next()
        self._decoder = self._decoder or Decoder(self._codec)
        for at, frame in self._decoder.decode(number, data):
            self._decoded[at] = frame
        if self._decoder.lost:
            self._missed[number] = self._decoder.lost
        for kept in (self._decoded, self._missed):
            while len(kept) > (_FRAMES_KEPT if kept is self._decoded else _MOST_PENDING[0]):
                del kept[next(iter(kept))]


class Decoder:
    """Packets to frames, in order.

    lost: None, or why there are no pictures until the next key frame.
    """

    def __init__(self, codec: str):
        av = _pyav()
        self._codec = codec
        self._context: Any = av.CodecContext.create(_DECODERS[codec], "r")
        self._context.thread_count = 1  # others give frames back late
        self._context.options = {"err_detect": "explode", "max_pixels": str(_MOST_PIXELS)}
        self.lost: str | None = _NO_KEY_FRAME

    def decode(self, number: int, data: bytes) -> list[tuple[int, av.VideoFrame]]:
        """Frames with the numbers of their packets."""
        av = _pyav()
        packet = av.Packet(data)
        packet.pts = number
        level = av.logging.get_level()
        av.logging.set_level(av.logging.DEBUG)
        try:
            with av.logging.Capture() as lines:
                frames = self._context.decode(packet) if data else []  # an empty one would mean the end
            # FFmpeg hides that a packet is missing, and says so in its log only.
            is_whole = bool(data) and not any(text.startswith("Frame num gap") for _, _, text in lines)
        except av.FFmpegError:
            frames, is_whole = [], False
        finally:
            av.logging.set_level(level)
        if not is_whole:
            self._context.flush_buffers()
            self.lost = self.lost or _DAMAGED
            return []
        if begins(self._codec, data):
            self.lost = None
        found = []
        for frame in frames:
            self.lost = None if frame.key_frame else self.lost
            if not self.lost:
                found.append((frame.pts, frame))
        return found


def first_size(codec: str, packets: Iterator[bytes]) -> tuple[int, int] | None:
    """Height and width of the first picture; None where there is none."""
    decoder = Decoder(codec)
    for number, data in enumerate(packets):
        for _, frame in decoder.decode(number, data):
            return frame.height, frame.width
    return None


def begins(codec: str, data: bytes) -> bool:
    """Whether a packet of H.264 or H.265 can be decoded without any before it: it has parameters and a key frame."""
    types = (data[match.end()] for match in re.finditer(rb"\x00\x00\x01(?=.)", data, re.DOTALL))
    if codec == "h264":
        kinds = {kind & 31 for kind in types}
        return {5, 7, 8} <= kinds
    kinds = {kind >> 1 & 63 for kind in types} if codec == "h265" else set()
    return {33, 34} <= kinds and not kinds.isdisjoint(range(16, 22))


def why_not() -> str:
    """Why videos cannot be decoded here; "" where they can."""
    return "" if importlib.util.find_spec("av") else missing_extra("viz", "a video needs an extra")


def _pyav() -> Any:
    try:
        import av
        import av.logging
    except ImportError:
        raise LogError(why_not()) from None
    return av
