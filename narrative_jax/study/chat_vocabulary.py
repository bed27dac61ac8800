"""The tokeniser of NIReward that ships: byte pairs of what is said of Storybook's pictures.

    python -m narrative_jax.study.chat_vocabulary

Prompts of train scenes, what raters say of raw and of damaged pictures of them, what NIReward is to say aloud of
pictures, and the words around, which stand in every question and so weigh much: at most 768 tokens. All that may be
said of a figure is a token of its own, "golden skin" as "left arm missing": whoever reads it again finds with one look
where it was said before. Same texts, same tokens.
"""

import sys
from collections.abc import Iterator, Sequence

import numpy as np

from narrative_jax.annotators.raters import RaterAnnotators
from narrative_jax.core.command import Parser, run
from narrative_jax.core.records import Candidate
from narrative_jax.data.sources import storybook_training_set
from narrative_jax.models.chat_tokenizer import question, train_chat_tokenizer
from narrative_jax.models.tokenizer import TOKENIZER
from narrative_jax.rewards.nireward_files import BACKBONE
from narrative_jax.rewards.nireward_prompts import DESCRIBE, INSTRUCTIONS
from narrative_jax.rewards.nireward_sizes import NIREWARD_SIZES
from narrative_jax.rewards.seen import describe_images
from narrative_jax.storybook.descriptions import phrases

_PICTURES = 1500
_AROUND = 300  # times that the words around are said


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tokeniser; returns the exit code."""
    return run(lambda options: _write(), Parser(description=__doc__.splitlines()[0]), arguments)


def _write():
    config, _ = NIREWARD_SIZES["storybook"]
    tokenizer = train_chat_tokenizer(_texts(), config.vocab_size, phrases())
    tokenizer.save(BACKBONE / TOKENIZER)
    print(f"{BACKBONE / TOKENIZER}: {tokenizer.vocab_size} tokens")


def _texts() -> Iterator[str]:
    """What is said; pictures of other scenes beside a prompt have every fault that there is."""
    yield from (question(""), *INSTRUCTIONS.values(), DESCRIBE) * _AROUND
    examples = storybook_training_set("raw", _PICTURES).batch(range(_PICTURES))
    scenes, targets = [each.scene for each in examples], [each.target for each in examples]
    rng = np.random.default_rng(0)
    for pictures in (targets, targets[1:] + targets[:1], [_damaged(each, rng) for each in targets]):
        shown = [Candidate(scene.id, scene.id, image, 0, "") for scene, image in zip(scenes, pictures, strict=True)]
        yield from (each.critique for each in RaterAnnotators().annotate(shown, scenes))
    changed = storybook_training_set("changed", _PICTURES).batch(range(_PICTURES))
    yield from describe_images(np.stack([each.target for each in changed]), [each.scene for each in changed])
    for scene in scenes:
        yield f"Asked for: {scene.prompt}\n"
        yield from (f"{subject.name} ({subject.class_word}):" for subject in scene.subjects)


def _damaged(image, rng):
    """With noise, of some half of it covered."""
    noisy = image + rng.normal(0, rng.uniform(0, 80), image.shape)
    if rng.random() < 0.5:
        noisy[:, : image.shape[1] // 2] = 255
    return np.uint8(noisy.clip(0, 255))


if __name__ == "__main__":
    sys.exit(main())
