"""Frames from files, cameras and networks, read by PyAV (FFmpeg)."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.stream.options import StreamOptions
from emra_deploy.stream.source import Address, Frame, Image, Kind, SourceLostError

logger = logging.getLogger(__name__)

FILE_FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,h264,hevc,obu,ivf,mjpeg,ogg,asf,mxf,nut,yuv4mpegpipe,m4v,rm,wtv"
)
"""Demuxers that may read files. Playlists (HLS, concat, SDP, ...) are left out: a downloaded file must not be able to
make this machine read other files or open connections."""

_RAW_FORMATS = ("h264", "hevc", "obu", "mjpeg", "m4v", "mpegvideo")
"""Demuxers of files that hold no times. Where FFmpeg gives some, it counts at `_ASSUMED_RATE`."""

_ASSUMED_RATE = 25
"""Frames per second of a raw stream that does not say it."""

_ONE_FRAME_A_PACKET = ("h264", "hevc", "mjpeg")
"""Decoders that give one frame for each packet of an intact file with an index."""

TORN_FOR = 120
"""Frames after a damaged packet that count as damaged until a keyframe comes. Decoders conceal a gap with older images
and flag only the first of them. The limit is for encoders with gradual refresh, which never send a keyframe."""

_SHORT, _SHORT_FRAMES = 0.5, 3
"""Seconds and frames that a video must be short of its promised length to count as truncated."""


def load_av() -> Any:
    """The module ``av``.

    Raises:
        EmraError: ``library-missing``.
    """
    need("video", "av", purpose="video (PyAV)")
    return import_module("av")


class VideoConnection:
    """One connection to a file, camera or network stream.

    Args:
        address: What to open.
        options: Time limit, transport and demuxer options.

    Attributes:
        bad_packets: Damaged packets so far, with those that gave no frame because others are missing.

    Raises:
        SourceLostError: If it cannot be reached now.
        EmraError: ``video-format``, ``video-no-stream``, ``video-codec``, ``stream-refused``, ``camera-missing``, ...
    """

    def __init__(self, address: Address, options: StreamOptions) -> None:
        self._av = load_av()
        self._address = address
        self._file = address.kind is Kind.FILE
        self._torn = 0
        self.bad_packets = 0
        url, form, demuxer = _demuxer(address, options)
        # Reading a file always ends; a time limit would make a slow disk look like a damaged file.
        timeout = None if self._file else options.timeout
        try:
            self._container = self._av.open(url, "r", format=form, options=demuxer, timeout=timeout)
        except (self._av.FFmpegError, OSError, ValueError, UnicodeError) as error:
            raise _translate(error, address, opening=True, with_options=bool(options.input_options)) from error
        try:
            if options.live is None:
                self._check_live()
            self._video = self._choose_stream()
        except BaseException:
            self.close()
            raise
        self._frames = self._decode()
        self._rate = self._counted_rate(options) if self._file or options.live is False else None
        self._count = 0

    def read(self) -> Frame | None:
        """The next frame; None at the end."""
        frame = next(self._frames, None)
        if frame is None:
            return None
        stamp = None if frame.time is None else float(frame.time)
        if self._rate is not None:
            stamp, self._count = self._count / self._rate, self._count + 1
        rotation = int(getattr(frame, "rotation", 0)) if self._file else 0
        size = (frame.width, frame.height) if rotation % 180 else (frame.height, frame.width)
        return Frame(partial(_image, frame, rotation), size, stamp, self._is_torn(frame))

    def close(self) -> None:
        """Close the connection."""
        self._container.close()

    def _counted_rate(self, options: StreamOptions) -> float | None:
        """Frames per second of a recording that holds no times, or None where frames have theirs."""
        context, form = self._video.codec_context, self._container.format.name
        # AVI numbers packets, whose order is another one than that of frames where there are B-frames.
        avi = form == "avi" and context.has_b_frames
        if form not in _RAW_FORMATS and not avi:
            return None
        told = self._video.average_rate if avi or "framerate" in options.demuxer else context.framerate
        if told:
            return float(told)
        if options.fps is None:
            logger.warning(
                "%s: raw %s without times or frame rate; %d frames per second are assumed (set it by --fps)",
                self._address.shown,
                context.name,
                _ASSUMED_RATE,
            )
        return _ASSUMED_RATE

    def _is_torn(self, frame: Any) -> bool:
        """Whether parts of a frame are missing, or predicted from missing ones."""
        if frame.key_frame:
            self._torn = 0
        torn = bool(frame.is_corrupt) or self._torn > 0
        self._torn = max(0, self._torn - 1)
        return torn

    def _check_live(self) -> None:
        """Refuse a recording on a web server: read as live, it would be skimmed again and again."""
        duration = self._container.duration
        if self._address.target.startswith(("http:", "https:")) and duration:
            seconds = duration / self._av.time_base
            raise EmraError(
                "stream-recorded",
                f"a recording of {seconds:.1f} s, not a live stream",
                "Read it in order: --in-order, or StreamOptions(live=False)",
                self._address.shown,
            )

    def _choose_stream(self) -> Any:
        # The cover image of a sound file is a video stream of one frame.
        videos = [stream for stream in self._container.streams.video if not _is_cover(stream)]
        if not videos:
            cause = "there is no video in it"
            raise EmraError("video-no-stream", cause, "Give a source that has video", self._address.shown)
        video = videos[0]
        if video.codec_context is None:
            raise EmraError(
                "video-codec",
                "this FFmpeg cannot decode its codec, or its index is damaged",
                "Check that it plays; convert it to H.264, or install another build of PyAV",
                self._address.shown,
            )
        # Frame threads are faster but delay the output by a frame each, which live video must not.
        video.thread_type = "AUTO" if self._file else "SLICE"
        return video

    def _decode(self) -> Iterator[Any]:
        packets, silent, end = 0, 0, 0.0
        try:
            for packet in self._container.demux(self._video):
                bad = bool(packet.is_corrupt)
                if packet.dts is not None:
                    packets, end = packets + 1, float((packet.dts + (packet.duration or 0)) * packet.time_base)
                    # Packets that an edit list hides are decoded only as references.
                    silent += not (bad or packet.is_discard)
                try:
                    for frame in packet.decode():
                        silent -= 1
                        yield frame
                except self._av.InvalidDataError:
                    # A live stream is joined in the middle and loses packets; a file may be damaged in places.
                    silent -= not bad
                    bad = True
                if bad:
                    self.bad_packets += 1
                    self._torn = TORN_FOR
        except (self._av.FFmpegError, OSError) as error:
            raise _translate(error, self._address, opening=False) from error
        if self._file:
            if self._video.frames and self._video.codec_context.name in _ONE_FRAME_A_PACKET:
                # The decoder drops frames whose references are missing without reporting it.
                self.bad_packets += max(0, silent)
            self._check_end(packets, end)

    def _check_end(self, packets: int, end: float) -> None:
        """Compare what was read with the index of an MP4, MOV or AVI, which FFmpeg does not do.

        Both the frame count and the duration have to fall short, because an edit list may hide some frames.
        """
        video = self._video
        if not video.frames or packets >= video.frames or video.duration is None:
            return
        start = float((video.start_time or 0) * video.time_base)
        missing = start + float(video.duration * video.time_base) - end
        if missing > max(_SHORT, _SHORT_FRAMES / float(video.average_rate or 30)):
            raise EmraError(
                "video-truncated",
                f"the video breaks off: {packets} of {video.frames} frames are there, and were read",
                "Copy it again; the frames before the break are right",
                self._address.shown,
            )


def _is_cover(stream: Any) -> bool:
    disposition = getattr(stream, "disposition", None)
    return disposition is not None and bool(disposition & type(disposition).attached_pic)


def _image(frame: Any, rotation: int) -> Image:
    """A decoded frame as uint8 H×W×3 RGB, upright."""
    # The destination matrix has no meaning for RGB, but PyAV 15 and 16 use it for the source unless it is given.
    image: Image = frame.reformat(format="rgb24", dst_colorspace="ITU601").to_ndarray()
    if rotation % 360:
        # FFmpeg gives the rotation to apply, counter-clockwise, as rot90 does.
        image = np.ascontiguousarray(np.rot90(image, round(rotation / 90)))
    return image


def _demuxer(address: Address, options: StreamOptions) -> tuple[str, str | None, dict[str, str]]:
    """URL, format and demuxer options for FFmpeg."""
    own = options.demuxer
    if address.kind is Kind.FILE:
        # "file:" keeps FFmpeg from taking a name such as "concat:a|b" for a protocol.
        return f"file:{address.target}", None, {"format_whitelist": FILE_FORMATS, "protocol_whitelist": "file", **own}
    if address.kind is Kind.CAMERA:
        return address.target, "v4l2", {"avioflags": "direct", **own}
    # nobuffer discards what was read to probe the stream, which a recording needs. fpsprobesize=0: no frames are read
    # only to guess the frame rate, which saves half a second for each connection.
    recorded = options.live is False
    ours = {} if recorded else {"fflags": "nobuffer", "fpsprobesize": "0", "analyzeduration": "1000000"}
    scheme = address.target.partition(":")[0]
    if scheme in ("rtsp", "rtsps"):
        ours |= {"rtsp_transport": options.rtsp_transport, "allowed_media_types": "video"}
    if scheme in ("udp", "rtp"):
        # A burst may cost packets, but not the connection.
        ours |= {"overrun_nonfatal": "1", "fifo_size": "50000"}
    return address.target, None, {**ours, **own}


_FINAL = {
    "HTTPUnauthorizedError": ("stream-refused", "the server requires a user name and password", "Write USER:PASSWORD@"),
    "HTTPForbiddenError": ("stream-refused", "the server denies access", "Check the user name and password"),
    "HTTPNotFoundError": ("stream-not-found", "the server has no such stream", "Check the path in the URL"),
    "HTTPBadRequestError": ("stream-refused", "the server rejects the request as malformed", "Check the URL"),
    "ProtocolNotFoundError": (
        "stream-protocol",
        "this build of FFmpeg lacks the protocol",
        "Use another protocol, or install another build of PyAV",
    ),
    "DecoderNotFoundError": (
        "video-codec",
        "this FFmpeg cannot decode its codec",
        "Convert it to H.264, or install another build of PyAV",
    ),
    "OptionNotFoundError": ("stream-option", "FFmpeg does not know one of the input options", "Correct them"),
}
"""Errors at the first connection that reconnecting does not mend, by the name of PyAV's class."""

_NO_CAMERA = ("camera-missing", "not a camera", "List cameras with: ls /dev/video*")
_CAMERA_DENIED = ("camera-refused", "no permission to use this camera", "Add yourself to the group video")
_CAMERA = {
    **dict.fromkeys((errno.ENOTTY, errno.ENXIO, errno.ENODEV), _NO_CAMERA),
    **dict.fromkeys((errno.EACCES, errno.EPERM), _CAMERA_DENIED),
    errno.EINVAL: ("camera-mode", "the camera lacks this size or format", "Correct the input options"),
}
"""The same for cameras, by the number of the system's error."""

_OPENING = ("video-format", "not a video file that can be read", "Check that it plays, or copy it again")
_READING = (
    "video-truncated",
    "the video breaks off or is damaged; the frames before that were read",
    "Copy it again, or repair it with: ffmpeg -i VIDEO -c copy REPAIRED.mp4",
)


def _translate(
    error: Exception, address: Address, *, opening: bool, with_options: bool = False
) -> EmraError | SourceLostError:
    """The error to raise for one of PyAV's, whose own text repeats the URL with its password.

    Args:
        error: PyAV's error.
        address: The source.
        opening: Whether the source was being opened rather than read.
        with_options: Whether the caller gave demuxer options.
    """
    number = getattr(error, "errno", None)
    reason = getattr(error, "strerror", None) or type(error).__name__
    if with_options and opening and number in (errno.EINVAL, errno.ERANGE):
        cause = f"the input options do not suit it ({reason})"
        return EmraError("stream-option", cause, "Correct --input-option", address.shown)
    if address.kind is Kind.FILE:
        if number in (errno.EACCES, errno.EPERM):
            return EmraError("input-unreadable", "no permission to read it", "Change its permissions", address.target)
        if number == errno.EIO:
            cause = f"reading failed ({reason}): the file breaks off, or the disk is bad"
            return EmraError("input-read", cause, "Copy it again", address.target)
        return EmraError(*(_OPENING if opening else _READING), address.target)
    if opening and (final := _FINAL.get(type(error).__name__)) is not None:
        return EmraError(*final, address.shown)
    denied = number in (errno.EACCES, errno.EPERM)
    if address.kind is Kind.CAMERA and (opening or denied) and number in _CAMERA:
        code, cause, remedy = _CAMERA[number]
        return EmraError(code, f"{cause} ({reason})", remedy, address.target)
    if type(error).__name__ == "ExitError":
        reason = "no answer in time" if opening else "no data in time"
    return SourceLostError(reason[:1].lower() + reason[1:])
