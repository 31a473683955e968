"""Reading what is damaged, truncated or no video at all."""

import errno
import io
from pathlib import Path
from typing import Any

import av
import av.filter
import numpy as np
import pytest

from cvcodec.errors import InputError
from cvcodec.video import VideoReader
from tests.video.clips import read


def test_damage_is_counted_and_the_rest_is_read(make: Any, tmp_path: Path) -> None:
    make.encode(str(tmp_path / "a.mkv"), make.moving(128, 96, 60), options={"g": "10", "bf": "0", "threads": "1"})
    data = bytearray((tmp_path / "a.mkv").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = np.random.default_rng(0).bytes(400)
    (tmp_path / "b.mkv").write_bytes(data)
    with VideoReader(tmp_path / "b.mkv") as reader:
        frames = list(reader)
    assert reader.decode_errors + reader.corrupt_frames > 0
    assert reader.corrupt_frames == sum(f.corrupt for f in frames)
    assert 45 <= len(frames) <= 60


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("broken", [-1, -2, -3, -6])
@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
def test_a_broken_packet_costs_its_own_frame_only_and_counts_once(
    make: Any, tmp_path: Path, codec: str, broken: int, threads: int
) -> None:
    """With frame threads, PyAV hides what is in flight behind an error; most of all at the end."""
    path = tmp_path / "a.mkv"
    make.encode(str(path), make.moving(128, 96, 12), codec=codec, options={"g": "1"})
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(video=0) if p.size][broken]
    data = bytearray(path.read_bytes())
    data[packet.pos + 8 : packet.pos + packet.size] = b"\xff" * (packet.size - 8)
    path.write_bytes(data)
    for source in (path, make.Unseekable(bytes(data))):
        with VideoReader(source, threads=threads) as reader:
            times = [f.pts for f in reader]
        assert times == [t for t in range(0, 480, 40) if t != packet.pts]
        assert reader.decode_errors == 1


def test_a_truncated_file_gives_what_is_there(make: Any, tmp_path: Path) -> None:
    make.encode(str(tmp_path / "a.mkv"), make.moving(64, 48, 50))
    data = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "b.mkv").write_bytes(data[: len(data) * 2 // 3])
    assert 5 < len(read(tmp_path / "b.mkv")) < 50


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), (b"", "cannot open"), (b"plain text\n" * 99, "cannot open")]
)
def test_what_is_no_video_is_an_input_error_of_one_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        VideoReader(tmp_path / "a.mp4")
    assert "\n" not in str(caught.value)


def test_folders_and_empty_or_senseless_pipes_are_input_errors(make: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder"):
        VideoReader(tmp_path)
    with pytest.raises(InputError, match="empty"):
        VideoReader(make.Unseekable(b""))
    with pytest.raises(InputError, match="cannot open"):
        VideoReader(make.Unseekable(b"nonsense" * 5000))


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    container = av.open(str(tmp_path / "a.wav"), "w")
    audio: Any = container.add_stream("pcm_s16le", rate=8000)
    audio.layout = "mono"
    sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
    sound.sample_rate = 8000
    container.mux(audio.encode(sound))
    container.close()
    with pytest.raises(InputError, match="no video stream"):
        VideoReader(tmp_path / "a.wav")


def test_a_change_of_size_is_an_error_and_never_a_resize(make: Any, tmp_path: Path) -> None:
    parts = [io.BytesIO(), io.BytesIO()]
    make.encode(parts[0], make.moving(64, 48, 3), container="h264")
    make.encode(parts[1], make.moving(32, 48, 3), container="h264")
    (tmp_path / "a.h264").write_bytes(parts[0].getvalue() + parts[1].getvalue())
    with pytest.raises(InputError, match="64x48 to 32x48"):
        read(tmp_path / "a.h264")


def test_a_file_that_cannot_be_read_is_one_error_and_nothing_else_is_printed(
    make: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    class Failing(io.BytesIO):
        reads = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.reads += 1
            if self.reads > 3:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(min(size or 0, 2000))

    target = io.BytesIO()
    make.encode(target, make.moving(64, 48, 20), container="matroska")
    with pytest.raises(InputError, match="Input/output error"):
        read(Failing(target.getvalue()))
    assert capfd.readouterr().err == ""
