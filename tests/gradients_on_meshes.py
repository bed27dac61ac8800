"""A command: losses, metrics and gradients of the real algorithms, and pictures drawn, on a mesh, as one .npz.

`python tests/gradients_on_meshes.py MESH OUT.npz`, where XLA_FLAGS makes 8 devices; its keys are CASE/NAME.
"""

import re
import sys

import jax
import numpy as np
import optax
from conftest import random_weights
from flax import nnx
from jax.sharding import Mesh
from small_rewards import SCALAR, TOKENIZER, small_clip, small_dino, small_scalar

from narrative_jax.algorithms.base import REWARD
from narrative_jax.algorithms.contrastive import Contrastive
from narrative_jax.algorithms.dpo import DPO
from narrative_jax.algorithms.refl import ReFL
from narrative_jax.algorithms.reward_modelling import RewardModelling
from narrative_jax.algorithms.sft import SFT
from narrative_jax.core.mesh import AXES, make_mesh
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.generators.flow import TRANSFORMER
from narrative_jax.generators.flow_presets import STORYBOOK_FLOW
from narrative_jax.generators.sampling import Sampling, drawer_for
from narrative_jax.models.clip import Clip, ClipTextConfig, ClipVisionConfig
from narrative_jax.models.lora import adapter_of
from narrative_jax.models.network import below, split, under
from narrative_jax.models.scalar_reward import TOWERS
from narrative_jax.rewards.calibration import Calibration
from narrative_jax.rewards.clip_scores import ClipCosine
from narrative_jax.rewards.ensemble import Ensemble, Term
from narrative_jax.rewards.identity import Identity
from narrative_jax.rewards.scalar import ScalarContext
from narrative_jax.storybook.datasets import TrainingSet
from narrative_jax.trainees.encoder import EncoderTrainee
from narrative_jax.trainees.generator import GeneratorTrainee
from narrative_jax.trainees.new_encoders import NewEncoder
from narrative_jax.trainees.reward import RewardTrainee
from narrative_jax.training.step import Trainee, TrainState, make_step

BATCH = 16
HALVES = ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))
CASES = {
    "sft": SFT(text_dropout=0.5),
    "dpo_with_all_options": DPO(beta=50.0, eta=0.5, k=1.0, b=0.5, imitation=0.5, preserve=0.5),
    "contrastive": Contrastive(),
    "reward_modelling": RewardModelling(),
    "refl": ReFL(num_steps=3, guidance_scale=1.5, window=(1, 3), flow_matching=0.5, penalty=0.1, parts=2),
}
MESHES = {
    "data8": {"data": 8},
    "cube": {"data": 2, "fsdp": 2, "tensor": 2},
    "fsdp8": {"fsdp": 8},
    "context2": {"data": 4, "context": 2},
}
TARGETS = r".*_blocks\.\d+\.(image\.|text\.)?(attention\.to_[qv]|mlp_out|out)"


def make_generator():
    """The embedded one with an adapter whose b is not 0: an untrained network predicts 0, and has no gradient."""
    base, params = STORYBOOK_FLOW.load(STORYBOOK_FLOW.Options(), seed=0)
    params = under(TRANSFORMER, below(TRANSFORMER, params))
    policy, weights = base.with_adapter(
        params, "align", rank=4, alpha=4.0, targets=TARGETS, segments=("noisy", "text"), seed=0
    )
    weights = {name: np.asarray(value) for name, value in weights.items()}
    return base, policy, weights | shake({name: value for name, value in weights.items() if name.endswith(".b")}, 0.05)


def shake(weights, scale):
    """Random changes."""
    rng = np.random.default_rng(0)
    return {name: np.float32(value + scale * rng.normal(size=value.shape)) for name, value in weights.items()}


def make_clip():
    """Two towers of one block each."""
    text = ClipTextConfig(
        vocab_size=32, max_length=8, width=32, heads=2, blocks=1, mlp_width=64, projection=16, end_token=31
    )
    image = ClipVisionConfig(image_size=16, patch_size=8, width=32, heads=2, blocks=1, mlp_width=64, projection=16)
    return split(Clip(text, image, rngs=nnx.Rngs(0)))


def make_trainee(case) -> Trainee:
    """What the case trains: the adapter, all of CLIP, or a reward but for its towers."""
    if case == "contrastive":
        network, params = make_clip()
        return EncoderTrainee(None, None, NewEncoder(network, shake(params, 0.02), None, {}))
    if case == "reward_modelling":
        reward = small_scalar(random_weights.__wrapped__())
        # Preferences do not see what is added to all scores: gradients of these biases are nothing but rounding.
        still = {name for name in reward.params if name.partition(".")[0] in TOWERS} | {"norm.bias", "out.bias"}
        frozen = {name: value for name, value in reward.params.items() if name in still}
        params = {name: value for name, value in reward.params.items() if name not in still}
        return RewardTrainee(None, None, None, reward, params, frozen)
    base, policy, weights = make_generator()
    params = {name: value for name, value in weights.items() if adapter_of(name)}
    frozen = {name: value for name, value in weights.items() if not adapter_of(name)}
    reward = make_reward() if case == "refl" else None
    frozen |= under(REWARD, reward.params) if reward else {}
    return GeneratorTrainee(None, None, base, policy, params, frozen, encoding={}, reference=base, reward=reward)


def make_reward():
    """Two terms, one of which is clipped."""
    draw = random_weights.__wrapped__()
    terms = {"text": (ClipCosine(small_clip(draw)), None), "subject": (Identity(small_dino(draw), 16, 2, HALVES), 0.01)}
    return Ensemble(
        {
            name: Term(reward, Calibration(reward.name, reward.aspects, (0.1,), (0.2,), "x"), 0.5, clip)
            for name, (reward, clip) in terms.items()
        }
    )


def make_batch(case):
    """A global batch of random numbers."""
    rng = np.random.default_rng(1)

    def draw(*shape):
        return np.float32(rng.normal(size=(BATCH, *shape)))

    if case == "contrastive":
        return {"first": rng.integers(0, 32, (BATCH, 8)).astype(np.int32), "second": draw(16, 16, 3)}
    mask = np.arange(2) < rng.integers(1, 3, (BATCH, 1))
    if case == "reward_modelling":
        tokens = rng.integers(0, TOKENIZER.vocab_size, (BATCH, SCALAR.text.max_length)).astype(np.int32)
        context = ScalarContext(tokens, draw(2, 16, 16, 3), mask)
        pictures = {"chosen": draw(16, 16, 3), "rejected": draw(16, 16, 3)}
        return {**pictures, "context": context, "tie": np.arange(BATCH) % 4 == 0}
    # Real ones: an error is small, and a margin more than its rounding.
    generator, params = STORYBOOK_FLOW.load(STORYBOOK_FLOW.Options(), seed=0)
    shown = TrainingSet("raw", 2 * BATCH).batch(range(2 * BATCH))
    if case == "refl":
        # Of sixteen scenes the pulls cancel in their mean, and rounding does not; of two, z-scores have so small a
        # deviation that it shows in the loss.
        shown = shown[:8] * 4
    latents = generator.encode_images(params, np.stack([example.target for example in shown]))
    conditioning = generator.encode(params, [example.scene for example in shown[:BATCH]])
    if case == "sft":
        return {"conditioning": conditioning, "latents": latents[:BATCH]}
    if case == "refl":
        context = make_reward().encode([example.scene for example in shown[:BATCH]])
        return {"conditioning": conditioning, "latents": latents[:BATCH], "context": context}
    pictures = {"chosen": latents[:BATCH], "rejected": latents[BATCH:]}
    return {"conditioning": conditioning, **pictures, "gap": np.abs(draw())}


def results(case, mesh, accumulate=1):
    """Metrics and gradients of one training step on a mesh; the optimiser's state is the gradient."""
    trainee, batch = make_trainee(case), make_batch(case)
    optimizer = optax.trace(decay=0.0)
    step = make_step(CASES[case], trainee, optimizer, mesh, seed=0, ema_decay=0.9, accumulate=accumulate)
    start = TrainState(np.int32(0), trainee.params, optimizer.init(trainee.params), trainee.params)
    state = jax.device_put(start, step.state_shardings)
    frozen = jax.device_put(trainee.frozen, step.frozen_shardings)
    batch = jax.device_put(batch, step.batch_sharding)
    compiled = step.run.lower(state, frozen, batch).compile().as_text()
    gathered = re.findall(r"= f32\[([\d,]+)\]\S* all-gather", compiled)
    state, metrics = step.run(state, frozen, batch)
    spread = sum(not leaf.is_fully_replicated for leaf in jax.tree.leaves(state.params))
    gradients = {f"gradient {name}": np.asarray(value) for name, value in state.opt_state.trace.items()}
    return {
        **{name: np.asarray(value) for name, value in metrics.items()},
        **gradients,
        "spread": spread,
        "gathered": gathered,
    }


def drawing(mesh):
    """Five pictures, and how many the drawer makes at once."""
    generator, weights = STORYBOOK_FLOW.load(STORYBOOK_FLOW.Options(), seed=0)
    drawer = drawer_for(generator, Sampling(num_steps=2), 5, mesh)
    jobs = [(scene, place) for place, scene in enumerate(storybook_scenes("test", 5))]
    pictures = list(drawer.draw(drawer.place(weights), jobs))
    return {"pictures": np.concatenate(pictures), "batch_size": drawer.sampling.batch_size}


def one_device():
    """A mesh of the first device alone."""
    return Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1, 1), AXES)


if __name__ == "__main__":
    name, out = sys.argv[1:]
    mesh = make_mesh(MESHES[name]) if name in MESHES else one_device()
    found = {case: results(case, mesh) for case in CASES} | {"drawing": drawing(mesh)}
    np.savez(out, **{f"{case}/{key}": value for case, values in found.items() for key, value in values.items()})
