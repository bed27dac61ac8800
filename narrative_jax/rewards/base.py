"""What everything that scores pictures has in common."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float
from narrative_jax.core.mesh import batch_sharding, check_batch, spread_weights, traced_on
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params, Pictures

ASPECTS = ("prompt_following", "identity_consistency", "visual_quality")  # the papers'; a reward may have others
BATCH_SIZE = 64  # pictures that a pure reward scores at once unless the entry says otherwise
WEIGHTS = "weights.safetensors"  # what a trained reward leaves in its folder, beside other files


class Reward(Protocol):
    """A scorer. `aspects` names the columns of its scores; higher is better in each.

    `differentiable`: a loss may go through it. `needs_facts`: it judges by what Storybook knows about its own scenes,
    so a user's scenes cannot be scored, and what is trained on it had privileged feedback.
    """

    name: str
    aspects: tuple[str, ...]
    differentiable: bool
    needs_facts: bool


class HostReward(Reward, Protocol):
    """A reward that works on the host, outside of any loss.

    One that writes critiques has `writes`, True, and `criticise_images`, which gives these beside the scores.
    """

    def score_images(self, images: Pictures, scenes: Sequence[Scene], candidate_ids: Sequence[str]) -> np.ndarray:
        """Scores f32[b, aspects] of pictures u8[h, w, 3] of any sizes, each of its scene. Raises InputError."""
        ...


class PureReward(Reward, Protocol):
    """A reward in two halves: reading scenes on the host, and a pure function of weights and arrays.

    The latter has two steps, so that pictures of many sizes need one compilation of the second: `score` is `judge` of
    what `fit` makes. A row of it depends on its own picture and context only. `params` is one flat tree of weights,
    each part under its name, read from disk when first asked for; `axes` names the axes of each, for sharding.

    Some have more: `with_adapter(params, name, **adapter) -> (reward, params)` puts a fresh adapter on the reward's
    stack, as `lora.append_adapter` does; where `writes` is true, `criticise(params, fitted, context, keys=None) ->
    (critiques, scores)` writes what `judge` then reads as `critiques`, and judges so, with `prompts` whose `words` and
    `texts` turn critiques into words and back, and `silent` is the same reward that judges at once. Those that a step
    can be planned with have `shapes`, of their weights, and `blank(rows)`, the context of so many scenes without
    content; their options' `abstract()` asks for no file.
    """

    axes: Mapping[str, tuple]
    params: Params
    least_size: tuple[int, int]  # height and width of the least pictures that it judges; see `OnHost`

    def laid(self, mesh: Mesh | None = None) -> Params:
        """`params` spread over a mesh where one is given, and of a large reward read so: each device its own part."""
        ...

    def encode(self, scenes: Sequence[Scene]) -> Any:
        """What the scenes ask for, as a pytree of arrays with leading axis b (host, cached). Raises InputError.

        The shapes behind b are the reward's, whatever the scenes, so that `score` compiles once.
        """
        ...

    def fit(self, images: jax.Array | np.ndarray, context: Any) -> Any:
        """What is looked at of pictures f32[b, h, w, 3] in [-1, 1], as a pytree with leading axis b.

        Of the same shapes whatever the pictures' size; NumPy's for NumPy's pictures and context, without compiling.
        """
        ...

    def judge(self, params: Params, fitted: Any, context: Any, critiques: Any = None) -> jax.Array:
        """Scores f32[b, aspects] of what `fit` made; can be jitted and sharded.

        `critiques` are read by rewards that write them; None elsewhere.
        """
        ...

    def score(self, params: Params, images: jax.Array, context: Any, critiques: Any = None) -> jax.Array:
        """Scores f32[b, aspects] of pictures f32[b, h, w, 3] in [-1, 1]; differentiable, can be jitted and sharded."""
        ...


class Pulls(NamedTuple):
    """`rewards` f32[b, n], and the gradient of each on its own picture, `gradients` f32[n, b, h, w, 3]."""

    rewards: jax.Array
    gradients: jax.Array


class FitsAndJudges:
    """The `score` of a pure reward, its weights over a mesh, and what a loss follows of one that gives a picture one
    number.
    """

    def laid(self, mesh: Mesh | None = None) -> Params:
        """See `PureReward`."""
        return self.params if mesh is None else spread_weights(self.params, self.axes, mesh)

    def score(self, params: Params, images: jax.Array, context: Any, critiques: Any = None) -> jax.Array:
        """See `PureReward`."""
        return self.judge(params, self.fit(images, context), context, critiques)

    @property
    def term_names(self) -> tuple[str, ...]:
        """Of what `pulls` gives."""
        return self.aspects

    def pulls(self, params: Params, images: jax.Array, context: Any) -> Pulls:
        """What each term says of pictures f32[b, h, w, 3], and where it pulls them."""
        rewards, gradient = pull_of(self, params, images, context)
        return Pulls(rewards[:, None], gradient[None])

    def combined(self, pulls: Pulls, context: Any) -> tuple[jax.Array, jax.Array]:
        """The number that a loss follows, f32[b], and where it pulls the pictures, f32[b, h, w, 3]."""
        return pulls.rewards[:, 0], pulls.gradients[0]


def pull_of(reward: PureReward, params: Params, images: jax.Array, context: Any) -> tuple[jax.Array, jax.Array]:
    """The only aspect of pictures f32[b, h, w, 3], f32[b], and the gradient of each row on its own picture."""

    def total(images):
        rewards = reward.score(params, images, context)[:, 0]
        return rewards.sum(), rewards

    gradient, rewards = jax.grad(total, has_aux=True)(images)
    return rewards, gradient


@dataclass(frozen=True, eq=False)
class WithWeights:
    """A pure reward with the weights `params` in place of its own; what scenes ask for it reads as that does."""

    reward: PureReward
    params: Params

    def laid(self, mesh: Mesh | None = None) -> Params:
        """See `PureReward`."""
        return FitsAndJudges.laid(self, mesh)

    @property
    def silent(self) -> "WithWeights":
        """Of one that writes, with the same weights."""
        return replace(self, reward=self.reward.silent)

    def __getattr__(self, name: str) -> Any:
        """All else is the reward's."""
        return getattr(self.reward, name)


class SingleAspect(FitsAndJudges):
    """What is the same in all networks that give a picture one number; `name` is that of the reward and its aspect."""

    differentiable: ClassVar[bool] = True
    needs_facts: ClassVar[bool] = False
    name: str

    @property
    def aspects(self) -> tuple[str, ...]:
        """One, the name."""
        return (self.name,)


class TrainableReward(Protocol):
    """The options of a reward that is trained on preferences: how it begins, and what it leaves on disk."""

    def untrained(self, seed: int) -> tuple[PureReward, Callable[..., Params]]:
        """The reward, and its `laid`, which reads or draws weights. Raises InputError, for unfit files only then."""
        ...

    def trains(self, name: str) -> bool:
        """Whether the weight of this name trains."""
        ...

    def fitted(self, image: np.ndarray) -> np.ndarray:
        """A picture u8[h, w, 3] as it is trained on, all of one size. Raises InputError where that cannot be."""
        ...

    def save(self, folder: Path, reward: PureReward, params: Params) -> None:
        """Write what `load` reads: the weights, as `WEIGHTS`, and what lies beside them."""
        ...

    def load(self, folder: Path) -> PureReward:
        """The reward that was saved there. Raises InputError for files that do not fit."""
        ...


@dataclass(frozen=True)
class OnHost:
    """A pure reward where a `HostReward` is asked for; its batches are spread over a mesh.

    Pictures are fitted on the host and each batch is filled up to `batch_size`, so that it compiles once, whatever
    their sizes. A reward that writes critiques scores those that `critiques` has for each aspect of a candidate's
    picture, by its id, or its own. Raises InputError for a batch size that does not divide over the mesh.
    """

    reward: PureReward
    batch_size: int
    mesh: Mesh
    critiques: Mapping[str, Sequence[str]] | None = None

    def __post_init__(self):
        check_batch(f"batch_size of reward {self.name!r}", self.batch_size, self.mesh)

    @property
    def name(self) -> str:
        """The reward's."""
        return self.reward.name

    @property
    def aspects(self) -> tuple[str, ...]:
        """The reward's."""
        return self.reward.aspects

    @property
    def needs_facts(self) -> bool:
        """The reward's."""
        return self.reward.needs_facts

    @property
    def differentiable(self) -> bool:
        """False: bytes have no gradient."""
        return False

    @property
    def writes(self) -> bool:
        """Whether the reward writes critiques, and scores those, not others that are given."""
        return getattr(self.reward, "writes", False) and self.critiques is None

    def load(self) -> "OnHost":
        """Itself, with the weights read and laid over the mesh, so that scoring reads no more. Raises InputError."""
        _ = self._laid
        return self

    def score_images(self, images: Pictures, scenes: Sequence[Scene], candidate_ids: Sequence[str]) -> np.ndarray:
        """Scores f32[b, aspects]; see `HostReward`.

        Raises InputError as the reward's `encode` does, and for pictures smaller than its `least_size`: what an encoder
        would see of them is made up by enlarging.
        """
        run = partial(self._batch, self._judge)
        return np.concatenate([run(*part) for part in self._parts(images, scenes, candidate_ids)])

    def criticise_images(
        self, images: Pictures, scenes: Sequence[Scene], candidate_ids: Sequence[str]
    ) -> tuple[list[list[str]], np.ndarray]:
        """The words that the reward writes on each aspect of pictures, and `score_images` by these."""
        words, scores = [], []
        for part in self._parts(images, scenes, candidate_ids):
            written, found = self._batch(self._criticise, *part)
            words += self.reward.prompts.words(written)
            scores.append(found)
        return words, np.concatenate(scores)

    def check_size(self, candidate_id: str, height: int, width: int) -> None:
        """Raise InputError for a picture smaller than the reward's `least_size`."""
        least_height, least_width = self.reward.least_size
        if height < least_height or width < least_width:
            given = f"candidate {candidate_id!r} of {height} × {width} pixels"
            least = f"{least_height} × {least_width} and more"
            rule = f"{self.name} judges pictures of {least}, where its encoder finds whole patches"
            raise InputError(given, rule, "give it larger, or leave it out")

    def _parts(self, images, scenes, ids):
        ids = ids or [""] * len(images)
        for id, image in zip(ids, images, strict=True):
            self.check_size(id, *image.shape[:2])
        for start in range(0, len(images), self.batch_size):
            yield tuple(each[start : start + self.batch_size] for each in (images, scenes, ids))

    def _batch(self, run, images, scenes, ids):
        rows = np.minimum(np.arange(self.batch_size), len(images) - 1)  # the last one fills the batch up
        context = jax.tree.map(np.asarray, self.reward.encode(scenes))
        given = (self._fitted(images, context), context)
        if self.critiques is not None and run is self._judge:
            given = (*given, self.reward.prompts.texts([self.critiques[id] for id in ids]))
        filled = jax.tree.map(lambda part: part[rows], given)
        found = run(self._laid, *jax.device_put(filled, batch_sharding(self.mesh)))
        return jax.tree.map(lambda part: np.asarray(part)[: len(images)], found)

    def _fitted(self, images, context):
        """What the reward makes of pictures, those of one size at a time, in order."""
        places_of = defaultdict(list)
        for place, image in enumerate(images):
            places_of[image.shape].append(place)
        parts = []
        for places in places_of.values():
            own = jax.tree.map(partial(np.take, indices=places, axis=0), context)
            parts.append(self.reward.fit(to_float([images[place] for place in places]), own))
        order = np.argsort(np.concatenate(list(places_of.values())))
        return jax.tree.map(lambda *found: np.concatenate(found)[order], *parts)

    @cached_property
    def _judge(self):
        return self._on_mesh(self.reward.judge)

    @cached_property
    def _criticise(self):
        return self._on_mesh(self.reward.criticise)

    def _on_mesh(self, work):
        def run(*given):
            with traced_on(self.mesh):
                return work(*given)

        return jax.jit(run)

    @cached_property
    def _laid(self):
        """The weights, over the mesh."""
        return self.reward.laid(self.mesh)


def check_differentiable(reward: Reward) -> None:
    """Raise InputError for a reward that a loss cannot go through."""
    if not reward.differentiable:
        rule = "a loss follows its reward's gradient, and this one only scores finished pictures"
        raise InputError(f"reward {reward.name!r} in a loss", rule, "take a differentiable one, or train on pairs")


def size_name(size: str) -> str:
    """A published size, such as "ViT-L/14", as part of a score's name: "vit_l_14"."""
    return re.sub("[/+-]", "_", size.lower())
