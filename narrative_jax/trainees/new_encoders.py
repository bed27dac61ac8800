"""Storybook's encoders at random, each with the two things that it learns to belong together.

CLIP a caption and its picture, DINOv2's network two looks at one picture, the identity encoder a character's portrait
and a scene that shows the same character.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from flax import nnx

from narrative_jax.core.types import Params
from narrative_jax.generators.text import WEIGHTS as TEXT_WEIGHTS
from narrative_jax.models.checkpoints import Names, load_weights, save_weights
from narrative_jax.models.clip import CLIP_NAMES, CLIP_SIZES, CLIP_TEXT_NAMES, Clip, TwoViews
from narrative_jax.models.dinov2 import DINOV2_NAMES, DINOV2_SIZES, Dinov2Encoder
from narrative_jax.models.id_encoder import IRESNET_NAMES, IRESNET_SIZES, IResNet
from narrative_jax.models.layers import STATISTICS
from narrative_jax.models.network import Network, below, split, under
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.models.tokenizer import TOKENIZER, Tokenizer
from narrative_jax.trainees.matches import Matches, captions_and_pictures, looks, portraits_and_scenes

_PROMPT = 16  # tokens of a caption that are read


@dataclass(frozen=True)
class NewEncoder:
    """A network with its first weights, but for those that end in `fixed` to be trained on `matches`.

    The weights under `prefix` are published in the names `names`. CLIP has a `tokenizer`.
    """

    network: Network
    weights: Params
    matches: Matches
    names: Names
    prefix: str = ""
    fixed: tuple[str, ...] = ()
    tokenizer: Tokenizer | None = None

    def save(self, folder: Path, name: str, params: Params) -> None:
        """Write the published ones as `name`; of CLIP also the text tower, as a generator reads it, and the tokeniser.

        Raises InputError where they cannot be written.
        """
        save_weights(folder / name, below(self.prefix, params) if self.prefix else params, self.names)
        if self.tokenizer:
            self.tokenizer.save(folder / TOKENIZER)
            save_weights(folder / TEXT_WEIGHTS, below("text", params), CLIP_TEXT_NAMES)

    def load(self, file: Path) -> Params:
        """All weights, those that were saved as they are in the file. Raises InputError where they do not fit."""
        if not self.prefix:
            return load_weights(file, self.weights, self.names)
        published = load_weights(file, below(self.prefix, self.weights), self.names)
        return self.weights | under(self.prefix, published)


def new_encoder(kind: str, seed: int, tokenizer: Callable[[], Tokenizer]) -> NewEncoder:
    """The encoder of this kind; CLIP reads captions by what `tokenizer` gives."""
    return NEW_ENCODERS[kind](seed, tokenizer)


def _clip(seed, tokenizer):
    tokenizer = tokenizer()
    text, vision = CLIP_SIZES[STORYBOOK]
    text = replace(text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end)
    network, params = split(Clip(text, vision, rngs=nnx.Rngs(seed)))
    return NewEncoder(network, params, captions_and_pictures(tokenizer, _PROMPT), CLIP_NAMES, tokenizer=tokenizer)


def _dinov2(seed, tokenizer):
    config = DINOV2_SIZES[STORYBOOK]
    network, params = split(TwoViews(Dinov2Encoder(config, rngs=nnx.Rngs(seed))))
    return NewEncoder(network, params, looks(config.image_size), DINOV2_NAMES, "encoder")


def _iresnet(seed, tokenizer):
    config = IRESNET_SIZES[STORYBOOK]
    network, params = split(TwoViews(IResNet(config, rngs=nnx.Rngs(seed))))
    matches = portraits_and_scenes(config.image_size)
    # Inference's batch norms: their statistics stay 0 and 1, scale and bias learn.
    return NewEncoder(network, params, matches, IRESNET_NAMES, "encoder", STATISTICS)


NEW_ENCODERS = {"clip": _clip, "dinov2": _dinov2, "iresnet": _iresnet}
