"""What a step is planned with: shapes of a reward's weights and of its context are those of the real ones."""

import jax
import numpy as np
import pytest
from small_rewards import pictures, scenes, small_aesthetic, small_clip, small_dino, small_iresnet, with_faces

from narrative_jax.core.errors import InputError
from narrative_jax.rewards.aesthetic import AestheticOptions
from narrative_jax.rewards.calibration import Calibration
from narrative_jax.rewards.clip_scores import ClipCosine, ClipCosineOptions, PickScoreOptions
from narrative_jax.rewards.ensemble import Ensemble, Term
from narrative_jax.rewards.identity import Identity, IdentityOptions
from narrative_jax.rewards.subject_consistency import Crops, Grid, SubjectConsistency, SubjectConsistencyOptions

HALVES = ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))


def ensemble(draw):
    terms = {"text": ClipCosine(small_clip(draw)), "who": Identity(small_dino(draw), 16, 2, HALVES)}
    known = {name: Calibration(reward.name, reward.aspects, (0.0,), (0.2,), "") for name, reward in terms.items()}
    return Ensemble({name: Term(reward, known[name], 0.5) for name, reward in terms.items()})


REWARDS = {
    "text": lambda draw: ClipCosine(small_clip(draw)),
    "looks": small_aesthetic,
    "identity": lambda draw: Identity(small_dino(draw), 16, 2, HALVES),
    "faces": lambda draw: Identity(small_iresnet(draw), 32, 2, landmarks=True),
    "grid": lambda draw: SubjectConsistency(small_dino(draw), Grid(12, 6), 24, max_subjects=2),
    "crops": lambda draw: SubjectConsistency(small_dino(draw), Crops(16, 3, 8), 24, max_subjects=2),
    "ensemble": ensemble,
}


def told(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, np.dtype(leaf.dtype)), tree)


@pytest.mark.parametrize("name", REWARDS)
def test_shapes_are_those_of_the_real_ones(name, random_weights):
    reward = REWARDS[name](random_weights)
    asked = [with_faces(scene) for scene in scenes(1, 2, 2)] if name == "faces" else scenes(1, 2, 2)
    assert told(dict(reward.shapes)) == told(dict(reward.params)) and reward.shapes.keys() == reward.axes.keys()
    assert told(reward.blank(3)) == told(reward.encode(asked))
    scored = jax.eval_shape(reward.score, reward.shapes, pictures(3, 24, 24), reward.blank(3))
    assert scored.shape == (3, 1)


@pytest.mark.parametrize(
    ("options", "name", "weights"),
    [
        (SubjectConsistencyOptions("", size="ViT-g/14"), "subject_consistency_dinov2_vit_g_14", 1_136_480_768),
        (IdentityOptions("", "dinov2", "ViT-B/14"), "identity_dinov2_vit_b_14", 86_580_480),
        (ClipCosineOptions(""), "clip_cosine_vit_l_14", 303_966_208 + 1),
        (AestheticOptions("", ""), "aesthetic_v2", 303_966_208 + 1 + 927_969),
    ],
)
def test_published_ones_without_files(options, name, weights):
    with pytest.raises(InputError, match="there is no such file"):
        options.build()
    reward = options.abstract()
    assert reward.name == name and sum(shape.size for shape in reward.shapes.values()) == weights


def test_an_unknown_size_is_told():
    with pytest.raises(InputError, match=r"unknown size of CLIP 'ViT-X/14'"):
        PickScoreOptions("", "ViT-X/14").abstract()
