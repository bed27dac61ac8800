"""One ReFL train step (a guided rollout, a reward's gradient through its last step, AdamW), ours beside torch, on CPU.

    python benchmarks/refl_step.py [--rounds N] [--out docs/refl_step.md]

8 Euler steps whose text is guided, of which 6 are drawn without gradient (the recipe uper.py draws their number from 4
to 7) and the next is followed through both of its predictions to the clean picture; CLIP's cosine with the prompt is
the reward, raw (there it is an ensemble, measured by the batch), and SFT on as many examples goes along. torch runs
FLUX's blocks as `torch_flux.py` has them and transformers' image tower; its subjects' keys and values are computed once
for all predictions of what it draws, and once for SFT. Weights, adapter (b is not zero), data, times and noise are the
same for the parity of loss and gradient that is asserted first, with SFT and of the reward alone. The two then take
turns, float32, all cores.
"""

import statistics
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import jax
import numpy as np
import torch
from dpo_step import (
    LARGE,
    SEED,
    STEPS,
    Gradients,
    Trainer,
    check_gaps,
    command,
    conditions,
    example,
    ratio,
    torch_trainer,
)
from measuring import matmul_rates, timed
from scoring_rate import SIZES as CLIPS
from scoring_rate import Size as ClipSize
from scoring_rate import embed_prompts, random_clip, with_weights
from torch.nn.functional import normalize

from narrative_jax.algorithms import refl
from narrative_jax.algorithms.base import REWARD, drawn, example_keys
from narrative_jax.algorithms.refl import ReFL
from narrative_jax.algorithms.sft import SFT
from narrative_jax.core.mesh import make_mesh
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.diffusion.path import T_FLOOR
from narrative_jax.generators.flow_presets import STORYBOOK_FLOW, FlowPreset
from narrative_jax.models.network import under
from narrative_jax.models.preprocessing import CLIP
from narrative_jax.models.tokenizer import train_tokenizer
from narrative_jax.rewards.clip_scores import ClipCosine

ALGORITHM = ReFL(
    num_steps=8,
    guidance_scale=2.5,
    subject_guidance_scale=1.0,
    window=(6, 7),
    statistics="raw",
    reward_weight=0.3,
    flow_matching=1.0,
)


@dataclass(frozen=True)
class Size:
    """A generator's preset, CLIP's towers for its pictures, and how many of these are drawn in a step."""

    preset: FlowPreset
    clip: ClipSize
    rows: int


_VISION = replace(CLIPS["storybook"].vision, image_size=64, patch_size=8, width=256, mlp_width=1024, blocks=6)
SIZES = {
    "small": Size(STORYBOOK_FLOW, CLIPS["storybook"], 16),
    "large": Size(LARGE, replace(CLIPS["storybook"], vision=_VISION, side=64), 4),
}


class TorchReFL:
    """The same step in torch; `known` f32[b, d] are the unit embeddings of the prompts."""

    def __init__(self, trainer, clip, known, preset):
        self.flow_matching = ALGORITHM.flow_matching
        self.trainer, self.network, self.parameters = trainer, trainer.network, trainer.parameters
        self.clip, self.known, self.preset = clip.requires_grad_(False), known, preset
        self.mean, self.deviation = (torch.tensor(values)[:, None, None] for values in CLIP)

    def step(self, batch):
        rows = len(batch["latents"])
        noise, again = torch.randn(batch["latents"].shape), torch.randn(batch["latents"].shape)
        times = self.preset.timestep_distribution
        t = torch.sigmoid(times.mean + times.std * torch.randn(rows))
        loss = self.loss(batch, noise, t, again, torch.rand(rows) < SFT().text_dropout)
        return self.trainer.update(loss)

    def loss(self, batch, noise, t, again, textless):
        """`noise` to draw from; times, noise and who loses its text, of SFT."""
        # A branch's keys and values know the prompt's pooled embedding, which guidance leaves out.
        cached = self.network.prepare(
            batch["subjects"].repeat(2, 1, 1, 1), torch.cat([batch["pooled"], batch["empty_pooled"]])
        )
        times = torch.linspace(1, 0, ALGORITHM.num_steps + 1)
        noisy, stop = noise, ALGORITHM.window[0]
        with torch.no_grad():
            for now, after in pairwise(times[: stop + 1]):
                noisy = noisy + (after - now) * (noisy - self._guided(batch, noisy, now, cached)) / now.clamp(T_FLOOR)
        pictures = self._decoded(self._guided(batch, noisy, times[stop], cached))
        rewards = ALGORITHM.reward_weight * self._reward(pictures)
        self.rewards = rewards.detach()
        loss = -rewards.mean()
        return loss + self.flow_matching * self._error(batch, t, again, textless)

    def _guided(self, batch, noisy, now, cached):
        """Clean latents, text guided, both predictions in one batch."""
        text, pooled = (torch.cat([batch[name], batch[f"empty_{name}"]]) for name in ("text", "pooled"))
        found = self.network(noisy.repeat(2, 1, 1), now.expand(len(text)), text, pooled, None, cached, True)
        full, empty = found.chunk(2)
        return full + (ALGORITHM.guidance_scale - 1) * (full - empty)

    def _error(self, batch, t, noise, textless):
        """SFT's."""
        clean, t = batch["latents"], t[:, None, None]
        noisy = (1 - t) * clean + t * noise
        text = torch.where(textless[:, None, None], batch["empty_text"], batch["text"])
        pooled = torch.where(textless[:, None], batch["empty_pooled"], batch["pooled"])
        cached = self.network.prepare(batch["subjects"], pooled)
        found = self.network(noisy, t[:, 0, 0], text, pooled, None, cached, True)
        return ((clean - found) / t.clamp(T_FLOOR)).square().mean()

    def _decoded(self, latents):
        """Pictures [b, 3, h, w] of the patches' pixels."""
        patch, side = self.preset.patch, self.preset.image_size // self.preset.patch
        pixels = latents.unflatten(-1, (3, patch, patch)).unflatten(1, (side, side))
        return pixels.permute(0, 3, 1, 4, 2, 5).reshape(len(latents), 3, side * patch, side * patch)

    def _reward(self, pictures):
        """The cosine; pictures are judged within [-1, 1], and its gradient goes past their clipping."""
        pictures = pictures + (pictures.clamp(-1, 1) - pictures).detach()
        images = ((pictures + 1) / 2 - self.mean) / self.deviation
        looks = self.clip.visual_projection(self.clip.vision_model(images).pooler_output)
        return (normalize(looks, dim=-1) * self.known).sum(-1)


def setting(size):
    """Both trainers and both batches, of random weights and numbers."""
    generator, policy, base, adapter, pairs = example(size.preset, size.rows)
    scenes = list(storybook_scenes("train", size.rows))
    prompts = [scene.prompt for scene in scenes]
    tokenizer = train_tokenizer(prompts)
    clip = random_clip(size.clip, tokenizer)
    known = embed_prompts(clip, tokenizer, prompts, size.clip.text.max_length)
    reward = ClipCosine(with_weights(clip, size.clip, tokenizer))
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
    frozen = base | under(REWARD, reward.params)
    ours = Trainer(generator, policy, frozen, adapter, mesh, algorithm=ALGORITHM, reward=reward)
    torch_dpo = torch_trainer(size.preset, generator._positions, base, adapter, cached=True)
    theirs = TorchReFL(torch_dpo, clip, torch.stack([known[prompt] for prompt in prompts]), size.preset)
    asked = {"conditioning": pairs["conditioning"], "latents": pairs["chosen"]}
    arrays = {"latents": pairs["chosen"], **pairs["conditioning"]._asdict()}
    batches = {
        "ours": {**asked, "context": reward.encode(scenes)},
        "torch": {name: torch.from_numpy(array) for name, array in arrays.items()},
    }
    return {"ours": ours, "torch": theirs}, batches, (generator, frozen, adapter)


def check_parity(trainers, batches, generator, frozen, adapter):
    """The largest relative differences of loss and gradient, on the same times and noise."""
    key = jax.random.fold_in(jax.random.key(SEED), 0)
    numbered = {"index": np.arange(len(batches["ours"]["latents"]), dtype=np.int32)}
    first = jax.vmap(lambda key: jax.random.normal(jax.random.split(key)[0], generator.latent_shape))
    t, again, keys = drawn(generator, jax.random.fold_in(key, refl._TERM), numbered, generator.latent_shape)
    textless = jax.vmap(jax.random.uniform)(keys) < SFT().text_dropout
    noise = first(example_keys(key, numbered))
    theirs = [torch.from_numpy(np.array(x)) for x in (noise, t, again, textless)]
    gaps, ours, torchs = [], trainers["ours"].trainee, trainers["torch"]
    for weight in (0.0, ALGORITHM.flow_matching):  # of the reward alone too, whose share in a gradient is small
        torchs.flow_matching = weight
        loss = torchs.loss(batches["torch"], *theirs)
        gradient = torch.autograd.grad(loss, torchs.parameters.values())
        expected = {n: g.numpy().T for n, g in zip(torchs.parameters, gradient, strict=True)}
        algorithm = replace(ALGORITHM, flow_matching=weight)
        found, metrics = Gradients(ours, algorithm).gradients(adapter, frozen, batches["ours"], key)
        losses = {"ours": float(metrics["loss"]), "torch": loss.item()}
        # Cosines are of either sign: their mean may be next to nothing, and is known as well as they are.
        size = float(torchs.rewards.abs().mean())
        gaps.append(check_gaps(losses, {"ours": found, "torch": expected}, size))
    return map(max, zip(*gaps, strict=True))


def measure(size, rounds):
    """Seconds of both in each round, and the two differences of the parity."""
    trainers, batches, rest = setting(size)
    gaps = check_parity(trainers, batches, *rest)
    batches["ours"] = jax.device_put(batches["ours"])
    seconds = {name: [] for name in trainers}
    for name, trainer in trainers.items():
        trainer.step(batches[name])  # compiles
    for _ in range(rounds):  # in turn, so that the machine's moods fall on all alike
        for name, trainer in trainers.items():
            seconds[name].append(timed(partial(trainer.step, batches[name]), STEPS))
    return seconds, gaps


def report(rounds):
    """The Markdown that the benchmark prints."""
    before = matmul_rates()
    measured = {name: measure(size, rounds) for name, size in SIZES.items()}
    rates = {name: max(rate, before[name]) for name, rate in matmul_rates().items()}
    lines, notes = ["| size | variant | ms a step | torch ÷ it |", "| --- | --- | ---: | ---: |"], []
    for name, size in SIZES.items():
        seconds, (loss_gap, gradient_gap) = measured[name]
        for variant, values in seconds.items():
            middle, low, high = (1000 * pick(values) for pick in (statistics.median, min, max))
            against = ratio(seconds["torch"], values)
            lines.append(f"| {name} | {variant} | {middle:.0f} [{low:.0f}, {high:.0f}] | {against} |")
        preset, vision = size.preset, size.clip.vision
        notes.append(
            f"- {name}: {size.rows} pictures of {preset.image_size}² in patches of {preset.patch}², width "
            f"{preset.transformer.width}; CLIP's tower of {vision.blocks} blocks of width {vision.width}; before "
            f"timing, loss within {loss_gap:.0e} and gradients within {gradient_gap:.0e} of torch's."
        )
    return "\n".join([*lines, "", *notes, *conditions(rounds, rates, "transformers")])


if __name__ == "__main__":
    command(__doc__, report)
