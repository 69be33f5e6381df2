"""Recordings: every frame in order, in every container; damaged and hostile files."""

from __future__ import annotations

import wave
from pathlib import Path

import numpy as np
import pytest

from benchmarks.streams.follow import reconciles
from emra_deploy.errors import EmraError
from emra_deploy.stream import Stream, StreamOptions, StreamState
from emra_deploy.stream.run import StreamResult
from emra_deploy.stream.video_sinks import Mp4Sink
from tests.emra_deploy.stream.fakes import label_all
from tests.emra_deploy.stream.videos import number_of, numbered, save_video

av = pytest.importorskip("av")


def read(path: Path, options: StreamOptions | None = None) -> list[StreamResult]:
    with Stream(label_all, str(path), options) as stream:
        results = list(stream)
        assert reconciles(stream.status().counters)
    return results


def refused(path: Path) -> tuple[list[int], EmraError]:
    """The frames that came before the error, and the error."""
    got: list[int] = []
    with Stream(label_all, str(path)) as stream:
        with pytest.raises(EmraError) as caught:
            got.extend(number_of(result.image) for result in stream)
        assert stream.status().state is StreamState.FAILED
    return got, caught.value


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.ts", "libx264"),
        ("a.mov", "mpeg4"),
        ("a.avi", "mjpeg"),
        ("a.webm", "libvpx"),
    ],
)
def test_every_frame_comes_in_order(tmp_path: Path, name: str, codec: str) -> None:
    # B-frames are stored in another order than they are shown.
    options = {"bf": "2"} if codec == "libx264" else {}
    results = read(save_video(tmp_path / name, 40, codec=codec, options=options))
    assert [number_of(result.image) for result in results] == list(range(40))
    assert [result.frame.time for result in results] == pytest.approx([number / 10 for number in range(40)], abs=0.002)


def test_one_in_n(tmp_path: Path) -> None:
    results = read(save_video(tmp_path / "a.mp4", 20), StreamOptions(every=7))
    assert [number_of(result.image) for result in results] == [0, 7, 14]


@pytest.mark.parametrize("name", ["a:b.mp4", "concat:a.mp4", "http:x.mp4", "%03d.mp4", "-i.mp4", "ü 1.mp4"])
def test_names_are_names_and_not_protocols(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save_video(tmp_path / "plain.mp4", 3).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read(Path(name))) == 3


def test_colours_are_those_of_the_picture(tmp_path: Path) -> None:
    colours = [(20, 60, 200), (190, 160, 110), (230, 40, 40)]
    pictures = [np.full((48, 64, 3), colour, np.uint8) for colour in colours]
    for result, colour in zip(read(save_video(tmp_path / "a.mp4", pictures)), colours, strict=True):
        np.testing.assert_allclose(result.image[24, 32].astype(int), colour, atol=6)


def test_colours_of_high_definition_are_too(tmp_path: Path) -> None:
    """Marked as BT.709, as overlays are: the other matrix would be wrong by 19."""
    output = Mp4Sink(tmp_path / "a.mp4")
    output.write(np.full((48, 64, 3), (190, 60, 110), np.uint8), 0.0)
    output.close()
    [result] = read(tmp_path / "a.mp4")
    np.testing.assert_allclose(result.image[24, 32].astype(int), (190, 60, 110), atol=4)


def test_a_recording_on_its_side_is_set_upright(tmp_path: Path) -> None:
    """Against FFmpeg's own program, which turns pictures as their display matrix says."""
    import shutil
    import subprocess

    if shutil.which("ffmpeg") is None:
        pytest.skip("no ffmpeg to write and apply a display matrix")
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:24, :32] = 255
    save_video(tmp_path / "plain.mp4", [upright] * 3)
    command = ["ffmpeg", "-v", "error", "-i", "plain.mp4", "-c", "copy", "-metadata:s:v:0", "rotate=90", "turned.mp4"]
    subprocess.run(command, check=True, cwd=tmp_path)
    subprocess.run(["ffmpeg", "-v", "error", "-i", "turned.mp4", "-frames:v", "1", "one.png"], check=True, cwd=tmp_path)
    from PIL import Image

    with Image.open(tmp_path / "one.png") as picture:
        expected = np.asarray(picture.convert("RGB"))
    [first, *_] = read(tmp_path / "turned.mp4")
    assert expected.shape == (64, 48, 3)
    assert first.image.shape == expected.shape
    assert np.abs(first.image.astype(int) - expected).mean() < 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.mp4", b""),
        ("text.mp4", b"this is no video" * 100),
        ("noise.mkv", np.random.default_rng(0).bytes(20_000)),
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    got, error = refused(tmp_path / name)
    assert got == []
    assert error.code == "video-format"
    assert error.path == str(tmp_path / name)


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    container = av.open(str(tmp_path / "a.mkv"), "w")
    stream = container.add_stream("pcm_s16le", rate=8000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
    frame.rate = 8000
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))
    container.close()
    assert refused(tmp_path / "a.mkv")[1].code == "video-no-stream"
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(8000))
    assert refused(tmp_path / "a.wav")[1].code == "video-format"


def test_a_file_that_lacks_its_index_is_refused(tmp_path: Path) -> None:
    path = save_video(tmp_path / "a.mp4", 40)
    path.write_bytes(path.read_bytes()[:-600])
    got, error = refused(path)
    assert got == []
    assert error.code in ("video-format", "video-codec")


def test_what_can_be_read_of_a_file_that_breaks_off_is_delivered_and_then_said(tmp_path: Path) -> None:
    """The index comes first, and the pictures end too early."""
    noise = np.random.default_rng(0).integers(0, 60, (40, 48, 64, 3), np.uint8)
    pictures = [
        np.clip(numbered(number).astype(int) + noise[number] - 30, 0, 255).astype(np.uint8) for number in range(40)
    ]
    path = save_video(tmp_path / "a.mp4", pictures, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    got, error = refused(path)
    assert got == list(range(len(got)))
    assert 5 < len(got) < 40
    assert error.code == "video-truncated"


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_a_scratch_costs_no_more_than_one_group_of_pictures_and_is_reported(tmp_path: Path, place: float) -> None:
    path = save_video(tmp_path / "a.mp4", 60, gop=10, container_options={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    pictures = content.index(b"mdat")
    middle = pictures + int(place * (len(content) - pictures))
    content[middle : middle + 30] = bytes(30)
    path.write_bytes(bytes(content))
    with Stream(label_all, str(path)) as stream:
        results = list(stream)
    right = [number_of(result.image) for result in results if not result.frame.damaged]
    # Those that are not marked are what they should be.
    assert right == [round(result.frame.time * 10) for result in results if not result.frame.damaged]
    assert 45 <= len(right) < 60
    counters = stream.status().counters
    assert counters.bad_packets > 0
    assert counters.damaged == len(results) - len(right)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mjpeg"), ("a.webm", "libvpx")])
def test_whole_files_have_no_bad_packets(tmp_path: Path, name: str, codec: str) -> None:
    path = save_video(tmp_path / name, 30, codec=codec, options={"bf": "2"} if codec == "libx264" else {})
    with Stream(label_all, str(path)) as stream:
        assert len(list(stream)) == 30
    assert stream.status().counters.bad_packets == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile canary.mp4\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:4,\ncanary.ts\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:4,\ncanary.ts\n#EXT-X-ENDLIST\n"),
        ("list.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"),
        ("list.mpd", '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>'),
    ],
)
def test_a_file_cannot_make_this_machine_open_others(tmp_path: Path, name: str, content: str) -> None:
    save_video(tmp_path / "canary.mp4", 3)
    save_video(tmp_path / "canary.ts", 3)
    (tmp_path / name).write_text(content)
    got, error = refused(tmp_path / name)
    assert got == []
    assert error.code == "video-format"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_video(tmp_path / "a.mp4", 3)
    monkeypatch.setattr("emra_deploy.host.files.os.access", lambda *_: False)
    with pytest.raises(EmraError) as caught:
        Stream(label_all, str(path))
    assert caught.value.code == "input-unreadable"


def test_without_pyav_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_video(tmp_path / "a.mp4", 3)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(EmraError, match=r"pip.* install .*av>=14") as caught:
        Stream(label_all, str(path))
    assert caught.value.code == "library-missing"
