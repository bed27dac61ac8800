"""Subject consistency and identity against embeddings put together by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_rewards import DINO, pictures, scenes, small_dino, subject

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import fit_image, to_float, to_uint8
from narrative_jax.core.mesh import make_mesh
from narrative_jax.core.options import parse
from narrative_jax.core.records import Scene, Subject
from narrative_jax.models.checkpoints import save_weights
from narrative_jax.models.dinov2 import DINOV2_NAMES, DINOV2_SIZES
from narrative_jax.models.preprocessing import resize
from narrative_jax.rewards.base import OnHost
from narrative_jax.rewards.clip_scores import load_clip
from narrative_jax.rewards.identity import Identity, IdentityOptions
from narrative_jax.rewards.regions import views
from narrative_jax.rewards.subject_consistency import Crops, Grid, SubjectConsistency, SubjectConsistencyOptions

SIDE = 24
LEFT, RIGHT = (0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)
GRID, CROPS = Grid(12, 6), Crops(16, 3, 8)
COMPILED = {}


@pytest.fixture(scope="module")
def dino(random_weights):
    return small_dino(random_weights)


def consistency(dino, patches, **options):
    return SubjectConsistency(dino, patches, **{"side": SIDE, **options})


def scored(reward, images, asked):
    return np.asarray(jax.jit(reward.score)(reward.params, images, reward.encode(asked)))[:, 0]


def embed(dino, image):
    """Unit embedding f32[d] of one picture."""
    return np.asarray(COMPILED.setdefault(id(dino), jax.jit(dino.embed))(dino.params, image[None])[0])


def photo(scene, number=0, side=SIDE):
    return to_float(fit_image(scene.subjects[number].images[0], side))


def shows(images):
    """Scenes whose one subject image is that very picture."""
    return [Scene(str(i), "", [Subject("s", "s", to_uint8(image)[None])], "user") for i, image in enumerate(images)]


# Subject consistency


def test_grid_by_hand(dino):
    images, asked = pictures(2, SIDE, SIDE), scenes(1, 1)
    expected = []
    for image, scene in zip(images, asked, strict=True):
        corners = [(y, x) for y in (0, 6, 12) for x in (0, 6, 12)]
        cut = [[embed(dino, p[y : y + 12, x : x + 12]) for y, x in corners] for p in (image, photo(scene))]
        expected.append((np.array(cut[0]) * np.array(cut[1])).sum(1).mean())
    np.testing.assert_allclose(scored(consistency(dino, GRID), images, asked), expected, atol=1e-5)


def test_crops_by_hand(dino):
    reward = consistency(dino, CROPS)
    images, asked = pictures(2, SIDE, SIDE), scenes(1, 1)
    context = reward.encode(asked)
    assert context.corners.shape == (2, 3, 2) and (context.corners[0] != context.corners[1]).any()
    assert context.corners.min() >= 0 and context.corners.max() <= SIDE - 16
    expected = []
    for image, scene, corners in zip(images, asked, context.corners, strict=True):
        cut = [[embed(dino, p[y : y + 16, x : x + 16]) for y, x in corners] for p in (image, photo(scene))]
        crops = (np.array(cut[0]) * np.array(cut[1])).sum(1).mean()
        small = [np.asarray(views(p[None], (), np.ones((1, 1), bool), 8)[0])[0, 0] for p in (image, photo(scene))]
        expected.append((embed(dino, small[0]) @ embed(dino, small[1]) + crops) / 2)
    np.testing.assert_allclose(scored(reward, images, asked), expected, atol=1e-5)
    np.testing.assert_array_equal(reward.encode(asked).corners, context.corners)


@pytest.mark.parametrize("form", [{"form": "grid", "patches": {"size": 24, "stride": 8}}, {"form": "crops"}])
@pytest.mark.slow
def test_clip_sees_patches_at_its_one_side(form):
    """Storybook's, whose squares are of 40: the picture's patches of 24 are enlarged."""
    form = {"patches": {"size": 24, "count": 3, "whole": 40}} | form
    reward = SubjectConsistencyOptions("", encoder="clip", size="storybook", side=40, **form).build()
    images, asked, pair = pictures(2, 40, 40), scenes(1, 1), load_clip("", "storybook")
    assert reward.name == "subject_consistency_clip_storybook"
    embed_images = jax.jit(pair.embed_images)

    def seen(image, corners):
        cut = np.stack([image[y : y + 24, x : x + 24] for y, x in corners])
        return np.asarray(embed_images(pair.params, resize(cut, 40, 40)))

    expected = []
    for image, scene, corners in zip(images, asked, reward.encode(asked).corners, strict=True):
        known = photo(scene, side=40)
        found = (seen(image, corners) * seen(known, corners)).sum(1).mean()
        if form["form"] == "crops":
            whole, other = (np.asarray(embed_images(pair.params, each[None]))[0] for each in (image, known))
            found = (found + whole @ other) / 2
        expected.append(found)
    np.testing.assert_allclose(scored(reward, images, asked), expected, atol=1e-5)


@pytest.mark.parametrize("patches", [GRID, CROPS])
def test_a_pasted_copy_is_most_similar_and_pays_the_penalty(dino, patches):
    images = to_float(to_uint8(pictures(2, SIDE, SIDE)))
    reward = consistency(dino, patches)
    np.testing.assert_allclose(scored(reward, images, shows(images)), 1, atol=1e-5)
    others = scored(reward, images, shows(images[::-1]))
    assert (others < 0.98).all()
    penalised = replace(reward, penalty=3.0, threshold=0.9)
    np.testing.assert_allclose(scored(penalised, images, shows(images)), 1 - 3 * 0.1, atol=1e-4)
    paid = np.where(others > 0.9, others - 3 * (others - 0.9), others)
    np.testing.assert_allclose(scored(penalised, images, shows(images[::-1])), paid, atol=1e-5)


def test_several_photos_and_several_subjects_are_means(dino):
    images = pictures(1, SIDE, SIDE)
    two = [subject(3), subject(4)]
    both = Subject("s", "s", np.concatenate([each.images for each in two]))
    reward = consistency(dino, GRID)
    alone = [scored(reward, images, [Scene("0", "", [each], "user")])[0] for each in two]
    np.testing.assert_allclose(scored(reward, images, [Scene("0", "", [both], "user")]), np.mean(alone), atol=1e-5)
    shared = consistency(dino, GRID, max_subjects=3)
    np.testing.assert_allclose(scored(shared, images, [Scene("0", "", two, "user")]), np.mean(alone), atol=1e-5)


def test_each_subject_in_its_region(dino):
    left, right = to_float(to_uint8(pictures(2, SIDE, SIDE // 2)))
    picture = np.concatenate([left, right], 1)[None]
    (first,), (second,) = ([shown.subjects[0]] for shown in shows([left, right]))
    reward = consistency(dino, GRID, max_subjects=2, regions=(LEFT, RIGHT))
    ordered = scored(reward, picture, [Scene("0", "", [first, second], "user")])
    np.testing.assert_allclose(ordered, 1, atol=1e-5)
    assert scored(reward, picture, [Scene("0", "", [second, first], "user")]) < 0.99
    single = [Scene("0", "", [first], "user")]
    np.testing.assert_allclose(
        scored(reward, picture, single), scored(consistency(dino, GRID), picture, single), atol=1e-6
    )


@pytest.mark.slow
def test_padding_and_company_change_nothing(dino):
    asked, images = scenes(1, 2), pictures(2, SIDE, SIDE)
    reward = consistency(dino, CROPS, max_subjects=2, regions=(LEFT, RIGHT))
    together = scored(reward, images, asked)
    apart = [scored(reward, images[i : i + 1], asked[i : i + 1])[0] for i in range(2)]
    np.testing.assert_allclose(together, apart, atol=1e-5)
    drawn = to_uint8(images)
    on_host = OnHost(reward, 3, make_mesh({"data": -1})).score_images(drawn, asked, None)[:, 0]
    np.testing.assert_allclose(on_host, scored(reward, to_float(drawn), asked), atol=1e-5)


def test_subject_images_are_encoded_once(dino):
    reward = consistency(dino, GRID)
    asked = scenes(1, 1)
    context = reward.encode(asked)
    reward.__dict__["_embed"] = None
    np.testing.assert_array_equal(reward.encode(asked[::-1]).references, context.references[::-1])


def test_another_side_has_references_of_its_own(dino):
    reward, asked = Identity(dino, SIDE), scenes(1)
    before = reward.encode(asked).references
    found = replace(reward, side=16).encode(asked).references
    np.testing.assert_array_equal(found, Identity(dino, 16).encode(asked).references)
    assert np.abs(found - before).max() > 1e-3


@pytest.mark.parametrize(
    "options, said",
    [
        ({"side": 10}, "patches of 12 from pictures of 10 × 10"),
        ({"max_subjects": 2, "regions": (LEFT,)}, "1 regions for 2 subjects: each subject has one"),
        ({"regions": ((0, 0.5, 1, 0.5),)}, r"region \(0, 0.5, 1, 0.5\): .*shares of the picture"),
    ],
)
def test_bad_options(dino, options, said):
    with pytest.raises(InputError, match=said):
        consistency(dino, GRID, **options)


@pytest.mark.parametrize("count", [0, 2])
def test_scenes_that_cannot_be_compared(dino, count):
    for reward in (consistency(dino, GRID), Identity(dino, SIDE)):
        with pytest.raises(InputError, match=f"scene '0' with {count} subjects: .*1 to 1"):
            reward.encode(scenes(count))


# Identity


@pytest.fixture(scope="module")
def duo(dino):
    """A picture of two, and both of them as they look there."""
    left, right = to_float(to_uint8(pictures(2, SIDE, SIDE // 2)))
    who = [shown.subjects[0] for shown in shows([left, right])]
    reward = Identity(dino, SIDE, 2, (LEFT, RIGHT))
    return reward, np.concatenate([left, right], 1)[None], who


@pytest.mark.slow
def test_identity_does_not_mind_who_stands_where(duo):
    reward, picture, who = duo
    for order in (who, who[::-1]):
        np.testing.assert_allclose(scored(reward, picture, [Scene("0", "", order, "user")]), 1, atol=1e-5)
    twins = scored(reward, picture, [Scene("0", "", [who[0], who[0]], "user")])
    assert twins < 0.995, "one of them is somebody else"


def test_who_is_too_like_pays_and_the_other_does_not(duo, dino):
    """One is a pasted copy, the other somebody else; who is matched with whom and what is measured stay as they are."""
    reward, picture, (copied, _) = duo
    other = shows(pictures(1, SIDE, SIDE, seed=5))[0].subjects[0]
    asked = [Scene("0", "", [copied, other], "user")]
    (plain,) = scored(reward, picture, asked)
    unlike = 2 * plain - 1  # the copy's cosine is 1
    threshold = (1 + unlike) / 2
    paying = replace(reward, penalty=3.0, threshold=threshold)
    np.testing.assert_allclose(scored(paying, picture, asked), plain - 3 * (1 - threshold) / 2, atol=1e-5)
    measured = [each.measures(each.params, picture, each.encode(asked)) for each in (reward, paying)]
    np.testing.assert_array_equal(*(found["identity"] for found in measured))


@pytest.mark.slow
def test_blending_is_the_similarity_to_the_other(duo, dino):
    reward, picture, who = duo
    measured = reward.measures(reward.params, picture, reward.encode([Scene("0", "", who, "user")]))
    a, b = (embed(dino, to_float(fit_image(each.images[0], SIDE))) for each in who)
    np.testing.assert_allclose(measured["identity"], 1, atol=1e-5)
    np.testing.assert_allclose(measured["blending"], a @ b, atol=1e-5)
    assert set(measured) == {"identity", "blending"}


def test_copy_paste_is_between_the_truth_and_the_photo(duo):
    reward, picture, who = duo
    pose = pictures(1, SIDE, SIDE, seed=9)
    context = reward.encode([Scene("0", "", who, "user")])

    def pasted(drawn, truth):
        return float(reward.measures(reward.params, drawn, context, truth)["copy_paste"][0])

    assert pasted(picture, pose) == pytest.approx(1, abs=1e-3)
    assert pasted(pose, pose) == pytest.approx(-1, abs=1e-3)
    assert abs(pasted(pictures(1, SIDE, SIDE, seed=5), pose)) < 0.9


def test_one_subject_is_looked_for_in_the_whole_picture(duo, dino):
    reward, picture, who = duo
    asked = [Scene("0", "", who[:1], "user")]
    expected = embed(dino, picture[0]) @ embed(dino, to_float(fit_image(who[0].images[0], SIDE)))
    np.testing.assert_allclose(scored(reward, picture, asked), expected, atol=1e-5)
    np.testing.assert_allclose(scored(Identity(dino, SIDE), picture, asked), expected, atol=1e-5)
    measured = reward.measures(reward.params, picture, reward.encode(asked))
    np.testing.assert_array_equal(measured["blending"], 0)


def test_a_batch_of_scenes_with_one_and_two(duo):
    reward, picture, who = duo
    asked = [Scene("0", "", who[:1], "user"), Scene("1", "", who, "user")]
    together = scored(reward, np.repeat(picture, 2, 0), asked)
    apart = [scored(reward, picture, [scene])[0] for scene in asked]
    np.testing.assert_allclose(together, apart, atol=1e-5)


@pytest.mark.parametrize("count, regions", [(2, ()), (3, (LEFT, RIGHT)), (5, (LEFT,) * 5)])
def test_characters_have_places(dino, count, regions):
    with pytest.raises(InputError, match=f"{len(regions)} regions for {count} subjects"):
        Identity(dino, SIDE, count, regions)


# Options


@pytest.fixture(scope="module")
def weights(dino, tmp_path_factory):
    """The small DINOv2 as a published file of size "Tiny"."""
    path = tmp_path_factory.mktemp("published") / "dino.safetensors"
    save_weights(path, dino.params, DINOV2_NAMES, jnp.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DINOV2_SIZES, "Tiny", DINO)
        yield str(path)


def build(kind, published, **options):
    return parse(kind, {"weights": published, "size": "Tiny", "side": SIDE, **options}, "score.reward").build()


@pytest.mark.slow
def test_rewards_from_their_options(dino, weights):
    images, asked, regions = pictures(2, SIDE, SIDE), scenes(1, 2), [list(map(int, (0, 0, 1, 1))), list(RIGHT)]
    boxes = ((0.0, 0.0, 1.0, 1.0), RIGHT)
    places = {"max_subjects": 2, "regions": regions}
    identity = build(IdentityOptions, weights, **places)
    paying = build(IdentityOptions, weights, **places, penalty=2, threshold=0.5)
    assert (paying.penalty, paying.threshold, identity.penalty, identity.threshold) == (2, 0.5, 0, 1)
    assert (identity.name, identity.regions) == ("identity_dinov2_tiny", boxes)
    np.testing.assert_array_equal(
        scored(identity, images, asked), scored(Identity(dino, SIDE, 2, boxes), images, asked)
    )
    for form, patches in (("grid", {"size": 12, "stride": 6}), ("crops", {"size": 16, "count": 3, "whole": 8})):
        options = {"form": form, "patches": patches, "penalty": 3, "threshold": 0.5, **places}
        reward = build(SubjectConsistencyOptions, weights, **options)
        assert reward.name == "subject_consistency_dinov2_tiny"
        by_hand = consistency(
            dino, GRID if form == "grid" else CROPS, penalty=3.0, threshold=0.5, max_subjects=2, regions=boxes
        )
        np.testing.assert_array_equal(scored(reward, images, asked), scored(by_hand, images, asked))


def test_the_published_defaults(weights):
    """Of the papers: DINOv2 ViT-B/14; crops of 378 from squares of 512, or a grid of 224 every 112."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DINOV2_SIZES, "ViT-B/14", replace(DINO, patch_size=14, image_size=28))
        reward = parse(SubjectConsistencyOptions, {"weights": weights}, "x").build()
        grid = parse(SubjectConsistencyOptions, {"weights": weights, "form": "grid"}, "x").build()
        identity = parse(IdentityOptions, {"weights": weights}, "x").build()
    assert (reward.patches, grid.patches) == (Crops(378, 4, 224), Grid(224, 112))
    assert (reward.side, reward.penalty, reward.threshold, reward.max_subjects, reward.regions) == (512, 0, 1, 1, ())
    assert (identity.side, identity.max_subjects, identity.regions, identity.landmarks) == (224, 1, (), False)
    assert reward.name == "subject_consistency_dinov2_vit_b_14"


@pytest.mark.parametrize(
    ("kind", "options", "said"),
    [
        (IdentityOptions, {"encoder": "dinov"}, "unknown encoder 'dinov'.*did you mean 'dinov2'"),
        (IdentityOptions, {"size": "Tny"}, "unknown size of DINOv2 'Tny'.*did you mean 'Tiny'"),
        (IdentityOptions, {"weights": "no/where"}, "weights 'no/where': there is no such file"),
        (IdentityOptions, {"side": 18}, "squares of 18: dinov2_tiny sees .* its patch, 4; take 16 or 20"),
        (IdentityOptions, {"side": 0}, "side 0: side is an integer ≥ 1"),
        (IdentityOptions, {"regions": [[0, 0, 1]]}, r"score.reward.regions"),
        (SubjectConsistencyOptions, {"form": "grit"}, "form of subject_consistency 'grit'.*did you mean 'grid'"),
        (SubjectConsistencyOptions, {"patches": {"stride": 3}}, "unknown option of form crops 'stride'"),
        (SubjectConsistencyOptions, {"patches": {"size": 10}}, "squares of 224: dinov2_tiny sees|squares of 10"),
    ],
)
def test_options_that_fit_no_reward(weights, kind, options, said):
    with pytest.raises(InputError, match=said):
        build(kind, weights, **options)


# Views


def test_views_are_the_regions_on_white():
    images = pictures(2, 8, 12)
    mask = jnp.array([[True, True], [True, False]])  # two subjects, and one alone
    seen, there = (np.asarray(found) for found in views(images, (LEFT, RIGHT), mask, 12))
    np.testing.assert_array_equal(there, [[True, True], [True, False]])
    assert seen.shape == (2, 2, 12, 12, 3)
    whole = np.ones((12, 12, 3), np.float32)
    whole[2:10] = images[1]
    np.testing.assert_allclose(seen[1, 0], whole, atol=1e-6)
    assert (seen[0, 0, :, :1] == 1).all() and (seen[0, 0, :, -1:] == 1).all(), "6 of 8 wide: white beside it"
    tall, there = views(images[:, :, 6:], (), mask, 12)
    assert there.shape == (2, 1) and there.all()
    tall = np.asarray(tall)[:, 0]
    np.testing.assert_allclose(seen[:, 1], tall, atol=1e-6)
