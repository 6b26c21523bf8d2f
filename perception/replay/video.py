"""Replay as a video: every step drawn, and shown for as long as the recording took to the next one.

H.264 where PyAV is installed (the extra ``viz``), which browsers and players open, else the MPEG-4 that OpenCV writes,
at a constant rate. With PyAV what is on disk is playable at any time, even when the process is killed, and the same
frames give the same bytes.
"""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from perception.files import ResultsError, begin_part, finish_part, writing
from perception.replay.latency import DETECTOR_STAGES
from perception.replay.step import Step
from perception.viz import Layout, draw_frame

SHORTEST_S, LONGEST_S = 1 / 60, 2.0  # that a picture is shown; the time between two scenes may be years, or negative
ALONE_S = 1.0  # that the only picture of a video is shown


class VideoSink:
    """A :class:`perception.replay.step.Sink` that writes an .mp4; without a step, no file.

    Args:
        score_threshold: of the boxes that are drawn.
        layout: task, grid and sensors of the detector; None for the defaults.
    """

    def __init__(self, path: str | Path, score_threshold: float = 0.3, layout: Layout | None = None):
        self.path, self.score_threshold, self.layout = Path(path), score_threshold, layout
        self._encoder: H264 | Mpeg4 | None = None
        self._frames = 0

    def __enter__(self) -> VideoSink:
        with writing(self.path):
            self._partial = begin_part(self.path)
            self._partial.unlink(missing_ok=True)
        return self

    def add(self, step: Step) -> None:
        latency_ms = sum(step.latency_ms.get(name, 0.0) for name in DETECTOR_STAGES)
        self.add_picture(
            draw_frame(step.frame, step.detections, self.score_threshold, latency_ms, step.tracks, self.layout),
            step.frame.timestamp_ns,
        )

    def add_picture(self, picture: np.ndarray, timestamp_ns: int) -> None:
        """Append a picture, uint8 [H, W, 3] RGB, H and W even and the same for all."""
        with writing(self.path):
            if self._encoder is None:
                self._encoder = (H264 if has_h264() else Mpeg4)(self._partial)
            self._encoder.add(picture, timestamp_ns)
        self._frames += 1

    def __exit__(self, kind, error, trace) -> None:
        if self._encoder is None:
            return
        if kind is not None:
            with suppress(OSError, ResultsError):  # the first error is the one to report
                self._encoder.close()
            return
        with writing(self.path):
            self._encoder.close()
            self._check()
            finish_part(self.path)

    def _check(self) -> None:
        """Neither library reliably reports a full disk."""
        capture = cv2.VideoCapture(str(self._partial))
        found = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.grab() else 0
        capture.release()
        if found != self._frames:
            expected = f"{self._partial}: {self._frames} frames were expected"
            raise ResultsError(f"{expected}, found {found}; is the disk full?")


def has_h264() -> bool:
    """Whether PyAV is installed, with x264 in it."""
    try:
        import av
    except ImportError:
        return False
    return "libx264" in av.codecs_available


class H264:
    """H.264 in MP4 with a time for every picture: the recording's, from zero, a gap in it a gap here."""

    CLOCK_HZ = 90_000  # divides all usual rates; the ticks of most video formats

    def __init__(self, path: Path):
        import av

        # In fragments of a second, which FFmpeg turns into an ordinary file at the end.
        fragments = {"movflags": "hybrid_fragmented", "frag_duration": "1000000", "flush_packets": "1"}
        self._file = av.open(str(path), "w", format="mp4", options={**fragments, "fflags": "bitexact"})
        # One thread: their number would change the bytes. No latency: a picture is encoded when it arrives.
        self._stream = self._file.add_stream(
            "libx264", options={"preset": "veryfast", "tune": "zerolatency", "crf": "21", "g": "30"}
        )
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.thread_count = 1
        self._stream.codec_context.time_base = Fraction(1, self.CLOCK_HZ)
        self._ticks = 0
        self._last_ns: int | None = None
        self._pending: Any = None  # the packet of the last picture, until its duration is known
        self._shown = round(ALONE_S * self.CLOCK_HZ)

    def add(self, picture: np.ndarray, timestamp_ns: int) -> None:
        from av import VideoFrame

        if self._last_ns is None:
            self._stream.height, self._stream.width = picture.shape[:2]
        else:
            shown_s = float(np.clip((timestamp_ns - self._last_ns) / 1e9, SHORTEST_S, LONGEST_S))
            self._write(round(shown_s * self.CLOCK_HZ))
        self._last_ns = timestamp_ns
        frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = self._ticks, Fraction(1, self.CLOCK_HZ)
        (self._pending,) = self._stream.encode(frame)

    def close(self) -> None:
        """The last picture is shown for as long as the one before it."""
        try:
            if self._pending is not None:
                self._write(self._shown)
        finally:
            self._file.close()

    def _write(self, shown: int) -> None:
        """The pending picture, shown for this many ticks."""
        self._pending.duration = self._shown = shown
        self._file.mux(self._pending)
        self._pending = None
        self._ticks += shown


class Mpeg4:
    """MPEG-4 Part 2 as OpenCV writes it, at the rate of the first two pictures."""

    def __init__(self, path: Path):
        self._path = path
        self._first: tuple[np.ndarray, int] | None = None
        self._writer: cv2.VideoWriter | None = None

    def add(self, picture: np.ndarray, timestamp_ns: int) -> None:
        if self._first is None:
            self._first = picture, timestamp_ns
            return
        if self._writer is None:
            self._writer = self._opened(self._first[0], (timestamp_ns - self._first[1]) / 1e9)
        self._writer.write(picture[..., ::-1])

    def close(self) -> None:
        if self._writer is None and self._first is not None:
            self._writer = self._opened(self._first[0], ALONE_S)
        if self._writer is not None:
            self._writer.release()

    def _opened(self, first: np.ndarray, shown_s: float) -> cv2.VideoWriter:
        """With the first picture in it."""
        rate, size = 1 / float(np.clip(shown_s, SHORTEST_S, LONGEST_S)), first.shape[1::-1]
        writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter.fourcc(*"mp4v"), round(rate, 2), size)
        if not writer.isOpened():
            raise ResultsError(f"{self._path}: OpenCV cannot write this video")
        writer.write(first[..., ::-1])
        return writer
