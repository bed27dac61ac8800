"""The transformer that both towers of CLIP are made of (Radford et al. 2021)."""

import jax
from flax import nnx

from narrative_jax.models.layers import LayerNorm, Linear, attend

EPSILON = 1e-5
ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


class ClipBlock(nnx.Module):
    """Attention, then an MLP, each on normalised input and added to it."""

    def __init__(self, width, heads, mlp_width, activation, depth, *, rngs: nnx.Rngs):
        self.heads, self.activation = heads, activation
        # CLIP's own deviations: what is added to the stream starts small, the smaller the more blocks add to it.
        add = normal(width**-0.5 * (2 * depth) ** -0.5)
        self.norm_attention = LayerNorm(width, epsilon=EPSILON)
        self.query, self.key, self.value = (
            Linear(width, width, axes=("embed", "heads"), kernel_init=normal(width**-0.5), rngs=rngs) for _ in range(3)
        )
        self.attention_out = Linear(width, width, axes=("heads", "embed"), kernel_init=add, rngs=rngs)
        self.norm_mlp = LayerNorm(width, epsilon=EPSILON)
        start = normal((2 * width) ** -0.5)
        self.mlp_in = Linear(width, mlp_width, axes=("embed", "mlp"), kernel_init=start, rngs=rngs)
        self.mlp_out = Linear(mlp_width, width, axes=("mlp", "embed"), kernel_init=add, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array | None = None, first: int | None = None) -> jax.Array:
        """All tokens, or the `first` alone, which have seen all."""
        normed = self.norm_attention(x)
        pairs = ((self.query, normed[:, :first]), (self.key, normed), (self.value, normed))
        q, k, v = (layer(tokens).reshape(*tokens.shape[:-1], self.heads, -1) for layer, tokens in pairs)
        x = x[:, :first]
        x = x + self.attention_out(attend(q, k, v, mask).reshape(x.shape))
        return x + self.mlp_out(ACTIVATIONS[self.activation](self.mlp_in(self.norm_mlp(x))))


def blocks(config, *, rngs: nnx.Rngs) -> nnx.List:
    """The blocks of a tower with the sizes of its config."""
    sizes = config.width, config.heads, config.mlp_width, config.activation, config.blocks
    return nnx.List([ClipBlock(*sizes, rngs=rngs) for _ in range(config.blocks)])


def projection(config, *, rngs: nnx.Rngs) -> Linear:
    """Into the space that texts and images share."""
    sizes, init = (config.width, config.projection), normal(config.width**-0.5)
    return Linear(*sizes, axes=("embed", None), bias=False, kernel_init=init, rngs=rngs)


def block_names(tower: str) -> dict[str, str]:
    """Published names of the blocks of a tower, "text_model" or "vision_model"."""
    layers = {
        "norm_attention": "layer_norm1",
        "query": "self_attn.q_proj",
        "key": "self_attn.k_proj",
        "value": "self_attn.v_proj",
        "attention_out": "self_attn.out_proj",
        "norm_mlp": "layer_norm2",
        "mlp_in": "mlp.fc1",
        "mlp_out": "mlp.fc2",
    }
    return {f"blocks.*.{ours}": f"{tower}.encoder.layers.*.{theirs}" for ours, theirs in layers.items()}


def normal(deviation: float):
    """Initial values of this deviation."""
    return nnx.initializers.normal(deviation)
