"""Parsing of stream addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from emra_deploy.errors import EmraError
from emra_deploy.stream.opening import SCHEMES, find_source, parse_address
from emra_deploy.stream.options import StreamOptions
from emra_deploy.stream.source import Kind, redact


def test_a_file_is_a_recording_with_an_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a b.mp4").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    address = parse_address("a b.mp4")
    assert (address.kind, address.live, address.target) == (Kind.FILE, False, str(tmp_path / "a b.mp4"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_network_protocols_are_live(scheme: str) -> None:
    address = parse_address(f"{scheme.upper()}://127.0.0.1:5000/x")
    assert (address.kind, address.live, address.target) == (Kind.NETWORK, True, f"{scheme}://127.0.0.1:5000/x")


def test_a_port_alone_is_enough_for_udp() -> None:
    assert parse_address("udp://@:5000").kind is Kind.NETWORK


def test_a_pipeline_is_live() -> None:
    address = parse_address("gst: videotestsrc ! queue ")
    assert (address.kind, address.live, address.target) == (Kind.GSTREAMER, True, "videotestsrc ! queue")


def test_a_character_device_is_a_camera() -> None:
    address = parse_address("/dev/null")
    assert (address.kind, address.live) == (Kind.CAMERA, True)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "stream-source"),
        ("  ", "stream-source"),
        ("a\0b", "stream-source"),
        ("gst:", "stream-source"),
        ("rtsp://", "stream-source"),
        ("rtsp:///path", "stream-source"),
        ("http://host:port/", "stream-source"),
        ("http://[::1/", "stream-source"),
        ("ftp://host/x.mp4", "stream-protocol"),
        ("concat://a|b", "stream-protocol"),
        ("file:///etc/passwd", "stream-protocol"),
        ("subfile,,start,0,end,9,,:/etc/passwd", "input-missing"),
        ("concat:a.ts|b.ts", "input-missing"),
        ("camera:77", "camera-missing"),
        ("/dev/video77", "camera-missing"),
        ("missing.mp4", "input-missing"),
        ("/tmp", "input-is-folder"),
    ],
)
def test_what_is_no_source_is_refused(text: str, code: str) -> None:
    with pytest.raises(EmraError) as caught:
        parse_address(text)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://user:secret@host/live", "rtsp://***@host/live"),
        ("rtsp://user:s@cret@host/live", "rtsp://***@host/live"),
        ("RTSP://u:secret@h:554/a?x=1", "RTSP://***@h:554/a?x=1"),
        ("srt://h:1?passphrase=secret&mode=caller", "srt://h:1?passphrase=***&mode=caller"),
        ("rtspsrc location=rtsp://u:secret@h/x ! decodebin", "rtspsrc location=rtsp://***@h/x ! decodebin"),
        ("rtsp://host/a@b", "rtsp://host/a@b"),
        ("/data/me@home.mp4", "/data/me@home.mp4"),
    ],
)
def test_passwords_are_never_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_errors_do_not_show_passwords() -> None:
    with pytest.raises(EmraError) as caught:
        parse_address("ftp://user:secret@host/x")
    assert "secret" not in str(caught.value)


def test_a_file_cannot_be_live(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"x")
    with pytest.raises(EmraError, match="live"):
        find_source(str(tmp_path / "a.mp4"), StreamOptions(live=True))


def test_other_objects_are_no_source() -> None:
    with pytest.raises(EmraError, match="int was given"):
        find_source(3, StreamOptions())  # type: ignore[arg-type]
