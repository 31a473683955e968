"""Cuts in a video, by PySceneDetect's `AdaptiveDetector` with its own defaults. The one place that imports it.

It compares how much a frame differs from the one before with how much the frames around it do, so that hard cuts are
found and quick movement is none; fades and dissolves are not found.
"""

from __future__ import annotations

from typing import Any

from cvcodec.errors import UsageError
from cvcodec.video.survey import SmallPicture


class SceneFinder:
    """Is given the frames of a video in order. starts: numbers of frames that begin a scene, but the first.

    Raises UsageError where PySceneDetect is not there.
    """

    def __init__(self) -> None:
        try:
            from scenedetect import AdaptiveDetector, FrameTimecode
        except ImportError as error:
            raise UsageError(f'--scenes auto needs PySceneDetect ({error}): pip install "cvcodec[scenes]"') from error
        self._detector: Any = AdaptiveDetector()
        self._timecode: Any = FrameTimecode
        self.starts: list[int] = []

    def add(self, number: int, picture: SmallPicture) -> None:
        """The next frame."""
        # It counts frames, whatever their times: the rate is for its texts.
        cuts = self._detector.process_frame(self._timecode(number, fps=25.0), picture)
        self.starts += [cut.frame_num for cut in cuts]
