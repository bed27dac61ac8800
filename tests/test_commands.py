"""The commands as a person runs them: what they write, and one clear line and exit code 2 for bad input."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from narrative_jax.rewards.base import WEIGHTS
from narrative_jax.rewards.nireward_files import SHIPPED

ROOT = Path(__file__).parents[1]


def run(command, *arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", f"narrative_jax.study.{command}", *arguments], capture_output=True, text=True, cwd=cwd
    )


def test_the_contact_sheet_is_a_picture(tmp_path):
    done = run("contact_sheet", "--scenes", "1", cwd=tmp_path)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "wrote storybook.png\n")
    with Image.open(tmp_path / "storybook.png") as sheet:
        width, height = sheet.size
    assert width == 1400 and height == 275


@pytest.mark.slow
def test_rater_agreement_prints_a_table(tmp_path):
    done = run("rater_agreement", "--scenes", "8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\| share of 48 pairs, % +\| overall \| prompt following \|", done.stdout)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("contact_sheet", ("--scenes", "0"), "scenes 0: scenes is an integer ≥ 1"),
        ("contact_sheet", ("--out", "sheet.gif"), "--out sheet.gif: the sheet is a PNG"),
        ("contact_sheet", ("--out", "no/where.png"), "folder no: it must exist and be writable; mkdir -p no"),
        ("contact_sheet", ("--seed", "-1"), "seed -1: seed is an integer ≥ 0"),
        ("rater_agreement", ("--scenes", "1"), "scenes 1: scenes is an integer ≥ 2"),
        ("aloud", ("--weights=no", "--pictures=8"), "pictures 8: pictures is an integer ≥ 32"),
        ("aloud", ("--weights", "no.safetensors"), "weights 'no.safetensors': there is no such file"),
        (
            "aloud",
            ("--weights", str(SHIPPED / WEIGHTS)),
            "this NIReward says nothing aloud",
        ),
        ("coverage", ("--studies", "0"), "studies 0: studies is an integer ≥ 1"),
        ("coverage", ("--studies", "many"), "invalid int value: 'many'; see --help"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, command, arguments, message):
    done = run(command, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing half-written"


def program(*words, cwd):
    return subprocess.run([sys.executable, "-m", "narrative_jax", *words], capture_output=True, text=True, cwd=cwd)


def test_without_a_name_the_commands_are_listed(tmp_path):
    done = program(cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    listed = {line.split("  ")[1]: line.split("  ")[-1] for line in done.stdout.splitlines()[2:]}
    modules = [*(ROOT / "narrative_jax").glob("[a-z]*.py"), *(ROOT / "narrative_jax" / "study").glob("*.py")]
    runnable = {path.stem for path in modules if "sys.exit(main())" in path.read_text(encoding="utf-8")}
    assert {name.removeprefix("study ") for name in listed} == runnable >= {"launch", "sample", "export", "coverage"}
    assert listed["launch"] == "Runs a recipe, or a config file of one's own" and all(listed.values())
    assert program("--help", cwd=tmp_path).stdout == program("study", cwd=tmp_path).stdout == done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("luanch", "--config=adpo"),
            "unknown command 'luanch': known are export, launch, plan, prompts, sample, study adversaries, ",
        ),
        (("study", "coverge"), "did you mean 'study coverage'?"),
        (
            ("launch", "--config=adpo:tinny"),
            "unknown variant 'tinny': known are nireward, proxies, controls, recipes, flux, tiny; did",
        ),
        (("study", "coverage", "--studies=0"), "studies 0: studies is an integer ≥ 1"),
        (("sample", "--promt=x"), "unrecognized arguments: --promt=x; see --help"),
    ],
)
def test_commands_by_name_have_the_same_errors(tmp_path, words, message):
    done = program(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr and done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_installed_package_brings_its_recipes(tmp_path):
    """A wheel, built from a copy and unpacked elsewhere."""
    source, wheels, site = tmp_path / "source", tmp_path / "wheels", tmp_path / "site"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "*.egg-info", "runs", "__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, source]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    shutil.unpack_archive(wheel, site, "zip")
    recipes = {path.name for path in (ROOT / "configs").glob("*.py")}
    assert {path.name for path in (site / "narrative_jax" / "configs").iterdir()} == recipes
    (metadata,) = site.glob("*.dist-info")
    assert "narrative_jax = narrative_jax.__main__:main" in (metadata / "entry_points.txt").read_text()
    text = "import narrative_jax.core.config as c; print(c.__file__, c.find('adpo')[0], c.load('adpo:tiny').align.seed)"
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, "PYTHONPATH": str(site)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    package = site / "narrative_jax"
    assert done.stdout.split() == [str(package / "core" / "config.py"), str(package / "configs" / "adpo.py"), "0"]


@pytest.mark.slow
def test_the_code_of_the_storybook_page_runs():
    page = (ROOT / "docs" / "storybook.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    names = {}
    exec(block, names)
    assert names["judgement"].aspects.mean(0).min() >= 0.97
    assert [c.name for c in names["judgement"].findings[0].characters] == [s.name for s in names["asked"][0].subjects]


@pytest.mark.parametrize("page", ["README.md", "docs/storybook.md"])
def test_a_page_names_files_and_commands_that_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for module in {line.split()[2] for line in text.replace("`", "\n").splitlines() if line.startswith("python -m n")}:
        path = ROOT / Path(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module
    for config in set(re.findall(r"configs/\w+\.py", text)):
        assert (ROOT / config).is_file(), config
    for target in text.split("](")[1:]:
        assert ((ROOT / page).parent / target.split(")")[0]).is_file(), target
