"""How much people would like a picture, one number learned from their preferences (ImageReward, Xu et al. 2023)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from narrative_jax.core.errors import InputError, check_name
from narrative_jax.core.files import read_json, write_json
from narrative_jax.core.images import fit_image, to_float
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Params
from narrative_jax.models.checkpoints import load_weights, save_weights, stored_shapes
from narrative_jax.models.clip import Clip
from narrative_jax.models.known_files import recognise
from narrative_jax.models.network import Network, abstract, below, split, under
from narrative_jax.models.open_clip import load_clip_weights
from narrative_jax.models.preprocessing import normalise
from narrative_jax.models.scalar_reward import (
    SCALAR_SIZES,
    SUBJECT_NAMES,
    ScalarReward,
    ScalarRewardConfig,
    scalar_names,
)
from narrative_jax.models.tokenizer import TOKENIZER, PromptReader, Tokenizer
from narrative_jax.rewards.base import size_name
from narrative_jax.rewards.subjects import (
    Box,
    check_regions,
    check_subjects,
    fit,
    least_size,
    views,
)

ABOUT = "scalar.json"  # lies beside the weights and says what they are of


class ScalarContext(NamedTuple):
    """`tokens` i32[b, t] of the prompts, `subjects` f32[b, s, h, w, 3], their first images, `mask` bool[b, s] (False:
    padding).
    """

    tokens: np.ndarray
    subjects: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Scalar:
    """One number for a picture beside its prompt and subjects; only differences mean anything.

    Several subjects are looked for in `regions`, one alone in the whole picture; see `subjects.views`. Raises
    InputError for regions that are none, or not as many as the network has places for.
    """

    differentiable: ClassVar[bool] = True
    needs_facts: ClassVar[bool] = False

    size: str
    config: ScalarRewardConfig
    tokenizer: Tokenizer
    network: Network
    weights: Path | None
    regions: tuple[Box, ...] = ()

    def __post_init__(self):
        check_regions(self.regions)
        if len(self.regions) not in (0, self.config.views):
            rule = f"this network has places for {self.config.views}"
            raise InputError(f"{len(self.regions)} regions", rule, "give as many, or none for the whole picture")

    @property
    def name(self) -> str:
        """With the size's."""
        return f"scalar_{size_name(self.size)}"

    @property
    def aspects(self) -> tuple[str, ...]:
        """One, the name."""
        return (self.name,)

    @property
    def least_size(self) -> tuple[int, int]:
        """A patch of either image tower, in each region."""
        return least_size(self.regions, max(self.config.vision.patch_size, self.config.subject.patch_size))

    @cached_property
    def params(self) -> Params:
        """Read when first asked for."""
        shapes = _abstract(self.config)[1]
        return load_weights(self.weights, shapes, scalar_names(shapes))

    def encode(self, scenes: Sequence[Scene]) -> ScalarContext:
        """Says once which prompts are empty or cut off.

        Raises InputError for a scene without subjects, or with more than the network has places for.
        """
        mask = check_subjects(scenes, self.config.max_subjects, self.config.subject.patch_size)
        side = self.config.side
        subjects = np.ones((*mask.shape, side, side, 3), np.float32)
        for row, scene in zip(subjects, scenes, strict=True):
            row[: len(scene.subjects)] = [to_float(fit_image(each.images[0], side)) for each in scene.subjects]
        return ScalarContext(self._reader.tokens([scene.prompt for scene in scenes]), subjects, mask)

    def score(self, params: Params, images: jax.Array, context: ScalarContext) -> jax.Array:
        """f32[b, 1]; see `PureReward`."""
        alone = context.mask.sum(1) == 1
        shown = views(images, self.regions, alone, self.config.side)
        there = ~alone[:, None] | (jnp.arange(shown.shape[1]) == 0)
        vision, subject = self.config.vision, self.config.subject
        seen = normalise(fit(images, vision.image_size), vision.normalisation)
        shown, subjects = (normalise(pictures, subject.normalisation) for pictures in (shown, context.subjects))
        return self.network.bind(params)(context.tokens, seen, shown, there, subjects, context.mask)[:, None]

    def save(self, path: Path, params: Params) -> None:
        """Write weights, and beside them the tokeniser, of what size they are and where they look."""
        save_weights(path, params, scalar_names(params))
        self.tokenizer.save(path.with_name(TOKENIZER))
        write_json(path.with_name(ABOUT), {"size": self.size, "regions": self.regions})

    @cached_property
    def _reader(self):
        return PromptReader(self.name, self.tokenizer, self.config.text.max_length)


def load_scalar(weights: str | Path) -> Scalar:
    """One that `Scalar.save` left: its weights, the other files beside them.

    Raises InputError for other files and an unreadable tokeniser, and on first use for arrays that do not fit.
    """
    path = Path(weights)
    if not path.with_name(ABOUT).exists():
        what = recognise(stored_shapes(path)) or "no network that is known here"
        rule = f"no {ABOUT} beside it says which scalar reward it is of; by its arrays it is {what}"
        remedy = "give what training a scalar reward has left, all files of it, or train it again"
        raise InputError(f"{weights}", rule, remedy)
    about = read_json(path.with_name(ABOUT))
    try:
        size, boxes = about["size"], about["regions"]
        regions = tuple((top, left, bottom, right) for top, left, bottom, right in boxes)
    except (KeyError, TypeError, ValueError):
        rule = "it holds the size's name, and regions of four numbers"
        raise InputError(f"{path.with_name(ABOUT)}", rule, "copy it again, or train it again") from None
    config, tokenizer = _sized(size, path.with_name(TOKENIZER))
    return Scalar(size, config, tokenizer, _abstract(config)[0], path, regions)


def new_scalar(
    clip: str | Path, subject: str | Path, size: str, regions: Sequence[Box], seed: int
) -> tuple[Scalar, Callable[[], Params]]:
    """An untrained one, and what gives its weights: towers from files of CLIP's, tokenizer.json beside them, and of the
    subjects' tower, the rest at random.

    Raises InputError for an unknown size, regions that do not fit and an unreadable tokeniser; later for unfit weights.
    """
    config, tokenizer = _sized(size, Path(clip).with_name(TOKENIZER))
    reward = Scalar(size, config, tokenizer, _abstract(config)[0], None, tuple(map(tuple, regions)))

    def read():
        params = split(ScalarReward(config, rngs=nnx.Rngs(seed)))[1]
        shapes = abstract(lambda: Clip(config.text, config.vision, rngs=nnx.Rngs(0)))[1]
        towers = load_clip_weights(clip, shapes)
        towers = {name: value for name, value in towers.items() if name != "logit_scale"}
        names = SUBJECT_NAMES[type(config.subject)]
        towers |= under("subject", load_weights(subject, below("subject", params), names))
        return params | towers

    return reward, read


def _sized(size, tokenizer):
    check_name("size of scalar", size, SCALAR_SIZES)
    tokenizer, config = Tokenizer.load(tokenizer), SCALAR_SIZES[size]
    text = replace(config.text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end)
    return replace(config, text=text), tokenizer


def _abstract(config):
    return abstract(lambda: ScalarReward(config, rngs=nnx.Rngs(0)))
