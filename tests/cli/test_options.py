"""The syntax of shared options: times, qualities, sizes in latents."""

from fractions import Fraction

import pytest
import typer

from cvcodec.cli import bench, encode, export, import_, options


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("12.5", 12.5),
        (".5", 0.5),
        ("90s", 90.0),
        ("1:30", 90.0),
        ("90:00", 5400.0),
        ("1:02:03.25", 3723.25),
        (" 7 ", 7.0),
    ],
)
def test_times_are_seconds_or_hours_minutes_and_seconds(text: str, seconds: float) -> None:
    assert options.parse_time(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "1:60", "1:60:00", "1:2:3:4", "1e3", "nan", "one", "1:", ":1", "."])
def test_what_is_no_time_is_refused_with_the_two_forms(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="wanted seconds"):
        options.parse_time(text)


@pytest.mark.parametrize("text", ["9" * 20, "1000000001", "9" * 20 + ":00", "300000:00:00", "9" * 400])
def test_times_that_overflow_ffmpegs_counters_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="too long a time; wanted at most 1000000000 seconds"):
        options.parse_time(text)


def test_an_empty_name_is_no_model() -> None:
    assert options.parse_weights("a model") == "a model"
    with pytest.raises(typer.BadParameter, match="names no model"):
        options.parse_weights("")


@pytest.mark.parametrize(("text", "quality"), [("0", 0.0), ("100", 100.0), ("62.5", 62.5)])
def test_qualities_reach_from_0_to_100(text: str, quality: float) -> None:
    assert options.parse_quality(text) == quality


@pytest.mark.parametrize("text", ["-0.1", "100.1", "nan", "inf", "best", ""])
def test_other_qualities_are_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="from 0 to 100"):
        options.parse_quality(text)


def test_windows_are_a_number_or_auto_and_tiles_may_be_none() -> None:
    assert options.parse_latents("16") == 16
    assert options.parse_latents("AUTO") is None
    assert options.parse_tile("auto") is None
    assert options.parse_tile("none") == options.parse_tile("0") == 0
    assert options.parse_tile("32") == 32


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "none", "", "9999999999"])
def test_a_window_of_anything_else_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="wanted auto or a whole number from 1"):
        options.parse_latents(text)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("psnr=32", ("psnr", 32.0)),
        ("lpips=.15", ("lpips", 0.15)),
        ("size=2M", ("size", 2e6)),
        (" SIZE = 1.5Gi ", ("size", 1.5 * 2**30)),
        ("size=900", ("size", 900.0)),
        ("bitrate=200k", ("bitrate", 200e3)),
    ],
)
def test_a_target_is_a_kind_and_a_number_with_a_unit(text: str, target: tuple[str, float]) -> None:
    assert encode.parse_target(text) == target


@pytest.mark.parametrize("text", ["psnr", "psnr=", "psnr=3k", "size=0", "size=-1", "ssim=0.9", "size=2T", "bitrate=x"])
def test_what_is_no_target_is_refused_with_the_four_kinds(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="wanted psnr=32"):
        encode.parse_target(text)


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("500M", 5 * 10**8), (" 1 gb ", 10**9), ("2k", 2000), ("3T", 3 * 10**12)]
)
def test_shard_sizes_are_bytes_in_powers_of_ten(text: str, size: int) -> None:
    assert export.parse_size(text) == size


@pytest.mark.parametrize("text", ["0", "-1", "1.5G", "nan", "", "M", "1P"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="wanted bytes, such as 500M or 1G"):
        export.parse_size(text)


@pytest.mark.parametrize(
    ("text", "rate"), [("24", Fraction(24)), ("30000/1001", Fraction(30000, 1001)), ("23.976", Fraction(23976, 1000))]
)
def test_frame_rates_are_exact(text: str, rate: Fraction) -> None:
    assert import_.parse_rate(text) == rate


@pytest.mark.parametrize("text", ["0", "-5", "nan", "inf", "1e99", "1/0", "fast", ""])
def test_what_is_no_frame_rate_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a frame rate"):
        import_.parse_rate(text)


def test_lists_are_of_names_or_of_finite_numbers() -> None:
    assert bench.parse_names("libx264, libx265,") == ("libx264", "libx265")
    assert bench.parse_names("none") == ()
    assert bench.parse_numbers("20, 50.5,75") == (20.0, 50.5, 75.0)


@pytest.mark.parametrize("text", ["x", "20,x", "nan", "20,inf", "", ","])
def test_what_is_no_list_of_numbers_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not a list of numbers, such as 20,50,75"):
        bench.parse_numbers(text)
