"""What FFmpeg's errors mean for a stream: try again, or tell the user."""

from __future__ import annotations

import errno

from emra_deploy.errors import EmraError
from emra_deploy.stream.address import Address, Kind
from emra_deploy.stream.frames import SourceLostError

_FOR_GOOD = {
    "HTTPUnauthorizedError": ("stream-refused", "the server wants a user name and password", "Write USER:PASSWORD@"),
    "HTTPForbiddenError": ("stream-refused", "the server refuses to give it", "Check the user name and password"),
    "HTTPNotFoundError": ("stream-not-found", "the server has no such stream", "Check the path in the URL"),
    "HTTPBadRequestError": ("stream-refused", "the server did not understand the request", "Check the URL"),
    "ProtocolNotFoundError": (
        "stream-protocol",
        "this build of FFmpeg lacks the protocol",
        "Use another protocol, or install another build of PyAV",
    ),
    "DecoderNotFoundError": (
        "video-codec",
        "its video is of a kind that this FFmpeg cannot decode",
        "Convert it to H.264, or install another build of PyAV",
    ),
    "OptionNotFoundError": ("stream-option", "FFmpeg does not know one of the input options", "Correct them"),
}
"""By the name of PyAV's error class."""

_FILE_OPENING = ("video-format", "not a video file that can be read", "Check that it plays, or copy it again")
_FILE_READING = (
    "video-truncated",
    "the video breaks off or is damaged: what came before was read",
    "Copy it again, or repair it with: ffmpeg -i VIDEO -c copy REPAIRED.mp4",
)


def translate(
    error: Exception, address: Address, *, opening: bool, with_options: bool = False
) -> EmraError | SourceLostError:
    """The error to raise in place of one of PyAV's.

    PyAV's own text is never shown, because it repeats the URL with its password.

    Args:
        error: What PyAV raised.
        address: What was being read.
        opening: Whether it was being opened, or was open already.
        with_options: Whether the user gave options for the demuxer.
    """
    code = getattr(error, "errno", None)
    reason = getattr(error, "strerror", None) or type(error).__name__
    if with_options and opening and code in (errno.EINVAL, errno.ERANGE):
        cause = f"the input options do not suit it ({reason})"
        return EmraError("stream-option", cause, "Correct --input-option", address.shown)
    if address.kind is Kind.FILE:
        if code in (errno.EACCES, errno.EPERM):
            return EmraError("input-unreadable", "you may not read this file", "Change its permissions", address.target)
        if code == errno.EIO:
            cause = f"reading failed ({reason}): the file breaks off, or the disk is bad"
            return EmraError("input-read", cause, "Copy it again", address.target)
        return EmraError(*(_FILE_OPENING if opening else _FILE_READING), address.target)
    known = _FOR_GOOD.get(type(error).__name__)
    if known is not None and opening:
        return EmraError(*known, address.shown)
    if address.kind is Kind.CAMERA and code in (errno.EACCES, errno.EPERM):
        return EmraError(
            "camera-refused", "you may not use this camera", "Add yourself to the group video", address.target
        )
    if address.kind is Kind.CAMERA and opening and code in (errno.ENOTTY, errno.ENXIO, errno.ENODEV):
        return EmraError(
            "camera-missing", f"not a camera ({reason})", "List cameras with: ls /dev/video*", address.target
        )
    if address.kind is Kind.CAMERA and opening and code == errno.EINVAL:
        return EmraError(
            "camera-mode", "the camera does not have this size or format", "Correct the input options", address.target
        )
    if type(error).__name__ == "ExitError":
        reason = "no answer in time" if opening else "no data in time"
    return SourceLostError(reason[:1].lower() + reason[1:])
