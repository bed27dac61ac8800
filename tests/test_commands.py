"""The commands as a person runs them: what they write, and one clear line and exit code 2 for bad input."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

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


def test_rater_agreement_prints_a_table(tmp_path):
    done = run("rater_agreement", "--scenes", "8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| share of 48 pairs, % | overall | prompt following |")


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("contact_sheet", ("--scenes", "0"), "scenes 0: scenes is an integer ≥ 1"),
        ("contact_sheet", ("--out", "sheet.gif"), "--out sheet.gif: the sheet is a PNG"),
        ("contact_sheet", ("--out", "no/where.png"), "folder no: it must exist and be writable; mkdir -p no"),
        ("contact_sheet", ("--seed", "-1"), "seed -1: seed is an integer ≥ 0"),
        ("rater_agreement", ("--scenes", "1"), "scenes 1: scenes is an integer ≥ 2"),
        ("coverage", ("--studies", "0"), "studies 0: studies is an integer ≥ 1"),
        ("coverage", ("--studies", "many"), "invalid int value: 'many'; see --help"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(tmp_path, command, arguments, message):
    done = run(command, *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing half-written"


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
        assert (ROOT / Path(*module.split("."))).with_suffix(".py").is_file(), module
    for config in set(re.findall(r"configs/\w+\.py", text)):
        assert (ROOT / config).is_file(), config
    for target in text.split("](")[1:]:
        assert ((ROOT / page).parent / target.split(")")[0]).is_file(), target
