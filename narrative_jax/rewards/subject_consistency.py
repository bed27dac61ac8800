"""UPER's subject reward: does a picture show the subject of its subject images, without being a copy of them?"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Protocol
from zlib import crc32

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.options import File, parse
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.models.preprocessing import grid_corners, patches, random_corners, resize, shortest_side_crop
from narrative_jax.rewards.picture_encoders import PictureEncoder
from narrative_jax.rewards.published_encoders import load_encoder
from narrative_jax.rewards.regions import Box, check_regions, views
from narrative_jax.rewards.subjects import SubjectReward, check_subjects, reference_pictures


class Patches(Protocol):
    """Which places of two pictures are compared; `sides` are those of the squares that the encoder sees."""

    @property
    def sides(self) -> tuple[int, ...]: ...

    def corners(self, scene_id: str, side: int) -> np.ndarray:
        """Where they are in square pictures of this side, i32[n, 2]. Raises InputError where they do not fit."""
        ...

    def embed(self, encoder: PictureEncoder, params: Params, pictures: jax.Array, corners: jax.Array) -> jax.Array:
        """Unit embeddings f32[b, m, d] of pictures f32[b, side, side, 3] with `corners` i32[b, n, 2]."""
        ...

    def weights(self, count: int) -> np.ndarray:
        """What each of `count` embeddings counts, f32[count], 1 in all."""
        ...


@dataclass(frozen=True)
class Grid:
    """All patches of this size and stride; the first published form (UPER)."""

    size: int = 224
    stride: int = 112

    @property
    def sides(self) -> tuple[int, ...]:
        """See `Patches`."""
        return (self.size,)

    def corners(self, scene_id: str, side: int) -> np.ndarray:
        """See `Patches`."""
        return grid_corners(side, side, self.size, self.stride)

    def embed(self, encoder: PictureEncoder, params: Params, pictures: jax.Array, corners: jax.Array) -> jax.Array:
        """See `Patches`."""
        return encoder.embed(params, _patches(pictures, corners, self.size, encoder.side))

    def weights(self, count: int) -> np.ndarray:
        """See `Patches`."""
        return np.full(count, 1 / count, np.float32)


@dataclass(frozen=True)
class Crops:
    """The whole picture at side `whole`, and as much weight on `count` random crops; the second form.

    The crops are a scene's own, the same each time. The paper's 384 is no multiple of DINOv2's patch, 14.
    """

    size: int = 378
    count: int = 4
    whole: int = 224

    @property
    def sides(self) -> tuple[int, ...]:
        """See `Patches`."""
        return self.whole, self.size

    def corners(self, scene_id: str, side: int) -> np.ndarray:
        """See `Patches`."""
        key = jax.random.key(crc32(scene_id.encode()))
        return np.asarray(random_corners(key, self.count, side, side, self.size))

    def embed(self, encoder: PictureEncoder, params: Params, pictures: jax.Array, corners: jax.Array) -> jax.Array:
        """See `Patches`."""
        whole = encoder.embed(params, shortest_side_crop(pictures, *(encoder.side or self.whole,) * 2))
        crops = encoder.embed(params, _patches(pictures, corners, self.size, encoder.side))
        return jnp.concatenate([whole[:, None], crops], 1)

    def weights(self, count: int) -> np.ndarray:
        """See `Patches`."""
        return np.float32([0.5] + [0.5 / (count - 1)] * (count - 1))


class SubjectContext(NamedTuple):
    """`references` f32[b, s, m, d], the mean unit embeddings of each subject's images, `mask` bool[b, s] (False:
    padding), and `corners` i32[b, n, 2].
    """

    references: np.ndarray
    mask: np.ndarray
    corners: np.ndarray


@dataclass(frozen=True)
class SubjectConsistency(SubjectReward):
    """How much a picture is like the subject images, less `penalty` for what is above `threshold` (UPER).

    It is the mean cosine of corresponding patches of picture and subject images, both in squares of `side`. Of several
    subjects it is the mean; each has its own of `regions`, in their order, or all share the whole picture.
    Raises InputError for patches that do not fit into `side`, and for regions that are not as many as subjects.
    """

    kind: ClassVar[str] = "subject_consistency"

    patches: Patches
    side: int = 512
    penalty: float = 0.0
    threshold: float = 1.0
    max_subjects: int = 1
    regions: tuple[Box, ...] = ()

    def __post_init__(self):
        for side in self.patches.sides if self.encoder.side is None else ():  # to the other ones patches are fitted
            self.encoder.check_side(side)
        self.patches.corners("", self.side)
        check_regions(self.regions)
        if self.regions and len(self.regions) != self.max_subjects:
            given = f"{len(self.regions)} regions for {self.max_subjects} subjects"
            raise InputError(given, "each subject has one, or all share the picture", "give as many, or none")

    def encode(self, scenes: Sequence[Scene]) -> SubjectContext:
        """Embeddings of the subject images, each image worked out once. Raises InputError for a scene without."""
        mask = check_subjects(scenes, self.max_subjects, self.encoder.patch)
        corners = np.stack([self.patches.corners(scene.id, self.side) for scene in scenes])
        pairs = zip(scenes, corners, strict=True)
        known = [(subject.images, where) for scene, where in pairs for subject in scene.subjects]
        return SubjectContext(self._references(known, mask), mask, corners)

    def blank(self, rows: int) -> SubjectContext:
        """See `PureReward`."""
        corners = self.patches.corners("", self.side)[None]
        references = self._blank_references(rows, np.zeros((1, self.side, self.side, 3), np.float32), corners)
        return SubjectContext(references, np.ones(references.shape[:2], bool), np.repeat(corners, rows, 0))

    def fit(self, images: jax.Array, context: SubjectContext) -> jax.Array:
        """Where subjects are looked for, f32[b, n, side, side, 3]."""
        return views(images, self.regions, context.mask, self.side)[0]

    def judge(self, params: Params, fitted: jax.Array, context: SubjectContext, critiques: Any = None) -> jax.Array:
        """f32[b, 1]; see `PureReward`."""
        flat = fitted.reshape(-1, *fitted.shape[2:])
        corners = jnp.repeat(context.corners, fitted.shape[1], 0)
        embeddings = self.patches.embed(self.encoder, params, flat, corners)
        embeddings = embeddings.reshape(*fitted.shape[:2], *embeddings.shape[1:])
        cosines = (embeddings * context.references).sum(-1)
        similarity = (cosines * self.patches.weights(cosines.shape[-1])).sum(-1)
        values = self._penalised(similarity)
        return (jnp.where(context.mask, values, 0).sum(1) / jnp.maximum(context.mask.sum(1), 1))[:, None]

    def _embed_subject(self, images, corners):
        """f32[m, d]: a cosine with a mean embedding is the mean of the cosines."""
        pictures = reference_pictures(images, self.side)
        return np.mean([self._embed(self.params, picture[None], corners[None])[0] for picture in pictures], 0)

    @cached_property
    def _embed(self):
        return jax.jit(lambda params, pictures, corners: self.patches.embed(self.encoder, params, pictures, corners))


FORMS = {"grid": Grid, "crops": Crops}


@dataclass(frozen=True)
class SubjectConsistencyOptions:
    """`encoder`, `size` and `weights` are as in `load_encoder`; `patches` are the options of the form, "grid" or
    "crops", see `Grid`, `Crops`. An encoder that sees one side only has the patches resized to it.

    The others are as in `SubjectConsistency`.
    """

    weights: File
    encoder: str = "dinov2"
    size: str = "ViT-B/14"
    form: str = "crops"
    patches: dict[str, int] | None = None
    side: int = 512
    penalty: float = 0.0
    threshold: float = 1.0
    max_subjects: int = 1
    regions: tuple[Box, ...] = ()

    def build(self) -> SubjectConsistency:
        """The reward, whose weights are read when they are needed. Raises InputError."""
        return self._made(self.weights)

    def abstract(self) -> SubjectConsistency:
        """See `PureReward`. Raises InputError."""
        return self._made(None)

    def _made(self, weights):
        check_name("form of subject_consistency", self.form, FORMS)
        patches = parse(FORMS[self.form], self.patches or {}, f"form {self.form}")
        encoder, rest = load_encoder(self.encoder, weights, self.size), (self.max_subjects, self.regions)
        return SubjectConsistency(encoder, patches, self.side, self.penalty, self.threshold, *rest)


def _patches(pictures, corners, size, side):
    """f32[b, n, size, size, 3], each picture at its own corners; of another `side` where there is one."""
    found = jax.vmap(lambda picture, where: patches(picture[None], where, size)[0])(pictures, corners)
    if side in (None, size):
        return found
    flat = found.reshape(-1, *found.shape[2:])
    return resize(flat, side, side).reshape(*found.shape[:2], side, side, -1)
