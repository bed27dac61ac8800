"""Fixtures that several test files share."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest

# Most of the tests' time is compiling. So little is optimised (with JAX_DISABLE_MOST_OPTIMIZATIONS=0 as much as in a
# run), and what one process has compiled, the others read. Set before JAX is imported, and in the environment, so that
# subprocesses share it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
COMPILED = "JAX_COMPILATION_CACHE_DIR"
_MINE = COMPILED not in os.environ
if _MINE:
    os.environ[COMPILED] = tempfile.mkdtemp(prefix="narrative_jax_compiled_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


def pytest_unconfigure():
    """The process that made the folder of what is compiled, which is not one of pytest-xdist's, removes it."""
    if _MINE:
        shutil.rmtree(os.environ[COMPILED], ignore_errors=True)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The real data files: NARRATIVE_JAX_TEST_DATA, or beside the repository; skips where absent."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("NARRATIVE_JAX_TEST_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}: set NARRATIVE_JAX_TEST_DATA")
    return folder


@pytest.fixture(scope="session")
def random_weights():
    """random_weights(shapes, seed): weights with no zeros, since a fresh network's zeros and ones hide mistakes."""
    import numpy as np

    def draw(shapes, seed=0):
        rng = np.random.default_rng(seed)
        return {name: _draw(name, shapes[name].shape, rng) for name in sorted(shapes)}

    def _draw(name, shape, rng):
        values, leaf = rng.standard_normal(shape, np.float32), name.rpartition(".")[2]
        if leaf == "scale":
            return 1 + 0.2 * values
        return values * (0.2 if leaf == "bias" else shape["*" in name] ** -0.5)

    return draw


@pytest.fixture(scope="session")
def tiny_generator(random_weights):
    """A generator of the preset "tiny" and its weights: random, tokeniser and all, and it draws more than grey."""
    from dataclasses import replace

    from flax import nnx

    from narrative_jax.data.sources import storybook_scenes
    from narrative_jax.generators.flow import TEXT_ENCODER
    from narrative_jax.generators.flow_presets import TINY_FLOW
    from narrative_jax.generators.text import TextSide
    from narrative_jax.models.clip import CLIP_SIZES, ClipTextEncoder
    from narrative_jax.models.network import abstract, under
    from narrative_jax.models.shipped import STORYBOOK
    from narrative_jax.models.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(scene.prompt for scene in storybook_scenes("train", 100))
    config = replace(CLIP_SIZES[STORYBOOK][0], vocab_size=tokenizer.vocab_size, end_token=tokenizer.end)
    network, reading = abstract(lambda: ClipTextEncoder(config, rngs=nnx.Rngs(0)))
    generator, drawing = TINY_FLOW.abstract()
    generator = replace(generator, text=TextSide(tokenizer, network, TINY_FLOW.text_length))
    return generator, random_weights(drawing) | under(TEXT_ENCODER, random_weights(reading))


@pytest.fixture(scope="session")
def tiny_weights(tiny_generator, tmp_path_factory) -> Path:
    """A weights file for the preset "tiny" whose pictures differ."""
    from narrative_jax.generators.flow import TRANSFORMER
    from narrative_jax.models.checkpoints import save_weights
    from narrative_jax.models.flow_transformer import FLUX_NAMES
    from narrative_jax.models.network import below

    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, below(TRANSFORMER, tiny_generator[1]), FLUX_NAMES)
    return path


@pytest.fixture(scope="session")
def adpo_run(tiny_weights, tmp_path_factory) -> Path:
    """The directory of a finished run of configs/adpo.py:tiny; copy it to change it."""
    from narrative_jax import launch

    workdir = tmp_path_factory.mktemp("runs") / "adpo"
    config = Path(__file__).resolve().parents[1] / "configs" / "adpo.py"
    weights = f"--config.generator.weights={tiny_weights}"
    assert launch.main([f"--config={config}:tiny", f"--workdir={workdir}", weights]) == 0
    return workdir
