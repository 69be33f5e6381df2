"""Frames out of files, cameras and networks, by PyAV (FFmpeg)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from emra_deploy.errors import EmraError
from emra_deploy.host.extras import need
from emra_deploy.stream.address import Address, Kind
from emra_deploy.stream.frames import Grab, Picture
from emra_deploy.stream.options import StreamOptions
from emra_deploy.stream.video_errors import translate

FILE_FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,h264,hevc,obu,ivf,mjpeg,ogg,asf,mxf,nut,yuv4mpegpipe,m4v,rm,wtv"
)
"""Demuxers that files may use. Playlists (HLS, concat, SDP, ...) are not among them: a downloaded file must not be
able to make this machine read other files or open connections."""

_ONE_FRAME_A_PACKET = ("h264", "hevc", "mjpeg")
"""Decoders that give a frame for every packet of a file with an index, if nothing is wrong."""

TORN_FOR = 120
"""Frames after a damaged packet that count as damaged unless a keyframe comes: decoders patch holes with older
pictures and mark only the first of them. Encoders that refresh bit by bit never send a keyframe, hence the end."""

_SHORT = 0.5
_SHORT_FRAMES = 3
"""A video that ends so many seconds, and frames, before its time is broken."""


def load_av() -> Any:
    """The module ``av``.

    Raises:
        EmraError: ``missing-library``.
    """
    need("video", "av", purpose="video (PyAV)", code="missing-library")
    return import_module("av")


class VideoSource:
    """One connection to a file, camera or network stream.

    Args:
        address: What to open.
        options: Time-outs and transport.

    Raises:
        SourceLostError: When it cannot be reached now.
        EmraError: ``video-format``, ``video-no-stream``, ``video-codec``, ``stream-refused``, ``camera-missing``, ...
    """

    def __init__(self, address: Address, options: StreamOptions) -> None:
        self._av = load_av()
        self._address = address
        self._bad_packets = 0
        self._torn = 0
        self._file = address.kind is Kind.FILE
        url, form, demuxer = _demuxer_options(address, options)
        # A file's reads end by themselves; a time-out would turn a slow disk into a damaged file.
        timeout = None if self._file else (options.open_timeout, options.read_timeout)
        try:
            self._container = self._av.open(url, "r", format=form, options=demuxer, timeout=timeout)
        except (self._av.FFmpegError, OSError, ValueError, UnicodeError) as error:
            raise translate(error, address, opening=True, with_options=bool(options.input_options)) from error
        try:
            if options.live is None:
                self._check_live()
            self._video = self._choose_stream()
        except BaseException:
            self.close()
            raise
        self._frames = self._decoded()

    def grab(self) -> Grab | None:
        """The next frame; None at the end."""
        frame = next(self._frames, None)
        if frame is None:
            return None
        stamp = None if frame.time is None else float(frame.time)
        rotation = int(getattr(frame, "rotation", 0)) if self._file else 0
        size = (frame.width, frame.height) if rotation % 180 else (frame.height, frame.width)
        return Grab(partial(_picture, frame, rotation), size, stamp, self._is_torn(frame))

    def _is_torn(self, frame: Any) -> bool:
        """Whether parts of a frame are missing, or made up of others that are missing."""
        if frame.key_frame:
            self._torn = 0
        torn = bool(frame.is_corrupt) or self._torn > 0
        self._torn = max(0, self._torn - 1)
        return torn

    def take_bad_packets(self) -> int:
        """How many packets came damaged since the last call."""
        count, self._bad_packets = self._bad_packets, 0
        return count

    def close(self) -> None:
        """Close the connection."""
        self._container.close()

    def _check_live(self) -> None:
        """Refuse a recording on a web server, which would be skimmed, and then skimmed again and again."""
        duration = self._container.duration
        if self._address.target.startswith(("http:", "https:")) and duration:
            raise EmraError(
                "stream-recorded",
                f"a recording of {duration / self._av.time_base:.1f} s, not a live picture",
                "Read it in order: --in-order, or StreamOptions(live=False)",
                self._address.shown,
            )

    def _choose_stream(self) -> Any:
        videos = [
            stream
            for stream in self._container.streams.video
            # A cover picture of a sound file is a video stream of one frame.
            if not self._is_cover(stream)
        ]
        if not videos:
            raise EmraError(
                "video-no-stream",
                "there is no video in it",
                "Give a source that has pictures",
                self._address.shown,
            )
        video = videos[0]
        if video.codec_context is None:
            raise EmraError(
                "video-codec",
                "its video is of a kind that this FFmpeg cannot decode, or its index is damaged",
                "Check that it plays; convert it to H.264, or install another build of PyAV",
                self._address.shown,
            )
        # Frame threads are fast and hold back a frame each, which a live picture must not.
        video.thread_type = "AUTO" if self._file else "SLICE"
        return video

    def _is_cover(self, stream: Any) -> bool:
        disposition = getattr(stream, "disposition", None)
        return disposition is not None and bool(disposition & type(disposition).attached_pic)

    def _decoded(self) -> Iterator[Any]:
        packets, silent, end = 0, 0, 0.0
        try:
            for packet in self._container.demux(self._video):
                bad = bool(packet.is_corrupt)
                if packet.dts is not None:
                    packets, end = packets + 1, float((packet.dts + (packet.duration or 0)) * packet.time_base)
                    # Packets that an edit of the file hides are decoded for others' sake.
                    silent += not (bad or packet.is_discard)
                try:
                    for frame in packet.decode():
                        silent -= 1
                        yield frame
                except self._av.InvalidDataError:
                    # A live stream is joined in the middle and loses packets; a file may be scratched.
                    silent -= not bad
                    bad = True
                if bad:
                    self._bad_packets += 1
                    self._torn = TORN_FOR
        except (self._av.FFmpegError, OSError) as error:
            raise translate(error, self._address, opening=False) from error
        if self._file:
            if self._video.frames and self._video.codec_context.name in _ONE_FRAME_A_PACKET:
                # Frames whose references are gone are withheld by the decoder without a word.
                self._bad_packets += max(0, silent)
            self._check_end(packets, end)

    def _check_end(self, packets: int, end: float) -> None:
        """Compare what was read with what the file's index promises, as MP4, MOV and AVI do.

        FFmpeg ends such a file without a word. Both the number and the time have to be short of what they should be,
        because edits of a file may hide some of its frames.
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
                "Copy it again; what came before is right",
                self._address.shown,
            )


def _picture(frame: Any, rotation: int) -> Picture:
    """A decoded frame as uint8 H×W×3 RGB, upright."""
    # The second matrix is of no use for RGB, but PyAV 15 and 16 take it for the first one unless it is given.
    image: Picture = frame.reformat(format="rgb24", dst_colorspace="ITU601").to_ndarray()
    if rotation % 360:
        # FFmpeg counts the rotation that the picture needs counter-clockwise, as does rot90.
        image = np.ascontiguousarray(np.rot90(image, round(rotation / 90)))
    return image


def _demuxer_options(address: Address, options: StreamOptions) -> tuple[str, str | None, dict[str, str]]:
    """URL, format and options for FFmpeg."""
    own = dict(options.input_options)
    if address.kind is Kind.FILE:
        # "file:" keeps FFmpeg from taking a name such as "concat:a|b" for a protocol.
        return (
            f"file:{address.target}",
            None,
            {
                "format_whitelist": FILE_FORMATS,
                "protocol_whitelist": "file",
                **own,
            },
        )
    if address.kind is Kind.CAMERA:
        return address.target, "v4l2", {"avioflags": "direct", **own}
    # nobuffer throws away what was read to find out what the stream is, which a recording needs.
    recorded = options.live is False
    # fpsprobesize: without frames read only to guess their rate, a connection stands half a second earlier.
    low_delay = {} if recorded else {"fflags": "nobuffer", "fpsprobesize": "0", "analyzeduration": "1000000"}
    scheme = address.target.partition(":")[0]
    if scheme in ("rtsp", "rtsps"):
        low_delay |= {"rtsp_transport": options.rtsp_transport, "allowed_media_types": "video"}
    if scheme in ("udp", "rtp"):
        # A burst shall cost packets, not the connection.
        low_delay |= {"overrun_nonfatal": "1", "fifo_size": "50000"}
    return address.target, None, {**low_delay, **own}
