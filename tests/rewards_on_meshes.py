"""Scores of pictures over eight devices and on one, and a batch's statistics over both.

`python tests/rewards_on_meshes.py OUT.npz`, where XLA_FLAGS makes 8 devices.
"""

import sys

import jax
import numpy as np
from conftest import random_weights
from small_rewards import pictures, scenes, small_clip, small_dino

from narrative_jax.core.images import to_float, to_uint8
from narrative_jax.core.mesh import batch_sharding, make_mesh
from narrative_jax.rewards.base import OnHost
from narrative_jax.rewards.calibration import Calibration
from narrative_jax.rewards.clip_scores import ClipCosine
from narrative_jax.rewards.ensemble import Ensemble, PerAspect, Term
from narrative_jax.rewards.identity import Identity

HALVES = ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))


def main(out):
    draw = random_weights.__wrapped__()
    text, identity = ClipCosine(small_clip(draw)), Identity(small_dino(draw), 16, 2, HALVES)
    images, asked = to_uint8(pictures(11)), scenes(*[1, 2] * 5, 1)
    mesh = make_mesh({"data": 4, "fsdp": 2})
    both = PerAspect({"text": text, "identity": identity})
    alone = jax.jit(both.score)(both.params, to_float(images), both.encode(asked))
    host = OnHost(both, 8, mesh).load()
    spread = host.score_images(images, asked, None)
    weights = host._laid.values()

    terms = {r.name: Term(r, Calibration(r.name, r.aspects, (0.0,), (0.2,), "x"), 0.5) for r in (text, identity)}
    whole = Ensemble(terms)
    batch = to_float(images[:8]), whole.encode(asked[:8])

    @jax.jit
    def standardised(params, images, context):
        context = whole.with_statistics(context, whole.pulls(params, images, context).rewards)
        return whole.score(params, images, context)

    parts = jax.device_put(batch, batch_sharding(mesh))
    np.savez(
        out,
        devices=jax.device_count(),
        shared=sum(not value.is_fully_replicated for value in weights),
        alone=alone,
        spread=spread,
        alone_z=standardised(whole.params, *batch),
        spread_z=standardised(whole.params, *parts),
    )


if __name__ == "__main__":
    main(sys.argv[1])
