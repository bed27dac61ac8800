"""Stacked blocks: one after the other or in a loop, with equal results; names and files a block at a time."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from narrative_jax.core.errors import InputError
from narrative_jax.models.checkpoints import load_weights, save_weights
from narrative_jax.models.clip import CLIP_SIZES, CLIP_TEXT_NAMES, ClipTextEncoder, ClipVisionEncoder
from narrative_jax.models.dinov2 import DINOV2_SIZES, Dinov2Encoder
from narrative_jax.models.flow_transformer import FlowTransformer, FlowTransformerConfig, Positions, Subjects
from narrative_jax.models.lora import AdapterOptions, adapter_weights, append_adapter, read_adapter, save_adapter
from narrative_jax.models.network import abstract, split
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.models.stacks import KEPT, Stack, each_name, stacked, unstacked

FLOW = FlowTransformerConfig(5, 2, (2, 2, 4), 2, 3, text_dim=6, pooled_dim=3, distilled_guidance=True)
RNG = np.random.default_rng(0)


class Block(nnx.Module):
    def __init__(self, *, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (3, 3)), axes=("embed", "mlp"))


def test_a_stack_is_its_blocks():
    stack = Stack(lambda rngs: Block(rngs=rngs), 4, rngs=nnx.Rngs(0))
    network, params = split(nnx.Dict(blocks=stack))
    assert network.axes == {"blocks.*.kernel": (None, "embed", "mlp")}
    kernels = np.asarray(params["blocks.*.kernel"])
    assert kernels.shape == (4, 3, 3) and len(np.unique(kernels)) == kernels.size
    x = RNG.normal(size=(2, 3)).astype(np.float32)
    expected, seen = x, []
    multiply = lambda block, x, place: (x @ block.kernel[...], (x, place))  # noqa: E731
    for kernel in kernels:
        seen.append(expected)
        expected = expected @ kernel
    for scanned in (False, True):

        def run(count, scanned=scanned):
            places = jnp.arange(4)[:count]
            return stack.run(multiply, x, places, count=count, scanned=scanned)

        out, (inputs, places) = run(4)
        np.testing.assert_allclose(out, expected, atol=1e-6)
        np.testing.assert_allclose(inputs, seen, atol=1e-6)
        assert places.tolist() == [0, 1, 2, 3]
        np.testing.assert_allclose(run(2)[0], seen[2], atol=1e-6)
        np.testing.assert_array_equal(run(0)[0], x)
        listed, found = stack.run(multiply, x, list(jnp.arange(4)), scanned=scanned)
        np.testing.assert_allclose(listed, expected, atol=1e-6)
        assert [int(place) for _, place in found] == [0, 1, 2, 3]
    np.testing.assert_array_equal(stack.block(-1).kernel[...], kernels[3])


def test_names_on_disk():
    params = {"out.kernel": jnp.ones((2, 2)), "blocks.*.scale": jnp.arange(6.0).reshape(3, 2)}
    assert each_name("blocks.*.scale", params["blocks.*.scale"]) == [f"blocks.{i}.scale" for i in range(3)]
    apart = unstacked(params)
    assert apart.keys() == {"out.kernel", "blocks.0.scale", "blocks.1.scale", "blocks.2.scale"}
    assert apart["blocks.1.scale"].tolist() == [2, 3]
    del apart["blocks.1.scale"]
    again = stacked(apart, params)
    assert again["blocks.*.scale"].tolist() == [[0, 1], [0, 0], [4, 5]]
    shapes = unstacked(jax.eval_shape(lambda: params))
    assert {name: shape.shape for name, shape in shapes.items()} == {
        "out.kernel": (2, 2), **dict.fromkeys((f"blocks.{i}.scale" for i in range(3)), (2,))
    }  # fmt: skip


def relative_error(one, other):
    """max|a - b| / max|b| over all of the trees."""
    far = max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))
    return far / max(np.abs(b).max() for b in jax.tree.leaves(other))


def far_apart(build, config, call, weights, *others):
    """How far value and gradient of a random sum of `call(module)` are from plain ones, for other ways to run."""
    found = []
    for ways in ({}, *others):
        network, _ = abstract(lambda ways=ways: build(replace(config, **ways)))

        def loss(params, network=network):
            rng = np.random.default_rng(1)
            return sum(
                (leaf * rng.normal(size=leaf.shape)).sum() for leaf in jax.tree.leaves(call(network.bind(params)))
            )

        found.append(jax.jit(jax.value_and_grad(loss))(weights))
    assert sum(not np.any(leaf) for leaf in jax.tree.leaves(found[0])) <= 1  # DINOv2's mask embedding is only kept
    return [relative_error(other, found[0]) for other in found[1:]]


SCANNED = [{"scanned": True, "kept": kept} for kept in KEPT]


@pytest.mark.parametrize(
    "independent, others",
    [
        (True, SCANNED[1:2]),
        (False, SCANNED[2:]),
        (True, [*SCANNED, {"kept": "nothing"}]),
    ],
)
@pytest.mark.slow
def test_the_flow_transformer_scanned_and_unrolled(random_weights, independent, others):
    config = replace(FLOW, independent_subjects=independent)
    places = Positions(*(np.random.default_rng(0).integers(0, 5, (*shape, 3)) for shape in ((4,), (2, 3))))
    asked = {
        "noisy": np.float32(RNG.normal(size=(4, 4, 5))),
        "t": np.float32(RNG.random(4)),
        "text": np.float32(RNG.normal(size=(4, 3, 6))),
        "pooled": np.float32(RNG.normal(size=(4, 3))),
        "distilled_guidance": np.float32(RNG.random(4)),
    }
    subjects = Subjects(np.float32(RNG.normal(size=(4, 2, 3, 5))), RNG.random((4, 2)) < 0.7)

    def call(module):
        fresh = module(positions=places, subjects=subjects, **asked)
        if not independent:
            return fresh
        two = Subjects(subjects.tokens[::2], subjects.mask)
        prepared = module.prepare(two, asked["pooled"][::2], places)
        return fresh, module(positions=places, subjects=subjects, prepared=prepared, **asked)

    build = lambda config: FlowTransformer(config, rngs=nnx.Rngs(0))  # noqa: E731
    weights = {name: jnp.asarray(w) for name, w in random_weights(abstract(lambda: build(config))[1]).items()}
    assert max(far_apart(build, config, call, weights, *others)) <= 1e-5


@pytest.mark.parametrize("kind", ["text", "vision", "dinov2"])
@pytest.mark.slow
def test_encoders_scanned_and_unrolled(random_weights, kind):
    build, config = {
        "text": (ClipTextEncoder, CLIP_SIZES[STORYBOOK][0]),
        "vision": (ClipVisionEncoder, CLIP_SIZES[STORYBOOK][1]),
        "dinov2": (Dinov2Encoder, DINOV2_SIZES[STORYBOOK]),
    }[kind]
    config = replace(config, blocks=3, width=32, heads=2, mlp_width=48)
    make = lambda config: build(config, rngs=nnx.Rngs(0))  # noqa: E731
    weights = {name: jnp.asarray(w) for name, w in random_weights(abstract(lambda: make(config))[1]).items()}
    if kind == "text":
        given = RNG.integers(0, 99, (2, 9))
    else:
        given = np.float32(RNG.normal(size=(2, config.image_size, config.image_size, 3)))
    assert max(far_apart(make, config, lambda module: module(given), weights, {"scanned": True})) <= 1e-5


def test_files_hold_a_block_at_a_time(tmp_path):
    config = replace(CLIP_SIZES[STORYBOOK][0], width=8, heads=2, mlp_width=12, projection=6, vocab_size=20)
    _, params = split(ClipTextEncoder(config, rngs=nnx.Rngs(0)))
    save_weights(tmp_path / "text.safetensors", params, CLIP_TEXT_NAMES, jnp.float32)
    key = "text_model.encoder.layers.1.mlp.fc1.weight"
    np.testing.assert_array_equal(load_file(tmp_path / "text.safetensors")[key], params["blocks.*.mlp_in.kernel"][1].T)
    again = load_weights(tmp_path / "text.safetensors", params, CLIP_TEXT_NAMES)
    assert again.keys() == params.keys()
    for name, value in params.items():
        np.testing.assert_array_equal(again[name], value)
    _, deeper = abstract(lambda: ClipTextEncoder(replace(config, blocks=5), rngs=nnx.Rngs(0)))
    with pytest.raises(InputError, match=r"missing .*layers\.3.*give weights of this architecture"):
        load_weights(tmp_path / "text.safetensors", deeper, CLIP_TEXT_NAMES)


def test_an_adapter_on_some_blocks(tmp_path, random_weights):
    """It is 0 on the others, has no gradient there, and its file does not have them."""
    network, shapes = abstract(lambda: FlowTransformer(FLOW, rngs=nnx.Rngs(0)))
    base = {name: jnp.asarray(value) for name, value in random_weights(shapes).items()}
    module = network.bind(base)
    options = AdapterOptions(rank=2, alpha=2.0, targets=r"single_blocks\.[02]\.out")
    append_adapter(module, "mine", rank=2, alpha=2.0, targets=options.targets, segments=(), seed=0)
    adapted, params = split(module)
    a, b = (f"single_blocks.*.out.adapters.mine.{leaf}" for leaf in "ab")
    assert [bool(block.any()) for block in params[a]] == [True, False, True]
    params[b] = jnp.ones_like(params[b]).at[1].set(0)

    def loss(trained):
        places = Positions(np.arange(12).reshape(4, 3), np.zeros((0, 0, 3), int))
        noisy, text = np.ones((1, 4, 5), np.float32), np.ones((1, 2, 6), np.float32)
        out = adapted.bind({**params, **trained})(
            noisy, np.ones(1), text, np.ones((1, 3)), places, distilled_guidance=np.ones(1)
        )
        return jnp.square(out + 1).sum()

    gradients = jax.jit(jax.grad(loss))({name: params[name] for name in (a, b)})
    for gradient in gradients.values():
        assert [bool(jnp.any(block)) for block in gradient] == [True, False, True]
    save_adapter(tmp_path / "adapter.safetensors", params, "mine", options, "base")
    *_, weights = read_adapter(tmp_path / "adapter.safetensors")
    assert weights.keys() == adapter_weights(params, "mine").keys() == {
        f"single_blocks.{i}.out.adapters.mine.{leaf}" for i in (0, 2) for leaf in "ab"
    }  # fmt: skip
    again = stacked(weights, {name: params[name] for name in (a, b)})
    for name, value in again.items():
        np.testing.assert_array_equal(value, params[name])
