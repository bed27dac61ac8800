"""Identity by ArcFace, landmarks from a person's file to scores: torch and scipy agree."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.ndimage import map_coordinates
from scipy.optimize import linear_sum_assignment
from small_rewards import IRESNET, face, pictures, scenes, small_iresnet, subject, with_faces
from test_id_encoder import reference

from narrative_jax import launch
from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float, to_uint8
from narrative_jax.core.mesh import make_mesh
from narrative_jax.models.checkpoints import published_names
from narrative_jax.models.face_alignment import TEMPLATE
from narrative_jax.models.id_encoder import IRESNET_NAMES, IRESNET_SIZES
from narrative_jax.rewards.base import OnHost
from narrative_jax.rewards.faces import faces_of
from narrative_jax.rewards.identity import Identity
from narrative_jax.rewards.published_encoders import load_encoder

CONFIG = Path(__file__).parents[1] / "configs" / "score.py"
SIDE = IRESNET.image_size


@pytest.fixture(scope="module")
def encoder(random_weights):
    return small_iresnet(random_weights)


@pytest.fixture(scope="module")
def backbone(encoder, tmp_path_factory):
    """The encoder as a torch network with insightface's names, and the file that torch saves of it."""
    torch = pytest.importorskip("torch")
    network = reference(IRESNET)
    entries = published_names(encoder.params, IRESNET_NAMES)
    state = {
        key: torch.tensor(np.ascontiguousarray(value if layout is None else value.transpose(np.argsort(layout))))
        for (key, layout), value in ((entries[name], np.asarray(value)) for name, value in encoder.params.items())
    }
    counters = {key: value for key, value in network.state_dict().items() if key.endswith("num_batches_tracked")}
    network.load_state_dict(state | counters)
    path = tmp_path_factory.mktemp("arcface") / "backbone.pth"
    torch.save(network.state_dict(), path)
    return network, path


def embed(network, image, points):
    """The unit embedding of a face in a picture u8, by least squares, scipy's interpolation and torch's network."""
    import torch

    height, width = image.shape[:2]
    source, target = points * [width, height] - 0.5, TEMPLATE * (SIDE / 112)
    rows = [([x, -y, 1, 0], [y, x, 0, 1]) for x, y in source.astype(float)]
    (cos, sin, a, b), *_ = np.linalg.lstsq(np.reshape(rows, (10, 4)), target.astype(float).reshape(-1), rcond=None)
    where = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1) - [a, b]
    x, y = np.moveaxis(where @ np.linalg.inv([[cos, -sin], [sin, cos]]).T, -1, 0)
    shown = np.stack([map_coordinates(c, [y, x], order=1, cval=-1) for c in np.moveaxis(to_float(image), -1, 0)])
    with torch.no_grad():
        embedding = network(torch.tensor(shown[None].astype(np.float32)))[0].numpy()
    return embedding / np.linalg.norm(embedding)


def by_hand(network, image, scene):
    drawn = np.array([embed(network, image, points) for points in scene.faces])
    asked = [
        np.mean([embed(network, *pair) for pair in zip(who.images, who.landmarks, strict=True)], 0)
        for who in scene.subjects
    ]
    similarity = drawn @ np.transpose(asked)
    return similarity[linear_sum_assignment(similarity, maximize=True)].mean()


def scored(reward, images, asked):
    return np.asarray(jax.jit(reward.score)(reward.params, to_float(images), reward.encode(asked)))[:, 0]


CASES = [(1, 1), (1, 3), (2, 2), (2, 1), (2, 4)]  # subjects asked for, faces found


@pytest.mark.slow
def test_the_whole_path(encoder, backbone):
    """Pictures of two sizes; also of a subject with several photos, and with more or fewer faces than asked for."""
    reward = Identity(encoder, SIDE, 2, landmarks=True)
    for height, width in ((40, 52), (33, 30)):
        images = to_uint8(pictures(len(CASES), height, width, seed=height))
        asked = [with_faces(scenes(who)[0], faces) for who, faces in CASES]
        asked[0] = with_faces(replace(asked[0], subjects=[subject(5, images=3, size=(30, 24))]), 1)
        expected = [by_hand(backbone[0], *pair) for pair in zip(images, asked, strict=True)]
        found = scored(reward, images, asked)
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert np.ptp(found) > 0.05
        host = OnHost(reward, 3, make_mesh({"data": 1})).score_images(images, asked, None)[:, 0]
        np.testing.assert_allclose(host, found, atol=1e-5)


def test_the_same_face_wherever_it_is(encoder):
    """A picture's face is found turned, and cut out of its surroundings, as the photo's own."""
    image = to_uint8(pictures(1, 60, 60))[0]
    where = face(3)
    turned = np.stack([where[:, 1], 1 - where[:, 0]], -1)  # by a quarter, as np.rot90 does
    who = replace(subject(1), images=image[None], landmarks=where[None])
    asked = [replace(scenes(0)[0], subjects=[who], faces=turned[None])]
    reward = Identity(encoder, SIDE, landmarks=True)
    np.testing.assert_allclose(scored(reward, np.rot90(image)[None], asked), 1, atol=1e-4)
    np.testing.assert_array_less(scored(reward, image[None], asked), 0.999)


@pytest.mark.slow
def test_no_face_is_nobody(encoder):
    reward = Identity(encoder, SIDE, 2, landmarks=True)
    asked = [with_faces(scenes(1)[0], 0)]
    images = pictures(1, 40, 40)
    np.testing.assert_array_equal(scored(reward, to_uint8(images), asked), 0)
    slope = jax.grad(lambda images: reward.score(reward.params, images, reward.encode(asked)).sum())(images)
    np.testing.assert_array_equal(slope, 0)


@pytest.mark.slow
def test_measures_of_faces(encoder):
    """A true picture has faces of its own places."""
    reward = Identity(encoder, SIDE, 2, landmarks=True)
    asked, other = with_faces(scenes(2)[0], 2), with_faces(scenes(2)[0], 3)
    drawn, true = pictures(1, 40, 40, seed=1), pictures(1, 40, 40, seed=2)
    context, places = reward.encode([asked]), faces_of([other])
    measure = jax.jit(reward.measures)
    measured = measure(reward.params, drawn, context, true, places)
    scores = jax.jit(reward.score)(reward.params, drawn, context)[:, 0]
    np.testing.assert_allclose(measured["identity"], scores, atol=1e-6)
    assert -1 <= float(measured["copy_paste"][0]) <= 1
    itself = measure(reward.params, drawn, context, drawn, context.faces)
    assert float(itself["copy_paste"][0]) == pytest.approx(-1, abs=1e-3)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda scene: replace(scene, faces=None), "scene '0': its picture and its subject images need the landmarks"),
        (lambda scene: replace(scene, subjects=[subject(1)]), "scene '0': its picture and its subject images need"),
        (lambda scene: with_faces(scene, 5), "scene '0' with 5 faces: up to 4 are matched; keep"),
    ],
)
def test_scenes_without_what_is_needed(encoder, change, said):
    with pytest.raises(InputError, match=said):
        Identity(encoder, SIDE, landmarks=True).encode([change(with_faces(scenes(1)[0]))])


def test_wrong_options(encoder):
    with pytest.raises(InputError, match=r"landmarks and regions: .* one of the two; set regions"):
        Identity(encoder, SIDE, 1, ((0, 0, 1, 1),), landmarks=True)
    with pytest.raises(InputError, match="squares of 48: small sees those of 32 only; take 32"):
        Identity(encoder, 48, landmarks=True)
    with pytest.raises(InputError, match="0 regions for 5 subjects"):
        Identity(encoder, SIDE, 5, landmarks=True)
    with pytest.raises(InputError, match=r"unknown size of IResNet 'IResNet50'.*did you mean 'IResNet-50'"):
        load_encoder("iresnet", "x", "IResNet50")


@pytest.fixture
def score(tmp_path, backbone, monkeypatch, capsys):
    """score(lines, *flags): the column of identity for these lines of a file, or what the command says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(IRESNET_SIZES, "Tiny", IRESNET)

    def run(lines, *flags):
        Path("mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
        options = {"weights": backbone[1], "encoder": "iresnet", "size": "Tiny", "side": SIDE, "landmarks": True}
        options |= {"max_subjects": 2}
        code = launch.main(
            [
                *(f"--config={CONFIG}:all", "--config.collect.pictures=mine.jsonl", "--workdir=run"),
                *("--config.stages=('collect', 'identity', 'table')", "--config.table.sources=('identity',)"),
                *(f"--config.identity.identity.{key}={value}" for key, value in options.items()),
                *flags,
            ]
        )
        if code:
            return capsys.readouterr().err.splitlines()[-1]
        return pq.read_table("run/table/scores.parquet").to_pydict()["identity_tiny"]

    return run


def line(number, scene, image):
    """A line of a person's file, with its pictures on disk."""
    subjects = []
    for place, who in enumerate(scene.subjects):
        files = [f"{number}_{place}_{i}.png" for i in range(len(who.images))]
        for file, photo in zip(files, who.images, strict=True):
            Image.fromarray(photo).save(file)
        subjects.append({"class_word": "girl", "images": files, "landmarks": who.landmarks.tolist()})
    Image.fromarray(image).save(f"{number}.png")
    told = {"id": f"x{number}", "prompt": "a girl", "picture": f"{number}.png", "subjects": subjects}
    return told | {"landmarks": scene.faces.tolist()}


def test_from_a_file_to_the_table(score, backbone):
    asked = [with_faces(scenes(who)[0], faces) for who, faces in [*CASES, (1, 0)]]
    images = to_uint8(pictures(len(asked), 40, 52))
    found = score([line(i, *pair) for i, pair in enumerate(zip(asked, images, strict=True))])
    expected = [by_hand(backbone[0], *pair) for pair in zip(images[:-1], asked[:-1], strict=True)]
    np.testing.assert_allclose(found, [*expected, 0], atol=1e-4)


def without(fields, key):
    return {name: value for name, value in fields.items() if name != key}


PIXELS = [[[10, 12], [30, 12], [20, 20], [12, 28], [28, 28]]]


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda told: without(told, "landmarks"), "scene 'x0': its picture and its subject images need the landmarks"),
        (lambda told: told | {"landmarks": PIXELS}, "mine.jsonl:1: landmarks [[[10, 12], [30, 12], [20, 20], "),
        (lambda told: told | {"landmarks": [[[0.5, 0.5]] * 5]}, "mine.jsonl:1: landmarks [[[0.5, 0.5], "),
        (lambda told: told | {"landmarks": [face(1).tolist()[:4]]}, "landmarks are five points [x, y] for each face"),
        (lambda told: told | {"landmarks": "eyes"}, "mine.jsonl:1: landmarks eyes: landmarks are five points"),
        (lambda told: told | {"landmarks": None}, "mine.jsonl:1: landmarks None: landmarks are five points"),
        (
            lambda told: told | {"subjects": [told["subjects"][0] | {"landmarks": []}]},
            "mine.jsonl:1: landmarks of 0 images of 'girl': there are 1 images; give five points of one face for each",
        ),
        (
            lambda told: told | {"subjects": [without(told["subjects"][0], "landmarks")]},
            "scene 'x0': its picture and its subject images need the landmarks of their faces; give them, or set",
        ),
    ],
)
def test_bad_lines(score, spoil, said):
    told = line(0, with_faces(scenes(1)[0]), to_uint8(pictures(1, 40, 40))[0])
    assert said in score([spoil(told)])


def test_bad_options(score):
    told = [line(0, with_faces(scenes(1)[0]), to_uint8(pictures(1, 15, 40))[0])]
    option = "--config.identity.identity"
    assert "unknown encoder 'arcface'" in score(told, f"{option}.encoder=arcface")
    assert "unknown size of IResNet 'ViT-B/14': known are IResNet-50, IResNet-1" in score(
        told, f"{option}.size=ViT-B/14"
    )
    assert "squares of 224: tiny sees those of 32 only; take 32" in score(told, f"{option}.side=224")
    said = "by its arrays it is ArcFace's of 2 × layer3.*.conv2.weight [6, 6, 3, 3], not ArcFace's IResNet-50: "
    big = [line(1, with_faces(scenes(1)[0]), to_uint8(pictures(1, 40, 40))[0])]
    assert said in score(big, f"{option}.size=IResNet-50", f"{option}.side=112", "--workdir=other")
    assert "candidate 'x0' of 15 × 40 pixels: identity_tiny judges pictures of 16 × 16" in score(told)
