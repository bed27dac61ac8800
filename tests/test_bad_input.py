"""Bad input as a newcomer meets it: exit code 2, one line with value, rule and remedy, nothing half-written.

What a module refuses is tested beside it; here the whole command is run, on configs/adpo.py.
"""

import shutil
from pathlib import Path

import pytest

from narrative_jax import launch
from narrative_jax.core.records import Preference
from narrative_jax.data.datasets import open_records

CONFIG = Path(__file__).parents[1] / "configs" / "adpo.py"


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """command(*flags): exit code and lines of stderr of a tiny run in ./run, without progress bars."""
    monkeypatch.chdir(tmp_path)

    def run(*flags, variant="tiny"):
        code = launch.main([f"--config={CONFIG}:{variant}", "--workdir=run", *flags])
        lines = capsys.readouterr().err.splitlines()
        return code, [line for line in lines if line and "it/s]" not in line and "picture" not in line[-10:]]

    return run


@pytest.fixture
def refuse(command, tmp_path):
    """refuse(*flags): the line on stderr of a command that exits with 2 and leaves all files as they were."""

    def run(*flags, **options):
        before = contents(tmp_path)
        code, lines = command(*flags, **options)
        assert code == 2 and len(lines) == 1 and contents(tmp_path) == before
        value, _, rest = lines[0].partition(": ")
        rule, _, remedy = rest.rpartition("; ")
        assert value and rule and remedy
        return lines[0]

    return run


ABOUT = (".lock", ".hashes.json", "elapsed.json", "config.json", "inputs.json")  # a run's lock, clock and request


def contents(folder):
    """Every file with its bytes, apart from those about the run."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in ABOUT}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("algin.batch_size=8", "unknown config key 'algin.batch_size': known are align, calibrate, evaluate"),
        ("align.batchsize=8", "did you mean 'align.batch_size'?"),
        ("align.batch_size=many", "--config.align.batch_size=many: a value of type int is expected, like 4"),
        ("generator.preset=storyboko", "unknown preset 'storyboko': known are storybook, tiny, flux; did you mean"),
        (
            "align.algorithm=dop",
            "unknown align.algorithm 'dop': known are sft, dpo, refl, contrastive, reward_modelling, recognition, ",
        ),
        ("align.algorithm=sft", "unknown option of align.hyper 'b': known are text_dropout, subject_dropout;"),
        ("align.hyper.bta=1.0", "unknown config key 'align.hyper.bta'"),
        ("align.hyper.beta=-1", "align.hyper.beta -1.0: beta is a number > 0; give one"),
        (
            "align.hyper.eta=3.0",
            "β(a) with align.hyper.eta 3.0, k 1.0, b 0.5: β(0) = β · (1 - eta · (exp(k · b) - 1)) would",
        ),
        ("align.hyper.imitation=-1", "align.hyper.imitation -1.0: imitation is a number ≥ 0"),
        (
            "score.reward=ratters",
            "unknown calibrate.reward 'ratters': known are oracle, presence, raters, picture_statistics, ",
        ),
        (
            "evaluate.reward=picture",
            "unknown evaluate.reward 'picture': known are oracle, presence, raters, picture_statistics, ",
        ),
        ("score.raters.seeds=(1, 1)", "raters.seeds (1, 1): each rater has a seed of its own"),
        ("score.source=", "score.source '': it scores the pictures of an earlier entry; name one that draws"),
        ("screen.source=", "sources '': it scores no pictures; name score entries"),
        ("screen.source=generate", "sources 'generate': it scores no pictures; name score entries"),
        ("align.source=", "align.source '': it is trained on what an earlier entry left, or on a training set; name"),
        ("align.source=score", "source 'score': that entry makes no preferences; name one that screens, or collects"),
        ("screen.rule=dominanse", "unknown screen.rule 'dominanse': known are dominance, pareto, majority,"),
        ("on_no_pairs=go", "unknown on_no_pairs 'go': known are stop, skip"),
        (
            "score.stage=scroe",
            "unknown stage of score 'scroe': known are accuracy, annotate, best_of, publish, choose, collect, ",
        ),
        ("score.source=genrate", "unknown entry that score needs 'genrate': known are align, calibrate, evaluate, "),
        ("stages=('score', 'generate')", "score needs 'generate', which does not come before it; list 'gene"),
        ("sampling.sampler=eulr", "unknown sampling.sampler 'eulr': known are euler, heun; did you mean 'euler'?"),
        ("sampling.num_steps=0", "sampling.num_steps 0: num_steps is an integer ≥ 1"),
        ("generate.scenes=0", "scenes 0: scenes is an integer ≥ 1"),
        ("generate.split=trian", "unknown generate.split 'trian': known are train, tune, test; did you mean 'train'?"),
        (
            "align.accumulate=3",
            "batch_size 4: it is a multiple of 3 (devices of the mesh's data and fsdp axes ×",
        ),
        (
            "mesh.fsdp=3",
            "mesh data -1, fsdp 3, tensor 1, context 1: sizes are positive and multiply to the number of devices",
        ),
        ("align.total_steps=0", "total_steps 0: total_steps is an integer ≥ 1"),
        ("align.save_every=0", "save_every 0: save_every is an integer ≥ 1"),
        ("align.sample_every=-1", "sample_every -1: sample_every is an integer ≥ 0"),
        ("align.optimizer.decay=linaer", "unknown align.optimizer.decay 'linaer': known are constant, cosine"),
        ("align.optimizer.learning_rate=-1", "align.optimizer.learning_rate -1.0: learning_rate is a number > 0"),
        ("align.adapter.rank=0", "rank 0: rank is an integer ≥ 1"),
        ("align.adapter.rank=-1", "rank -1: rank is an integer ≥ 1"),
        ("align.adapter.rank=100000", "rank 100000: the kernels that it adapts have ranks up to 32, and more changes"),
        ("align.adapter.segments=('noisy', 'txt')", "unknown segment 'txt': known are"),
        ("align.adapter.targets=nothing", "targets 'nothing': they match dotted paths of linear layers; see"),
        ("align.ema_decay=1.5", "ema_decay 1.5: ema_decay lies in [0, 1]"),
        ("evaluate.trained=('algin',)", "unknown entry that evaluate needs 'algin': known are"),
        (
            "evaluate.compare=(('algin', 'baseline'),)",
            "unknown arm in evaluate.compare 'algin': known are baseline, align; did you mean 'align'?",
        ),
        (
            "evaluate.compare=(('align', 'best_of_4'),)",
            "unknown arm in evaluate.compare 'best_of_4': known are ",
        ),
        (
            "evaluate.compare=(('ceiling', 'align'),)",
            "unknown arm in evaluate.compare 'ceiling': known are ",
        ),
        ("evaluate.compare=(('align', 7),)", "evaluate.compare[0][1] 7: it is a text; give such"),
        ("evaluate.compare=('align', 'baseline')", "evaluate.compare[0] 'align': it is a list of 2: a text, a text"),
        ("evaluate.compare=(('align',),)", "evaluate.compare[0] ('align',): it is a list of 2: a text, a text"),
        ("evaluate.compare=(('align', 'align'),)", "compare ('align', 'align'): an arm is compared with another one,"),
        (
            "evaluate.compare=(('align', 'baseline'), ('align', 'baseline'))",
            "compare ('align', 'baseline'): an arm is compared with another one, once; name two arms",
        ),
    ],
)
def test_config(refuse, change, message):
    assert message in refuse(f"--config.{change}")
    assert not Path("run").exists()


def test_variant(refuse):
    said = refuse(variant="tinny")
    assert "unknown variant 'tinny': known are nireward, proxies, controls, recipes, flux, tiny; did you mean" in said
    assert "'tiny'?" in said


def test_a_config_of_ones_own_that_leaves_the_adapter_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = ["import runpy", "def get_config(variant=''):", f"    config = runpy.run_path({str(CONFIG)!r})"]
    lines += ["    config = config['get_config']('tiny')", "    del config.align['adapter']", "    return config"]
    Path("mine.py").write_text("\n".join(lines))
    assert launch.main(["--config=mine.py", "--workdir=run"]) == 2
    said = "align without an adapter: dpo keeps a reference: the stack without the adapter that is trained; set "
    assert capsys.readouterr().err == f"{said}adapter, e.g. of rank 16\n"
    assert not Path("run").exists()


@pytest.fixture
def done(adpo_run, tiny_weights, tmp_path):
    """The flags of a finished run that lies in ./run."""
    shutil.copytree(adpo_run, tmp_path / "run")
    return [f"--config.generator.weights={tiny_weights}"]


def again(entry):
    """Forget what an entry made, so that it runs again."""
    shutil.rmtree(f"run/{entry}")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("file", "damage", "entry", "message"),
    [
        ("generate/candidates/*array_record*", Path.unlink, "score", "this shard is missing; remove the folder of the"),
        (
            "generate/candidates/*array_record*",
            cut,
            "score",
            "this shard is truncated or damaged (24 records expected)",
        ),
        ("generate/scenes/*array_record*", cut, "score", "this shard is truncated or damaged (6 records expected)"),
        ("generate/scenes/dataset_info.json", cut, "score", "run/generate/scenes: its description cannot be read"),
        ("score/scores/*array_record*", Path.unlink, "screen", "this shard is missing"),
        ("calibrate/calibration.json", cut, "screen", "calibration.json: it is not the JSON that a run writes"),
        ("screen/preferences/*array_record*", cut, "align", "this shard is truncated or damaged (36 records expected)"),
        ("generate/manifest.json", Path.unlink, "score", "stage score: it needs 'generate', which is not done in run;"),
        ("generate/manifest.json", cut, "score", "run/generate/manifest.json: it is not the JSON that a run writes"),
    ],
)
def test_damage_between_stages(refuse, done, file, damage, entry, message):
    again(entry)
    (path,) = Path("run").glob(file)
    damage(path)
    assert message in refuse(*done, f"--stage={entry}")


def test_a_damaged_adapter(command, done):
    """Found after the baseline's pictures are drawn, which then stay."""
    again("evaluate")
    cut(Path("run/align/adapter.safetensors"))
    code, (line,) = command(*done)
    assert code == 2 and line.startswith("run/align/adapter.safetensors: it is no readable weights file (")
    assert sorted(path.name for path in Path("run/evaluate").iterdir()) == [
        "baseline",
        "elapsed.json",
        "inputs.json",
        "scenes",
    ]


def test_the_remedy_for_a_damaged_shard(command, done):
    before = contents(Path("run"))
    again("score")
    (path,) = Path("run/generate/candidates").glob("*array_record*")
    cut(path)
    again("generate")
    assert command(*done) == (0, [])
    after = contents(Path("run"))
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} <= {
        path for path in after if path.name in ("manifest.json", "summary.json", "report.html")
    }


def test_no_pair_left(refuse, command, done):
    """Says which rule removed how many; a lower threshold then goes on from the scores that are there."""
    for entry in ("screen", "align", "evaluate"):
        again(entry)
    high = ["--config.screen.rejection=true", "--config.screen.thresholds=(99, 99, 99)"]
    line = refuse(*done, *high)
    assert line.startswith(
        "no pair left: 36 pairs, average removed 0 of 36, rejection removed 36 of 36: training needs"
    )
    low = ["--config.screen.rejection=true", "--config.screen.thresholds=(-9, -9, -9)", "--stage=screen"]
    assert command(*done, *low) == (0, [])
    assert len(open_records("run/screen/preferences", Preference)) == 36
    said = "entry 'screen' of run: it was made from something else: screen.thresholds ([-9.0, -9.0, -9.0] there, [99.0,"
    assert refuse(*done, *high).startswith(said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("weights=nowhere.safetensors", "nowhere.safetensors: it is no readable weights file (No such file"),
        ("weights=cut.safetensors", "cut.safetensors: it is no readable weights file ("),
        ("weights=text.safetensors", "text.safetensors: it is no readable weights file ("),
        ("weights=adapter.safetensors", "adapter.safetensors: by its arrays it is no network that is known here, not "),
        ("text=nowhere", "nowhere/tokenizer.json: it is no readable tokenizer.json"),
    ],
)
def test_weights(refuse, adpo_run, tiny_weights, change, message):
    shutil.copy(tiny_weights, "cut.safetensors")
    cut(Path("cut.safetensors"))
    Path("text.safetensors").write_text("no weights")
    shutil.copy(adpo_run / "align" / "adapter.safetensors", "adapter.safetensors")
    assert message in refuse(f"--config.generator.{change}")


def test_preset_without_weights(refuse, command):
    message = "generator.weights '': this preset has no embedded ones; set a file, or 'random'"
    assert message in refuse("--config.generator.weights=")
    # Found when the first stage has begun; the directory is not spoilt for the corrected command.
    assert "no readable weights file" in refuse("--config.generator.weights=nowhere.safetensors")
    assert command("--config.generate.scenes=1", "--stage=generate") == (0, [])
