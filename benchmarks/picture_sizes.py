"""What pictures of many sizes cost beside as many of one, scored by CLIP's cosine at Storybook's size, on CPU.

    python benchmarks/picture_sizes.py [--pictures N] [--rounds N]

Both begin with nothing compiled, as a command does; then the scores of many sizes are compared with those of each
picture alone.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from narrative_jax.core.mesh import make_mesh
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.rewards.base import OnHost
from narrative_jax.rewards.clip_scores import ClipCosine, load_clip

SMALLEST, USUAL, BATCH = 41, 140, 32


def seconds(images, scenes):
    """A first scoring, and its scores f32[n]."""
    jax.clear_caches()
    reward = OnHost(ClipCosine(load_clip("", "storybook")), BATCH, make_mesh({"data": 1, "fsdp": -1})).load()
    begin = time.perf_counter()
    scores = reward.score_images(images, scenes, [scene.id for scene in scenes])
    return time.perf_counter() - begin, scores[:, 0], reward


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3, help="of which the medians are shown (default 3)")
    options = parser.parse_args()
    rng, scenes = np.random.default_rng(0), storybook_scenes("tune", options.pictures)
    one = [rng.integers(0, 256, (USUAL, USUAL, 3), np.uint8) for _ in scenes]
    many = [rng.integers(0, 256, (SMALLEST + i, USUAL, 3), np.uint8) for i in range(options.pictures)]
    found = [(seconds(one, scenes)[0], seconds(many, scenes)) for _ in range(options.rounds)]
    of_one, of_many = statistics.median(one for one, _ in found), statistics.median(many[0] for _, many in found)
    _, (_, scores, reward) = found[-1]
    alone = [reward.score_images([image], [scene], [scene.id])[0, 0] for image, scene in zip(many, scenes, strict=True)]
    print(
        f"{options.pictures} pictures of one size {of_one:.2f} s, of {options.pictures} sizes {of_many:.2f} s: "
        f"{of_many / of_one:.2f} times as long; beside each alone {np.abs(scores - alone).max():.1e}"
    )


if __name__ == "__main__":
    main()
