"""A small network that reads a figure's attributes from the window round its place, and its training on renders."""

from itertools import pairwise

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from narrative_jax.storybook import world
from narrative_jax.storybook.corruptions import corrupt
from narrative_jax.storybook.figure import ANCHOR_X, ANCHOR_Y
from narrative_jax.storybook.render import Drawing, empty_drawing
from narrative_jax.storybook.sets import SIZE

BATCH = 96
_HEIGHT, _WIDTH = 32, 24  # the window that is read, round a figure's own 30 × 22
_FAR = -99.0  # where those stand who are not there
_SCORES = (len(world.NUM_VALUES), max(world.NUM_VALUES))


class Classifier(nnx.Module):
    """Scores f32[n, 7, 5] of each attribute's values from windows f32[n, 32, 24, 4] and neighbours f32[n, 2]."""

    def __init__(self, rngs: nnx.Rngs):
        self.convs = nnx.List(nnx.Conv(*io, (3, 3), strides=2, rngs=rngs) for io in pairwise((4, 32, 64, 128)))
        self.hidden = nnx.Linear(_HEIGHT * _WIDTH // 64 * 128 + 2, 256, rngs=rngs)
        self.scores = nnx.Linear(256, int(np.prod(_SCORES)), rngs=rngs)

    def __call__(self, windows, neighbours):
        for conv in self.convs:
            windows = nnx.relu(conv(windows))
        x = jnp.concatenate([windows.reshape(len(windows), -1), neighbours], -1)
        return self.scores(nnx.relu(self.hidden(x))).reshape(-1, *_SCORES)


def look(pictures: np.ndarray, drawing: Drawing) -> tuple[np.ndarray, np.ndarray]:
    """Windows f32[b · c, 32, 24, 4] where figures stand, and how far off the neighbour is, f32[b · c, 2]."""
    places = np.where(drawing.present[..., None], drawing.places, np.float32(_FAR))
    framed = np.concatenate([pictures, np.ones_like(pictures[..., :1])], -1)
    padded = np.pad(framed, ((0, 0), (SIZE, SIZE), (SIZE, SIZE), (0, 0)))
    corner = np.clip(np.round(places).astype(int), 0, SIZE) + SIZE - (ANCHOR_X + 1, ANCHOR_Y + 1)
    y, x = corner[..., 1, None] + np.arange(_HEIGHT), corner[..., 0, None] + np.arange(_WIDTH)
    windows = padded[np.arange(len(pictures))[:, None, None, None], y[..., None], x[..., None, :]]
    # Who stands lower is in front: without this nothing says which of two overlapping figures is meant.
    neighbours = np.clip((places[:, ::-1] - places) / np.float32((10, 2)), -3, 3)
    return windows.reshape(-1, _HEIGHT, _WIDTH, 4), neighbours.reshape(-1, 2)


def practice(rng: np.random.Generator, size: int = BATCH) -> tuple[np.ndarray, Drawing]:
    """Pictures to learn from, blurred and noisy, with people of the train split anywhere, also cut off or covered."""
    drawing, shape = empty_drawing(size, 2), (size, 2)
    people = rng.choice(world.split_identities("train"), shape)
    drawing.identities[:] = np.stack(np.unravel_index(people, world.NUM_VALUES), -1)
    drawing.poses[:] = rng.integers(len(world.POSES), size=shape)
    x, close = rng.uniform(-2, SIZE + 2, shape), rng.random(size) < 0.4
    x[close, 1] = np.clip(x[close, 0] + rng.uniform(-12, 12, close.sum()), -2, SIZE + 2)
    drawing.places[:] = np.stack([x, np.sort(rng.uniform(34.5, 38, shape), 1)], -1)
    drawing.parts[:] = rng.random(drawing.parts.shape) < 0.95
    drawing.parts[rng.random(size) < 0.2, 0] = False
    drawing.locations[:] = rng.integers(len(world.LOCATIONS), size=size)
    drawing.styles[:] = rng.integers(len(world.STYLES), size=size)
    pictures = corrupt(drawing, "blur", rng.uniform(0, 0.45))
    noise = rng.uniform(0, 0.25, (size, 1, 1, 1)) * rng.standard_normal(pictures.shape, np.float32)
    return np.clip(pictures + np.float32(noise), -1, 1), drawing


@nnx.jit
def _step(network, optimizer, views, values, present):
    def loss(network):
        wrong = optax.softmax_cross_entropy_with_integer_labels(network(*views), values).mean(-1)
        return (wrong * present).sum() / present.sum()

    value, grads = nnx.value_and_grad(loss)(network)
    optimizer.update(network, grads)
    return value


_scores = nnx.jit(Classifier.__call__)


def train(steps: int, seed: int = 0, draw=practice) -> tuple[Classifier, list[float]]:
    """A classifier after so many batches of `draw`, and its loss at each."""
    rng, network, losses = np.random.default_rng(seed), Classifier(nnx.Rngs(seed)), []
    rate = optax.warmup_cosine_decay_schedule(0, 2e-3, steps // 20, steps)
    optimizer = nnx.Optimizer(network, optax.adamw(rate, weight_decay=1e-3), wrt=nnx.Param)
    for _ in (progress := tqdm(range(steps), "training", unit="step", delay=5)):
        pictures, drawing = draw(rng)
        values, present = drawing.identities.reshape(-1, _SCORES[0]), drawing.present.ravel()
        losses.append(float(_step(network, optimizer, look(pictures, drawing), values, present)))
        progress.set_postfix(loss=f"{np.mean(losses[-100:]):.3f}", refresh=False)
    return network, losses


def read(network: Classifier, pictures: np.ndarray, truth: Drawing) -> np.ndarray:
    """The attributes i[b, c, 7] of figures that stand where the truth says; of it only places are looked at."""
    return np.asarray(_scores(network, *look(pictures, truth))).argmax(-1).reshape(*truth.poses.shape, -1)
