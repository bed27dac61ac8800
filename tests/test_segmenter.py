"""What IS-Net learns to tell subjects from backgrounds by."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import one_entry
import pytest
from flax import nnx
from PIL import Image
from scipy import ndimage

from narrative_jax.algorithms.segmentation import Segmentation
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError
from narrative_jax.data.backgrounds import FoundMasks
from narrative_jax.data.sources import storybook_training_set
from narrative_jax.losses.segmentation import levels_cross_entropy, overlap
from narrative_jax.models.checkpoints import load_weights
from narrative_jax.models.isnet import ISNET_NAMES, ISNET_SIZES, ISNet
from narrative_jax.models.layers import STATISTICS
from narrative_jax.models.network import abstract
from narrative_jax.runs.directory import WEIGHTS
from narrative_jax.trainees.base import TrainingSetOptions
from narrative_jax.trainees.segmenter import SegmenterOptions, SegmenterTrainee

CONFIG = Path(__file__).parents[1] / "configs" / "encoders.py"


@pytest.fixture(scope="module")
def trainee():
    options = SegmenterOptions(TrainingSetOptions("raw", 32, seed=3))
    return SegmenterTrainee.open(one_entry.entry(load(f"{CONFIG}:tiny"), "isnet"), Segmentation(), options)


def test_the_loss_by_hand():
    logits = np.array([[[[0.0, 2.0]]], [[[-1.0, 1.0]]]], np.float32)  # two levels of a picture of two pixels
    mask = np.array([[[False, True]]])
    cross = np.log1p(np.exp([0.0, -2.0])), np.log1p(np.exp([-1.0, -1.0]))
    assert levels_cross_entropy(logits, mask)[0] == pytest.approx(sum(np.mean(each) for each in cross), rel=1e-6)


@pytest.mark.parametrize(
    ("found", "mask", "share"), [("1100", "0110", 1 / 3), ("0000", "0000", 1), ("1111", "0011", 0.5)]
)
def test_overlap(found, mask, share):
    found, mask = (np.array([[[each == "1" for each in word]]]) for word in (found, mask))
    assert overlap(jnp.where(found, 1.0, -1.0), mask)[0] == pytest.approx(share)


def test_silhouettes_are_where_pictures_differ_without_anybody():
    """Also of targets with flaws: what is painted beside the mask is the place and nothing else."""
    examples = storybook_training_set("raw", 24, 3, characters=1)
    targets = np.stack([example.target for example in examples.batch(range(24))]).astype(int)
    masks = examples.silhouettes(range(24))
    facts = [(example.scene.facts.location, example.scene.facts.style) for example in examples.batch(range(24))]
    alike = [(i, j) for i in range(24) for j in range(i) if facts[i] == facts[j]]
    assert len(alike) >= 3
    for i, j in alike:
        near = ndimage.binary_dilation(masks[i] | masks[j], iterations=2)  # pixels that are covered in part
        assert abs(targets[i] - targets[j]).max(-1)[~near].max() <= 2
    assert masks.mean((1, 2)).min() > 0.05 and masks.mean((1, 2)).max() < 0.5


@pytest.mark.slow
def test_portraits_and_pictures_by_turns(trainee):
    batches = trainee.batches(Segmentation())
    ids, batch = batches.make(np.arange(4))
    assert batches.size == 64 and ids[0] == ids[1] != ids[2] == ids[3]
    side = ISNET_SIZES["storybook"].image_size
    assert batch["image"].shape == (4, side, side, 3) and batch["mask"].shape == (4, side, side)
    examples = storybook_training_set("raw", 32, 3)
    (example,) = examples.batch([1])

    def squeezed(image):
        return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))

    silhouette = np.uint8(255 * examples.silhouettes([1])[0])
    np.testing.assert_array_equal(batch["mask"][3], squeezed(silhouette) > 127)
    np.testing.assert_allclose((batch["image"][3] + 1) * 127.5, squeezed(example.target), atol=1e-3)
    portrait = example.scene.subjects[1 % len(example.scene.subjects)]
    assert batch["mask"][2].mean() == pytest.approx(portrait.masks[0].mean(), abs=0.03)


@pytest.mark.slow
def test_what_is_left_is_read_as_published_weights_are(trainee, tmp_path):
    assert not any(name.endswith(STATISTICS) for name in trainee.params) and trainee.frozen
    context = one_entry.entry(load(f"{CONFIG}:tiny"), "isnet", tmp_path)
    moved = {name: value + 0.01 for name, value in trainee.params.items()}
    SegmenterTrainee(context, trainee.options, trainee.network, trainee.params, trainee.frozen).save(moved)
    _, like = abstract(lambda: ISNet(ISNET_SIZES["storybook"], rngs=nnx.Rngs(0)))
    read = load_weights(context.folder / WEIGHTS, like, ISNET_NAMES)
    for name, value in (moved | trainee.frozen).items():
        np.testing.assert_allclose(read[name], value, rtol=2**-8, err_msg=name)


def test_another_algorithm_is_refused():
    config = load(f"{CONFIG}:tiny")
    config.isnet.algorithm = "contrastive"
    with pytest.raises(InputError, match="algorithm for segmenter 'contrastive'"):
        one_entry.check(config, "isnet")


@pytest.mark.slow
def test_what_ships_finds_held_out_portraits():
    """Mean overlap ≥ 0.9, before plain and before busy backgrounds."""
    examples = storybook_training_set("true", 96, 5, "test", 1).batch(range(96))
    subjects = [example.scene.subjects[0] for example in examples]
    by = FoundMasks(size="storybook")
    found = np.stack([by.masks(subject)[0] for subject in subjects])
    true = np.stack([subject.masks[0] for subject in subjects])
    shares = (found & true).sum((1, 2)) / (found | true).sum((1, 2))
    assert shares.mean() >= 0.9, shares
