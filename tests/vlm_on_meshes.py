"""A small vision-language model on meshes: weights loaded from a file, a loss, its gradients and what is written.

`python tests/vlm_on_meshes.py OUT.json`, where XLA_FLAGS makes 8 devices.
"""

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from conftest import random_weights
from flax import nnx
from small_vlm import TIED, batch, prompts

from narrative_jax.core.mesh import batch_sharding, make_mesh, traced_on, weight_shardings
from narrative_jax.models.checkpoints import save_weights
from narrative_jax.models.network import abstract
from narrative_jax.models.vlm import Vlm, last_of
from narrative_jax.models.vlm_files import QWEN2_VL_NAMES, load_vlm_weights
from narrative_jax.models.vlm_writing import write

MESHES = {
    "fsdp8": {"fsdp": 8},
    "cube": {"data": 2, "fsdp": 2, "tensor": 2},
    "context2": {"fsdp": 2, "tensor": 2, "context": 2},
}
CONFIG = replace(TIED, kept="attention")
SHOWN = ("token_embedding", "vision.patch_embedding", "blocks.*.key.kernel", "blocks.*.mlp_out.kernel")


def loss(module, given):
    told = jax.nn.log_softmax(module.logits(module(given)[:, :-1]))
    right = jnp.take_along_axis(told, given.tokens[:, 1:, None], axis=2)[..., 0]
    return -(right * given.mask[:, 1:]).sum() / given.mask[:, 1:].sum()


def results(path, mesh):
    network, shapes = abstract(lambda: Vlm(CONFIG, rngs=nnx.Rngs(0)))
    laid = weight_shardings(network.axes, {name: shape.shape for name, shape in shapes.items()}, mesh)
    like = {name: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=laid[name]) for name, s in shapes.items()}
    params = load_vlm_weights(path, like)
    given = jax.device_put(batch(CONFIG, (prompts(CONFIG) * 3)[:8]), batch_sharding(mesh))

    def written(params, given):
        module = network.bind(params)
        _, cache = module.read(given)
        mask = jnp.broadcast_to(jnp.arange(4) < jnp.array([[2], [4], [3]]), (len(given.mask), 3, 4))
        hidden, cache = module.read_on(7 + jnp.cumsum(mask, 2), mask, cache.branched(3))
        return write(module, last_of(hidden, mask), cache, length=6, ends=(), pad=0).tokens

    with traced_on(mesh):
        value, gradients = jax.jit(jax.value_and_grad(lambda params, given: loss(network.bind(params), given)))(
            params, given
        )
        tokens = jax.jit(written)(params, given)
    return {
        "laid": all(params[name].sharding == laid[name] for name in params),
        "spread": sum(not value.is_fully_replicated for value in params.values()),
        "loss": float(value),
        "gradients": {name: np.asarray(gradients[name]).tolist() for name in SHOWN},
        "tokens": np.asarray(tokens).tolist(),
    }


def main(out):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        _, shapes = abstract(lambda: Vlm(CONFIG, rngs=nnx.Rngs(0)))
        save_weights(path, random_weights.__wrapped__()(shapes), QWEN2_VL_NAMES, jnp.float32)
        meshes = {"one": make_mesh({}, jax.devices()[:1])} | {name: make_mesh(sizes) for name, sizes in MESHES.items()}
        found = {name: results(path, mesh) for name, mesh in meshes.items()}
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
