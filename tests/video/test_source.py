"""What is opened is one file: nothing in it, and no name of it, makes FFmpeg read others."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest

from cvcodec.errors import InputError
from cvcodec.video import VideoReader
from tests.video.clips import pictures, write
from tests.video.conftest import Unseekable

PLAYLISTS = {
    "ffconcat.mp4": "ffconcat version 1.0\nfile video.ts\n",
    "hls.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nvideo.ts\n#EXT-X-ENDLIST\n",
    "session.mp4": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
    "subtitles.mp4": "# VobSub index file, v7\nid: en, index: 0\ntimestamp: 00:00:00:000, filepos: 000000000\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a video that the playlists name, or lie beside."""
    monkeypatch.chdir(tmp_path)
    write("video.mkv", pictures(32, 32, 3))
    with av.open("video.ts", "w", format="mpegts") as output:
        stream = output.add_stream("mpeg2video", rate=25)
        stream.width = stream.height = 32
        for number in range(25):
            gray = np.full((32, 32, 3), 10 * number, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(gray, format="rgb24")))
        output.mux(stream.encode(None))
    (tmp_path / "subtitles.sub").write_bytes(b"\0" * 64)
    for name, text in PLAYLISTS.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_ffmpeg_itself_follows_such_a_list(folder: Path) -> None:
    for name in ("ffconcat.mp4", "hls.m3u8"):
        with av.open(name) as container:
            assert container.streams.video[0].width == 32


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_is_refused_as_what_it_is(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"{name}' is a playlist or the like, .*ffmpeg -i PLAYLIST -c copy"):
        VideoReader(name)


@pytest.mark.parametrize("name", ["ffconcat.mp4", "hls.m3u8"])
def test_so_is_one_that_comes_from_a_file_object_or_a_pipe(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    for source in (io.BytesIO(data), Unseekable(data)):
        with pytest.raises(InputError, match=r"cannot open|is a playlist"):
            VideoReader(source)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["http://127.0.0.1:9/a.mp4", "concat://video.ts|video.ts", "rtsp://127.0.0.1:9/a", "http://x/%05d.png"]
)
def test_an_address_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(InputError, match="is an address, and this reads files"):
        VideoReader(name)


def test_what_begins_like_a_protocol_is_the_name_of_a_file(folder: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        VideoReader("concat:video.ts|video.ts")
    (folder / "concat:video.mkv").write_bytes((folder / "video.mkv").read_bytes())
    with VideoReader("concat:video.mkv") as reader:
        assert len(list(reader)) == 3
