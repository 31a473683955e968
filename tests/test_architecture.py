"""Imports point downwards only, and each third-party package is imported where it belongs. Read from syntax trees."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "cvcodec"

# Lowest first. A module may import its own component and components of the lines above its own.
LAYERS = (
    ("errors",),
    ("host", "model", "options", "quantization"),
    ("checkpoint_metadata", "device", "fileio", "identity", "metrics", "pipeline", "printable", "suffixes", "tables"),
    ("windows",),
    ("bitstream", "video"),
    ("passthrough",),
    ("checkpoint",),
    ("importers", "registry", "runner"),
    ("codec",),
    ("calibration", "dataset", "evaluation"),
    ("integrations", "preview", "target", "training"),
    ("bench",),
    ("cvcodec",),
    ("cli",),
    ("__main__", "demo"),
)
RANK = {component: rank for rank, layer in enumerate(LAYERS) for component in layer}

# Which components may import a package; packages that are not listed here may be imported anywhere above them.
ONLY_IN = {
    "av": {"video", "passthrough"},
    "typer": {"cli"},
    "rich": {"cli", "training"},
    "matplotlib": {"bench", "training"},
    "click": set[str](),
}
# Which of these packages a component may import: those that must stay light or liftable.
ONLY_THESE = {
    "errors": set[str](),
    "host": set[str](),
    "fileio": set[str](),
    "options": set[str](),
    "printable": set[str](),
    "suffixes": set[str](),
    "tables": set[str](),
    "cvcodec": set[str](),
    "quantization": {"numpy"},
    "bitstream": {"numpy", "zstandard"},
    "video": {"numpy", "av"},
    "passthrough": {"av"},
    "model": {"torch"},
    "windows": {"torch"},
    "metrics": {"torch", "safetensors"},
    "cli": {"typer", "rich", "torch"},
}
HEAVY = ("torch", "numpy", "av", "zstandard", "safetensors", "typer", "rich", "matplotlib", "ray", "diffusers")


def component_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "cvcodec" if first == "__init__" else first


def runtime_imports(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Every imported module, relative ones excepted, not for type checkers only; those in functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from runtime_imports(other)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                yield node, f"{node.module}.{alias.name}"
        else:
            yield from runtime_imports(node)


def imports_of(path: Path) -> list[tuple[int, str]]:
    found = runtime_imports(ast.parse(path.read_text(encoding="utf-8")))
    return [(getattr(node, "lineno", 0), name) for node, name in found]


FILES = sorted(PACKAGE.rglob("*.py"))


def test_every_component_has_its_place_in_the_layers() -> None:
    assert {component_of(path) for path in FILES} <= set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    component = component_of(path)
    for line, name in imports_of(path):
        if name.partition(".")[0] != "cvcodec":
            continue
        parts = name.split(".")
        # `from cvcodec import __version__` is an import of the package itself, and harmless.
        target = parts[1] if len(parts) > 1 and parts[1] in RANK else "cvcodec"
        if target == component or name == "cvcodec.__version__":
            continue
        assert RANK[target] < RANK[component], f"{path.name}:{line}: {component} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_third_party_package_is_imported_only_where_it_belongs(path: Path) -> None:
    component = component_of(path)
    for line, name in imports_of(path):
        package = name.partition(".")[0]
        assert component in ONLY_IN.get(package, {component}), f"{path.name}:{line}: {component} imports {package}"
        if package in HEAVY and component in ONLY_THESE:
            assert package in ONLY_THESE[component], f"{path.name}:{line}: {component} imports {package}"


def test_the_file_format_needs_no_torch() -> None:
    code = "import sys, cvcodec.bitstream; print(sorted({'torch', 'av'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_command_modules_import_nothing_heavy_before_a_command_runs() -> None:
    modules = [f"cvcodec.cli.{path.stem}" for path in (PACKAGE / "cli").glob("*.py") if path.stem != "__init__"]
    code = (
        f"import sys, {', '.join(modules)}; print(sorted({{'torch', 'av', 'numpy', 'matplotlib'}} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_the_readme_maps_every_component() -> None:
    text = (PACKAGE.parent / "README.md").read_text(encoding="utf-8").split("## Map of the code")[1]
    # Names and what they are for stand in two columns; what is in the package is indented farther.
    listed = [line.strip() for line in text.splitlines() if line.startswith(" " * 6)]
    names = [name for line in listed for name in line.partition("  ")[0].split()]
    assert sorted(name.removesuffix("/") for name in names) == sorted(set(RANK) - {"cvcodec"})
    assert [name for name in names if name.endswith("/") != (PACKAGE / name.removesuffix("/")).is_dir()] == []
