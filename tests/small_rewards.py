"""Rewards on encoders of small sizes with random weights, which several tests share."""

from dataclasses import replace

import numpy as np
from flax import nnx

from narrative_jax.core.records import Scene, Subject
from narrative_jax.models.clip import Clip, ClipTextConfig, ClipVisionConfig
from narrative_jax.models.dinov2 import Dinov2Config, Dinov2Encoder
from narrative_jax.models.face_alignment import TEMPLATE, TEMPLATE_SIZE
from narrative_jax.models.id_encoder import IResNet, IResNetConfig
from narrative_jax.models.network import abstract, under
from narrative_jax.models.preprocessing import CENTRED, IMAGENET
from narrative_jax.models.reward_heads import HeadConfig, LinearHead
from narrative_jax.models.scalar_reward import ScalarReward, ScalarRewardConfig
from narrative_jax.models.tokenizer import train_tokenizer
from narrative_jax.rewards.aesthetic import Aesthetic
from narrative_jax.rewards.clip_scores import ClipPair
from narrative_jax.rewards.picture_encoders import PictureEncoder
from narrative_jax.rewards.scalar import Scalar

PROMPTS = ["Mara waves in the forest", "Ivo reads by the castle", "Mara waves in the forest", "Ivo waves"]
TOKENIZER = train_tokenizer(PROMPTS)
TEXT = ClipTextConfig(TOKENIZER.vocab_size, 8, 16, 2, 2, 24, 12, TOKENIZER.end)
VISION = ClipVisionConfig(12, 4, 20, 2, 2, 28, 12)
DINO = Dinov2Config(16, 4, 24, 3, 2, 48)
IRESNET = IResNetConfig(32, (4, 6, 6, 8), (1, 1, 2, 1), 10)
SCALAR = ScalarRewardConfig(TEXT, VISION, DINO, side=16, width=16, heads=2, blocks=1)


def clip_network(text=TEXT, vision=VISION):
    """Structure and shapes of a `Clip`."""
    return abstract(lambda: Clip(text, vision, rngs=nnx.Rngs(0)))


def clip_params(random_weights):
    """Weights that give cosines of both signs."""
    shapes = clip_network()[1]
    del shapes["logit_scale"]
    return random_weights(shapes, seed=4) | {"logit_scale": np.float32(1.5)}


def small_clip(random_weights):
    """A pair with a tokeniser for PROMPTS."""
    return ClipPair("small", TOKENIZER, TEXT, VISION, lambda like: clip_params(random_weights))


def small_dino(random_weights):
    """A DINOv2 with patches of 4 that looks at them, more than a random one does."""
    network, shapes = abstract(lambda: Dinov2Encoder(DINO, rngs=nnx.Rngs(0)))
    params = random_weights(shapes)
    params |= {name: 8 * value for name, value in params.items() if name.endswith("scale_attention")}
    params |= {name: 0.3 * params[name] for name in ("class_embedding", "position_embedding")}
    return PictureEncoder("small", network, shapes, IMAGENET, DINO.patch_size, read=lambda: params)


def small_iresnet(random_weights):
    """An ArcFace network for faces of 32 pixels."""
    network, shapes = abstract(lambda: IResNet(IRESNET, rngs=nnx.Rngs(0)))
    params = random_weights(shapes, seed=4)
    params |= {name: 0.5 + np.abs(value) for name, value in params.items() if name.endswith("variance")}
    return PictureEncoder("small", network, shapes, CENTRED, 16, IRESNET.image_size, lambda: params)


def face(seed, size=0.5):
    """Five landmarks f32[5, 2] of a face of about this share of a picture, turned and shifted a little."""
    rng = np.random.default_rng(seed)
    angle, middle = rng.uniform(-0.5, 0.5), rng.uniform(0.35, 0.65, 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    points = (TEMPLATE / TEMPLATE_SIZE - 0.5) * size @ turn + middle
    return np.float32(points + rng.normal(scale=0.01, size=(5, 2)))


def with_faces(scene, count=2):
    """The scene with the landmarks of its photos, and of these many faces of its picture."""
    who = [
        replace(each, landmarks=np.stack([face(i + 10 * k) for i in range(len(each.images))]))
        for k, each in enumerate(scene.subjects)
    ]
    faces = np.float32([face(100 + i) for i in range(count)]).reshape(count, 5, 2)
    return replace(scene, subjects=who, faces=faces)


def small_aesthetic(random_weights):
    """A head of two layers on the small pair."""
    network, shapes = abstract(lambda: LinearHead(HeadConfig((12, 5, 1), (0, 2), {}), rngs=nnx.Rngs(0)))
    return Aesthetic(small_clip(random_weights), "v2", network, random_weights(shapes))


def small_scalar(random_weights):
    """One that has learned something: no weight is 0."""
    network, shapes = abstract(lambda: ScalarReward(SCALAR, rngs=nnx.Rngs(0)))
    params = random_weights(shapes, seed=5) | under("subject", small_dino(random_weights).params)
    params["line.kernel"] *= 0.01  # cosines come times 100
    halves = ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))
    return Scalar("small", SCALAR, TOKENIZER, network, lambda mesh: params, halves)


def pictures(count, height=18, width=27, seed=2):
    """A colour each, under noise, f32[count, height, width, 3] in [-1, 1]."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(-1, 1, (count, 1, 1, 3)) + 0.4 * rng.normal(size=(count, height, width, 3))
    return np.clip(values, -1, 1).astype(np.float32)


def subject(seed, images=1, size=(20, 20)):
    """Someone with these many photos."""
    photos = np.uint8(np.round((pictures(images, *size, seed=seed) + 1) * 127.5))
    return Subject(f"subject {seed}", "character", photos)


def scenes(*counts):
    """One scene with each of these counts of subjects, all different."""
    return [
        Scene(str(i), PROMPTS[i % len(PROMPTS)], [subject(10 * i + k + 3) for k in range(count)], "user")
        for i, count in enumerate(counts)
    ]
