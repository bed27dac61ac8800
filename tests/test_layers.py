"""The floors of the house: imports point down, and the gold judge stays out of everything but judging."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "narrative_jax"
FLOORS = {
    "core": 0,
    "diffusion": 1,
    "losses": 1,
    "statistics": 1,
    "storybook": 1,
    "models": 2,
    "generators": 3,
    "rewards": 3,
    "data": 3,
    "algorithms": 4,
    "training": 4,
    "pipeline": 5,
    "report": 5,
    "stages": 5,
    "launch": 6,
    "sample": 6,
    "plan": 6,
    "export": 6,
    "study": 6,
}
# Between neighbours on one floor: what is on the left may import what is on the right.
NEIGHBOURS = {
    "narrative_jax.losses": ("narrative_jax.diffusion",),
    "narrative_jax.training": ("narrative_jax.algorithms.base",),
    "narrative_jax.pipeline": ("narrative_jax.stages", "narrative_jax.report"),
}
# Algorithms see of the floor below no more than its contracts.
ALGORITHMS_MAY_SEE = ("narrative_jax.generators.base", "narrative_jax.rewards.base")
MAY_IMPORT_STORYBOOK = (
    "narrative_jax.storybook",
    "narrative_jax.data.sources",
    "narrative_jax.rewards.oracle",
    "narrative_jax.rewards.raters",
    "narrative_jax.stages.annotate",
    "narrative_jax.stages.evaluate",
    "narrative_jax.study",
)


def imports(path):
    """Every module that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def floor(module):
    parts = module.split(".")
    return FLOORS[parts[1]] if len(parts) > 1 else None


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    here = floor(module)
    for imported in imports(MODULES[module]):
        if not imported.startswith("narrative_jax.") or here is None:
            continue
        there = floor(imported)
        same = module.split(".")[1] == imported.split(".")[1]
        allowed = next((right for left, right in NEIGHBOURS.items() if module.startswith(left)), ())
        fine = there < here or same or imported.startswith(allowed or "-")
        assert fine, f"{module} (floor {here}) imports {imported} (floor {there})"
        if module.startswith("narrative_jax.algorithms") and there == FLOORS["generators"]:
            assert imported.startswith(ALGORITHMS_MAY_SEE), f"{module} imports {imported}"


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("narrative_jax.storybook")])
def test_storybook_is_numpy_only(module):
    outside = {i.split(".")[0] for i in imports(MODULES[module])} - set(sys.stdlib_module_names)
    assert outside <= {"numpy", "narrative_jax"}


def test_only_judges_import_storybook():
    for module, path in MODULES.items():
        if any(i.startswith("narrative_jax.storybook") for i in imports(path)):
            assert module.startswith(MAY_IMPORT_STORYBOOK), f"{module} imports storybook"


def test_sources_of_scenes_see_nothing_of_the_judge():
    seen = {i for i in imports(MODULES["narrative_jax.data.sources"]) if i.startswith("narrative_jax.storybook")}
    assert seen == {"narrative_jax.storybook", "narrative_jax.storybook.datasets"}


def test_parse_is_blind():
    # What reads a picture knows neither scenes nor facts: it cannot search for what it should find.
    for name in ("parse", "evidence"):
        names = set(imports(MODULES[f"narrative_jax.storybook.{name}"]))
        assert not any("Facts" in n or "scenes" in n or "oracle" in n for n in names)


def test_the_runtime_never_imports_torch():
    for module, path in MODULES.items():
        assert "torch" not in {i.split(".")[0] for i in imports(path)}, module
