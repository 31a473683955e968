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
    ("model", "options", "quantization", "remote"),
    ("fileio", "system"),
    ("windows",),
    ("bitstream", "video"),
    ("passthrough",),
    ("checkpoints",),
    ("codec",),
    ("dataset", "quality"),
    ("integrations", "training"),
    ("bench",),
    ("cvcodec",),
    ("cli",),
    ("__main__",),
)
RANK = {component: rank for rank, layer in enumerate(LAYERS) for component in layer}

# Which components may import a package; packages that are not listed here may be imported anywhere above them.
ONLY_IN = {
    "av": {"video", "passthrough"},
    "typer": {"cli"},
    "rich": {"cli"},
    "matplotlib": {"bench", "training"},
    "fsspec": {"remote"},
    "click": set[str](),
    "scenedetect": {"dataset"},
}
# Which of these packages a component, or a module that differs from the rest of its component, may import: those that
# must stay light or liftable.
ONLY_THESE = {
    "errors": set[str](),
    "fileio": set[str](),
    "options": set[str](),
    "remote": set[str](),
    "cvcodec": set[str](),
    "system": {"torch"},
    "system.host": set[str](),
    "system.printable": set[str](),
    "system.threads": set[str](),
    "quantization": {"numpy"},
    "bitstream": {"numpy", "zstandard"},
    "video": {"numpy", "av"},
    "passthrough": {"av"},
    "model": {"torch"},
    "windows": {"torch"},
    "windows.specs": set[str](),
    "checkpoints": {"torch", "safetensors"},
    "codec": {"torch", "numpy"},
    "quality": {"torch", "numpy"},
    "quality.psnr": {"torch"},
    "quality.ssim": {"torch"},
    "quality.lpips": {"torch"},
    "quality.lpips_weights": {"torch", "safetensors"},
    "cli": {"typer", "rich", "torch"},
}
HEAVY = ("torch", "numpy", "av", "zstandard", "safetensors", "typer", "rich", "matplotlib", "ray", "diffusers")


def module_of(path: Path) -> str:
    """Its name within the package, the package itself by its own: `video.frame`, `video`, `cvcodec`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").strip(".") or "cvcodec"


def component_of(path: Path) -> str:
    return module_of(path).partition(".")[0]


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


def test_no_two_modules_import_each_other_be_it_by_a_detour() -> None:
    modules = {module_of(path) for path in FILES}
    imported: dict[str, set[str]] = {}
    for path in FILES:
        names = {name.removeprefix("cvcodec.") for _, name in imports_of(path)}
        # `from cvcodec.video import frame` names a module, `from cvcodec.video.frame import Frame` what is in one.
        owners = {name if name in modules else name.rpartition(".")[0] for name in names}
        imported[module_of(path)] = (owners & modules) - {module_of(path)}
    while leaves := {module for module, others in imported.items() if not others & set(imported)}:
        imported = {module: others for module, others in imported.items() if module not in leaves}
    # What only leads into a circle is not in it.
    while roots := set(imported) - {other for others in imported.values() for other in others}:
        imported = {module: others for module, others in imported.items() if module not in roots}
    assert imported == {}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_third_party_package_is_imported_only_where_it_belongs(path: Path) -> None:
    component = component_of(path)
    for line, name in imports_of(path):
        package = name.partition(".")[0]
        assert component in ONLY_IN.get(package, {component}), f"{path.name}:{line}: {component} imports {package}"
        allowed = ONLY_THESE.get(module_of(path), ONLY_THESE.get(component))
        if package in HEAVY and allowed is not None:
            assert package in allowed, f"{path.name}:{line}: {module_of(path)} imports {package}"


def test_the_bitstream_is_built_from_the_bottom_up() -> None:
    order = [
        *("format", "wire", "header", "contexts", "entropy", "rate_distortion"),
        *("chunk", "records", "trailer", "recovery", "file", "__init__"),
    ]
    assert sorted(order) == sorted(path.stem for path in (PACKAGE / "bitstream").glob("*.py"))
    for place, module in enumerate(order):
        for line, name in imports_of(PACKAGE / "bitstream" / f"{module}.py"):
            if name.startswith("cvcodec.bitstream."):
                below = name.split(".")[2]
                assert below in order[:place], f"{module}.py:{line}: {module} must not import {below}"


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
