"""What squares of pictures show, and a vision tower that learns to tell."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import one_entry
import optax
import pytest

from narrative_jax.algorithms.base import Models, Role
from narrative_jax.algorithms.recognition import Recognition
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError
from narrative_jax.core.images import fit_image, to_float
from narrative_jax.core.records import Candidate
from narrative_jax.data.datasets import write_records
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.rewards.new_nireward import NewNIReward
from narrative_jax.rewards.seen import check_squares, describe_images, describe_pictures, see_portrait, see_squares
from narrative_jax.storybook.datasets import TrainingSet
from narrative_jax.storybook.render import render
from narrative_jax.storybook.squares import LIMBS, NOT_TOLD, OF_FIGURES, QUESTIONS, squares
from narrative_jax.storybook.world import (
    ATTRIBUTE_NAMES,
    LOCATIONS,
    NUM_VALUES,
    PORTRAIT_POSE,
    POSES,
    STYLES,
    identity_codes,
)
from narrative_jax.trainees.base import TrainingSetOptions
from narrative_jax.trainees.judged import open_batches

SIDE = 8
CONFIG = Path(__file__).parents[1] / "configs" / "nireward.py"
SOMEBODY = QUESTIONS.index("somebody")


@pytest.fixture(scope="module")
def examples():
    return TrainingSet("changed", 64)


def test_the_oracle_sees_what_was_rendered(examples):
    """Square by square, in pictures of which half are noisy or blurred."""
    told = examples.squares(range(64), SIDE)
    seen = see_squares(np.stack([each.target for each in examples.batch(range(64))]), SIDE)
    assert told.shape == (64, 25, len(QUESTIONS))
    assert (told == seen)[..., SOMEBODY:].mean() > 0.97
    both = (told != NOT_TOLD) & (seen != NOT_TOLD)
    right = (told == seen).mean((0, 1), where=both)
    assert (right > 0.85).all() and right.mean() > 0.93


def test_a_square_tells_all_of_its_figure_and_nothing_where_nobody_is(examples):
    told, there = examples.squares(range(64), SIDE), examples.silhouettes(range(64))
    covered = there.reshape(64, 5, SIDE, 5, SIDE).mean((2, 4)).reshape(64, 25)
    somebody = told[..., SOMEBODY] == 1
    assert somebody[covered > 0.45].all() and not somebody[covered < 0.1].any(), "a fifth by one of two"
    assert (told[somebody][:, : len(OF_FIGURES)] >= 0).all()
    assert (told[~somebody][:, : len(OF_FIGURES)] == NOT_TOLD).all()
    of_pictures = told[..., SOMEBODY + 1 :]
    assert (of_pictures == of_pictures[:, :1]).all()
    assert of_pictures.max((0, 1)).tolist() == [len(LOCATIONS) - 1, len(STYLES) - 1]


def test_a_limb_is_told_of_where_it_is_or_would_be():
    """Without it other squares than these look as before."""
    drawing = TrainingSet("true", 40)._drawing(range(40))
    drawing.parts[:, 1:] = False
    before, drawing = render(drawing), drawing.copy()
    for place, limb in enumerate(LIMBS):
        without = drawing.copy()
        without.parts[:, 0, limb] = False
        whole, told = squares(drawing, SIDE)[..., len(OF_FIGURES) + place], squares(without, SIDE)
        told = told[..., len(OF_FIGURES) + place]
        np.testing.assert_array_equal(told != NOT_TOLD, whole != NOT_TOLD)
        assert (whole[whole != NOT_TOLD] == 1).all() and (told[told != NOT_TOLD] == 0).all()
        assert ((told != NOT_TOLD).sum(1) >= 1).all() and ((told != NOT_TOLD).sum(1) <= 6).all()
        changed = np.abs(render(without) - before).max(-1).reshape(40, 5, SIDE, 5, SIDE).max((2, 4)).reshape(40, 25)
        assert (told[changed > 0.5] != NOT_TOLD).mean() > 0.8


def test_of_two_figures_in_a_square_the_front_one_counts():
    drawing = TrainingSet("true", 40)._drawing(range(40))[[0]]
    drawing.parts[:] = True
    drawing.places[0] = (20.0, 36.0)
    drawing.identities[0] = [[0] * 7, [1] * 7]
    told = squares(drawing, SIDE)[0]
    assert (told[told[:, SOMEBODY] == 1][:, : len(ATTRIBUTE_NAMES)] == 1).all()
    drawing.parts[0, 1, LIMBS] = False
    limbs = squares(drawing, SIDE)[0][told[:, SOMEBODY] == 1][:, len(OF_FIGURES) : SOMEBODY]
    assert (limbs < 1).all() and (limbs == 0).any()


def test_a_portrait_shows_its_character_alone(examples):
    for example in examples.batch(range(8)):
        told = see_portrait(example.scene, SIDE)
        middle, corner = told[12], told[0]
        first = example.scene.facts.characters[0]
        assert middle[: len(ATTRIBUTE_NAMES)].tolist() == list(identity_codes(first.attributes))
        assert middle[QUESTIONS.index("pose")] == POSES.index(PORTRAIT_POSE) and corner[SOMEBODY] == 0
        assert (told[:, SOMEBODY + 1 :] == NOT_TOLD).all()


def reward_of(tokens):
    """One that sees these tokens in whatever it is shown."""
    return SimpleNamespace(network=SimpleNamespace(bind=lambda params: None), see=lambda critic, images: tokens)


def loss_of(tokens, answers):
    batch = {"pictures": jnp.zeros((len(tokens), 4, 4, 3)), "squares": jnp.asarray(answers)}
    return Recognition().loss(Models(Role(reward_of(jnp.asarray(tokens)), {})), batch, None)


def directions(width, questions):
    random = np.random.default_rng(0).standard_normal((width, questions * 8))
    return np.linalg.qr(random)[0].reshape(width, questions, 8)


def test_answers_are_read_in_directions_of_their_own():
    """Two questions, 32 numbers: a token of both answers' directions is right, whatever its length."""
    answers = np.array([[[3, 0], [5, -1]], [[-1, -1], [2, 7]]])
    by_answer = np.moveaxis(directions(32, 2), 0, -1)
    wrong = by_answer[0, 1] + by_answer[1, 4]
    tokens = np.float32([[by_answer[0, 3] + by_answer[1, 0], by_answer[0, 5]], [wrong] * 2])
    found = loss_of(tokens, answers)
    again = loss_of(7 * tokens, answers)
    np.testing.assert_allclose(again.sum, found.sum, rtol=1e-4)
    logits = 30 * np.array([tokens[i] / np.linalg.norm(tokens[i], axis=-1, keepdims=True) for i in range(2)])
    logits = np.einsum("btw,wqa->btqa", logits, directions(32, 2))
    log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log = (1 - np.exp(log)) ** 2 * log  # what is known weighs little
    first = -((log[0, 0, 0, 3] + log[0, 1, 0, 5]) / 2 + log[0, 0, 1, 0]) / 2
    second = -(log[1, 1, 0, 2] + log[1, 1, 1, 7]) / 2
    np.testing.assert_allclose(found.sum, first + second, rtol=1e-4)
    assert found.weight == 2 and float(found.metrics["right"]) == 1.0, "the first picture's, and none of the second's"


def test_no_question_has_more_answers_than_directions(examples):
    assert examples.squares(range(64), SIDE).max() < 8 and max(*NUM_VALUES, len(POSES), len(LOCATIONS)) <= 8


def test_squares_that_nobody_tells_of():
    """A published size shows pictures of other sides than Storybook's."""
    prompts = NewNIReward().untrained(0)[0].prompts
    check_squares("nireward", prompts.room.side, prompts.tower.side)
    for shown, side in ((448, 28), (40, 12)):
        with pytest.raises(
            InputError, match=f"nireward: tokens of {side} pixels of {shown}: .* take its size 'storybook'"
        ):
            check_squares("nireward", shown, side)


def test_what_is_recognised(tmp_path):
    """Drawn pictures, rendered ones and portraits, each with what its own squares show; all that were drawn are."""
    own = list(storybook_scenes("train", 6, seed=5))
    images = np.stack([each.target for each in TrainingSet("changed", 6, seed=9).batch(range(6))])
    candidates = [Candidate(f"{i}/0", own[i].id, image, 0, "baseline") for i, image in enumerate(images)]
    write_records(tmp_path / "drawn" / "scenes", own)
    write_records(tmp_path / "drawn" / "candidates", candidates)
    config = load(str(CONFIG))
    config.looking.training_set.size = 24
    context = one_entry.entry(config, "looking", tmp_path)
    options = NewNIReward()
    reward, training_set = options.untrained(0)[0], TrainingSetOptions(**config.looking.training_set)
    batches = open_batches(context, training_set, "drawn", reward, options.fitted)
    ids, batch = batches.make(np.arange(24))
    rendered = training_set.open()
    shown = np.round((batch["pictures"] + 1) * 127.5).astype(np.uint8)
    drawn = set()
    for index in range(24):
        if index % 2 == 0:
            image, told = images[index // 2 % 6], see_squares(images[index // 2 % 6][None], SIDE)[0]
            drawn.add(index // 2 % 6)
        elif index % 4 == 1:
            scene = rendered[index].scene
            image, told = fit_image(scene.subjects[0].images[0], 40), see_portrait(scene, SIDE)
        else:
            image, told = rendered[index].target, rendered.squares([index], SIDE)[0]
        np.testing.assert_array_equal(shown[index], image)
        np.testing.assert_array_equal(batch["squares"][index], told)
    assert drawn == set(range(6)) and len(ids) == 24


def test_what_is_told_of_pictures_alone_and_beside_portraits(tmp_path):
    """The same pictures; alone nothing but the picture is shown, and what is said is how the whole text begins."""
    config, options, batches = load(str(CONFIG)), NewNIReward(), {}
    reward = options.untrained(0)[0]
    for entry in ("picturing", "seeing"):
        config[entry].training_set.size = 6
        context = one_entry.entry(config, entry, tmp_path)
        training_set = TrainingSetOptions(**config[entry].training_set)
        _, batches[entry] = open_batches(context, training_set, "", reward, options.fitted).make(np.arange(6))
    alone, beside = batches.values()
    found = training_set.open().batch(range(6))
    scenes, images = [each.scene for each in found], np.stack([each.target for each in found])
    for batch in (alone, beside):
        np.testing.assert_array_equal(np.round((batch["pictures"] + 1) * 127.5), images)
    words = reward.prompts.words
    assert words(beside["aloud"]) == [[each] for each in describe_images(images, scenes)]
    assert words(alone["aloud"]) == [[each] for each in describe_pictures(images, scenes)]
    assert alone["context"].inputs.patches.shape[1] == 1 and not alone["context"].place.any()
    assert beside["context"].inputs.patches.shape[1] == 3


@pytest.mark.slow
def test_a_tower_learns_to_tell_and_nothing_else_moves(examples):
    """Twelve steps on sixteen pictures and four portraits."""
    reward = NewNIReward("random").untrained(0)[0]
    found = examples.batch(range(20))
    told = examples.squares(range(20), SIDE)
    told[16:] = [see_portrait(each.scene, SIDE) for each in found[16:]]
    pictures = [each.target for each in found[:16]] + [fit_image(e.scene.subjects[0].images[0], 40) for e in found[16:]]
    batch = {"pictures": to_float(np.stack(pictures)), "squares": told}

    def loss(params):
        summed = Recognition().loss(Models(Role(reward, params)), batch, None)
        return summed.sum / summed.weight, summed.metrics["right"] / summed.weight

    params, optimizer = reward.params, optax.adam(2e-3)
    state, step = optimizer.init(params), jax.jit(jax.value_and_grad(loss, has_aux=True))
    shares = []
    for _ in range(12):
        (_, right), gradients = step(params)
        moved = {name for name, value in gradients.items() if np.any(value)}
        assert moved and all(name.startswith("vlm.vision.") for name in moved)
        updates, state = optimizer.update(gradients, state)
        params = optax.apply_updates(params, updates)
        shares.append(float(right))
    assert shares[0] < 0.3 and shares[-1] > 0.45
