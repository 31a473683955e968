"""Options of a video are the reader's and the writer's own arguments: what they leave alone stays as it is there."""

import dataclasses
import inspect
from typing import Any

import pytest

from cvcodec.codec import ReaderOptions, WriterOptions
from cvcodec.video import VideoReader, VideoWriter


@pytest.mark.parametrize(("options", "of"), [(ReaderOptions, VideoReader), (WriterOptions, VideoWriter)])
def test_options_are_arguments_with_their_defaults(options: type[Any], of: type[Any]) -> None:
    parameters = inspect.signature(of).parameters
    for field in dataclasses.fields(options):
        assert field.default == parameters[field.name].default, field.name


def test_only_what_was_chosen_is_handed_on() -> None:
    assert ReaderOptions().arguments() == {}
    assert ReaderOptions(start=0.0, stream=0, rotate=True).arguments() == {"start": 0.0, "stream": 0}
    assert WriterOptions(container="png", crf=0.0).arguments() == {"crf": 0.0, "container": "png"}


@pytest.mark.parametrize("trim", [{"start": 0.0}, {"end": 1.0}, {"duration": 1.0}, {"frames": 1}])
def test_a_trim_is_told_from_other_options(trim: dict[str, Any]) -> None:
    assert ReaderOptions(**trim).is_trimmed
    assert not ReaderOptions(stream=1, rotate=False, threads=2).is_trimmed
