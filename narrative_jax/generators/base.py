"""What the floors above call a generator, and a preset of one."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.diffusion.timesteps import sampler_grid
from narrative_jax.models.checkpoints import Names
from narrative_jax.models.lora import with_adapter
from narrative_jax.models.network import Network, below, under


class TimestepDistribution(Protocol):
    """Which times a generator is trained on."""

    def sample(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Times f32[shape] in [0, 1]."""


class Generator(Protocol):
    """Denoiser, encoders and decoder over one flat tree of weights, each part's under its name and a dot.

    A family is a frozen dataclass that inherits from this, with the `network` of its denoiser.

    Weights are arguments: each method takes the tree, or so much of it as holds the parts that it uses. `axes` names
    the axes of every weight, `names` the published names of each part. `denoiser` is the part that trains and carries
    adapters, called as in diffusers' pipelines; `encoders` are the parts that only `encode` and `encode_images` use,
    with a dot where one is a part of a part.

    A family's conditioning is a pytree of its own with leading axis b, and what it prepares a pytree of its own;
    nobody else looks into either. `prediction_type`
    is what the denoiser predicts, `latent_shape` the shape of one picture's latents; `subject_guidance` says whether it
    was trained on scenes without their subjects too.
    """

    network: Network
    axes: Mapping[str, tuple]
    names: Mapping[str, Names]
    denoiser: str
    encoders: tuple[str, ...]
    prediction_type: str
    latent_shape: tuple[int, ...]
    timestep_distribution: TimestepDistribution
    max_subjects: int
    subject_guidance: bool = False

    def sampler_times(self, num_steps: int) -> jax.Array:
        """The sampler's decreasing times f32[num_steps + 1], from 1 to 0; evenly spaced unless a family says more."""
        return sampler_grid(num_steps)

    def encodes(self, name: str) -> bool:
        """Whether the weight of this name is one of an encoder."""
        return any(name.startswith(f"{part}.") for part in self.encoders)

    def encode(self, params: Params, scenes: Sequence[Scene]) -> Any:
        """What the scenes ask for, as the family's conditioning (host, cached by content)."""

    def blank(self, rows: int) -> Any:
        """The conditioning of so many scenes, without content: what has its shapes."""

    def not_read(self, scenes: Sequence[Scene]) -> dict[str, list[str]]:
        """What of the scenes the generator cannot read: kinds of trouble, with those whom it befalls."""
        return {}

    def fit(self, image: np.ndarray) -> np.ndarray:
        """A picture u8[h, w, 3] of any size as one that this generator could have drawn."""

    def encode_images(self, params: Params, images: np.ndarray) -> np.ndarray:
        """Latents f32[b, ...] of images u8[b, h, w, 3] of the generator's size (host)."""

    def drop(self, conditioning: Any, *, text: jax.Array | None = None, subjects: jax.Array | None = None) -> Any:
        """Without the text, without the subjects, where these bool[b] say so."""

    def prepare(self, params: Params, conditioning: Any) -> Any:
        """What does not change over times: a pytree for `denoise`, None where there is no such thing."""
        return None

    def prepares_as(self, base: "Generator") -> bool:
        """Whether `prepare` gives what it gives of `base`, whose stack this one's begins with, on its weights."""
        return False

    def denoise(self, params: Params, noisy: jax.Array, t: jax.Array, conditioning: Any, prepared: Any) -> jax.Array:
        """Prediction f32[b · k, ...] for noisy latents at t f32[b · k], each row of the conditioning k times over.

        What belongs to one row lies side by side, so that nothing moves where the rows are spread over devices.

        `prepared` is what `prepare` made of the conditioning; with None it is worked out anew.
        """

    def decode(self, params: Params, latents: jax.Array) -> jax.Array:
        """Images f32[b, h, w, 3], in [-1, 1] but for what guidance adds: clipping it here would end the gradient."""

    def with_adapter(self, params: Params, name: str, **adapter) -> tuple["Generator", Params]:
        """This generator with a fresh adapter on its denoiser's stack, and the weights; see `lora.append_adapter`.

        Raises InputError.
        """
        network, weights = with_adapter(self.network, below(self.denoiser, params), name, **adapter)
        return replace(self, network=network), params | under(self.denoiser, weights)

    def lora_notes(self, weights: Params, segments: Sequence[str]) -> list[str]:
        """What a LoRA file of these weights cannot say to other libraries; nothing where nothing is lost."""
        return []


class Preset(Protocol):
    """A generator by name: its family with its sizes. `Options`, a dataclass, is what its section of a config says."""

    Options: type
    max_subjects: int
    subject_guidance: bool  # see `Generator`
    image_size: int  # pixels of the shorter side of its pictures
    files: tuple[str, ...]  # published ones that it needs, and which are not read yet
    kept: str  # what its blocks keep for the gradient, a name of `stacks.KEPT`
    divided: Mapping[str, Mapping[str, int]]  # by axis of a mesh, sizes that it must divide, by what they are of

    def abstract(self) -> tuple[Generator, Mapping[str, jax.ShapeDtypeStruct]]:
        """The generator, and shapes and types of the weights but for its encoders'; nothing is read."""

    def keeping(self, kept: str) -> "Preset":
        """A copy whose blocks keep this for the gradient, a name of `stacks.KEPT`; it changes no result."""

    def load(self, options: Any, seed: int, mesh: Mesh | None = None) -> tuple[Generator, Params]:
        """The generator and its weights: the denoiser's spread over the mesh from the first byte, the encoders' on one
        device of this process, where they run. Without a mesh all is there. Raises InputError.
        """

    def described(self, options: Any, seed: int) -> tuple[str, str]:
        """What the weights are, and their licence, in words."""
