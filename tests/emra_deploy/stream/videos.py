"""Small real videos whose pictures say which frame they are."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import numpy as np

from tests.emra_deploy.stream.http_sender import number_of, numbered

__all__ = ["number_of", "numbered", "numbers_in", "read_video", "save_video"]


def save_video(
    path: Path | str,
    frames: int | Iterable[np.ndarray] = 20,
    fps: int = 10,
    codec: str = "libx264",
    gop: int = 5,
    form: str | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Write a video of numbered pictures, or of those given."""
    import av

    pictures = (numbered(number) for number in range(frames)) if isinstance(frames, int) else frames
    with av.open(str(path), "w", format=form, options=container_options or {}) as container:
        stream = None
        for index, picture in enumerate(pictures):
            if stream is None:
                defaults = {"preset": "ultrafast", "threads": "1"} if codec == "libx264" else {}
                stream = container.add_stream(codec, rate=fps, options={**defaults, **(options or {})})
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
                stream.codec_context.gop_size = gop
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, fps)
            container.mux(stream.encode(frame))
        assert stream is not None
        container.mux(stream.encode(None))
    return Path(path)


def read_video(path: Path) -> list[tuple[float, np.ndarray]]:
    """Time and picture of each frame, as PyAV reads them."""
    import av

    with av.open(str(path)) as container:
        # The matrix is for PyAV 15 and 16, which are wrong by default.
        return [
            (float(frame.time), frame.reformat(format="rgb24", dst_colorspace="ITU601").to_ndarray())
            for frame in container.decode(video=0)
        ]


def numbers_in(path: Path) -> list[int]:
    """The numbers of a video's pictures."""
    return [number_of(image) for _, image in read_video(path)]
