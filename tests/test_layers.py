# SPDX-License-Identifier: Apache-2.0
"""The architecture is the directory listing: imports point down only (style guide section 3)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "pc3dcli"

# layer -> layers it may import; a layer may always import itself and `errors`
BELOW = {
    "main": {"commands", "stream"},
    "docgen": {"main", "commands"},
    "commands": {"train", "worlds", "papers", "masks2d", "datasets", "stream", "formats", "metrics", "nn", "geometry"},
    "train": {"nn", "stream"},
    "worlds": {"datasets", "formats", "geometry"},
    "papers": {"nn", "geometry"},
    "masks2d": {"nn", "geometry", "formats"},
    "datasets": {"formats", "geometry"},
    "stream": set(),
    "metrics": set(),
    "formats": set(),
    "nn": {"geometry", "stream"},  # stream.writer, for weights that appear only when complete
    "geometry": set(),
    "errors": set(),
}
PURE = {"papers", "nn", "geometry", "metrics"}  # arrays in, arrays out
PURE_NEVER = {"typer", "rich", "os"}
NAMES_NEVER = {"utils", "misc", "common", "helpers", "base"}


def layer_of(module: str) -> str:
    """Return the layer of a dotted module name below the package; the version of `__init__` is none."""
    return module.split(".")[1] if "." in module else "version"


def imported(tree: ast.AST, module: str) -> list[tuple[str, int]]:
    """Return (dotted name, line) of everything a module imports, also inside functions."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = module.split(".")[: -node.level] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            found += [(f"{source}.{alias.name}", node.lineno) for alias in node.names]
    return found


def problems(source: str, module: str) -> list[str]:
    """Return what a module of the dotted name `module` does that its layer must not."""
    tree = ast.parse(source)
    layer = layer_of(module)
    if layer in ("version", "__main__"):
        return []
    if layer not in BELOW:
        return [f"{module}: {layer} is no layer"]
    found = []
    for name, line in imported(tree, module):
        if name.split(".")[0] == "pc3dcli":
            target = layer_of(name)
            if target not in {layer, "errors", "version", "__version__"} | BELOW[layer]:
                found.append(f"{module}:{line}: {layer} imports {target}")
        elif layer in PURE and name.split(".")[0] in PURE_NEVER:
            found.append(f"{module}:{line}: {layer} imports {name}")
    if layer in PURE:
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        found += [
            f"{module}:{c.lineno}: prints" for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"
        ]
    if NAMES_NEVER & set(module.split(".")):
        found.append(f"{module}: a function lives with its subject, not in a file of this name")
    return found


def modules() -> dict[str, Path]:
    return {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def test_the_package_was_found():
    assert {"pc3dcli.errors", "pc3dcli.main", "pc3dcli.stream.reader"} <= modules().keys()


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module):
    assert problems(modules()[module].read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("pc3dcli.geometry.boxes", "import pc3dcli.formats.ply", "geometry imports formats"),
        ("pc3dcli.papers.sole", "def f():\n    from pc3dcli.datasets import scannet", "papers imports datasets"),
        ("pc3dcli.papers.sole.loss", "from pc3dcli import commands", "papers imports commands"),
        ("pc3dcli.papers.sole.loss", "from ...formats import ply", "papers imports formats"),
        ("pc3dcli.stream.reader", "from pc3dcli.formats.ply import read_ply", "stream imports formats"),
        ("pc3dcli.commands.eval", "from pc3dcli import main", "commands imports main"),
        ("pc3dcli.nn.blocks", "import typer", "nn imports typer"),
        ("pc3dcli.nn.blocks", "import rich.console", "nn imports rich.console"),
        ("pc3dcli.metrics.miou", "def f():\n    import os", "metrics imports os"),
        ("pc3dcli.metrics.miou", "from os import environ", "metrics imports os.environ"),
        ("pc3dcli.geometry.boxes", "def f():\n    print(1)", "prints"),
        ("pc3dcli.geometry.utils", "", "lives with its subject"),
        ("pc3dcli.helpers.x", "", "helpers is no layer"),
    ],
)
def test_bad_examples_are_found(module, source, problem):
    assert any(problem in found for found in problems(source, module)), problems(source, module)


def test_good_examples_pass():
    assert (
        problems("from pc3dcli import __version__\nfrom pc3dcli.errors import FormatError", "pc3dcli.nn.blocks") == []
    )
    assert problems("from pc3dcli.geometry.boxes import f\nfrom . import ema", "pc3dcli.nn.blocks") == []
    assert problems("from pc3dcli.papers import sole", "pc3dcli.commands.segment") == []


def test_every_file_names_its_licence_and_stays_small():
    for module, path in modules().items():
        lines = path.read_text(encoding="utf-8").splitlines()
        assert lines[0] == "# SPDX-License-Identifier: Apache-2.0", module
        assert len(lines) <= 500, f"{module} has {len(lines)} lines"
