"""Reward feedback learning: the gradient of a reward on the policy's own pictures, through its last steps of drawing.

ReFL (Xu et al. 2023, ImageReward), DRaFT-K and DRaFT-LV (Clark et al. 2024) and UPER are values of it. What is drawn
depends on the weights through a few steps alone, and the reward is asked once: where it pulls the pictures is found
beforehand, of the whole batch, and the loss only has to know how the weights move them.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp

from narrative_jax.algorithms.base import POLICY, REFERENCE, REWARD, Algorithm, Batch, Loss, Role, example_keys, summed
from narrative_jax.algorithms.sft import SFT
from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.mesh import in_parts, of_parts
from narrative_jax.diffusion.path import add_noise, to_clean, to_velocity
from narrative_jax.generators.rollout import branches_of, check_guidance, guided_prediction, rollout
from narrative_jax.losses.reward_gradients import pull_norms
from narrative_jax.rewards.base import Pulls

BATCH, CALIBRATION, RAW = STATISTICS = ("batch", "calibration", "raw")
THROUGH = ("all", "first")
_STEP, _TERM = 2**32 - 1, 2**32 - 2  # what no example's index is, to fold into a key


@dataclass(frozen=True)
class ReFL(Algorithm):
    """-reward_weight · R of pictures that the policy draws, guided, in `num_steps` Euler steps.

    A rollout ends, without gradient, before a step drawn from `window` (first, and one past the last), the same for
    the whole batch; `followed` steps from there have a gradient, and the last of them says what the picture is. ReFL
    is 1 step of the last few, DRaFT-K K steps with the window (num_steps - K, num_steps - K + 1). With `low_variance` n
    the rollout goes on to the end and that step is taken from n noisy copies of the picture (DRaFT-LV). The gradient
    goes `through` "all" guided predictions, or the "first". `statistics` are what terms of an ensemble are measured
    against: those of the "batch" (UPER), of the "calibration", or none, "raw". The reward is asked in `parts`.

    With `flow_matching` w the batch are examples, on which w · SFT's loss is added: without it rewards are hacked soon.
    With `penalty` w, w times the squared distance of the guided velocity at the first followed step to the reference's.
    """

    batch: ClassVar[str] = "scenes"
    roles: ClassVar[tuple[str, ...]] = (POLICY, REWARD)
    num_steps: int = 8
    guidance_scale: float = 1.0
    subject_guidance_scale: float | None = None
    window: tuple[int, int] = (4, 8)
    followed: int = 1
    low_variance: int = 0
    through: str = "all"
    statistics: str = BATCH
    reward_weight: float = 1.0
    flow_matching: float = 0.0
    penalty: float = 0.0
    parts: int = 1

    def __post_init__(self):
        for name, least in {"num_steps": 1, "followed": 1, "low_variance": 0, "parts": 1}.items():
            check_count(name, getattr(self, name), minimum=least)
        check_name("through", self.through, THROUGH)
        check_name("statistics", self.statistics, STATISTICS)
        check_guidance(self.guidance_scale, self.subject_guidance_scale)
        for name in ("reward_weight", "flow_matching", "penalty"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name} {getattr(self, name)!r}", "it is a number ≥ 0", "0 leaves it out")
        first, end = self.window
        if not 0 <= first < end <= self.num_steps:
            rule = f"it is a first step and one past the last, of the sampler's {self.num_steps}"
            raise InputError(f"window {self.window!r}", rule, f"give e.g. ({self.num_steps // 2}, {self.num_steps})")
        if end - 1 + self.followed > self.num_steps:
            rule = f"from step {end - 1}, the window's last, only {self.num_steps - end + 1} are left"
            raise InputError(f"followed {self.followed}", rule, "lower it, or end the window earlier")
        if self.low_variance and self.followed > 1:
            rule = "noisy copies of the picture are followed through one step"
            raise InputError(f"low_variance {self.low_variance}", rule, "set followed to 1")
        # What it trains on and with follows from what its loss has.
        if self.flow_matching:
            object.__setattr__(self, "batch", "examples")
        if self.penalty:
            object.__setattr__(self, "roles", (POLICY, REFERENCE, REWARD))

    def check_models(self, policy, reward=None) -> None:
        """See `Algorithm`."""
        check_guidance(self.guidance_scale, self.subject_guidance_scale, policy.subject_guidance)
        if len(reward.aspects) != 1:
            rule = f"it has the aspects {', '.join(reward.aspects)}, and a loss follows one number"
            raise InputError(f"reward {reward.name!r}", rule, "make an ensemble of them")
        if self.statistics != RAW and not hasattr(reward, "with_statistics"):
            rule = "it is no ensemble, whose terms are measured against something"
            raise InputError(f"statistics {self.statistics!r} of reward {reward.name!r}", rule, f"set it to {RAW!r}")

    def experience(self, models, batch, key):
        """Adds `start` f32[b, n, ...], n copies of what is followed, and where the reward pulls what that leads to."""
        (policy, params), (reward, weights) = models.policy, models.reward
        times, stop = policy.sampler_times(self.num_steps), self._stop(key)
        noise, again = _noise(key, batch, policy.latent_shape, self.low_variance)
        end = self.num_steps if self.low_variance else stop
        start = rollout(policy, params, batch["conditioning"], noise, times, self._branches(policy), stop=end)[:, None]
        if self.low_variance:
            start = add_noise(jnp.repeat(start, self.low_variance, 1), again, jnp.full(len(start), times[stop]))
        rows, copies = start.shape[:2]
        batch = {**batch, "start": start}
        latents = self._followed(models.policy, batch, key)[0]
        context = jax.tree.map(lambda x: jnp.repeat(x, copies, 0), batch["context"])

        def judged(part):
            latents, context = part
            # Pictures are judged as they are saved; the pull goes past their clipping.
            found = reward.pulls(weights, policy.decode(params, latents).clip(-1, 1), context)
            return found.rewards, jnp.moveaxis(found.gradients, 0, 1)

        rewards, gradients = of_parts(jax.lax.map(judged, in_parts((latents, context), self.parts)))
        if self.statistics == BATCH:
            context = reward.with_statistics(context, rewards)
        elif self.statistics == RAW and hasattr(reward, "without_statistics"):
            context = reward.without_statistics(context)
        value, pull = reward.combined(Pulls(rewards, jnp.moveaxis(gradients, 1, 0)), context)

        def undecoded(part):
            latents, pull = part
            return jax.vjp(lambda latents: policy.decode(params, latents), latents)[1](pull)[0]

        pull = of_parts(jax.lax.map(undecoded, in_parts((latents, pull), self.parts)))
        norms = pull_norms(gradients.reshape(-1, *gradients.shape[2:])).reshape(rewards.shape)
        found = {"value": value, "rewards": rewards, "norms": norms}
        found = {name: each.reshape(rows, copies, *each.shape[1:]).mean(1) for name, each in found.items()}
        return {**batch, **found, "pull": pull.reshape(start.shape)}

    def loss(self, models, batch, key) -> Loss:
        """`batch`: conditioning, the reward's context, index i32[b], and latents f32[b, ...] with `flow_matching`."""
        latents, velocity = self._followed(models.policy, batch, key)
        moved = _of_copies((batch["pull"].reshape(latents.shape) * latents), batch, jnp.sum)
        # The value is the reward's, the gradient that of the pictures along its pull.
        loss = -self.reward_weight * (batch["value"] + moved - jax.lax.stop_gradient(moved))
        times = models.policy.model.sampler_times(self.num_steps)
        metrics = {"reward": batch["value"], "t": jnp.full_like(moved, times[self._stop(key) + self.followed - 1])}
        for place, name in enumerate(models.reward.model.term_names):
            metrics |= {f"reward/{name}": batch["rewards"][:, place], f"pull/{name}": batch["norms"][:, place]}
        if self.penalty:
            still = jax.lax.stop_gradient(self._followed(models.reference, batch, key)[1])
            distance = _of_copies(jnp.square(velocity - still), batch, jnp.mean)
            loss += self.penalty * distance
            metrics["distance"] = distance
        found = summed(loss, **metrics)
        if not self.flow_matching:
            return found
        term = SFT().loss(models, batch, jax.random.fold_in(key, _TERM))
        return Loss(found.sum + self.flow_matching * term.sum, found.weight, {**found.metrics, **term.metrics})

    def steadied(self) -> "ReFL":
        """See `Algorithm`: the rollout ends before the window's middle step."""
        middle = sum(self.window) // 2
        return replace(self, window=(middle, middle + 1))

    def _stop(self, key):
        """The step that a rollout ends before, i32[]; of a window of one step a number that is known beforehand."""
        first, end = self.window
        if end == first + 1:
            return first
        return jax.random.randint(jax.random.fold_in(key, _STEP), (), first, end)

    def _branches(self, generator):
        return branches_of(self.guidance_scale, self.subject_guidance_scale, generator.subject_guidance)

    def _followed(self, role: Role, batch: Batch, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """From `start`: the clean latents f32[b · n, ...] in the end, and the velocity at first, guided both."""
        model, params = role
        noisy, copies = batch["start"].reshape(-1, *batch["start"].shape[2:]), batch["start"].shape[1]
        asked = jax.tree.map(lambda x: jnp.repeat(x, copies, 0), batch["conditioning"])
        predict = guided_prediction(model, params, asked, self._branches(model), self.through)
        predict = jax.checkpoint(predict) if self.followed > 1 else predict
        times, stop, velocities = model.sampler_times(self.num_steps), self._stop(key), []
        for place in range(self.followed):
            now, after = times[stop + place], times[stop + place + 1]
            t = jnp.full(len(noisy), now)
            prediction, before = predict(noisy, t), noisy
            velocities.append(to_velocity(prediction, noisy, t, model.prediction_type))
            noisy = noisy + (after - now) * velocities[-1]
        return to_clean(prediction, before, t, model.prediction_type), velocities[0]


def _noise(key, batch, shape, copies):
    """For each example noise f32[b, ...] to begin with, and more f32[b, n, ...] for its copies."""

    def draw(key):
        first, second = jax.random.split(key)
        return jax.random.normal(first, shape), jax.random.normal(second, (copies, *shape))

    return jax.vmap(draw)(example_keys(key, batch))


def _of_copies(values, batch, whole):
    """f32[b]: `whole` of each copy's values f32[b · n, ...], and their mean."""
    values = values.reshape(*batch["start"].shape[:2], -1)
    return whole(values, -1).mean(1)
