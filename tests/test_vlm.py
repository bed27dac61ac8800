"""Qwen2-VL equals transformers' with random weights: logits, positions, what it writes, published names."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import published_shapes, relative_error
from small_vlm import BUCKET, PICTURE, SHAPES, TIED, UNTIED, VOCABULARY, batch, prompt, prompts

from narrative_jax.models.checkpoints import save_weights
from narrative_jax.models.lora import append_adapter, linear_paths
from narrative_jax.models.network import abstract, split
from narrative_jax.models.vlm import Vlm, VlmInputs, last_of
from narrative_jax.models.vlm_files import QWEN2_VL_MODULES, QWEN2_VL_NAMES, QWEN2_VL_SIZES, load_vlm_weights
from narrative_jax.models.vlm_inputs import Interleaved, collate
from narrative_jax.models.vlm_writing import write

CASES = {"tied": TIED, "untied": UNTIED}
LENGTH, PAD = 9, 0  # of what is written


def structure(config):
    return abstract(lambda: Vlm(config, rngs=nnx.Rngs(0)))


def model(config):
    """transformers' model of these sizes."""
    transformers = pytest.importorskip("transformers")
    words = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.blocks,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_heads,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(config.sections)},
        "bos_token_id": None,
        "eos_token_id": None,
    }
    vision = {
        "depth": config.vision.blocks,
        "embed_dim": config.vision.width,
        "hidden_size": config.width,
        "num_heads": config.vision.heads,
        "mlp_ratio": config.vision.mlp_width // config.vision.width,
        "patch_size": config.vision.patch_size,
        "spatial_merge_size": config.vision.merge,
    }
    sizes = transformers.Qwen2VLConfig(
        text_config=words, vision_config=vision, tie_word_embeddings=config.tied, image_token_id=PICTURE
    )
    return transformers.Qwen2VLForConditionalGeneration(sizes)


@pytest.fixture(scope="module", params=CASES)
def models(request, tmp_path_factory):
    """Sizes, transformers' model with random weights everywhere, ours with what it saves in several files."""
    torch = pytest.importorskip("torch")
    config = CASES[request.param]
    torch.manual_seed(0)
    theirs = model(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    folder = tmp_path_factory.mktemp("vlm")
    theirs.save_pretrained(folder, max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    network, shapes = structure(config)
    return config, theirs, network, load_vlm_weights(folder, shapes)


ONE_SIZE = pytest.mark.parametrize("models", ["tied"], indirect=True)


def asked(config, rows, left=False):
    """What transformers' model is asked about these rows of `prompts`."""
    import torch

    given, read = batch(config), prompts(config)
    lengths = given.mask.sum(1)
    longest = max(lengths[row] for row in rows)

    def put(values):
        out = np.zeros((len(rows), longest), np.int64)
        for place, row in enumerate(rows):
            start = longest - lengths[row] if left else 0
            out[place, start : start + lengths[row]] = values[row, : lengths[row]]
        return torch.tensor(out)

    found = {"input_ids": put(given.tokens), "attention_mask": put(given.mask)}
    pictures = [picture for row in rows for picture in read[row].pictures]
    if pictures:
        patches = np.concatenate([each.patches for each in pictures]).reshape(-1, 3, 1, config.vision.patch_size**2)
        found["pixel_values"] = torch.tensor(patches.repeat(2, axis=2).reshape(len(patches), -1))
        found["image_grid_thw"] = torch.tensor([[1, each.rows, each.columns] for each in pictures])
        found["mm_token_type_ids"] = (found["input_ids"] == PICTURE).int()
    return found


@pytest.fixture(scope="module")
def logits():
    """Logits by network, weights and prompts; compiled once for all of a network's."""
    compiled = {}

    def find(network, params, prompts):
        def run(params, prompts):
            module = network.bind(params)
            return module.logits(module(prompts))

        return compiled.setdefault(id(network), jax.jit(run))(params, prompts)

    return find


def test_logits(models, logits):
    """Of each prompt, padded in a batch with the others, and by itself in transformers."""
    import torch

    config, theirs, network, params = models
    given = batch(config)
    found = logits(network, params, given)
    assert np.isfinite(found).all()
    for row, count in enumerate(given.mask.sum(1)):
        with torch.no_grad():
            expected = theirs(**asked(config, [row])).logits
        assert relative_error(found[row, :count], expected[0]) <= 1e-4


def test_padding_on_the_left(models, logits):
    config, _, network, params = models
    given = batch(config)
    right = logits(network, params, given)
    spare = [BUCKET["length"] - count for count in given.mask.sum(1)]

    def moved(values):
        return np.stack([np.roll(row, places, axis=0) for row, places in zip(values, spare, strict=True)])

    left = given._replace(**{name: moved(getattr(given, name)) for name in ("tokens", "mask", "positions", "shown")})
    there = left.mask[..., None]
    np.testing.assert_allclose(logits(network, params, left) * there, moved(right) * there, atol=2e-5)


@ONE_SIZE
def test_words_alone_need_no_patches(models, logits):
    config, _, network, params = models
    told = prompts(config)[2:] * 3
    none = collate(told, BUCKET["length"], 0, PICTURE, config.vision)
    expected = logits(network, params, batch(config, told))
    np.testing.assert_allclose(logits(network, params, none), expected, atol=1e-5)


@ONE_SIZE
def test_pictures_of_one_size_need_not_be_told_apart(models, logits):
    """Two and one of them, and room for a third, as rows of their own."""
    config, _, network, params = models
    sizes = ([SHAPES[0]] * 2, [SHAPES[0]])
    told = [prompt(config, shapes, 4, seed) for seed, shapes in enumerate(sizes)]
    count = len(told[1].pictures[0].patches)
    given = collate(told, BUCKET["length"], 3 * count, PICTURE, config.vision)
    apart = given._replace(**{name: getattr(given, name).reshape(2, 3, count, -1) for name in ("patches", "cells")})
    there = given.mask[..., None]
    expected = logits(network, params, given) * there
    np.testing.assert_allclose(logits(network, params, apart) * there, expected, atol=1e-5)


@ONE_SIZE
@pytest.mark.slow
def test_more_room_for_patches_changes_nothing(models):
    config, _, network, params = models
    given = batch(config, prompts(config)[:1] * 2)
    module = network.bind(params)
    seen = [
        module.vision(given.patches[:2, :p], given.cells[:2, :p], given.pictures[:2, :p], "xla", scanned=True)
        for p in (216, 144)
    ]
    used = (given.pictures[:2, :144] >= 0).sum(1) // config.vision.merge**2
    assert (given.pictures[:2, 144:] < 0).all() and used.min() > 0
    for row, count in enumerate(used):
        np.testing.assert_allclose(seen[0][row, :count], seen[1][row, :count], atol=1e-5)


def test_positions(models):
    config, theirs, _, _ = models
    given = asked(config, [0, 1, 2], left=True)
    expected, _ = theirs.model.get_rope_index(
        **{name: given[name] for name in ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")}
    )
    ours = batch(config)
    for row in range(3):
        there = given["attention_mask"][row].bool()
        np.testing.assert_array_equal(ours.positions[row][ours.mask[row]], expected[:, row, there].T)


def writer(network, ends=(), sampled=False, times=1):
    def run(params, prompts, keys=None, temperature=1.0):
        module = network.bind(params)
        hidden, cache = module.read(prompts)
        last = jnp.repeat(last_of(hidden, prompts.mask)[:, None], times, axis=1)
        drawn = {"keys": keys, "temperature": temperature} if sampled else {}
        return write(module, last, cache.branched(times), length=LENGTH, ends=ends, pad=PAD, **drawn)

    return jax.jit(run)


def test_greedy_writing(models):
    """As transformers does it, to the same end token, in one compilation."""
    config, theirs, network, params = models
    given = asked(config, [0, 1, 2], left=True)
    start = given["input_ids"].shape[1]
    options = {"max_new_tokens": LENGTH, "do_sample": False, "pad_token_id": PAD}
    free = theirs.generate(**given, **options)[:, start:].numpy()
    end = next(int(row[at]) for row in free for at in range(2, LENGTH) if row[at] not in row[:at])
    expected = theirs.generate(**given, **options, eos_token_id=end)[:, start:].numpy()
    run = writer(network, (end,))
    found = run(params, batch(config))
    np.testing.assert_array_equal(found.tokens[:, 0, : expected.shape[1]], expected)
    assert not np.any(found.tokens[:, 0, expected.shape[1] :])
    lengths = [list(row).index(end) + 1 if end in row else LENGTH for row in free]
    assert list(found.lengths[:, 0]) == lengths and min(lengths) < LENGTH
    run(params, batch(config, prompts(config)[::-1]))
    assert run._cache_size() == 1


@ONE_SIZE
def test_several_ways_to_go_on_share_what_was_read(models):
    """Three endings of different lengths for two prompts, as if each had been read whole."""
    config, _, network, params = models
    begun = [prompt(config, SHAPES[:1], 4, 1), prompt(config, SHAPES[1:3], 2, 2)]
    endings = [np.arange(count, dtype=np.int32) + 7 for count in (2, 5, 3)]
    whole = [Interleaved(np.concatenate([one.tokens, end]), one.pictures) for one in begun for end in endings]

    @jax.jit
    def shared(params, prompts, tokens, mask):
        module = network.bind(params)
        _, cache = module.read(prompts)
        hidden, cache = module.read_on(tokens, mask, cache.branched(3))
        return write(module, last_of(hidden, mask), cache, length=LENGTH, ends=(), pad=PAD)

    mask = np.arange(5) < np.array([len(end) for end in endings])[:, None]
    tokens = np.stack([np.pad(end, (0, 5 - len(end))) for end in endings])
    found = shared(params, batch(config, begun), *(np.stack([each] * 2) for each in (tokens, mask)))
    expected = writer(network)(params, batch(config, whole)).tokens[:, 0]
    np.testing.assert_array_equal(found.tokens.reshape(expected.shape), expected)
    assert len(np.unique(expected, axis=0)) > 3


@ONE_SIZE
@pytest.mark.slow
def test_drawn_tokens(models, logits):
    """As often as their probabilities say; a row's own whatever is beside it."""
    config, _, network, params = models
    rows, temperature = 3000, 3.0
    keys = jax.random.split(jax.random.key(0), (rows // 3, 3))
    run = writer(network, sampled=True, times=3)
    one = batch(config, prompts(config)[:1])
    many = VlmInputs(*(np.repeat(part, rows // 3, axis=0) for part in one))
    found = run(params, many, keys, temperature).tokens.reshape(rows, LENGTH)
    last = one.mask.sum() - 1
    weights = jax.nn.softmax(logits(network, params, one)[0, last] / temperature)
    share = np.bincount(found[:, 0], minlength=VOCABULARY) / rows
    assert np.abs(share - weights).max() <= 4 * 0.5 / math.sqrt(rows)
    assert len(np.unique(found, axis=0)) > rows / 2
    few = run(params, one, keys[:1], temperature).tokens
    np.testing.assert_array_equal(few[0], found[:3])


def loss(module, given):
    """The mean surprise of each next token that is there."""
    told = jax.nn.log_softmax(module.logits(module(given)[:, :-1]))
    right = jnp.take_along_axis(told, jnp.asarray(given.tokens)[:, 1:, None], axis=2)[..., 0]
    return -(right * given.mask[:, 1:]).sum() / given.mask[:, 1:].sum()


@ONE_SIZE
@pytest.mark.parametrize(
    "ways",
    [
        [{"kept": "attention"}],
        pytest.param([{}, {"kept": "nothing"}, {"scanned": False, "kept": "nothing"}], marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_gradients_scanned_and_unrolled(models, ways):
    config, _, _, params = models
    given, found = batch(config), []
    for way in ({"scanned": False}, *ways):
        network, _ = structure(replace(config, **way))
        run = jax.value_and_grad(lambda params, network=network: loss(network.bind(params), given))
        found.append(jax.jit(run)(params))
    value, gradients = found[0]
    assert np.isfinite(value) and gradients.keys() == params.keys()
    largest = max(np.abs(gradient).max() for gradient in gradients.values())
    for name, gradient in gradients.items():
        # A key's bias adds the same to all of a query's logits, but where positions turn it.
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 1e-6 * largest, name
        for other in found[1:]:
            assert np.abs(other[1][name] - gradient).max() <= 1e-5 * largest, name


@ONE_SIZE
def test_computing_in_bfloat16(models, logits):
    config, _, network, params = models
    given = batch(config)
    full = logits(network, params, given)
    half, _ = structure(replace(config, compute="bfloat16"))
    rough = logits(half, params, given)
    assert rough.dtype == jnp.float32
    apart = np.abs(rough - full)[given.mask]
    assert 1e-4 < apart.max() / np.abs(full[given.mask]).max() < 0.1


@ONE_SIZE
@pytest.mark.slow
def test_an_adapter(models, logits):
    """It changes nothing at first, and learns in the blocks that it is for, of tower and decoder."""
    config, _, network, params = models
    given, module = batch(config), network.bind(params)
    targets = r"(vision\.)?blocks\.0\.(query|mlp_out|qkv)"
    append_adapter(module, "judge", rank=2, alpha=4.0, targets=targets, segments=(), seed=0)
    adapted, all_params = split(module)
    base = logits(network, params, given)
    np.testing.assert_array_equal(logits(adapted, all_params, given), base)
    mine = {name: value for name, value in all_params.items() if ".adapters.judge." in name}
    assert len(mine) == 8 and {"vision.merge_in", "blocks.1.mlp_gate"} < set(linear_paths(network.bind(params)))
    learn = jax.jit(jax.value_and_grad(lambda mine: loss(adapted.bind({**all_params, **mine}), given)))
    before, gradients = learn(mine)
    for name, gradient in gradients.items():
        if name.endswith(".b"):
            assert np.any(gradient[0]) and not np.any(gradient[1:]), name
    moved = {name: value - 0.05 * gradients[name] for name, value in mine.items()}
    assert learn(moved)[0] < before


TOWER_WEIGHTS = {"2B": 665_271_296, "7B": 675_759_104}
WEIGHTS = {"2B": 2_208_985_600, "7B": 8_291_375_616}


@pytest.mark.parametrize("size", WEIGHTS)
def test_names_cover_the_published_sizes(size):
    torch = pytest.importorskip("torch")
    config = QWEN2_VL_SIZES[size]
    with torch.device("meta"):
        state = model(config).state_dict()
    modules = {key: tuple(value.shape) for key, value in state.items()}
    if config.tied:
        assert modules.pop("lm_head.weight") == modules["model.language_model.embed_tokens.weight"]
    published = {
        re.sub(r"^model\.visual\.", "visual.", re.sub(r"^model\.language_model\.", "model.", key)): shape
        for key, shape in modules.items()
    }
    _, shapes = structure(config)
    assert published_shapes(shapes, QWEN2_VL_MODULES) == modules
    assert published_shapes(shapes, QWEN2_VL_NAMES) == published
    assert sum(math.prod(shape) for shape in published.values()) == WEIGHTS[size]
    tower = [math.prod(shape) for key, shape in published.items() if key.startswith("visual.")]
    assert sum(tower) == TOWER_WEIGHTS[size]
    # What no shape shows: heads of 128 in the decoder and of 80 in the tower.
    assert config.width == 128 * config.heads == 2 * config.heads * sum(config.sections)
    assert config.vision.width == 80 * config.vision.heads


@ONE_SIZE
def test_files_in_the_names_of_modules(models, tmp_path):
    *_, params = models
    save_weights(tmp_path / "model.safetensors", params, QWEN2_VL_MODULES, jnp.float32)
    again = load_vlm_weights(tmp_path, {name: jax.eval_shape(lambda w=w: w) for name, w in params.items()})
    for name, value in params.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.slow
def test_on_eight_devices(tmp_path):
    """Weights spread as they are loaded; loss, gradients and tokens equal those on one device."""
    script, out = Path(__file__).with_name("vlm_on_meshes.py"), tmp_path / "found.json"
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, script, out], env={**os.environ, **flags}, check=True)
    found = json.loads(out.read_text())
    one = found.pop("one")
    assert len(found) == 3 and not one["spread"]
    for mesh, each in found.items():
        assert each["laid"] and each["spread"] >= 20, mesh
        assert each["tokens"] == one["tokens"]
        assert abs(each["loss"] - one["loss"]) <= 1e-5 * one["loss"]
        for name, expected in one["gradients"].items():
            np.testing.assert_allclose(each["gradients"][name], expected, rtol=1e-3, atol=1e-6, err_msg=name)
