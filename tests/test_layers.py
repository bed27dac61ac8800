"""The floors of the house: imports point down, in no circle and few to a file, and the gold judge stays out of
everything but judging.
"""

import ast
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "narrative_jax"
FLOORS = (
    ("core",),
    ("diffusion", "losses", "statistics", "storybook"),
    ("models",),
    ("generators", "rewards", "data"),
    ("algorithms", "training"),
    ("trainees", "runs", "annotators", "report"),
    ("pipeline", "stages", "planning"),
    ("launch", "sample", "plan", "export", "prompts", "study"),
    ("__main__",),
)
# Between neighbours on one floor: what is on the left may import what is on the right.
NEIGHBOURS = {
    "losses": ("diffusion",),
    "training": ("algorithms.base",),
    "trainees": ("runs",),
    "report": ("runs",),
    "pipeline": ("stages",),
}
# Algorithms see of the floor below no more than its contracts and the walk from noise to latents.
ALGORITHMS_MAY_SEE = ("generators.base", "generators.rollout", "rewards.base")
MAY_IMPORT_STORYBOOK = (
    "storybook",
    "data.sources",
    "rewards.oracle",
    "rewards.raters",
    "rewards.seen",
    "annotators.raters",
    "stages.evaluate",
    "stages.faults",
    "study",
)
MOST_NAMES = 35  # that a module imports
MANY_NAMES, MOST_WITH_MANY = 30, 5  # so many modules may import more names than that

MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@cache
def tree(module):
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports(parsed):
    """(module, name) of every import, wherever in a file it stands; name is None where the module is imported."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno} is a relative import"
            yield from ((node.module, alias.name) for alias in node.names)


@cache
def own(module):
    """The modules of the package that a module names in its imports."""
    found = {f"{name}.{part}" if f"{name}.{part}" in MODULES else name for name, part in imports(tree(module))}
    return {name for name in found if within(name, "")}


def others(module):
    """The packages of others that a module imports."""
    return {name.split(".")[0] for name, _ in imports(tree(module))} - {"narrative_jax", *sys.stdlib_module_names}


def reached(module):
    """The packages of others that a module imports, itself or by way of the package's modules that it imports."""
    seen, ahead = set(), {module}
    while ahead:
        seen |= ahead
        ahead = {name for each in ahead for name in own(each) & MODULES.keys()} - seen
    return set().union(*map(others, seen))


def within(module, *areas):
    """Whether a module is one of these, or in one; "" is the whole package."""
    names = [f"narrative_jax.{area}".rstrip(".") for area in areas]
    return any(module == name or module.startswith(f"{name}.") for name in names)


def modules_in(*areas):
    return [module for module in MODULES if within(module, *areas)]


def floor(module):
    part = module.split(".")[1]
    found = next((number for number, parts in enumerate(FLOORS) if part in parts), None)
    assert found is not None, f"{module} is on no floor"
    return found


def names_imported(parsed):
    """How many names a file imports; of a module of this package that it imports, each name used counts too."""
    count, bound = 0, set()
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import | ast.ImportFrom):
            count += len(node.names)
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            bound |= {alias.asname or alias.name for alias in node.names if f"{start}{alias.name}" in MODULES}
    attributes = {(ast.unparse(node.value), node.attr) for node in ast.walk(parsed) if isinstance(node, ast.Attribute)}
    return count + sum(value in bound for value, _ in attributes)


def test_the_house_itself_stands_on_no_floor():
    assert not own("narrative_jax")  # whatever imports a part of it imports it first


@pytest.mark.parametrize("module", [module for module in MODULES if module != "narrative_jax"])
def test_imports_point_down(module):
    part, here = module.split(".")[1], floor(module)
    for imported in own(module) - {"narrative_jax"}:
        down = floor(imported) < here
        assert down or within(imported, part, *NEIGHBOURS.get(part, ())), f"{module} imports {imported}"


@pytest.mark.parametrize("module", modules_in("algorithms"))
def test_algorithms_see_contracts_only(module):
    below = {imported for imported in own(module) if floor(imported) == floor(module) - 1}
    assert all(within(imported, *ALGORITHMS_MAY_SEE) for imported in below), f"{module} imports {below}"


def test_no_module_imports_itself_by_way_of_others():
    try:
        TopologicalSorter({module: own(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


@pytest.mark.parametrize("module", modules_in("losses", "diffusion", "statistics"))
def test_formulas_know_no_networks(module):
    assert "flax" not in reached(module)


@pytest.mark.parametrize("module", modules_in("storybook"))
def test_storybook_is_numpy_only(module):
    assert reached(module) <= {"numpy"}


@pytest.mark.parametrize("module", [module for module in MODULES if not within(module, *MAY_IMPORT_STORYBOOK)])
def test_only_judges_import_storybook(module):
    assert not [imported for imported in own(module) if within(imported, "storybook")]


def test_sources_of_scenes_see_nothing_of_the_judge():
    seen = {imported for imported in own("narrative_jax.data.sources") if within(imported, "storybook")}
    assert seen == {"narrative_jax.storybook.datasets"}


@pytest.mark.parametrize("module", modules_in("storybook.parse", "storybook.one_figure", "storybook.evidence"))
def test_what_reads_a_picture_is_blind(module):
    # It knows neither scenes nor facts: it cannot search for what it should find.
    names = {f"{name}.{part}" for name, part in imports(tree(module))}
    assert not [name for name in names if "Facts" in name or "scenes" in name or "oracle" in name]


@pytest.mark.parametrize("module", MODULES)
def test_the_runtime_never_imports_torch(module):
    assert "torch" not in others(module)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_few_names(module):
    assert names_imported(tree(module)) <= MOST_NAMES


def test_few_modules_import_many_names():
    many = {module: count for module in MODULES if (count := names_imported(tree(module))) > MANY_NAMES}
    assert len(many) <= MOST_WITH_MANY, many


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("import os, numpy as np\nos.path, np.pi", 2),
        ("from numpy import pi, e", 2),
        ("def f():\n    from narrative_jax.storybook import sets\n    sets.SIZE, sets.SIZE.real, sets.styles", 3),
        ("from narrative_jax.storybook import sets as s\ns.SIZE, sets.styles", 2),
        ("import narrative_jax.storybook.sets\nnarrative_jax.storybook.sets.SIZE", 2),
        ("from narrative_jax.storybook.sets import SIZE\nSIZE.real", 1),
    ],
)
def test_names_are_counted_whichever_way_they_are_taken(text, count):
    assert names_imported(ast.parse(text)) == count
