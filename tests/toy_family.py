"""A second family of generators: it reads words, sees no subjects, predicts velocity; its autoencoder has weights."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from flax import nnx

from narrative_jax.core.images import crop_image, to_float
from narrative_jax.diffusion.timesteps import LogitNormal
from narrative_jax.generators.base import Generator
from narrative_jax.models.checkpoints import LINEAR, Published
from narrative_jax.models.layers import Linear
from narrative_jax.models.network import Network, abstract, below, split, under

WORDS, TOKENS, WIDTH, CELL = 16, 16, 12, 10
NAMES = {"unet": {"inner": "mid.proj_in", "out": "conv_out"}, "vae": {"kernel": Published("vae.weight", LINEAR)}}


class Denoiser(nnx.Module):
    def __init__(self, rngs):
        self.inner = Linear(WIDTH + WORDS + 1, 24, axes=(None, "embed"), rngs=rngs)
        self.out = Linear(24, WIDTH, axes=("embed", None), rngs=rngs)

    def __call__(self, noisy, t, words):
        beside = jnp.broadcast_to(jnp.concatenate([words, t[:, None]], 1)[:, None], (*noisy.shape[:2], WORDS + 1))
        return self.out(jax.nn.silu(self.inner(jnp.concatenate([noisy, beside], -1))))


class Words(NamedTuple):
    words: jax.Array  # f32[b, WORDS]


@dataclass(frozen=True)
class ToyGenerator(Generator):
    names: ClassVar[dict] = NAMES
    denoiser: ClassVar[str] = "unet"
    encoders: ClassVar[tuple] = ()
    prediction_type: ClassVar[str] = "velocity"
    latent_shape: ClassVar[tuple] = (TOKENS, WIDTH)
    timestep_distribution: ClassVar[LogitNormal] = LogitNormal()
    max_subjects: ClassVar[int] = 2  # of whom it sees none
    network: Network
    axes = property(lambda self: under("unet", self.network.axes) | {"vae.kernel": (None, None)})

    def encode(self, params, scenes):
        rows = np.zeros((len(scenes), WORDS), np.float32)
        for row, scene in zip(rows, scenes, strict=True):
            row[[crc32(word.encode()) % WORDS for word in scene.prompt.split()]] = 1
        return Words(rows)

    def blank(self, rows):
        return Words(np.zeros((rows, WORDS), np.float32))

    def fit(self, image):
        return crop_image(image, 40)

    def encode_images(self, params, images):
        cells = rearrange(to_float(images), "b (h p) (w q) c -> b (h w) (p q c)", p=CELL, q=CELL)
        return np.asarray(cells @ params["vae.kernel"])

    def drop(self, conditioning, *, text=None, subjects=None):
        return conditioning if text is None else Words(jnp.where(text[:, None], 0, conditioning.words))

    def denoise(self, params, noisy, t, conditioning, prepared):
        words = jnp.repeat(conditioning.words, len(noisy) // len(conditioning.words), 0)
        return self.network.bind(below("unet", params))(noisy, t, words)

    def decode(self, params, latents):
        cells = jnp.tanh(latents @ params["vae.kernel"].T)
        return rearrange(cells, "b (h w) (p q c) -> b (h p) (w q) c", h=4, p=CELL, q=CELL)


@dataclass(frozen=True)
class ToyOptions:
    pass


@dataclass(frozen=True)
class ToyPreset:
    Options: ClassVar[type] = ToyOptions
    max_subjects: ClassVar[int] = 2
    subject_guidance: ClassVar[bool] = False
    image_size: ClassVar[int] = 40
    files: ClassVar[tuple] = ()
    kept: ClassVar[str] = "all"
    divided: ClassVar[dict] = {}

    def abstract(self):
        network, shapes = abstract(lambda: Denoiser(nnx.Rngs(0)))
        return ToyGenerator(network), under("unet", shapes)

    def load(self, options, seed, mesh=None):
        network, params = split(Denoiser(nnx.Rngs(seed)))
        kernel = jax.random.normal(jax.random.key(seed), (CELL * CELL * 3, WIDTH)) / 17
        return ToyGenerator(network), under("unet", params) | {"vae.kernel": kernel}

    def described(self, options, seed):
        return f"random weights of seed {seed}", "none"
