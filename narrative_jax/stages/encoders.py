"""Storybook's encoders while they are trained: each learns which two things belong together.

CLIP a caption and its picture, DINOv2's network two looks at one picture (Chen et al. 2020: SimCLR), the identity
encoder a character's portrait and a scene that shows the same character. Pictures stay in [-1, 1], as the sizes'
normalisation has them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flax import nnx
from PIL import Image

from narrative_jax.core.images import fit_image, to_float
from narrative_jax.core.types import Params
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.generators.presets import PRESETS
from narrative_jax.models.checkpoints import Names, load_weights, save_weights
from narrative_jax.models.clip import CLIP_NAMES, CLIP_SIZES, CLIP_TEXT_NAMES, Clip, TwoViews
from narrative_jax.models.dinov2 import DINOV2_NAMES, DINOV2_SIZES, Dinov2Encoder
from narrative_jax.models.id_encoder import IRESNET_NAMES, IRESNET_SIZES, STATISTICS, IResNet
from narrative_jax.models.network import Network, below, split, under
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.models.tokenizer import TOKENIZER, Tokenizer, train_tokenizer
from narrative_jax.stages.common import WEIGHTS

_CAPTIONS = 5000  # captions that a new tokeniser learns its words from
_LOOKS = 1000  # pairs of looks at each picture
_KEPT = 50_000  # drawn examples kept in memory: drawing one costs more than training on it
_LEAST_AREA, _LIGHT = 0.3, 0.2  # of a look: its share of the picture at least, how much lighter or darker at most


class Encoder(NamedTuple):
    """A network to train, and what it is trained on; the weights under `prefix` are published in the names `names`."""

    network: Network
    params: Params
    frozen: Params
    pairs: "Matches"
    names: Names
    prefix: str = ""
    tokenizer: Tokenizer | None = None

    def save(self, folder: Path, params: Params) -> None:
        """Write the trained weights, and the tokeniser. Raises InputError where they cannot be written."""
        params = {**self.frozen, **params}
        save_weights(folder / WEIGHTS, below(self.prefix, params) if self.prefix else params, self.names)
        if self.tokenizer:
            self.tokenizer.save(folder / TOKENIZER)
            save_weights(folder / "text_encoder.safetensors", below("text", params), CLIP_TEXT_NAMES)

    def load(self, file: Path) -> Params:
        """All weights, those that were saved as they are in the file. Raises InputError where they do not fit."""
        fresh = {**self.frozen, **self.params}
        if not self.prefix:
            return load_weights(file, fresh, self.names)
        saved = load_weights(file, below(self.prefix, fresh), self.names)
        return fresh | under(self.prefix, saved)


@dataclass(frozen=True)
class Matches:
    """Pairs from the examples of a training set, `per_example` of each; `halves` makes them of (example, which, x).

    `x` are the places of the example's subjects.
    """

    per_example: int
    halves: Callable[[Sequence[tuple]], tuple[np.ndarray, np.ndarray]]
    _drawn: dict = field(default_factory=dict, compare=False)

    def of(self, training_set, indices: Sequence[int]) -> tuple[list[str], tuple[np.ndarray, np.ndarray]]:
        """The scenes' ids, and the first and the second halves of these pairs."""
        examples, which = np.divmod(indices, self.per_example)
        asked = [(training_set, i) for i in examples.tolist()]
        missing = [key for key in dict.fromkeys(asked) if key not in self._drawn]
        if len(self._drawn) + len(missing) > _KEPT:
            self._drawn.clear()
            missing = list(dict.fromkeys(asked))
        if missing:
            rows = [i for _, i in missing]
            drawn = zip(training_set.batch(rows), training_set.whereabouts(rows), strict=True)
            self._drawn.update(zip(missing, drawn, strict=True))
        found = [(*self._drawn[key], int(w)) for key, w in zip(asked, which, strict=True)]
        return [example.scene.id for example, _, _ in found], self.halves(found)


def new_encoder(kind: str, seed: int, tokenizer: Callable[[], Tokenizer]) -> Encoder:
    """The untrained encoder of this kind; CLIP reads captions by what `tokenizer` gives."""
    return ENCODERS[kind](seed, tokenizer)


def caption_tokenizer(kind: str, size: int, seed: int = 0, split: str = "train") -> Tokenizer:
    """One that knows the words of a training set's captions, which are the same in each kind."""
    return train_tokenizer(scene.prompt for scene in storybook_scenes(split, min(_CAPTIONS, size), seed))


def _clip(seed, tokenizer):
    tokenizer = tokenizer()
    text, vision = CLIP_SIZES[STORYBOOK]
    text = replace(text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end)
    network, params = split(Clip(text, vision, rngs=nnx.Rngs(seed)))
    length = PRESETS[STORYBOOK].text_length

    def halves(found):
        prompts = [example.scene.prompt for example, _, _ in found]
        return tokenizer.encode(prompts, length), to_float(np.stack([example.target for example, _, _ in found]))

    return Encoder(network, params, {}, Matches(1, halves), CLIP_NAMES, tokenizer=tokenizer)


def _dinov2(seed, tokenizer):
    config = DINOV2_SIZES[STORYBOOK]
    network, params = split(TwoViews(Dinov2Encoder(config, rngs=nnx.Rngs(seed))))

    def halves(found):
        looks = []
        for example, _, which in found:
            rng = np.random.default_rng([which, *example.scene.id.encode()])
            # the picture or a subject image: both are compared
            shown = [example.target, *(subject.images[0] for subject in example.scene.subjects)]
            picture = shown[rng.integers(len(shown))]
            looks.append([_look(picture, config.image_size, rng) for _ in range(2)])
        first, second = np.stack(looks, 1)
        return to_float(first), to_float(second)

    return Encoder(network, params, {}, Matches(_LOOKS, halves), DINOV2_NAMES, "encoder")


def _iresnet(seed, tokenizer):
    config = IRESNET_SIZES[STORYBOOK]
    network, weights = split(TwoViews(IResNet(config, rngs=nnx.Rngs(seed))))
    # Inference's batch norms: their statistics stay 0 and 1, scale and bias learn.
    frozen = {name: value for name, value in weights.items() if name.endswith(STATISTICS)}
    params = {name: value for name, value in weights.items() if name not in frozen}

    def halves(found):
        portraits, seen = [], []
        for example, places, which in found:
            subject = which % len(places)
            portraits.append(fit_image(example.scene.subjects[subject].images[0], config.image_size))
            seen.append(fit_image(_part(example.target, places, subject), config.image_size))
        return to_float(np.stack(portraits)), to_float(np.stack(seen))

    return Encoder(network, params, frozen, Matches(2, halves), IRESNET_NAMES, "encoder")


ENCODERS = {"clip": _clip, "dinov2": _dinov2, "iresnet": _iresnet}


def _look(picture, size, rng):
    """A random part of a picture at another size, perhaps mirrored, lighter or darker, u8[size, size, 3]."""
    side = len(picture)
    part = side * rng.uniform(_LEAST_AREA, 1) ** 0.5
    left, top = rng.uniform(0, side - part, 2)
    look = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC, (left, top, left + part, top + part))
    look = np.asarray(look)[:, :: rng.choice([-1, 1])] * rng.uniform(1 - _LIGHT, 1 + _LIGHT)
    return np.uint8(look.clip(0, 255))


def _part(picture, places, subject):
    """What shows one subject: the half it stands in, or all of the picture where it is alone."""
    if len(places) == 1:
        return picture
    middle = picture.shape[1] // 2
    return picture[:, :middle] if places[subject] < 0.5 else picture[:, middle:]
