"""Diffusion-DPO (Wallace et al. 2024); as options ADPO's adaptive β(a), SFT beside, a winner-preserving gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.algorithms.base import POLICY, REFERENCE, Algorithm, Loss, drawn, summed
from narrative_jax.core.errors import InputError, check_share
from narrative_jax.diffusion.path import add_noise
from narrative_jax.losses import preference
from narrative_jax.losses.denoising import mean_square, velocity_residual


@dataclass(frozen=True)
class DPO(Algorithm):
    """-log σ(β(a) / 2 · margin), a the pair's gap; `eta` 0 keeps β constant; see `adaptive_beta`.

    The margin grows as well where both errors rise, the rejected one more: pictures get worse. Two options keep them
    good: `imitation` λ adds the chosen error itself, an SFT term (`preference.imitation`); `preserve` μ in [0, 1]
    scales the rejected gradient so that the chosen error keeps at least the share μ of its fall, None leaves it as it
    is. Both members of a pair share t and noise.
    """

    batch: ClassVar[str] = "preferences"
    roles: ClassVar[tuple[str, ...]] = (POLICY, REFERENCE)
    beta: float = 500.0
    eta: float = 0.0
    k: float = 1.0
    b: float = 0.0
    imitation: float = 0.0
    preserve: float | None = None

    def __post_init__(self):
        if not self.beta > 0:
            raise InputError(f"beta {self.beta!r}", "beta is a number > 0", "give one, e.g. 500")
        preference.check_adaptive_beta(self.eta, self.k, self.b)
        if not 0 <= self.imitation < float("inf"):
            raise InputError(f"imitation {self.imitation!r}", "imitation is a number ≥ 0", "give one, e.g. 1.0")
        if self.preserve is not None:
            check_share("preserve", self.preserve)

    def usable_gaps(self, gaps: np.ndarray, ids: Sequence[str]) -> np.ndarray:
        """See `Algorithm`; where any gap is unknown all count as b, with which β(a) is β.

        Raises InputError for a gap that would make β(a) 0 or negative.
        """
        if not self.eta:
            return np.full(len(gaps), self.b)
        unknown = np.isnan(gaps)
        if unknown.any():
            print(f"{unknown.sum()} of {len(gaps)} pairs have no gap: β is {self.beta:g} for all", flush=True)
            return np.full(len(gaps), self.b)
        preference.check_gaps(gaps, ids, eta=self.eta, k=self.k, b=self.b)
        return gaps

    def loss(self, models, batch, key) -> Loss:
        """`batch`: chosen and rejected latents f32[b, ...], conditioning, gap f32[b], index i32[b]."""
        chosen, asked = batch["chosen"], batch["conditioning"]
        t, noise, _ = drawn(models.policy.model, key, batch, chosen.shape[1:])
        # The members of a pair lie side by side, so that nothing moves where pairs are spread over devices.
        clean = jnp.stack([chosen, batch["rejected"]], 1).reshape(-1, *chosen.shape[1:])
        t, noise = jnp.repeat(t, 2), jnp.repeat(noise, 2, 0)
        noisy = add_noise(clean, noise, t)

        def prepare(role):
            return role.model.prepare(role.params, asked)

        def residual(role, prepared):
            prediction = role.model.denoise(role.params, noisy, t, asked, prepared)
            return velocity_residual(prediction, clean, noise, noisy, t, prediction_type=role.model.prediction_type)

        # The subjects of a pair are the same pictures, so both members share what is prepared of them; so do policy
        # and reference, where nothing that is trained has a part in it.
        policy, reference = models.policy, models.reference
        of_reference = prepare(reference)
        of_policy = of_reference if policy.model.prepares_as(reference.model) else prepare(policy)
        policy_residual = residual(policy, of_policy)
        chosen_error, rejected_error = _members(mean_square(policy_residual))
        references = _members(jax.lax.stop_gradient(mean_square(residual(reference, of_reference))))
        margin = preference.margin(chosen_error, references[0], rejected_error, references[1])
        metrics = {
            "margin": margin,
            "implicit_accuracy": margin > 0,
            "chosen_error_rise": chosen_error - references[0],
            "rejected_error_rise": rejected_error - references[1],
        }
        if self.preserve is not None:
            scale = preference.winner_preserving_scale(*_members(policy_residual), mu=self.preserve)
            rejected_error = preference.scale_gradient(rejected_error, scale)
            margin = preference.margin(chosen_error, references[0], rejected_error, references[1])
            metrics["rejected_scale"] = scale
        beta = preference.adaptive_beta(batch["gap"], beta=self.beta, eta=self.eta, k=self.k, b=self.b)
        loss = preference.dpo(margin, beta)
        loss += preference.imitation(chosen_error, references[0], beta, weight=self.imitation)
        return summed(loss, beta=beta, **metrics)


def _members(x):
    """Of the chosen and of the rejected, which lie side by side."""
    x = x.reshape(-1, 2, *x.shape[1:])
    return x[:, 0], x[:, 1]
