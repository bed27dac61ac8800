"""The scalar reward: it reads prompt, subjects and picture, nothing else, and starts from the towers it is given."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_rewards import (
    DINO,
    PROMPTS,
    SCALAR,
    TEXT,
    TOKENIZER,
    VISION,
    clip_params,
    pictures,
    scenes,
    small_dino,
    small_scalar,
    subject,
)

from narrative_jax.core.errors import InputError
from narrative_jax.core.options import parse
from narrative_jax.models.checkpoints import published_names, save_weights, stored_shapes
from narrative_jax.models.clip import CLIP_NAMES, CLIP_SIZES
from narrative_jax.models.dinov2 import DINOV2_NAMES, DINOV2_SIZES
from narrative_jax.models.id_encoder import IRESNET_NAMES
from narrative_jax.models.lora import adapter_of
from narrative_jax.models.network import abstract, below
from narrative_jax.models.scalar_reward import SCALAR_SIZES, TOWERS, ScalarReward, scalar_names
from narrative_jax.models.shipped import EMBEDDED, STORYBOOK
from narrative_jax.models.stacks import shapes_on_disk
from narrative_jax.models.tokenizer import Tokenizer
from narrative_jax.rewards.new_scalar import NewScalar
from narrative_jax.rewards.scalar_files import ScalarOptions, load_scalar

ROUNDING = 1e-5


@pytest.fixture(scope="module")
def reward(random_weights):
    return small_scalar(random_weights)


@pytest.fixture(scope="module")
def score(reward):
    """score(images, context or scenes): f32[2], always of two pictures, so that it compiles once."""
    run = jax.jit(reward.score)

    def score(images, asked, params=reward.params):
        context = reward.encode(asked) if isinstance(asked, list) else asked
        scores = np.asarray(run(params, images, context))
        assert scores.shape == (2, 1)
        return scores[:, 0]

    return score


@pytest.fixture
def asked():
    """Two scenes, of one and of two subjects."""
    return scenes(1, 2)


def differs(found, base, rows=(True, True)):
    """Rows are equal up to rounding, or far from it."""
    apart = np.abs(found - base)
    return ((apart > 100 * ROUNDING) == rows).all() and ((apart < ROUNDING) == ~np.array(rows)).all()


def test_prompt_subjects_and_picture_all_matter(score, asked):
    images = pictures(2)
    base = score(images, asked)
    other_words = [replace(scene, prompt=PROMPTS[3]) for scene in asked]
    other_people = [replace(scene, subjects=[subject(50), *scene.subjects[1:]]) for scene in asked]
    assert differs(score(images, other_words), base)
    assert differs(score(images, other_people), base)
    assert differs(score(pictures(2, seed=9), asked), base)


def test_a_row_depends_on_its_own_row_only(score, asked):
    images, others, strangers = pictures(2), pictures(2, seed=9), scenes(0, 0, 0, 2, 2)[3:]
    base = score(images, asked)
    for row, changes in ((0, (True, False)), (1, (False, True))):
        mixed, scene = images.copy(), list(asked)
        mixed[row], scene[row] = others[row], strangers[row]
        assert differs(score(mixed, scene), base, changes)
    assert differs(score(images[::-1], asked[::-1])[::-1], base, (False, False))


def test_padding_changes_nothing(score, reward, asked):
    """Tokens after the end token, and the places of subjects that are not there."""
    images, context = pictures(2), reward.encode(asked)
    base = score(images, context)
    ended = np.cumsum(context.tokens == TOKENIZER.end, 1) - (context.tokens == TOKENIZER.end) > 0
    assert ended.any(1).all() and not ended.all(1).any()
    noise = np.random.default_rng(0).integers(0, TOKENIZER.vocab_size, context.tokens.shape)
    scrawled = context._replace(tokens=np.where(ended, noise, context.tokens).astype(np.int32))
    assert differs(score(images, scrawled), base, (False, False))
    assert (~context.mask).sum() == 1
    someone = np.where(context.mask[..., None, None, None], context.subjects, np.float32(0.3))
    assert differs(score(images, context._replace(subjects=someone)), base, (False, False))
    there = context._replace(subjects=someone, mask=np.ones_like(context.mask))
    assert differs(score(images, there), base, (True, False))


def test_who_is_who_is_told_by_the_order_of_subjects(score, asked):
    """The prompt names them in this order; their names here do not matter."""
    images, (first, second) = pictures(2), asked
    base = score(images, asked)
    swapped = replace(second, subjects=second.subjects[::-1])
    assert differs(score(images, [first, swapped]), base, (False, True))
    renamed = replace(second, subjects=[replace(each, name="x") for each in second.subjects])
    twins = [replace(second, subjects=[replace(subject(3), name=name) for name in names]) for names in ("ab", "ba")]
    assert differs(score(images, [first, renamed]), base, (False, False))
    np.testing.assert_array_equal(score(images, [first, twins[0]]), score(images, [first, twins[1]]))


def test_the_first_of_several_images_is_read(score, asked):
    images, (first, second) = pictures(2), asked
    base = score(images, asked)
    photo, others = first.subjects[0].images, subject(60, images=2).images
    for order, changes in (([photo, others], False), ([others, photo], True)):
        more = replace(first, subjects=[replace(first.subjects[0], images=np.concatenate(order))])
        assert differs(score(images, [more, second]), base, (changes, False))


def test_a_context_has_one_shape(reward):
    shapes = [[part.shape[1:] for part in reward.encode(scenes(*counts))] for counts in ((1,), (2, 1, 2))]
    assert shapes[0] == shapes[1] == [(TEXT.max_length,), (2, DINO.image_size, DINO.image_size, 3), (2,)]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (scenes(0), "scene '0' with 0 subjects: characters are compared with theirs, 1 to 2"),
        (scenes(1, 3), "scene '1' with 3 subjects"),
        (
            [replace(scenes(1)[0], subjects=[subject(1, size=(3, 9))])],
            "images of 'subject 1' of 3 × 9 pixels: they hold a patch of the encoder's, 4 × 4",
        ),
    ],
)
def test_scenes_that_it_cannot_read(reward, asked, said):
    with pytest.raises(InputError, match=said):
        reward.encode(asked)


def test_the_least_picture_holds_a_patch_of_either_tower(reward):
    assert reward.least_size == (4, 8), "each half holds one"
    for tower, patch in (("vision", 6), ("subject", 8)):
        config = replace(SCALAR, **{tower: replace(getattr(SCALAR, tower), patch_size=patch)})
        assert replace(reward, config=config).least_size == (patch, 2 * patch)


# Files


@pytest.fixture(scope="module")
def files(tmp_path_factory, random_weights):
    """Weights of the small towers as published files, and all sizes by the name of "Tiny"."""
    folder = tmp_path_factory.mktemp("published")
    TOKENIZER.save(folder / "tokenizer.json")
    save_weights(folder / "clip.safetensors", clip_params(random_weights), CLIP_NAMES, jnp.float32)
    save_weights(folder / "dino.safetensors", small_dino(random_weights).params, DINOV2_NAMES, jnp.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCALAR_SIZES, "Tiny", SCALAR)
        patch.setitem(CLIP_SIZES, "Tiny", (TEXT, VISION))
        patch.setitem(DINOV2_SIZES, "Tiny", DINO)
        yield folder


def options_of(files, **options):
    paths = {"clip": str(files / "clip.safetensors"), "subject": str(files / "dino.safetensors")}
    return parse(NewScalar, {**paths, "size": "Tiny", **options}, "train.reward")


@pytest.fixture(scope="module")
def new(files):
    return options_of(files)


@pytest.fixture(scope="module")
def untrained(new):
    """The reward that it makes, and its weights."""
    made, read = new.untrained(0)
    return made, read()


def test_a_new_one_has_the_towers_of_the_files(untrained, random_weights):
    (made, params), clip, dino = untrained, clip_params(random_weights), small_dino(random_weights).params
    assert params.keys() == made.axes.keys()
    for name, value in clip.items():
        if name != "logit_scale":
            np.testing.assert_array_equal(params[name], value)
    for name, value in dino.items():
        np.testing.assert_array_equal(below("subject", params)[name], value)
    others = {name for name in params if name.partition(".")[0] not in TOWERS}
    assert len(params) == len(others) + len(clip) - 1 + len(dino)
    assert not params["out.kernel"].any(), "it begins with the towers' cosines alone"


@pytest.mark.slow
def test_the_rest_is_drawn_by_the_seed(new, untrained):
    other = new.untrained(1)[1]()
    differ = {name for name in other if (other[name] != untrained[1][name]).any()}
    assert "inputs.text.kernel" in differ and not any(name.startswith(TOWERS) for name in differ)


def test_the_towers_may_stay_as_they_are(files, new, untrained):
    names, everything = untrained[0].axes.keys(), options_of(files, train_towers=True)
    towers = {name for name in names if name.startswith(("text.", "vision.", "subject."))}
    assert {name for name in names if everything.trains(name)} == names
    assert {name for name in names if new.trains(name)} == names - towers
    assert not everything.trains("subject.norm_out.variance"), "statistics are no weights"
    assert new.fitted(np.zeros((9, 5, 3), np.uint8)).shape == (16, 16, 3), "either tower sees all that it can"


def test_pictures_keep_their_places_where_regions_are_looked_at(files):
    halves = options_of(files, regions=[[0, 0, 1, 0.5], [0, 0.5, 1, 1]])
    assert halves.regions == ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))
    assert halves.fitted(np.zeros((9, 9, 3), np.uint8)).shape == (16, 16, 3)
    with pytest.raises(InputError, match=r"a picture of 9 × 5 pixels: .*white square.*; give square pictures"):
        halves.fitted(np.zeros((9, 5, 3), np.uint8))


@pytest.mark.slow
def test_saved_and_loaded_it_scores_the_same(new, untrained, score, reward, asked, tmp_path):
    """Weights are kept in bfloat16: exactly what these give, and next to what the trained ones gave."""
    new.save(tmp_path, untrained[0], reward.params)
    loaded, images = new.load(tmp_path), pictures(2)
    halves = {name: np.float32(jnp.bfloat16(value)) for name, value in reward.params.items()}
    found = score(images, loaded.encode(asked), params=loaded.params)
    np.testing.assert_array_equal(found, score(images, asked, params=halves))
    np.testing.assert_allclose(found, score(images, asked), atol=0.05)
    assert (loaded.name, loaded.aspects) == ("scalar_tiny", ("scalar_tiny",))


def test_a_file_says_where_its_reward_looks(files, new, reward, tmp_path):
    halves = options_of(files, regions=((0, 0, 1, 0.5), (0, 0.5, 1, 1)))
    for each, regions in ((new, ()), (halves, ((0, 0, 1, 0.5), (0, 0.5, 1, 1)))):
        made, _ = each.untrained(0)
        each.save(tmp_path, made, reward.params)
        loaded = parse(ScalarOptions, {"weights": str(tmp_path / "weights.safetensors")}, "score.scalar").build()
        assert (loaded.size, loaded.regions) == ("Tiny", regions) == (made.size, made.regions)


# Adapters

ADAPTER = {"rank": 2, "alpha": 4.0, "targets": r"blocks\..*|vision\..*query|line", "segments": (), "seed": 0}


def test_an_adapter_begins_with_nothing_and_then_counts(reward, score, asked):
    images, context = pictures(2), reward.encode(asked)
    adapted, params = reward.with_adapter(reward.params, "align", **ADAPTER)
    added = {name for name in params if adapter_of(name) == "align"}
    assert params.keys() - added == reward.params.keys() and len(added) > 6
    assert adapted.axes.keys() == params.keys() == adapted.params.keys()
    assert all(len(adapted.axes[name]) == np.ndim(value) for name, value in params.items())
    assert reward.axes.keys() == reward.params.keys(), "the reward itself stays as it was"
    run, base = jax.jit(adapted.score), score(images, context)
    np.testing.assert_array_equal(run(params, images, context)[:, 0], base)
    for layer in ("line", "blocks.*.query", "vision.blocks.*.query"):
        grown = {name: value + 0.3 * (name == f"{layer}.adapters.align.b") for name, value in params.items()}
        assert (np.abs(run(grown, images, context)[:, 0] - base) > 100 * ROUNDING).all(), layer


def test_adapters_are_told_apart_by_name(reward):
    adapted, params = reward.with_adapter(reward.params, "align", **ADAPTER)
    twice, more = adapted.with_adapter(params, "again", **{**ADAPTER, "targets": "line", "rank": 1})
    assert {adapter_of(name) for name in more} == {None, "align", "again"} and twice.axes.keys() == more.keys()
    for name, options, said in (
        ("align", ADAPTER, "adapter 'align': names in a stack differ"),
        ("other", {**ADAPTER, "targets": "lime"}, "targets 'lime'"),
        ("other", {**ADAPTER, "rank": 0}, "rank 0"),
        (
            "other",
            {**ADAPTER, "segments": ("text",)},
            r"segments \('text',\): .* all tokens of its layers; set segments",
        ),
    ):
        with pytest.raises(InputError, match=said):
            adapted.with_adapter(params, name, **options)


# What it cannot read


def test_what_it_cannot_read_is_said_once(random_weights, capsys):
    reward, (first, second) = small_scalar(random_weights), scenes(1, 2)
    long = "Mara waves in the forest in the castle"
    reward.encode([replace(first, prompt=" "), replace(second, prompt=long)])
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" have ")[0] for line in told] == [
        "scalar_small: prompts like ' '",
        f"scalar_small: prompts like {long!r}",
    ]
    reward.encode([replace(first, prompt=""), replace(second, prompt=long)])
    assert capsys.readouterr().err == ""


def test_unfit_files(files, new, reward, tmp_path):
    dino = files / "dino.safetensors"
    with pytest.raises(InputError, match=r"dino.safetensors: no scalar.json beside it .*; by its arrays it is DINOv2"):
        load_scalar(dino)
    with pytest.raises(InputError, match=r"dino.safetensors: by its arrays"):
        options_of(files, clip=str(dino)).untrained(0)[1]()  # they are read when asked for
    new.save(tmp_path, new.untrained(0)[0], reward.params)
    weights, one = tmp_path / "weights.safetensors", {"out.bias": np.zeros(1)}
    save_weights(weights, one, scalar_names(one))
    with pytest.raises(InputError, match="its arrays are not this network's"):
        load_scalar(weights).params  # noqa: B018
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer.json: it is no readable tokenizer.json"):
        load_scalar(weights)
    for about, said in (
        ('{"size": "Tny", "regions": []}', r"unknown size of scalar 'Tny'.*did you mean 'Tiny'"),
        ('{"size": "Tiny"}', r"scalar.json: it holds the size's name, and regions of four numbers"),
        ('{"size": "Tiny", "regions": [[0, 0, 1]]}', r"scalar.json: it holds the size's name"),
        ('{"size": "Tiny", "regions": 2}', r"scalar.json: it holds the size's name"),
        ("[]", r"scalar.json: it holds the size's name"),
        ("{", r"scalar.json: it is not the JSON that a run writes"),
    ):
        (tmp_path / "scalar.json").write_text(about)
        with pytest.raises(InputError, match=said):
            load_scalar(weights)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": "Tny"}, "unknown train.reward.size 'Tny'.*did you mean 'Tiny'"),
        (
            {"size": "storybok", "clip": "", "subject": ""},
            "unknown train.reward.size 'storybok'.*did you mean 'storybook'",
        ),
        ({"clip": "no/where"}, "weights 'no/where': there is no such file"),
        ({"subject": ""}, "weights '': there is no such file"),
        ({"widht": 3}, "unknown option of train.reward 'widht'"),
        ({"regions": [[0, 0, 1, 1]]}, "1 regions: this network has places for 2; give as many, or none"),
    ],
)
def test_options_that_no_new_one_has(files, options, said):
    with pytest.raises(InputError, match=said):
        options_of(files, **options).untrained(0)


def test_the_towers_that_ship_fit_storybooks_own():
    """Their arrays, not their numbers: these come from a training."""
    tokenizer = Tokenizer.load(EMBEDDED / "encoders" / "tokenizer.json")
    config = SCALAR_SIZES[STORYBOOK]
    text = replace(config.text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end)
    shapes = abstract(lambda: ScalarReward(replace(config, text=text), rngs=nnx.Rngs(0)))[1]
    for file, names, ours in (
        ("clip", CLIP_NAMES, {n: v for n, v in shapes.items() if n.startswith(("text.", "vision."))}),
        ("iresnet", IRESNET_NAMES, below("subject", shapes)),
    ):
        stored = stored_shapes(EMBEDDED / "encoders" / f"{file}.safetensors")
        stored.pop("logit_scale", None)
        assert stored.keys() == {published.key for published in published_names(shapes_on_disk(ours), names).values()}
        assert sum(map(np.prod, stored.values())) == sum(np.prod(value.shape) for value in ours.values())
