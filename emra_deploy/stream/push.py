"""Overlays pushed to an RTSP server, such as MediaMTX, for others to watch."""

from __future__ import annotations

import contextlib
import logging
import threading
import time as clock
from typing import Any

from emra_deploy.stream.address import parse_source
from emra_deploy.stream.backoff import Backoff
from emra_deploy.stream.buffer import TICK, FrameBuffer
from emra_deploy.stream.encoder import Encoder
from emra_deploy.stream.frames import Picture
from emra_deploy.stream.status import Ledger
from emra_deploy.stream.video import load_av

logger = logging.getLogger(__name__)

CLOSE_WITHIN = 0.3
"""Seconds that `PushOutput.close` waits for its thread."""


class PushOutput:
    """Publishes pictures by RTSP (ANNOUNCE and RECORD, over TCP).

    It works in a thread of its own, and newer pictures replace those that the network was too slow for: watching must
    never slow down the work. Lost connections are retried with back-off.

    Args:
        url: ``rtsp://`` URL to publish to.

    Raises:
        EmraError: ``missing-library``, ``stream-source``.
    """

    def __init__(self, url: str) -> None:
        self._av = load_av()
        address = parse_source(url)
        self._url, self._shown = address.target, address.shown
        self._pictures: FrameBuffer[tuple[Picture, float]] = FrameBuffer(Ledger(), live=True)
        self._closing = False
        self.written = 0
        self._thread = threading.Thread(target=self._publish, name="emra-stream-push", daemon=True)
        self._thread.start()

    def write(self, image: Picture, time: float) -> bool:
        """Leave a picture to be sent; see `OverlayOutput`. Never waits."""
        self._pictures.put((image, time), lambda: self._closing)
        return True

    def close(self, patience: float | None = None) -> bool:
        """Take leave of the server, unless that takes too long; see `OverlayOutput`."""
        self._closing = True
        self._pictures.finish()
        self._thread.join(CLOSE_WITHIN if patience is None else patience)
        return not self._thread.is_alive()

    def _publish(self) -> None:
        backoff, lost_at = Backoff(), clock.monotonic()
        while not self._closing:
            before = self.written
            try:
                self._publish_once()
            except (self._av.FFmpegError, OSError) as error:
                if self.written > before:
                    backoff.reset()
                    lost_at = clock.monotonic()
                outage = clock.monotonic() - lost_at
                wait = backoff.next_wait(outage)
                reason = getattr(error, "strerror", None) or type(error).__name__
                logger.info("%s: %s; publishing again in %.1f s", self._shown, reason, wait)
                end = clock.monotonic() + wait
                while not self._closing and clock.monotonic() < end:
                    clock.sleep(TICK)

    def _publish_once(self) -> None:
        """Connect with the first picture, and send until the connection breaks or the size changes."""
        container: Any = None
        encoder: Encoder | None = None
        size: tuple[int, ...] = ()
        try:
            while not self._closing:
                try:
                    item = self._pictures.take()
                except StopIteration:
                    return
                if item is None:
                    continue
                image, moment = item
                if encoder is None:
                    size = image.shape
                    options = {"rtsp_transport": "tcp"}
                    container = self._av.open(self._url, "w", format="rtsp", options=options)
                    encoder = Encoder(container, (image.shape[0], image.shape[1]))
                if image.shape != size:
                    return
                for packet in encoder.encode(image, moment):
                    container.mux(packet)
                self.written += 1
        finally:
            if container is not None:
                with contextlib.suppress(self._av.FFmpegError, OSError):
                    container.close()
