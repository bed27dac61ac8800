"""Bad input as a newcomer meets it: exit code 2, one line with value, rule and remedy, nothing half-written.

What a module refuses is tested beside it; here the whole command is run, on configs/adpo.py.
"""

import shutil
from pathlib import Path

import pytest

from narrative_jax import launch

CONFIG = Path(__file__).parents[1] / "configs" / "adpo.py"


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys):
    """refuse(variant, flags): the one line on stderr of a command that exits with 2 and leaves all files as they were."""
    monkeypatch.chdir(tmp_path)

    def run(variant, *flags, workdir="run"):
        before = contents(tmp_path)
        assert launch.main([f"--config={CONFIG}:{variant}", f"--workdir={workdir}", *flags]) == 2
        err = capsys.readouterr().err
        lines = [line for line in err.splitlines() if "|" not in line]  # progress bars have one
        assert len(lines) == 1 and "Traceback" not in err, err
        value, rule, remedy = lines[0].split(": ", 1)[0], *lines[0].split(": ", 1)[1].rsplit("; ", 1)
        assert value and rule and remedy
        assert contents(tmp_path) == before
        return lines[0]

    return run


def contents(folder):
    """Every file with its bytes, apart from the lock and the clock of a run."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in (".lock", "elapsed.json"))
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("variant", "change", "message"),
    [
        ("tiny", "algin.batch_size=8", "unknown config key 'algin.batch_size': known are align, evaluate, generate"),
        ("tiny", "align.batchsize=8", "did you mean 'align.batch_size'?"),
        ("tinny", "seed=0", "unknown variant 'tinny': known are controls, tiny; did you mean 'tiny'?"),
        ("tiny", "align.batch_size=many", "--config.align.batch_size=many: a value of type int is expected, like 4"),
        ("tiny", "generator.preset=storyboko", "unknown preset 'storyboko': known are storybook, tiny; did you mean"),
        ("tiny", "generator.weights=", "preset 'tiny' without weights: only 'storybook' has embedded ones; set"),
        (
            "tiny",
            "align.algorithm=dop",
            "unknown algorithm 'dop': known are sft, dpo, contrastive; did you mean 'dpo'?",
        ),
        ("tiny", "align.algorithm=sft", "unknown hyper-parameter of sft 'beta': known are text_dropout; choose a"),
        ("tiny", "align.hyper.bta=1.0", "unknown config key 'align.hyper.bta'"),
        ("tiny", "align.hyper.beta=-1", "beta -1.0: beta is a number > 0; give one"),
        (
            "tiny",
            "align.hyper.eta=3.0",
            "β(a) with eta 3.0, k 1.0, b 0.5: β(0) = β · (1 - eta · (exp(k · b) - 1)) would",
        ),
        ("tiny", "align.hyper.preserve=2.0", "preserve 2.0: preserve lies in [0, 1]"),
        ("tiny", "score.reward=ratters", "unknown reward 'ratters': known are oracle, raters, picture_statistics; did"),
        (
            "tiny",
            "evaluate.reward=picture",
            "unknown reward 'picture': known are oracle, raters, picture_statistics; d",
        ),
        ("tiny", "score.raters.seeds=(1, 1)", "raters' seeds (1, 1): each rater has a seed of its own"),
        ("tiny", "screen.rule=dominanse", "unknown screening rule 'dominanse': known are dominance, pareto, majority,"),
        ("tiny", "screen.thresholds=(0.0,)", "thresholds (0.0,): the reward raters has 3 aspects; give one for each"),
        ("tiny", "on_no_pairs=go", "unknown on_no_pairs 'go': known are stop, skip"),
        ("tiny", "score.stage=scroe", "unknown stage of score 'scroe': known are generate, score, screen, train, ev"),
        ("tiny", "score.source=genrate", "score needs 'genrate', which does not come before it; list 'genrate' before"),
        ("tiny", "stages=('score', 'generate')", "score needs 'generate', which does not come before it; list 'gene"),
        ("tiny", "sampling.sampler=eulr", "unknown sampler 'eulr': known are euler, heun; did you mean 'euler'?"),
        ("tiny", "sampling.num_steps=0", "num_steps 0: num_steps is an integer ≥ 1"),
        ("tiny", "generate.scenes=0", "generate.scenes 0: generate.scenes is an integer ≥ 1"),
        ("tiny", "generate.split=trian", "unknown split 'trian': known are train, tune, test; did you mean 'train'?"),
        (
            "tiny",
            "align.accumulate=3",
            "batch_size 4: it is a multiple of 3 (devices of the mesh's data and fsdp axes ×",
        ),
        ("tiny", "mesh.fsdp=3", "mesh data -1, fsdp 3, tensor 1: sizes multiply to the 1 devices"),
        ("tiny", "align.total_steps=0", "total_steps 0: total_steps is an integer ≥ 1"),
        ("tiny", "align.save_every=0", "save_every 0: save_every is an integer ≥ 1"),
        ("tiny", "align.optimizer.decay=linaer", "unknown decay 'linaer': known are constant, cosine"),
        ("tiny", "align.optimizer.learning_rate=-1", "learning_rate -1.0: it is a number > 0"),
        ("tiny", "align.adapter.rank=0", "adapter.rank 0: dpo keeps a reference"),
        ("tiny", "align.adapter.rank=-1", "rank -1: rank is an integer ≥ 1"),
        ("tiny", "align.adapter.segments=('noisy', 'txt')", "unknown segment 'txt': known are"),
        ("tiny", "align.adapter.targets=nothing", "targets 'nothing': they match dotted paths of linear layers; see"),
        ("tiny", "align.ema_decay=1.5", "ema_decay 1.5: ema_decay lies in [0, 1]"),
        ("tiny", "evaluate.trained=('algin',)", "evaluate needs 'algin', which does not come before it"),
    ],
)
def test_config(refuse, variant, change, message):
    assert message in refuse(variant, f"--config.{change}")
    assert not Path("run").exists()
