"""Contrastive losses: a text and its picture find each other among those of the batch."""

import jax
import jax.numpy as jnp

MAX_LOGIT_SCALE = 4.6052  # ln 100: CLIP keeps the logits of training within 100 times the cosines


def clip_contrastive(text, image, logit_scale):
    """Symmetric InfoNCE of text and image embeddings f32[b, d], of any length, f32[b] (Radford et al. 2021, fig. 3).

    ½ (-log softmax_i(text → images) - log softmax_i(image → texts)) over cosines times exp(`logit_scale`); pair i is
    row i of both.
    """
    text, image = (jnp.float32(x) / jnp.linalg.norm(jnp.float32(x), axis=-1, keepdims=True) for x in (text, image))
    logits = jnp.exp(jnp.minimum(logit_scale, MAX_LOGIT_SCALE)) * text @ image.T
    return -(jnp.diag(jax.nn.log_softmax(logits, 1)) + jnp.diag(jax.nn.log_softmax(logits, 0))) / 2
