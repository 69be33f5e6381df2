"""Outputs are whole or absent."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emra_deploy.errors import EmraError
from emra_deploy.host.files import atomic_output, check_input, check_output, instead_of_file


def code_of(function, *args, **kwargs) -> str:
    with pytest.raises(EmraError) as caught:
        function(*args, **kwargs)
    return caught.value.code


def enter(path, **kwargs) -> None:
    with atomic_output(path, **kwargs) as part:
        part.write_bytes(b"new")


def test_output_appears_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    place = tmp_path / "map.tif"
    with atomic_output(place) as part:
        assert part.parent == tmp_path
        assert part.suffix == ".tif"
        part.write_bytes(b"new")
        assert not place.exists()
    assert place.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [place]


def test_output_has_the_permissions_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        enter(tmp_path / "a.png")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.png").stat().st_mode) == 0o640


def test_failure_leaves_the_old_output(tmp_path: Path) -> None:
    place = tmp_path / "map.tif"
    place.write_bytes(b"old")

    def fail() -> None:
        with atomic_output(place, overwrite=True) as part:
            part.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert place.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [place]


def test_existing_output_is_kept_by_default(tmp_path: Path) -> None:
    place = tmp_path / "map.tif"
    place.write_bytes(b"old")
    assert code_of(enter, place) == "output-exists"
    assert place.read_bytes() == b"old"
    enter(place, overwrite=True)
    assert place.read_bytes() == b"new"


def test_output_that_appears_during_the_work_is_kept(tmp_path: Path) -> None:
    place = tmp_path / "map.tif"

    def race() -> None:
        with atomic_output(place) as part:
            part.write_bytes(b"new")
            place.write_bytes(b"someone else's")

    assert code_of(race) == "output-exists"
    assert place.read_bytes() == b"someone else's"
    assert list(tmp_path.iterdir()) == [place]


def test_symbolic_link_stays_a_link(tmp_path: Path) -> None:
    target = tmp_path / "real.png"
    target.write_bytes(b"old")
    link = tmp_path / "link.png"
    link.symlink_to(target)
    enter(link, overwrite=True)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_bad_outputs(tmp_path: Path) -> None:
    source = tmp_path / "in.tif"
    source.write_bytes(b"picture")
    (tmp_path / "hard.tif").hardlink_to(source)
    assert code_of(check_output, tmp_path) == "output-is-folder"
    assert code_of(check_output, tmp_path / "none" / "a.png") == "output-folder-missing"
    assert code_of(check_output, source / "a.png") == "output-folder-missing"
    assert code_of(check_output, source, overwrite=True, inputs=[source]) == "output-is-input"
    assert code_of(check_output, tmp_path / "hard.tif", overwrite=True, inputs=[source]) == "output-is-input"
    assert code_of(check_output, "/dev/null", overwrite=True) == "output-unwritable"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a folder that not even root may write to")
def test_unwritable_folder() -> None:
    assert code_of(enter, "/proc/map.tif") == "output-unwritable"


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert code_of(enter, tmp_path / "map.tif") == "output-unwritable"


def test_names_that_are_too_long(tmp_path: Path) -> None:
    assert code_of(check_output, tmp_path / ("n" * 300 + ".tif")) == "output-unwritable"
    assert code_of(check_input, tmp_path / ("n" * 300 + ".tif")) == "input-unreadable"


def test_longest_names_that_the_disk_takes(tmp_path: Path) -> None:
    for name in ("n" * 251 + ".tif", "地" * 83 + ".tif"):
        enter(tmp_path / name)
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()


def test_folder_that_vanishes_during_the_work(tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()

    def lose_the_folder() -> None:
        with atomic_output(folder / "map.tif") as part:
            part.unlink()
            folder.rmdir()

    assert code_of(lose_the_folder) == "output-write"


def test_folder_that_takes_the_place_of_the_output(tmp_path: Path) -> None:
    def make_a_folder_there() -> None:
        with atomic_output(tmp_path / "map.tif", overwrite=True) as part:
            part.write_bytes(b"new")
            (tmp_path / "map.tif").mkdir()

    assert code_of(make_a_folder_there) == "output-write"
    assert [path.name for path in tmp_path.iterdir()] == ["map.tif"]


def test_bad_inputs(tmp_path: Path) -> None:
    assert code_of(check_input, tmp_path) == "input-is-folder"
    assert code_of(check_input, tmp_path / "none.tif") == "input-missing"
    assert code_of(check_input, "/vsicurl/http://localhost/a.tif") == "input-missing"
    assert code_of(check_input, "zip://a.zip!b.tif") == "input-missing"
    assert code_of(check_input, "/dev/null") == "input-unreadable"


@pytest.mark.parametrize("there_before", [False, True])
def test_kill_in_the_middle_leaves_the_old_output_or_none(tmp_path: Path, there_before: bool) -> None:
    place = tmp_path / "map.tif"
    if there_before:
        place.write_bytes(b"old")
    program = (
        "import sys, time\n"
        "from emra_deploy.host.files import atomic_output\n"
        "with atomic_output(sys.argv[1], overwrite=True) as part:\n"
        "    part.write_bytes(b'half of it')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(place)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert place.exists() == there_before
    assert not there_before or place.read_bytes() == b"old"


def test_kills_at_any_moment_never_show_a_part(tmp_path: Path) -> None:
    place = tmp_path / "map.bin"
    size = 3_000_000
    program = (
        "import sys\n"
        "from emra_deploy.host.files import atomic_output\n"
        "print('go', flush=True)\n"
        "for turn in range(10**6):\n"
        "    with atomic_output(sys.argv[1], overwrite=True) as part, part.open('wb') as stream:\n"
        "        for _ in range(3):\n"
        f"            stream.write(bytes([turn % 256]) * {size // 3})\n"
    )
    for delay in (0.005, 0.02, 0.05, 0.09):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(place)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.kill()
            process.wait()
        if place.exists():
            data = place.read_bytes()
            assert len(data) == size
            assert len(set(data)) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_FSIZE")
def test_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import resource, sys\n"
        "from emra_deploy.errors import EmraError\n"
        "from emra_deploy.host.files import atomic_output\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    with atomic_output(sys.argv[1]) as part:\n"
        "        part.write_bytes(bytes(5000))\n"
        "except EmraError as error:\n"
        "    print(error.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "map.tif")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "output-write\n"
    assert list(tmp_path.iterdir()) == []


def test_why_a_path_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    said = {name: instead_of_file(tmp_path / name) for name in ("", "pipe", "link", "none")}
    assert said == {
        "": "is a folder",
        "pipe": "is not a regular file",
        "link": "does not exist",
        "none": "does not exist",
    }
