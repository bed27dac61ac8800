"""Generators: what they make of scenes, and pictures that depend on scene and seed and on nothing else."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import fit_image, to_uint8
from narrative_jax.core.mesh import AXES, make_mesh
from narrative_jax.core.records import Scene, Subject
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.generators.flow import TEXT_ENCODER, TRANSFORMER, FlowGenerator
from narrative_jax.generators.flow_presets import STORYBOOK_FLOW, TINY_FLOW
from narrative_jax.generators.presets import PRESETS
from narrative_jax.generators.rollout import Branch
from narrative_jax.generators.sampling import Drawer, Sampling, candidate_seed, drawer_for
from narrative_jax.models.autoencoder import KLAutoencoder, from_tokens, to_tokens
from narrative_jax.models.checkpoints import save_weights
from narrative_jax.models.clip import CLIP_SIZES, CLIP_TEXT_NAMES
from narrative_jax.models.flow_transformer import FLUX_NAMES
from narrative_jax.models.network import below

SAMPLING = Sampling(num_steps=2, guidance_scale=1.0, batch_size=3)


def portrait(seed, height=24, width=24):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def scene(identity, prompt, *portraits):
    subjects = [Subject(f"s{i}", "character", picture[None]) for i, picture in enumerate(portraits)]
    return Scene(identity, prompt, subjects, "test")


NOBODY = scene("nobody", "Zoe reads in the library, in pastel.")
ONE = scene("one", "Uma walks by the castle, in crayon.", portrait(1))
TWO = scene("two", "In the forest, Sem walks while Kim waves, in gouache.", portrait(2), portrait(3))
THREE = scene("three", "Noa jumps in the mountains, in pastel.", portrait(4), portrait(5), portrait(6, 512, 384))


@pytest.fixture(scope="module")
def mesh():
    return make_mesh({"data": -1})


def draw(drawer, params, jobs):
    return np.concatenate(list(drawer.draw(params, jobs)))


# What scenes become


def test_encode_pads_to_the_slots(tiny_generator):
    generator, params = tiny_generator
    found = generator.encode(params, [NOBODY, TWO, ONE])
    assert found.text.shape == found.empty_text.shape == (3, TINY_FLOW.text_length, 128)
    assert found.pooled.shape == found.empty_pooled.shape == (3, 128)
    assert found.subjects.shape == (3, 2, 9, 192)
    np.testing.assert_array_equal(found.subject_mask, [[0, 0], [1, 1], [1, 0]])
    for row, slot, subject in ((1, 0, TWO.subjects[0]), (1, 1, TWO.subjects[1]), (2, 0, ONE.subjects[0])):
        tokens = generator.encode_images(params, subject.images)[0]
        np.testing.assert_array_equal(found.subjects[row, slot], tokens)


def test_scenes_are_encoded_one_by_one(tiny_generator):
    generator, params = tiny_generator
    together = generator.encode(params, [ONE, TWO])
    for row, each in enumerate((ONE, TWO)):
        for whole, alone in zip(together, generator.encode(params, [each]), strict=True):
            np.testing.assert_array_equal(whole[row], alone[0])


def test_nothing_is_blank_of_the_same_form(tiny_generator):
    generator, params = tiny_generator
    blank, found = generator.blank(2), generator.encode(params, [ONE, TWO])
    form = jax.tree.map(lambda x: (x.shape, x.dtype), (blank, found))
    assert form[0] == form[1]


def test_storybooks_scenes(tiny_generator):
    generator, params = tiny_generator
    scenes = storybook_scenes("tune", 8)
    mask = generator.encode(params, scenes).subject_mask
    np.testing.assert_array_equal(mask.sum(1), [len(s.subjects) for s in scenes])
    assert generator.not_read(scenes) == {"unknown_words": [], "truncated_prompts": [], "further_photos": []}


def test_what_is_not_read(tiny_generator):
    long = replace(ONE, prompt=" ".join(["waves"] * 30))
    photos = np.repeat(ONE.subjects[0].images, 3, 0)
    album = replace(ONE, subjects=[replace(ONE.subjects[0], name="Uma", images=photos)])
    found = tiny_generator[0].not_read([ONE, replace(ONE, prompt="Uma yodels."), long, album])
    further = ["Uma (2)"]
    assert found == {"unknown_words": ["yodels"], "truncated_prompts": [long.prompt], "further_photos": further}


def test_too_many_subjects(tiny_generator):
    generator, params = tiny_generator
    with pytest.raises(InputError, match="scene three with 3 subjects: this generator has 2 slots; drop subjects"):
        generator.encode(params, [ONE, THREE])


def test_portraits_of_any_size(tiny_generator):
    generator, params = tiny_generator
    photo = portrait(7, 512, 384)
    found = generator.encode(params, [scene("photo", "a character", photo)])
    tokens = generator.encode_images(params, fit_image(photo, 24)[None])[0]
    np.testing.assert_array_equal(found.subjects[0, 0], tokens)


def test_without_text(tiny_generator):
    generator, params = tiny_generator
    conditioning = generator.encode(params, [ONE, TWO])
    empty = generator.encode(params, [replace(ONE, prompt=""), replace(TWO, prompt="")])
    everywhere = jnp.ones(2, bool)
    jax.tree.map(np.testing.assert_array_equal, generator.drop(conditioning, text=everywhere), empty)
    dropped = jax.jit(lambda asked, text: generator.drop(asked, text=text))(conditioning, jnp.array([False, True]))
    for found, whole, none in zip(dropped, conditioning, empty, strict=True):
        np.testing.assert_array_equal(found, np.stack([whole[0], none[1]]))
    assert generator.drop(conditioning) is conditioning


# Latents


def test_round_trip_of_pictures(tiny_generator):
    generator, params = tiny_generator
    pictures = np.stack([portrait(seed, 40, 40) for seed in range(3)])
    pictures[0, 0, :2] = [[0], [255]]
    latents = generator.encode_images(params, pictures)
    assert latents.shape == (3, *generator.latent_shape) == (3, 25, 192)
    assert latents.min() == -1 and latents.max() == 1
    np.testing.assert_array_equal(to_uint8(generator.decode(params, latents)), pictures)
    np.testing.assert_array_equal(to_uint8(generator.decode(params, latents * 3)[0, 0, :2]), pictures[0, 0, :2])


def test_pictures_are_fitted_by_their_middle(tiny_generator):
    picture = portrait(0, 40, 60)
    np.testing.assert_array_equal(tiny_generator[0].fit(picture), picture[:, 10:50])
    assert tiny_generator[0].fit(portrait(0, 91, 200)).shape == (40, 40, 3)


def test_tokens_lie_as_in_flux():
    latents = np.random.default_rng(0).normal(size=(2, 6, 4, 5))
    by_hand = np.zeros((2, 6, 20))
    for row in range(3):
        for column in range(2):
            patch = latents[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            by_hand[:, 2 * row + column] = patch.transpose(0, 3, 1, 2).reshape(2, -1)
    np.testing.assert_array_equal(to_tokens(latents, 2), by_hand)
    np.testing.assert_array_equal(from_tokens(by_hand, 2, 6), latents)


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_fit_together(preset, tiny_generator):
    generator, side = FlowGenerator(preset, None, tiny_generator[0].text), preset.token
    assert preset.transformer.channels == (16 if preset.files else 3) * preset.patch**2
    text = CLIP_SIZES["storybook"][0]
    if not preset.files:
        assert preset.transformer.text_dim == preset.transformer.pooled_dim == text.width
        assert preset.text_length <= text.max_length
    assert preset.image_size % side == preset.subject_size % side == 0
    places = np.concatenate([generator._positions.noisy, *generator._positions.subjects])
    assert len(np.unique(places, axis=0)) == len(places)  # no token stands in another's place


# Drawing


@pytest.fixture(scope="module")
def drawer(tiny_generator, mesh):
    return Drawer(tiny_generator[0], SAMPLING, mesh)


JOBS = [(ONE, 11), (TWO, 11), (NOBODY, 11), (ONE, 12), (TWO, 2**32 - 1)]


def test_a_picture_depends_on_scene_and_seed_only(drawer, tiny_generator):
    _, params = tiny_generator
    parts = list(drawer.draw(params, JOBS))
    assert [len(part) for part in parts] == [3, 2]
    pictures = np.concatenate(parts)
    assert pictures.shape == (5, 40, 40, 3) and pictures.dtype == np.uint8
    assert len({picture.tobytes() for picture in pictures}) == len(JOBS)
    assert all(picture.std() > 20 for picture in pictures)  # they would be equal if grey
    for order in ([4, 3, 2, 1, 0], [2], [1, 4], [0, 0, 0, 3]):
        np.testing.assert_array_equal(draw(drawer, params, [JOBS[i] for i in order]), pictures[order])
    assert drawer.run._cache_size() == 1
    assert list(drawer.draw(params, [])) == []


@pytest.mark.slow
def test_drawing_is_euler_on_the_denoiser(drawer, tiny_generator):
    generator, params = tiny_generator
    conditioning = generator.encode(params, [each for each, _ in JOBS[:3]])
    noisy = np.stack([jax.random.normal(jax.random.key(11), generator.latent_shape)] * 3)
    denoise = jax.jit(generator.denoise)
    for t, after in ((1.0, 0.5), (0.5, 0.0)):
        clean = denoise(params, noisy, np.full(3, t, np.float32), conditioning)
        noisy = noisy + (after - t) * (noisy - clean) / t
    np.testing.assert_array_equal(generator.sampler_times(2), [1, 0.5, 0])
    expected = to_uint8(generator.decode(params, noisy)).astype(int)
    assert np.abs(draw(drawer, params, JOBS[:3]) - expected).max() <= 1


@pytest.mark.slow
def test_guidance(drawer, tiny_generator, mesh):
    generator, params = tiny_generator

    def guided(scale):
        sampling = replace(SAMPLING, guidance_scale=scale, subject_guidance_scale=1.0)
        return draw(Drawer(generator, sampling, mesh), params, JOBS[:3]).astype(int)

    plain = draw(drawer, params, JOBS[:3])
    textless = draw(drawer, params, [(replace(each, prompt=""), seed) for each, seed in JOBS[:3]])
    # Just off 1.0 both halves are computed: the guided half counts for nothing at 1.0, for all at 0.0.
    assert np.abs(guided(float(np.nextafter(np.float32(1), 2))) - plain).max() <= 1
    assert np.abs(guided(0.0) - textless).max() <= 1
    assert np.abs(textless.astype(int) - plain).max() > 20 and np.abs(guided(2.0) - plain).max() > 20


@pytest.mark.slow
def test_guidance_on_subjects(drawer, tiny_generator, mesh):
    """Off the subjects' scale at 1.0; where both scales are equal, one comparison with neither does for both."""
    generator, params = tiny_generator

    def guided(text, subjects):
        sampling = replace(SAMPLING, guidance_scale=text, subject_guidance_scale=subjects)
        return draw(Drawer(generator, sampling, mesh), params, JOBS[:3]).astype(int)

    def without(**left_out):
        return draw(drawer, params, [(replace(each, **left_out), seed) for each, seed in JOBS[:3]]).astype(int)

    textless, nothing = without(prompt=""), without(prompt="", subjects=())
    assert np.abs(guided(0.0, 0.0) - nothing).max() <= 1
    assert np.abs(guided(0.0, float(np.nextafter(np.float32(1), 2))) - textless).max() <= 1
    assert np.abs(guided(2.0, 2.0) - guided(2.0, float(np.nextafter(np.float32(2), 3)))).max() <= 1
    assert np.abs(guided(2.0, 2.0) - guided(2.0, 1.0)).max() > 5


@pytest.mark.parametrize("text, subjects, predictions", [(1, 1, 1), (2, 1, 2), (2, 2, 2), (1, 2, 3), (2, 3, 3)])
def test_predictions_a_step(text, subjects, predictions):
    assert 1 + len(Sampling(guidance_scale=text, subject_guidance_scale=subjects).branches(True)) == predictions


def test_subjects_are_guided_as_the_text_where_that_was_trained():
    alike = Sampling(guidance_scale=2, subject_guidance_scale=None)
    assert alike.branches(True) == [Branch(2, text=True, subjects=True)]
    assert alike.branches(False) == [Branch(2, text=True)]
    assert Sampling(guidance_scale=2).branches(True) == [Branch(2, text=True)], "of the text alone unless it is said"
    assert Sampling(guidance_scale=1).branches(True) == []


def test_guidance_on_subjects_must_have_been_trained(tiny_generator, mesh):
    unable = replace(tiny_generator[0], config=replace(TINY_FLOW, subject_guidance=False))
    with pytest.raises(InputError, match=r"subject_guidance_scale 2: .*not trained on scenes without.*leave it out"):
        Drawer(unable, replace(SAMPLING, subject_guidance_scale=2.0), mesh)


def test_heun(drawer, tiny_generator, mesh):
    generator, params = tiny_generator
    heun = draw(Drawer(generator, replace(SAMPLING, sampler="heun"), mesh), params, JOBS[:3])
    assert np.abs(heun.astype(int) - draw(drawer, params, JOBS[:3])).max() > 5


def test_more_slots(drawer, tiny_generator, mesh):
    generator, params = tiny_generator
    wider = replace(generator, config=replace(TINY_FLOW, subject_offsets=(*TINY_FLOW.subject_offsets, (-4, 0))))
    assert wider.max_subjects == 3
    pictures = draw(Drawer(wider, SAMPLING, mesh), params, [JOBS[0], JOBS[1], (THREE, 11)])
    assert np.abs(pictures[:2].astype(int) - draw(drawer, params, JOBS[:2])).max() <= 1  # empty slots change nothing
    without = replace(THREE, subjects=THREE.subjects[:2])
    assert np.abs(pictures[2].astype(int) - draw(drawer, params, [(without, 11)])[0]).max() > 5


def test_placed_weights(drawer, tiny_generator):
    _, params = tiny_generator
    jax.tree.map(np.testing.assert_array_equal, drawer.place(params), params)


def test_a_batch_off_the_mesh(tiny_generator):
    two = AbstractMesh((2, 1, 1, 1), AXES)
    with pytest.raises(InputError, match=r"batch_size 3: it is a multiple of 2 .*; set 4"):
        Drawer(tiny_generator[0], SAMPLING, two)


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (4, 2, 1)])
@pytest.mark.parametrize(
    "count, batch_size, expected", [(1, 64, 8), (8, 64, 8), (9, 64, 16), (200, 64, 64), (200, 20, 24), (3, 1, 8)]
)
def test_a_batch_for_so_many_on_eight_devices(tiny_generator, sizes, count, batch_size, expected):
    """Pictures that are drawn there are those of one device: see test_algorithms."""
    sampling = replace(SAMPLING, batch_size=batch_size)
    drawer = drawer_for(tiny_generator[0], sampling, count, AbstractMesh((*sizes, 1), AXES))
    assert drawer.sampling == replace(sampling, batch_size=expected)


@pytest.mark.parametrize("count, expected", [(1, 1), (5, 5), (70, 64)])
def test_a_batch_for_so_many_on_one_device(tiny_generator, mesh, count, expected):
    drawer = drawer_for(tiny_generator[0], replace(SAMPLING, batch_size=64), count, mesh)
    assert drawer.sampling.batch_size == expected
    # A tensor axis takes no part of the batch.
    assert drawer_for(tiny_generator[0], SAMPLING, 1, AbstractMesh((2, 1, 4, 1), AXES)).sampling.batch_size == 2


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"num_steps": 0}, "num_steps 0: num_steps is an integer ≥ 1"),
        ({"batch_size": 1.5}, "batch_size 1.5"),
        ({"sampler": "eulr"}, "unknown sampler 'eulr'.*did you mean 'euler'"),
        ({"guidance_scale": -1.0}, "guidance_scale -1.0"),
        ({"guidance_scale": float("nan")}, "guidance_scale nan"),
        ({"guidance_scale": float("inf")}, "guidance_scale inf"),
        ({"guidance_scale": "2"}, "guidance_scale '2'"),
        ({"subject_guidance_scale": -1}, "subject_guidance_scale -1"),
    ],
)
def test_wrong_sampling(wrong, message):
    with pytest.raises(InputError, match=message):
        Sampling(**wrong)


def test_seeds_of_candidates():
    known = {candidate_seed(seed, name, place) for seed in (0, 1) for name in ("a", "b") for place in (0, 1, 10)}
    assert len(known) == 12 and all(0 <= seed < 2**32 for seed in known)
    assert candidate_seed(0, "test-0-000000", 0) == 627184514  # runs of other days drew with it


# Adapters and files


def test_a_fresh_adapter_draws_the_same(drawer, tiny_generator, mesh):
    generator, params = tiny_generator
    adapter = {"rank": 2, "alpha": 2.0, "targets": ".*to_[qkv]", "segments": ("text", "noisy"), "seed": 0}
    adapted, stacked = generator.with_adapter(params, "align", **adapter)
    assert params.keys() < stacked.keys() and generator.axes.keys() == params.keys()
    assert adapted.axes.keys() == stacked.keys()
    pictures = draw(Drawer(adapted, SAMPLING, mesh), stacked, JOBS[:3]).astype(int)
    assert np.abs(pictures - draw(drawer, params, JOBS[:3])).max() <= 1  # two programs, compiled apart
    with pytest.raises(InputError, match="unknown segment 'subjects': known are text, noisy, subject; did you mean"):
        generator.with_adapter(params, "align", **{**adapter, "segments": ("subjects",)})


@pytest.mark.parametrize("segments", [("text", "noisy"), ("noisy", "subject"), ()])
def test_whether_an_adapter_changes_what_is_prepared(tiny_generator, segments):
    generator, params = tiny_generator
    adapter = {"rank": 2, "alpha": 2.0, "targets": ".*", "segments": segments, "seed": 0}
    adapted, stacked = generator.with_adapter(params, "align", **adapter)
    rng = np.random.default_rng(0)
    trained = {n: value if n in params else np.float32(rng.normal(size=value.shape)) for n, value in stacked.items()}
    conditioning = generator.encode(params, [ONE])
    ours, theirs = (
        [np.asarray(leaf) for leaf in jax.tree.leaves(jax.jit(model.prepare)(weights, conditioning))]
        for model, weights in ((adapted, trained), (generator, params))
    )
    same = all(np.abs(one - other).max() <= 1e-5 for one, other in zip(ours, theirs, strict=True))
    assert adapted.prepares_as(generator) == same == (segments == ("text", "noisy"))
    twice, _ = adapted.with_adapter(trained, "again", **{**adapter, "segments": ("noisy",)})
    assert twice.prepares_as(adapted) and twice.prepares_as(generator) == same


@pytest.mark.slow
def test_a_generator_from_files(tiny_generator, tmp_path):
    generator, params = tiny_generator
    generator.text.tokenizer.save(tmp_path / "tokenizer.json")
    save_weights(tmp_path / "text_encoder.safetensors", below(TEXT_ENCODER, params), CLIP_TEXT_NAMES, jnp.float32)
    save_weights(tmp_path / "weights.safetensors", below(TRANSFORMER, params), FLUX_NAMES, jnp.float32)

    def load(weights, seed=0):
        return TINY_FLOW.load(TINY_FLOW.Options(weights=weights, text=str(tmp_path)), seed)

    again, weights = load(str(tmp_path / "weights.safetensors"))
    assert weights.keys() == params.keys() == again.axes.keys()
    jax.tree.map(np.testing.assert_array_equal, weights, params)
    found, expected = again.encode(weights, [ONE, TWO]), generator.encode(params, [ONE, TWO])
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    one, same, other = (load("random", seed)[1] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    kernel, reading = f"{TRANSFORMER}.image_in.kernel", f"{TEXT_ENCODER}.token_embedding"
    assert np.abs(one[kernel] - other[kernel]).max() > 0 and one.keys() == params.keys()
    np.testing.assert_array_equal(one[reading], params[reading])
    with pytest.raises(
        InputError, match=r"generator\.weights '': this preset has no embedded ones; set a file, or 'ran"
    ):
        load("")


COMPRESSING = replace(
    TINY_FLOW,
    autoencoder=KLAutoencoder(channels=5, widths=(4, 8), blocks=1, groups=2),
    transformer=replace(TINY_FLOW.transformer, channels=5 * 16),
    patch=4,
)


@pytest.mark.slow
def test_an_autoencoder_with_weights(mesh):
    """They come with the generator's: those of its decoder draw, those of its encoder read subject images."""
    generator, weights = COMPRESSING.load(COMPRESSING.Options(weights="random"), 0)
    assert weights.keys() == generator.axes.keys()
    encoding = {name for name in weights if name.startswith("vae.encoder.")}
    assert encoding == {name for name in weights if generator.encodes(name) and not name.startswith(TEXT_ENCODER)}
    drawer, picture = Drawer(generator, SAMPLING, mesh), portrait(0, 40, 40)[None]
    assert generator.encode_images(weights, picture).shape == (1, *generator.latent_shape) == (1, 25, 80)
    pictures = draw(drawer, weights, [(ONE, 0)])
    assert pictures.shape == (1, 40, 40, 3)
    for part, reads, draws in (("encoder", True, False), ("decoder", False, True)):
        name = f"vae.{part}.conv_out.bias"
        other = {**weights, name: weights[name] + 0.5}
        found, expected = (generator.encode_images(each, picture) for each in (other, weights))
        assert np.any(found != expected) == reads
        assert np.any(draw(drawer, other, [(ONE, 0)]) != pictures) == draws


@pytest.mark.parametrize("preset", [preset for preset in PRESETS.values() if not preset.files])
@pytest.mark.slow
def test_what_a_preset_will_be_is_known_before_it_is_loaded(preset):
    generator, shapes = preset.abstract()
    loaded, weights = preset.load(preset.Options(weights="random"), 0)
    drawing = {name: value for name, value in weights.items() if not loaded.encodes(name)}
    found, expected = ({name: (w.shape, w.dtype) for name, w in each.items()} for each in (drawing, shapes))
    assert found == expected
    assert generator.axes.keys() == shapes.keys() and generator.latent_shape == loaded.latent_shape
    assert (preset.max_subjects, preset.image_size) == (loaded.max_subjects, loaded.config.image_size)
    assert preset.described(preset.Options(weights="random"), 7)[0] == "random weights of seed 7"


@pytest.mark.parametrize("name", ["image_size", "subject_size"])
def test_sizes_that_tokens_do_not_fill(name):
    with pytest.raises(InputError, match=f"{name} 43: tokens of 5 pixels' side fill it; give a multiple, e.g. 45"):
        replace(STORYBOOK_FLOW, **{name: 43})


@pytest.mark.slow
def test_weights_come_spread_over_a_mesh(tmp_path):
    """From the file, and where they are drawn: each array as its axes say, with the same numbers and hash."""
    script, out = Path(__file__).with_name("loading_on_meshes.py"), tmp_path / "found.json"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, script, out], env=environment, check=True)
    found = json.loads(out.read_text())
    rewards = found.pop("rewards")
    assert found.pop("devices") == 8 and len(found) == 4
    for each, kind in zip(rewards, ["float32", "bfloat16"] * 2, strict=True):
        assert each == {"laid": True, "difference": 0.0, "kinds": [kind], "shared": each["shared"]}
        assert each["shared"] >= 15
    for each in found.values():
        assert each == {"laid": True, "encoders": True, "difference": 0.0, "hash": True, "shared": each["shared"]}
        assert each["shared"] >= 15


def test_the_embedded_one():
    generator, weights = STORYBOOK_FLOW.load(STORYBOOK_FLOW.Options(), 0)
    assert weights.keys() == generator.axes.keys()
    assert STORYBOOK_FLOW.described(STORYBOOK_FLOW.Options(), 0) == ("embedded weights", "Apache-2.0")
    picture = draw(Drawer(generator, replace(SAMPLING, batch_size=1), make_mesh({})), weights, [(ONE, 0)])
    assert picture.std() > 20
