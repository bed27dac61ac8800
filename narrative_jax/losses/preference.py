"""Preference losses over denoising errors (means over elements, so that a β is in the thousands)."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from narrative_jax.core.errors import InputError


def margin(chosen_error, chosen_reference, rejected_error, rejected_reference):
    """How much more the policy has gained on the reference for the chosen than for the rejected picture, f32[b].

    -[(E_w - E_ref,w) - (E_l - E_ref,l)], all errors f32[b]. Above 0, the pair is ordered as the preference is.
    """
    chosen, chosen_reference, rejected, rejected_reference = map(
        jnp.float32, (chosen_error, chosen_reference, rejected_error, rejected_reference)
    )
    return (rejected - rejected_reference) - (chosen - chosen_reference)


def dpo(margin, beta):
    """-log σ((β / 2) · margin), f32[b]; `beta` is one number or f32[b] (Wallace et al. 2024, eq. 14).

    The ½ is that of the authors' code, with β 2000 for SD 1.5 and 5000 for SDXL. diffusers' script drops it: its 2500
    is 5000 here.
    """
    return jax.nn.softplus(-beta / 2 * jnp.float32(margin))


def imitation(chosen_error, chosen_reference, beta, *, weight):
    """λ · β / 2 · (E_w - E_ref,w), f32[b]: denoising loss on the chosen picture beside `dpo`, λ the `weight`.

    The gradient is that of E_w alone; as it is less the reference's, the whole loss begins at log 2. At the start,
    λ = 1 draws twice as strongly towards the chosen picture as the pair does, whatever β is; unlike the pair's, the
    pull does not weaken as the margin grows. Language models have it as the likelihood of the chosen answer (Pang et
    al. 2024, iterative reasoning preference optimisation; Liu et al. 2024, RPO).
    """
    return weight * beta / 2 * (jnp.float32(chosen_error) - jnp.float32(chosen_reference))


def adaptive_beta(gap, *, beta, eta, k, b):
    """ADPO's β(a) = β · (1 + η · (1 - exp(-k (a - b)))), f32[b], a the mean `gap` of the standardised scores, f32[b].

    Larger gaps weigh more; a = b gives β. `check_adaptive_beta` says which settings keep it positive.
    """
    return beta * (1 + eta * (1 - jnp.exp(-k * (jnp.float32(gap) - b))))


def check_adaptive_beta(eta, k, b):
    """Raise InputError where β(a) could be 0 or negative for some gap a ≥ 0: where η · (e^{kb} - 1) ≥ 1."""
    given = f"β(a) with eta {eta!r}, k {k!r}, b {b!r}"
    if not all(math.isfinite(value) for value in (eta, k, b)) or eta < 0 or k < 0:
        raise InputError(given, "eta and k are finite numbers ≥ 0, b a finite number", "give such; eta 0 is off")
    growth = math.expm1(min(k * b, 700.0))  # e^700 is near the largest float
    if eta * growth >= 1:
        rule = f"β(0) = β · (1 - eta · (exp(k · b) - 1)) would be {1 - eta * growth:.3g} · β, it must be positive"
        raise InputError(given, rule, f"lower b below {math.log1p(1 / eta) / k:.3g}, or eta below {1 / growth:.3g}")


def check_gaps(gaps, ids, *, eta, k, b):
    """Raise InputError where one of the gaps f64[n] makes β(a) 0 or negative, naming its id.

    Gaps below 0 come from rules that look at less than the mean of all aspects.
    """
    least = int(np.argmin(gaps))
    share = 1 + eta * -np.expm1(min(-k * (gaps[least] - b), 700.0))
    if share <= 0:
        rule = f"β(a) = β · (1 + eta · (1 - exp(-k (a - b)))) would be {share:.3g} · β, it must be positive"
        remedy = "lower eta or k, or screen by a rule whose gaps are ≥ 0, e.g. dominance"
        raise InputError(f"pair {ids[least]} with gap {gaps[least]:.3g}", rule, remedy)


def winner_preserving_scale(chosen_residual, rejected_residual, *, mu):
    """Scale f32[b] of the rejected branch's gradient with which the chosen error cannot rise, to first order.

    clip((1 - μ) ‖g_w‖² / ⟨g_w, g_l⟩, 0, 1) where the product is positive, else 1; g are the residuals (prediction -
    target, in velocity space) [b, ...], the gradients of the errors in output space up to a factor. A step along
    -(g_w - scale · g_l) keeps at least μ of the fall of the chosen error. A constant for differentiation.
    """
    chosen, rejected = (
        jax.lax.stop_gradient(jnp.float32(r)).reshape(len(r), -1) for r in (chosen_residual, rejected_residual)
    )
    product = (chosen * rejected).sum(1)
    conflict = product > 0
    scale = (1 - mu) * jnp.square(chosen).sum(1) / jnp.where(conflict, product, 1.0)
    return jnp.where(conflict, scale.clip(0, 1), 1.0)


def scale_gradient(values, scale):
    """The same values, with their gradient multiplied by `scale`, itself a constant."""
    held = jax.lax.stop_gradient(values)
    return held + jax.lax.stop_gradient(scale) * (values - held)
