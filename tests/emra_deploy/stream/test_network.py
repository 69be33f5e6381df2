"""Real streams over the loopback: joined, lost, stalled and changed."""

from __future__ import annotations

import http.server
import logging
import signal
import socket
import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.streams.follow import Follower, reconciles
from emra_deploy.errors import EmraError
from emra_deploy.stream import Stream, StreamOptions, StreamState
from emra_deploy.stream.run import StreamResult
from tests.emra_deploy.stream.fakes import label_all, wait_for
from tests.emra_deploy.stream.senders import (
    HttpSender,
    RtspServer,
    free_port,
    require_rtsp_server,
    transport_stream,
    udp_sender,
)
from tests.emra_deploy.stream.videos import number_of, save_video

pytest.importorskip("av")

QUICK = StreamOptions(stall_after=0.3, timeout=0.6)


class Following(Follower):
    """The follower of the benchmarks, which keeps all results and checks the counters at the end."""

    def __init__(self, source: str, options: StreamOptions = QUICK) -> None:
        self.results: list[StreamResult] = []
        super().__init__(Stream(label_all, source, options), self.results.append)

    def more(self, count: int = 3, such: Callable[[StreamResult], bool] = lambda _: True) -> None:
        """Wait until some more results have come."""
        start = len(self.results)
        self.wait(lambda: sum(map(such, self.results[start:])) >= count, "results")

    def close(self) -> None:
        super().close()
        assert not self.thread.is_alive()
        assert reconciles(self.stream.status().counters)


def test_http_newer_and_newer_frames_come() -> None:
    with HttpSender() as sender, Following(sender.url) as follower:
        follower.more(20)
        # Numbers start again after 255.
        steps = [number_of(result.image) for result in follower.results[:20]]
        assert all(0 < (after - before) % 256 < 128 for before, after in pairwise(steps))
        assert follower.stream.status().state is StreamState.RUNNING


def test_a_sender_that_dies_is_waited_for_and_resumed() -> None:
    with HttpSender() as sender, Following(sender.url) as follower:
        follower.more()
        for connections in (2, 3):
            sender.cut()
            follower.wait_state(StreamState.DEGRADED)
            tries = follower.stream.status().counters.attempts
            wait_for(lambda tries=tries: follower.stream.status().counters.attempts > tries)
            sender.start()
            follower.more(such=lambda result, wanted=connections: result.frame.connection == wanted)
        assert follower.stream.status().state is StreamState.RUNNING
        reasons = " ".join(change.reason for change in follower.stream.changes())
        assert "connection refused; reconnecting" in reasons
        assert "secret" not in reasons


def test_a_sender_that_stalls_is_noticed_and_the_same_connection_goes_on() -> None:
    options = StreamOptions(stall_after=0.2, timeout=30)
    with HttpSender() as sender, Following(sender.url, options) as follower:
        follower.more()
        sender.stalled.set()
        follower.wait_state(StreamState.DEGRADED)
        sender.stalled.clear()
        follower.wait_state(StreamState.RUNNING)
        follower.more()
        assert {result.frame.connection for result in follower.results} == {1}
        assert follower.stream.status().counters.stalls == 1


def test_a_stall_that_lasts_is_answered_by_a_new_connection() -> None:
    with HttpSender() as sender, Following(sender.url) as follower:
        follower.more()
        sender.stalled.set()
        wait_for(lambda: sender.requests >= 2, "a second request")
        sender.stalled.clear()
        follower.more(such=lambda result: result.frame.connection >= 2)


def test_a_camera_that_changes_its_size_goes_on() -> None:
    with HttpSender() as sender, Following(sender.url) as follower:
        follower.more()
        sender.size = (64, 128)
        follower.more(such=lambda result: result.labels.shape == (64, 128))
        resized = [result for result in follower.results if result.frame.resized]
        assert [result.frame.image.shape for result in resized] == [(64, 128, 3)]
        assert follower.stream.status().counters.resizes == 1
        assert follower.stream.status().size == (64, 128)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ("401 Unauthorized", "stream-refused"),
        ("403 Forbidden", "stream-refused"),
        ("404 Not Found", "stream-not-found"),
    ],
)
def test_a_server_that_says_no_is_believed(status: str, code: str) -> None:
    with HttpSender() as sender:
        sender.status = status
        with Following(sender.url) as follower:
            wait_for(lambda: follower.error is not None)
    assert isinstance(follower.error, EmraError)
    assert follower.error.code == code
    assert "secret" not in str(follower.error)
    assert follower.error.path == f"http://***@127.0.0.1:{sender.port}/video"


def test_a_server_in_trouble_is_tried_again() -> None:
    with HttpSender() as sender:
        sender.status = "503 Service Unavailable"
        with Following(sender.url) as follower:
            wait_for(lambda: sender.requests >= 2)
            assert follower.stream.status().state is StreamState.CONNECTING
            sender.status = "200 OK"
            follower.more()


def test_a_server_that_answers_nothing_is_left_in_time() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, Following(f"http://127.0.0.1:{listener.getsockname()[1]}/", StreamOptions(timeout=0.2)) as it:
        wait_for(lambda: it.stream.status().counters.attempts >= 2)
        assert "no answer in time" in it.stream.status().reason
        it.stream.stop()
        it.thread.join(20)
        assert not it.thread.is_alive()


def test_nothing_of_ffmpeg_s_own_words_shows_the_password(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Following(f"rtsp://user:secret@127.0.0.1:{free_port()}/live") as follower:
        wait_for(lambda: follower.stream.status().counters.attempts >= 2)
    assert "secret" not in caplog.text
    assert "rtsp://***@127.0.0.1" in caplog.text


def test_udp_is_joined_in_the_middle_and_found_again(tmp_path: Path) -> None:
    port = free_port(socket.SOCK_DGRAM)
    content = transport_stream(tmp_path)
    content = content[len(content) // 3 // 188 * 188 :]
    with udp_sender(content, port) as stalled, Following(f"udp://127.0.0.1:{port}") as follower:
        follower.more()
        stalled.set()
        follower.wait_state(StreamState.DEGRADED)
        wait_for(lambda: "no data in time" in follower.stream.status().reason)
        stalled.clear()
        follower.more(such=lambda result: result.frame.connection >= 2)
        assert all(number_of(result.image) < 50 for result in follower.results)


def test_tcp_can_be_read_as_a_recording_every_frame_in_order(tmp_path: Path) -> None:
    content = transport_stream(tmp_path)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(content)

    threading.Thread(target=serve, daemon=True).start()
    with (
        listener,
        Stream(label_all, f"tcp://127.0.0.1:{listener.getsockname()[1]}", StreamOptions(live=False)) as it,
    ):
        assert [number_of(result.image) for result in it] == list(range(50))


def test_a_recording_on_a_web_server_is_read_in_order_or_not_at_all(tmp_path: Path) -> None:
    save_video(tmp_path / "a.mp4", 20, container_options={"movflags": "faststart"})
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{web.server_port}/a.mp4"
        with (
            Stream(label_all, url) as stream,
            pytest.raises(EmraError, match=r"recording of 2\.0 s") as caught,
        ):
            next(stream)
        with Stream(label_all, url, StreamOptions(live=False)) as stream:
            got = [number_of(result.image) for result in stream]
        web.shutdown()
    assert caught.value.code == "stream-recorded"
    assert got == list(range(20))


@pytest.mark.parametrize("device", ["/dev/null", "/dev/zero"])
def test_a_device_that_is_no_camera_is_refused(device: str) -> None:
    with Stream(label_all, device) as stream, pytest.raises(EmraError, match="not a camera") as caught:
        next(stream)
    assert caught.value.code == "camera-missing"


@pytest.fixture
def server() -> RtspServer:
    require_rtsp_server()
    return RtspServer()


def test_rtsp_is_cut_and_resumed_with_another_size(server: RtspServer) -> None:
    with server, Following(server.url, StreamOptions(stall_after=0.3)) as follower:
        follower.more(10)
        server.kill()
        follower.wait_state(StreamState.DEGRADED)
        server.start(width=96)
        follower.more(such=lambda result: result.frame.connection == 2 and result.frame.width == 96)
        assert sum(result.frame.resized for result in follower.results) == 1


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_rtsp_stalls_and_goes_on(server: RtspServer, transport: str) -> None:
    with server, Following(server.url, StreamOptions(stall_after=0.3, rtsp_transport=transport)) as follower:
        follower.more(10)
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        follower.wait_state(StreamState.DEGRADED)
        server.process.send_signal(signal.SIGCONT)
        follower.more(10)
        assert follower.stream.status().state is StreamState.RUNNING
