"""What Storybook's encoders are trained on, and how often they find it again."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import one_entry
import pytest
from ml_collections import ConfigDict
from small_encoders import DINO, IRESNET, small_storybook

from narrative_jax.algorithms.contrastive import Contrastive
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError
from narrative_jax.core.images import fit_image, to_float
from narrative_jax.core.memory import MEGABYTE, Memory
from narrative_jax.core.records import Candidate
from narrative_jax.data.datasets import write_records
from narrative_jax.runs.directory import WEIGHTS
from narrative_jax.stages import retrieve
from narrative_jax.statistics import wilson
from narrative_jax.storybook.datasets import TrainingSet, scenes
from narrative_jax.storybook.parse import parse
from narrative_jax.storybook.world import identity_codes
from narrative_jax.trainees import matches
from narrative_jax.trainees.base import TrainingSetOptions
from narrative_jax.trainees.drawn import DrawnExamples, WithDrawn
from narrative_jax.trainees.encoder import EncoderOptions, EncoderTrainee
from narrative_jax.trainees.matches import Matches
from narrative_jax.trainees.new_encoders import NEW_ENCODERS

CONFIG = Path(__file__).parents[1] / "configs" / "encoders.py"
SIZE = 40


@pytest.fixture(scope="module")
def trainees():
    """What a train entry trains, by name, networks of few weights."""
    config, captions = load(f"{CONFIG}:tiny"), TrainingSetOptions("raw", 64)

    def open_one(name):
        return EncoderTrainee.open(one_entry.entry(config, name), Contrastive(), EncoderOptions(name, captions))

    with small_storybook():
        yield {name: open_one(name) for name in NEW_ENCODERS}


@pytest.fixture(scope="module")
def new(trainees):
    """The untrained encoders by name."""
    return {name: trainee.encoder for name, trainee in trainees.items()}


def fresh(encoder, *memory):
    """Its pairs, with nothing drawn yet."""
    return Matches(encoder.matches.per_example, encoder.matches.halves, *memory)


@pytest.mark.parametrize("name", NEW_ENCODERS)
def test_a_pair_follows_from_its_index_alone(new, name):
    """In any order and company, drawn before or not, in a memory that holds four examples."""
    memory = Memory(4, lambda drawn: MEGABYTE)
    used, examples = fresh(new[name], memory), TrainingSet("raw", 12)
    indices = [place * used.per_example + place % used.per_example for place in range(12)]
    alone = {i: fresh(new[name]).of(examples, [i]) for i in indices}
    rng = np.random.default_rng(0)
    for _ in range(6):
        asked = rng.choice(indices, 3)
        ids, halves = used.of(examples, asked)
        assert ids == [alone[i][0][0] for i in asked] and len(memory._known) <= 4
        for place, i in enumerate(asked):
            for found, expected in zip(halves, alone[i][1], strict=True):
                np.testing.assert_array_equal(found[place], expected[0])
    for half in (0, 1):
        assert len({alone[i][1][half].tobytes() for i in indices}) > 1
    assert len(used.of(examples, indices)[0]) == 12, "a batch may be larger than what is kept"


def test_what_is_kept_of_one_set_is_not_given_for_another(new):
    pairs = fresh(new["clip"])
    for split in ("train", "tune", "train"):
        ids, _ = pairs.of(TrainingSet("true", 5, split=split), [3])
        assert ids == [f"{split}-0-000003"]


def test_an_example_is_drawn_once(new):
    """By either of its pairs, and however often a batch names it."""
    drawn, pairs, examples = [], fresh(new["iresnet"]), TrainingSet("raw", 9)
    batch = examples.batch
    examples.batch = lambda rows: drawn.extend(rows) or batch(rows)
    for indices in ([0, 1, 4, 5, 4], [5, 0], [2, 3]):
        pairs.of(examples, indices)
    assert drawn == [0, 2, 1]


def test_clip_pairs_are_a_caption_and_its_picture(new):
    examples, indices = TrainingSet("raw", 9), [8, 0, 3]
    ids, (tokens, pictures) = fresh(new["clip"]).of(examples, indices)
    asked = [examples[i] for i in indices]
    assert ids == [example.scene.id for example in asked]
    tokenizer = new["clip"].tokenizer
    np.testing.assert_array_equal(tokens, tokenizer.encode([each.scene.prompt for each in asked], tokens.shape[1]))
    assert not tokenizer.unknown_words([each.scene.prompt for each in asked])
    np.testing.assert_array_equal(pictures, to_float(np.stack([each.target for each in asked])))


def test_dinov2_pairs_are_two_looks_at_one_picture(new, monkeypatch):
    """Of the scene or of a subject, as chance has it; here each look is all of it."""
    examples, per_example = TrainingSet("raw", 5), new["dinov2"].matches.per_example
    first, second = fresh(new["dinov2"]).of(examples, range(20))[1]
    assert first.shape == (20, DINO.image_size, DINO.image_size, 3) and first.min() >= -1 and first.max() <= 1
    assert all((one != other).any() for one, other in zip(first, second, strict=True))
    monkeypatch.setattr(matches, "_look", lambda picture, size, rng: fit_image(picture, size))
    seen = set()
    for place in range(5):
        scene, target = examples[place].scene, examples[place].target
        shown = [target, *(subject.images[0] for subject in scene.subjects)]
        known = {to_float(fit_image(picture, DINO.image_size)).tobytes(): i for i, picture in enumerate(shown)}
        first, second = fresh(new["dinov2"]).of(examples, place * per_example + np.arange(30))[1]
        np.testing.assert_array_equal(first, second)
        chosen = [known[look.tobytes()] for look in first]
        assert set(chosen) == set(range(len(shown)))
        seen.add(len(shown))
    assert seen == {2, 3}


def test_a_look_is_a_part_perhaps_mirrored_lighter_or_darker():
    """Red grows from left to right, green from top to bottom, blue is the light."""
    across = np.tile(np.linspace(0, 200, SIZE), (SIZE, 1))
    picture = np.uint8(np.round(np.stack([across, across.T, np.full((SIZE, SIZE), 150)], -1)))
    rng, shares, mirrored, light = np.random.default_rng(0), [], [], []
    for _ in range(200):
        look = np.float32(matches._look(picture, 16, rng))
        light.append(look[..., 2].mean() / 150)
        across, down = (look.mean(0)[:, 0] / light[-1], look.mean(1)[:, 1] / light[-1])
        # 16 pixels' middles span 15/16 of the part
        shares.append((abs(across[-1] - across[0]) / 200 * 16 / 15, abs(down[-1] - down[0]) / 200 * 16 / 15))
        mirrored.append(across[-1] < across[0])
        assert down[-1] > down[0], "never upside down"
    areas = np.prod(shares, 1)
    assert 0.25 < areas.min() < 0.4 and 0.85 < areas.max() < 1.1
    np.testing.assert_allclose(*np.transpose(shares), atol=0.06)
    assert 0.78 < min(light) < 0.85 and 1.15 < max(light) < 1.22
    assert 0.4 < np.mean(mirrored) < 0.6


def test_iresnet_pairs_are_a_portrait_and_where_its_character_stands(new):
    """A blind reader finds whom the portrait shows in that half of the picture, and the other one is not there."""
    examples, pairs = TrainingSet("true", 40, split="tune"), fresh(new["iresnet"])
    found = parse(np.float32([example.target for example in examples.batch(range(40))]) / 127.5 - 1).drawing
    portraits, seen = pairs.of(examples, range(80))[1]
    compared = 0
    for row in range(40):
        scene, target = examples[row].scene, examples[row].target
        for which in range(2):
            subject = which % len(scene.subjects)
            photo = fit_image(scene.subjects[subject].images[0], IRESNET.image_size)
            np.testing.assert_array_equal(portraits[2 * row + which], to_float(photo))
            if len(scene.subjects) == 1:
                np.testing.assert_array_equal(seen[2 * row + which], to_float(fit_image(target, IRESNET.image_size)))
                continue
            codes = identity_codes(scene.facts.characters[subject].attributes)
            same = np.flatnonzero((found.identities[row] == codes).all(-1) & found.present[row])
            if len(same) == 1:
                half = target[:, : SIZE // 2] if found.places[row, same[0], 0] < SIZE / 2 else target[:, SIZE // 2 :]
                np.testing.assert_array_equal(seen[2 * row + which], to_float(fit_image(half, IRESNET.image_size)))
                compared += 1
    assert compared > 20


def test_the_statistics_of_batch_norms_do_not_train(trainees):
    trainee = trainees["iresnet"]
    statistics = {name for name in trainee.axes if name.endswith((".mean", ".variance"))}
    assert set(trainee.frozen) == statistics and len(statistics) > 10
    assert trainee.params.keys() == trainee.axes.keys() - statistics
    assert not any(leaf.weak_type for leaf in trainee.params.values()), "or the train step compiles twice"
    for name in ("clip", "dinov2"):
        assert not trainees[name].frozen and trainees[name].params.keys() == trainees[name].axes.keys()


@pytest.mark.parametrize("name", NEW_ENCODERS)
def test_saved_and_loaded_an_encoder_is_the_same(trainees, name, tmp_path, random_weights):
    """Up to bfloat16; what only training needs is not kept."""
    trainee, encoder = trainees[name], trainees[name].encoder
    shapes = {weight: value for weight, value in trainee.params.items() if weight != "logit_scale"}
    trained = random_weights(shapes) | {"logit_scale": np.float32(3)}
    folder = tmp_path / name
    folder.mkdir()
    replace(trainee, context=replace(trainee.context, workdir=tmp_path)).save(trained)
    loaded = encoder.load(folder / WEIGHTS)
    assert loaded.keys() == encoder.network.axes.keys()
    for weight, value in {**trainee.frozen, **trained}.items():
        kept = encoder.weights["logit_scale"] if weight == "logit_scale" and encoder.prefix else value
        np.testing.assert_allclose(loaded[weight], kept, rtol=2**-8)
    assert (folder / "tokenizer.json").exists() == (folder / "text_encoder.safetensors").exists() == (name == "clip")


# Drawn pictures


def test_every_fourth_example_is_a_drawn_one(tmp_path):
    """Of scenes with one subject, who is looked for in all of the picture."""
    own = scenes("train", range(8), seed=5)
    alone = [scene for scene in own if len(scene.subjects) == 1]
    assert 0 < len(alone) < len(own)
    folder = tmp_path / "drawn"
    write_records(folder / "scenes", own)
    images = np.random.default_rng(0).integers(0, 256, (len(own), 2, SIZE, SIZE, 3), np.uint8)
    candidates = [
        Candidate(f"{scene.id}/{place}", scene.id, images[row, place], 0, "baseline")
        for row, scene in enumerate(own)
        for place in range(2)
    ]
    write_records(folder / "candidates", candidates)
    context = one_entry.entry({"drawn": {"stage": "generate"}}, "drawn", tmp_path)
    drawn, rendered = DrawnExamples(context, "drawn"), TrainingSet("raw", 24)
    assert len(drawn) == 2 * len(alone)
    together = WithDrawn(rendered, drawn, 4)
    assert len(together) == 24
    indices = [5, 8, 0, 3, 20, 5]
    of_one = [each for each in candidates if each.scene_id in {scene.id for scene in alone}]
    for index, example, places in zip(indices, together.batch(indices), together.whereabouts(indices), strict=True):
        if index % 4:
            assert example.scene.id == rendered[index].scene.id and places == rendered.whereabouts([index])[0]
            np.testing.assert_array_equal(example.target, rendered[index].target)
            continue
        expected = of_one[index // 4 % len(drawn)]
        assert example.scene.id == expected.scene_id and places == (0.5,)
        np.testing.assert_array_equal(example.target, expected.image)
    assert len(DrawnExamples(context, "drawn", alone=False)) == len(candidates)
    mixed = DrawnExamples(context, "drawn", alone=False, mixed=True).batch(range(len(candidates)))
    subjects = {scene.id: len(scene.subjects) for scene in own}
    for example, candidate in zip(mixed, candidates, strict=True):
        np.testing.assert_array_equal(example.target, candidate.image)
        assert len(example.scene.subjects) == subjects[candidate.scene_id]
    moved = [each.scene.id != candidate.scene_id for each, candidate in zip(mixed, candidates, strict=True)]
    assert 0.2 < np.mean(moved) < 0.8, "half of the pictures beside another's portraits"


def test_an_entry_that_draws_nothing_gives_no_pictures():
    config = ConfigDict(load(f"{CONFIG}:tiny"))
    config.clip.drawn = "dinov2"
    with pytest.raises(InputError, match="drawn 'dinov2': it draws no pictures; name an entry that generates"):
        one_entry.check(config, "clip")


# Retrieval


class Stub:
    """An encoder whose halves are the numbers of scenes; `embed` turns them into embeddings [b, d] of either half."""

    def __init__(self, *halves):
        first, second = map(jnp.float32, halves)
        self.matches = Matches(3, lambda found: 2 * (np.array([int(e.scene.id[-6:]) + w for e, _, w in found]),))
        self.network = SimpleNamespace(bind=lambda params: lambda one, two: (params * first[one], second[two]))

    def load(self, file):
        assert file.parent.name == "stub"
        return 2.0


def run_retrieve(monkeypatch, tmp_path, first, second):
    """Numbers of the stage where the encoder embeds the halves of pair i as these rows."""
    entry = {
        "stage": "retrieve",
        "trained": ("stub",),
        "embedded": (),
        "kind": "true",
        "split": "tune",
        "seed": 0,
        "pairs": len(first),
    }
    monkeypatch.setattr(retrieve, "new_encoder", lambda kind, seed, tokenizer: Stub(first, second))
    return one_entry.run({"stub": {"stage": "train", "encoder": "clip"}, "found": entry}, "found", tmp_path)


def test_a_perfect_encoder_finds_all_and_a_constant_one_as_many_as_chance(monkeypatch, tmp_path):
    perfect = run_retrieve(monkeypatch, tmp_path, np.eye(16), np.eye(16))
    assert perfect["stub/second"] == perfect["stub/first"] == 1 and perfect["chance"] == 1 / 16
    low, high = wilson(16, 16)[1:]
    assert (perfect["stub/second_low"], perfect["stub/second_high"]) == (low, high)
    constant = run_retrieve(monkeypatch, tmp_path, np.ones((16, 1)), np.ones((16, 1)))
    assert constant["stub/second"] == constant["stub/first"] == constant["chance"]
    turned = run_retrieve(monkeypatch, tmp_path, np.eye(16), np.eye(16)[::-1])
    assert turned["stub/second"] == turned["stub/first"] == 0


def test_each_half_is_looked_for_among_the_others(monkeypatch, tmp_path):
    """Rows look for their own column by the row's largest value; one loud second half drowns two others."""
    similarity = np.eye(4)
    similarity[1, 0] = similarity[2, 0] = 3
    found = run_retrieve(monkeypatch, tmp_path, similarity, np.eye(4))
    assert (found["stub/second"], found["stub/first"]) == (2 / 4, 3 / 4)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"trained": ("clip", "align")}, "trained 'align': it trains no encoder; name entries of configs/encoders.py"),
        ({"trained": ()}, "no encoder: trained names entries, embedded what ships"),
        ({"embedded": ("cilp",)}, "unknown embedded encoder 'cilp'.*did you mean 'clip'"),
        ({"pairs": 1}, "pairs 1: pairs is an integer ≥ 2"),
        ({"kind": "ture"}, "unknown training set 'ture'.*did you mean 'true'"),
        ({"split": "tuen"}, "unknown split 'tuen'.*did you mean 'tune'"),
    ],
)
def test_what_cannot_be_looked_for(change, said):
    config = ConfigDict(load(f"{CONFIG}:tiny"))
    config.align = {"stage": "train", "algorithm": "dpo"}
    config.retrieve.update(change)
    with pytest.raises(InputError, match=said):
        one_entry.check(config, "retrieve")
