"""Adapters: what they add, to which tokens, and how they are named, stacked and kept."""

import json
from dataclasses import asdict, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from narrative_jax.core.errors import InputError
from narrative_jax.core.types import Segment
from narrative_jax.generators.flow import TRANSFORMER
from narrative_jax.generators.flow_presets import TINY_FLOW
from narrative_jax.models.flow_transformer import FlowTransformer, FlowTransformerConfig, Positions, Subjects
from narrative_jax.models.layers import Linear
from narrative_jax.models.lora import (
    AdapterOptions,
    adapter_of,
    adapter_weights,
    append_adapter,
    fingerprint,
    joined,
    linear_paths,
    read_adapter,
    save_adapter,
)
from narrative_jax.models.network import abstract, below, split
from narrative_jax.models.stacks import stacked
from narrative_jax.runs.trained import with_saved_adapter

CONFIG = FlowTransformerConfig(5, 2, (2, 2, 4), 1, 1, text_dim=6, pooled_dim=3, distilled_guidance=True)
NETWORK, SHAPES = abstract(lambda: FlowTransformer(CONFIG, rngs=nnx.Rngs(0)))
POSITIONS = Positions(*(np.random.default_rng(0).integers(0, 5, (*shape, 3)) for shape in ((4,), (2, 3))))
PLAIN = {"rank": 2, "alpha": 3.0, "targets": ".*", "segments": (), "seed": 0}
RNG = np.random.default_rng(1)
ASKED = {
    "noisy": RNG.normal(size=(2, 4, 5)),
    "t": RNG.random(2),
    "text": RNG.normal(size=(2, 3, 6)),
    "pooled": RNG.normal(size=(2, 3)),
    "distilled_guidance": RNG.random(2),
}
SUBJECTS = Subjects(RNG.normal(size=(2, 2, 3, 5)), np.ones((2, 2), bool))
ASKED, SUBJECTS = jax.tree.map(lambda x: jnp.asarray(x, bool if x.dtype == bool else jnp.float32), (ASKED, SUBJECTS))


@pytest.fixture(scope="module")
def base(random_weights):
    return random_weights(SHAPES)


def adapted(base, *adapters, network=NETWORK, random=True):
    """A network and weights with these adapters, their b random or 0."""
    module = network.bind(base)
    for i, adapter in enumerate(adapters):
        append_adapter(module, **{"name": f"adapter{i}", **PLAIN, **adapter})
    network, params = split(module)
    rng = np.random.default_rng(7)
    fresh = {name for name in params if name.endswith(".b") and name not in base} if random else ()
    return network, params | {name: np.float32(rng.normal(size=params[name].shape)) for name in sorted(fresh)}


def draw(network, params, prepared=None):
    # Without jit: a compiler may add in another order when a layer has one term more.
    params = jax.tree.map(jnp.asarray, params)
    return np.asarray(network.bind(params)(positions=POSITIONS, subjects=SUBJECTS, prepared=prepared, **ASKED))


def prepare(network, params):
    parts = network.bind(jax.tree.map(jnp.asarray, params)).prepare(SUBJECTS, ASKED["pooled"], POSITIONS)
    return [np.asarray(part) for part in jax.tree.leaves(parts)]


def far(left, right):
    return np.abs(left - right).max() > 1e-3 * np.abs(right).max()


# One layer


SEGMENTS = (Segment("text", 0, 2), Segment("noisy", 2, 5))


@pytest.mark.parametrize("names, rows", [(("noisy",), [2, 3, 4]), (("text",), [0, 1]), ((), [0, 1, 2, 3, 4])])
def test_an_adapter_adds_to_its_tokens(names, rows):
    layer = Linear(3, 4, axes=("embed", "mlp"), rngs=nnx.Rngs(0))
    x = np.float32(RNG.normal(size=(2, 5, 3)))
    before = layer(x, SEGMENTS)
    append_adapter(nnx.Dict(layer=layer), "mine", **{**PLAIN, "segments": names})
    np.testing.assert_array_equal(layer(x, SEGMENTS), before)
    lora = layer.adapters["mine"]
    assert lora.a.axes == ("embed", None) and lora.b.axes == (None, "mlp")
    assert lora.a.shape == (3, 2) and lora.b.shape == (2, 4)
    lora.b.set_value(np.float32(RNG.normal(size=(2, 4))))
    expected = np.array(before)
    expected[:, rows] += 1.5 * (x @ lora.a[...] @ lora.b[...])[:, rows]  # alpha / rank
    np.testing.assert_allclose(layer(x, SEGMENTS), expected, rtol=1e-5, atol=1e-6)


def test_a_fresh_adapter_can_learn():
    layer = Linear(3, 4, rngs=nnx.Rngs(0))
    append_adapter(nnx.Dict(layer=layer), "mine", **{**PLAIN, "segments": ("noisy",)})
    network, params = split(layer)
    x = jnp.ones((1, 5, 3))
    gradients = jax.grad(lambda params: network.bind(params)(x, SEGMENTS)[:, 2:].sum())(params)
    assert jnp.abs(gradients["adapters.mine.b"]).min() > 0


def test_a_stack_adds_up():
    layer = Linear(3, 4, rngs=nnx.Rngs(0))
    x = np.float32(RNG.normal(size=(2, 5, 3)))
    outputs = [layer(x, SEGMENTS)]
    for name, segment in (("first", "noisy"), ("second", "noisy"), ("third", "text")):
        append_adapter(nnx.Dict(layer=layer), name, **{**PLAIN, "segments": (segment,), "seed": len(outputs)})
        layer.adapters[name].b.set_value(np.float32(RNG.normal(size=(2, 4))))
        outputs.append(layer(x, SEGMENTS))
    expected = outputs[0]
    for name, rows in (("first", slice(2, 5)), ("second", slice(2, 5)), ("third", slice(0, 2))):
        lora = layer.adapters[name]
        expected = expected.at[:, rows].add(1.5 * (x @ lora.a[...] @ lora.b[...])[:, rows])
    np.testing.assert_allclose(outputs[-1], expected, rtol=1e-5, atol=1e-6)
    assert far(layer.adapters["first"].a[...], layer.adapters["second"].a[...])


# The network


@pytest.mark.slow
def test_a_fresh_adapter_changes_nothing(base):
    network, params = adapted(base, {}, random=False)
    assert params.keys() - base.keys() == {name for name in params if adapter_of(name) == "adapter0"}
    np.testing.assert_array_equal(draw(network, params), draw(NETWORK, base))
    for mine, theirs in zip(prepare(network, params), prepare(NETWORK, base), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_an_adapter_on_picture_and_text(base):
    network, params = adapted(base, {"segments": ("noisy", "text")})
    prepared = prepare(NETWORK, base)
    for mine, theirs in zip(prepare(network, params), prepared, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert far(draw(network, params), draw(NETWORK, base))


def test_an_adapter_on_subjects(base):
    network, params = adapted(base, {"segments": ("subject",)})
    mine, theirs = prepare(network, params), prepare(NETWORK, base)
    assert all(far(left, right) for left, right in zip(mine, theirs, strict=True))
    # Given the same keys and values, the picture's own tokens pass through the bare network.
    prepared = list(zip(theirs[::2], theirs[1::2], strict=True))
    np.testing.assert_array_equal(draw(network, params, prepared), draw(NETWORK, base, prepared))
    assert far(draw(network, params), draw(NETWORK, base))


@pytest.mark.slow
def test_all_tokens_equal_a_merged_kernel(base):
    stack = {}, {"targets": ".*(to_[qkv]|out)", "rank": 1, "alpha": 0.5, "seed": 4}
    network, params = adapted(base, *stack)
    merged = dict(base)
    for name in params:
        if name.endswith(".a"):
            layer = name.partition(".adapters.")[0]
            scale = {"adapter0": 1.5, "adapter1": 0.5}[adapter_of(name)]
            merged[f"{layer}.kernel"] = merged[f"{layer}.kernel"] + scale * params[name] @ params[f"{name[:-1]}b"]
    expected = draw(NETWORK, merged)
    assert np.abs(draw(network, params) - expected).max() <= 1e-4 * np.abs(expected).max()
    assert far(draw(NETWORK, base), expected)


def test_naming_every_segment_is_naming_none(base):
    network, params = adapted(base, {"segments": ("subject", "text", "noisy")})
    everywhere, _ = adapted(base, {})
    np.testing.assert_array_equal(draw(network, params), draw(everywhere, params))


@pytest.mark.parametrize("targets", [r"single_blocks\.0\.modulation", r"time_in\.linear_1"])
def test_modulation_is_shared_by_text_and_picture(base, targets):
    call = partial(NETWORK.bind(base), positions=POSITIONS, **ASKED)
    whole = jax.eval_shape(call)
    for segments in (("noisy",), ("text", "subject")):
        network, params = adapted(base, {"segments": segments, "targets": targets})
        with pytest.raises(InputError, match="one modulation serves text and noisy tokens together; name all of them"):
            jax.eval_shape(partial(network.bind(params), positions=POSITIONS, **ASKED))
    for fine in ({"targets": targets, "segments": ("text", "noisy")}, {"targets": targets, "segments": ("subject",)}):
        network, params = adapted(base, fine)
        assert jax.eval_shape(partial(network.bind(params), positions=POSITIONS, **ASKED)).shape == whole.shape


def test_a_stream_has_a_modulation_of_its_own(base):
    network, params = adapted(base, {"segments": ("noisy",), "targets": r"double_blocks\.0\.(text|image)\.modulation"})
    text = "double_blocks.*.text.modulation.adapters.adapter0.b"
    changed = draw(network, params)
    assert far(changed, draw(NETWORK, base))
    np.testing.assert_array_equal(draw(network, params | {text: 2 * params[text]}), changed)


# Names


@pytest.mark.parametrize(
    "adapter, message",
    [
        ({"name": "taken"}, "adapter 'taken': names in a stack differ"),
        ({"name": "taken", "targets": "image_in"}, "adapter 'taken': names in a stack differ"),  # on another layer
        ({"name": "a.b"}, "adapter 'a.b': .* have no dots"),
        ({"name": "values"}, "adapter 'values'"),  # a method of the stack
        ({"rank": 0}, "rank 0: rank is an integer ≥ 1"),
        ({"rank": 2.0}, "rank 2.0"),
        ({"rank": 100_000}, r"rank 100000: the kernels that it adapts have ranks up to \d+, and more changes nothing"),
        ({"targets": "to_q"}, "targets 'to_q': they match dotted paths of linear layers"),  # the whole path
        ({"targets": "*.to_q"}, "targets '\\*.to_q': they are a regular expression"),
    ],
)
def test_wrong_adapters(base, adapter, message):
    with pytest.raises(InputError, match=message):
        adapted(base, {"name": "taken", "targets": "text_in"}, adapter)


def test_targets_match_whole_paths(base):
    _, params = adapted(base, {"targets": r".*blocks\..*\.to_[qk]"}, {"targets": "image_in"})
    layers = {name.partition(".adapters.")[0]: adapter_of(name) for name in params if adapter_of(name)}
    blocks = ["double_blocks.*.image", "double_blocks.*.text", "single_blocks.*"]
    assert layers == {f"{b}.attention.to_{x}": "adapter0" for b in blocks for x in "qk"} | {"image_in": "adapter1"}
    assert not any(adapter_of(name) for name in base)


# Files


def test_round_trip(base, tmp_path):
    _, params = adapted(base, {"name": "first"}, {"name": "second", "targets": "image_in"})
    made_with = AdapterOptions(**{**PLAIN, "segments": ("noisy", "text")})
    for name, count in (("first", 2 * len(linear_paths(NETWORK.bind(base)))), ("second", 2)):
        save_adapter(tmp_path / "adapter.safetensors", params, name, made_with, fingerprint(base))
        found, with_what, hash_of_base, weights = read_adapter(tmp_path / "adapter.safetensors")
        assert (found, with_what, hash_of_base) == (name, made_with, fingerprint(base))
        assert len(weights) == count
        again = stacked(weights, {key: value for key, value in params.items() if adapter_of(key) == name})
        for key, value in again.items():
            np.testing.assert_array_equal(value, params[key])


def test_two_adapters_are_one(base):
    """Of other ranks, alphas and targets: joined they draw what they did one on top of the other."""
    options = (
        AdapterOptions(2, 3.0, r"(image_in|single_blocks.*to_[qk])", ("noisy",)),
        AdapterOptions(1, 0.5, r"single_blocks.*to_[kv]", ("noisy",), 4),
    )
    network, params = adapted(base, *map(asdict, options))
    both = draw(network, params)
    made_with, whole = joined([(each, adapter_weights(params, f"adapter{i}")) for i, each in enumerate(options)])
    assert (made_with.rank, made_with.alpha, made_with.segments) == (3, 3.0, ("noisy",))
    targets = "|".join(each.targets for each in options)
    network, params = adapted(base, {**asdict(made_with), "targets": targets, "name": "adapter1"})
    fresh = {key: value for key, value in params.items() if adapter_of(key)}
    np.testing.assert_allclose(draw(network, params | stacked(whole, fresh)), both, rtol=1e-5, atol=1e-5)
    assert far(both, draw(NETWORK, base))
    with pytest.raises(InputError, match="adapters on all and on text tokens: one LoRA acts on the same tokens"):
        joined([(replace(made_with, segments=kind), whole) for kind in ((), ("text",))])


def test_wrong_files(base, tmp_path):
    path = tmp_path / "adapter.safetensors"
    unreadable = r"adapter.safetensors: it is no readable weights file"
    with pytest.raises(InputError, match=unreadable):
        read_adapter(path)
    path.write_bytes(b"no safetensors at all")
    with pytest.raises(InputError, match=unreadable):
        read_adapter(path)
    wrong = ("{", "[]", '{"rank": 2}', json.dumps({**PLAIN, "rank": "2"}), json.dumps({**PLAIN, "more": 1}))
    described = [{"name": "x", "base": "y", "made_with": text} for text in wrong]
    for metadata in (None, {"format": "pt"}, *described):
        save_file({"a": np.ones(3, np.float32)}, path, metadata=metadata)
        with pytest.raises(InputError, match=r"adapter.safetensors: it is no adapter .*; train or copy it again"):
            read_adapter(path)
    weights = adapted(base, {})[1]
    save_adapter(path, weights, "adapter0", AdapterOptions(**PLAIN), "base")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(InputError, match=unreadable):
        read_adapter(path)
    a = "image_in.adapters.adapter0.a"
    save_adapter(path, weights | {a: weights[a] + np.nan}, "adapter0", AdapterOptions(**PLAIN), "base")
    with pytest.raises(InputError, match=f"10 of the 10 numbers of {a} are not finite"):
        read_adapter(path)


@pytest.fixture(scope="module")
def saved(tiny_generator, tmp_path_factory):
    """An adapter's file, its weights and what it was made with; `write` saves others under its name."""
    generator, params = tiny_generator
    made_with = AdapterOptions(rank=2, alpha=3.0, targets=r"single_blocks.*to_[qk]", segments=("noisy",), seed=5)
    _, fresh = generator.with_adapter(params, "mine", **asdict(made_with))
    rng = np.random.default_rng(3)
    weights = {n: np.float32(rng.normal(size=fresh[n].shape)) for n in fresh if n not in params}
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    base = fingerprint(below(TRANSFORMER, params))  # of the denoiser alone: whatever reads the prompts

    def write(weights=weights, made_with=made_with):
        save_adapter(path, weights, "mine", made_with, base)
        return path

    return write, weights, made_with


def test_an_adapter_comes_back_onto_its_generator(tiny_generator, saved):
    write, weights, _ = saved
    _, found = with_saved_adapter(write(), *tiny_generator)
    assert found.keys() == weights.keys() | tiny_generator[1].keys()
    for name, value in (tiny_generator[1] | weights).items():
        np.testing.assert_array_equal(found[name], value)


Q, K = (f"transformer.single_blocks.*.attention.to_{x}.adapters.mine" for x in "qk")
Q0, K0 = (layer.replace("*", "0") for layer in (Q, K))  # on disk


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda weights: {n: w for n, w in weights.items() if n != f"{Q}.b"}, rf"1 missing \({Q0}.b\);"),
        (
            lambda weights: weights | {"transformer.out.adapters.mine.a": np.ones((1, 1))},
            r"1 unexpected \(transformer.out.adapters.mine.a\);",
        ),
        (
            lambda weights: weights | {f"{K}.a": weights[f"{K}.a"][:, :-1]},
            rf"1 of another shape \({K0}.a \[31, 2\] for",
        ),
        (lambda weights: {n.replace("to_q", "to_v"): w for n, w in weights.items()}, r"2 missing .*, 2 unexpected"),
    ],
)
def test_an_adapter_with_other_arrays(tiny_generator, saved, change, message):
    write, weights, _ = saved
    with pytest.raises(InputError, match=r"adapter\.safetensors: its arrays are not this network's: " + message):
        with_saved_adapter(write(change(weights)), *tiny_generator)


@pytest.mark.slow
def test_an_adapter_of_another_network(tiny_generator, saved):
    """Its own description and arrays agree; what does not fit is the generator, or only its weights."""
    write, _, made_with = saved
    with pytest.raises(InputError, match=r"4 of another shape .* \[32, 2\] for \[32, 3\]"):
        with_saved_adapter(write(made_with=replace(made_with, rank=3)), *tiny_generator)

    def untrained(**changes):
        preset = replace(TINY_FLOW, transformer=replace(TINY_FLOW.transformer, **changes))
        return preset.load(preset.Options(weights="random"), seed=0)

    with pytest.raises(InputError, match=r"4 of another shape .* \[32, 2\] for \[48, 2\]"):
        with_saved_adapter(write(), *untrained(heads=3))
    with pytest.raises(InputError, match=r"targets .*: they match dotted paths of linear layers"):
        with_saved_adapter(write(), *untrained(single_blocks=0))
    with pytest.raises(InputError, match=r"trained on a base with hash \w{16}, this one has .*; give the generator it"):
        with_saved_adapter(write(), *untrained())


def test_an_adapter_does_not_ask_who_reads_the_prompts(tiny_generator, saved):
    write, weights, _ = saved
    generator, params = tiny_generator
    others = {name: value + 1 if name.startswith("text_encoder.") else value for name, value in params.items()}
    _, found = with_saved_adapter(write(), generator, others)
    assert found.keys() == weights.keys() | params.keys()


def test_fingerprint(base):
    known = fingerprint(base)
    assert fingerprint(dict(reversed(base.items()))) == known
    for name, value in base.items():
        nudged = value.copy()
        nudged.flat[-1] = np.nextafter(nudged.flat[-1], 9, dtype=np.float32)
        assert fingerprint(base | {name: nudged}) != known, name
    to_q, to_k = (f"single_blocks.*.attention.to_{x}.kernel" for x in "qk")
    assert fingerprint(base | {to_q: base[to_k], to_k: base[to_q]}) != known
    assert fingerprint({name: value for name, value in base.items() if name != "out.bias"}) != known
