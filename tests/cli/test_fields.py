"""Fields of an options class are options of a command, with one default and one help text."""

import dataclasses
import inspect
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
import typer

from cvcodec.cli import decode, encode
from cvcodec.cli.fields import Fields, Given, with_fields
from cvcodec.codec import DecodeOptions, EncodeOptions, ReaderOptions, WriterOptions
from cvcodec.errors import UsageError
from cvcodec.options import option


@dataclass(frozen=True, kw_only=True)
class Inner:
    depth: float | None = option(None, "How deep.", metavar="TIME", syntax="time")
    unsaid: int = 7


@dataclass(frozen=True, kw_only=True)
class Base:
    last: int = option(3, "Of all.", least=1, most=9)


@dataclass(frozen=True, kw_only=True)
class Chosen(Base):
    kind: Literal["a", "b"] = option("a", "Which.")
    level: float = option(5.0, "How much.", flags=("--level", "-l"), syntax="quality", shown=False)
    parts: tuple[str, ...] = option(("x", "y"), "All or none.", flags=("--parts/--no-parts",))
    inner: Inner = field(default_factory=Inner)
    note: str = ""


def run(*line: str, changed: Fields | None = None) -> Given[Chosen]:
    """What a command with these options is given for a line."""
    seen: list[Given[Chosen]] = []

    def command(*, given: Any, other: bool = False) -> None:
        seen.append(given)

    command.__annotations__["given"] = Annotated[Given[Chosen], changed or Fields()]
    app = typer.Typer()
    app.command()(with_fields(command))
    app(list(line), standalone_mode=False)
    return seen[0]


def test_what_is_not_given_is_the_classs_own_default() -> None:
    assert run().options() == Chosen()
    assert run().values == {}
    assert run().options(note="by hand") == Chosen(note="by hand")


def test_what_is_given_lands_in_its_field_also_of_a_class_within() -> None:
    given = run("--kind", "b", "-l", "50", "--no-parts", "--depth", "1:30", "--last", "9", "--other")
    assert given.options() == Chosen(kind="b", level=50.0, parts=(), inner=Inner(depth=90.0), last=9)


def test_help_has_own_fields_first_and_leaves_out_what_has_no_text(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(IndexError):
        run("--help")
    shown = capsys.readouterr().out
    places = [shown.index(flag) for flag in ("--kind", "--level", "--parts", "--depth", "--last", "--other")]
    assert places == sorted(places)
    assert "--unsaid" not in shown
    assert "--note" not in shown
    assert "[default: a]" in shown
    assert "5.0" not in shown


@pytest.mark.parametrize("line", [["--last", "10"], ["--kind", "c"], ["--level", "101"], ["--depth", "x"]])
def test_values_out_of_range_are_refused(line: list[str]) -> None:
    with pytest.raises(typer.TyperException):
        run(*line)


def test_a_command_takes_some_of_the_fields_in_its_own_words(capsys: pytest.CaptureFixture[str]) -> None:
    some = Fields(only=("kind", "level"), help={"kind": "In other words."}, panel={"kind": "Elsewhere"})
    assert run("--kind", "b", changed=some).options() == Chosen(kind="b")
    with pytest.raises(IndexError):
        run("--help", changed=some)
    shown = capsys.readouterr().out
    assert "In other words." in shown
    assert "Elsewhere" in shown
    with pytest.raises(typer.TyperException):
        run("--last", "4", changed=some)
    with pytest.raises(typer.TyperException):
        run("--depth", "4", changed=Fields(without=("inner",)))


def test_options_that_change_nothing_are_named_as_they_were_given() -> None:
    given = run("--kind", "a", "--no-parts", "--level", "5", "--last", "4")
    with pytest.raises(UsageError, match=r"^why: leave out --level, --no-parts, --other$"):
        given.refuse("why", "kind", "level", "parts", others={"--other": True, "--absent": False})
    run("--kind", "a").refuse("why", "kind")  # as help says it is anyway


def test_all_fields_are_options_but_those_for_programs() -> None:
    for command, kind, inner, others in (
        (encode.encode, EncodeOptions, ReaderOptions, {"reader", "metadata", "background", "rate"}),
        (decode.decode, DecodeOptions, WriterOptions, {"writer"}),
    ):
        names = {entry.name for of in (kind, inner) for entry in dataclasses.fields(of)}
        assert names - set(inspect.signature(command).parameters) == others
