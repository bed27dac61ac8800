"""Weights round-trip through published names and layouts, open in transformers, and wrong files are refused."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from narrative_jax.core.errors import InputError
from narrative_jax.models.checkpoints import (
    CONV,
    LINEAR,
    Published,
    load_weights,
    published_names,
    read_arrays,
    save_weights,
    stored_shapes,
)
from narrative_jax.models.clip import CLIP_NAMES, Clip, ClipTextConfig, ClipVisionConfig
from narrative_jax.models.network import split

NAMES = {
    "embedding": Published("tokens.weight"),
    "blocks.*.parts.*.map": "layers.*.of.*.proj",
    "blocks.*.norm": "layers.*.ln",
    "patches": Published("patch.weight", CONV),
    "conv": "conv_in",
    "norm": "bn",
    "scale": Published("logit_scale"),
}
SHAPES = {
    "embedding": (6, 2),
    "blocks.0.parts.11.map.kernel": (2, 3),
    "blocks.10.parts.0.map.kernel": (4, 2),
    "blocks.10.parts.0.map.bias": (2,),
    "blocks.0.norm.scale": (2,),
    "patches": (2, 4, 3, 5),
    "conv.kernel": (4, 3, 2, 6),
    "norm.mean": (3,),
    "norm.variance": (3,),
    "norm.slope": (3,),
    "scale": (),
}


def weights(seed=0):
    rng = np.random.default_rng(seed)
    return {name: jnp.float32(rng.normal(size=shape)) for name, shape in SHAPES.items()}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(path, weights(), NAMES, jnp.float32)
    return path


def test_published_names():
    assert published_names(weights(), NAMES) == {
        "embedding": Published("tokens.weight"),
        "blocks.0.parts.11.map.kernel": Published("layers.0.of.11.proj.weight", LINEAR),
        "blocks.10.parts.0.map.kernel": Published("layers.10.of.0.proj.weight", LINEAR),
        "blocks.10.parts.0.map.bias": Published("layers.10.of.0.proj.bias"),
        "blocks.0.norm.scale": Published("layers.0.ln.weight"),
        "patches": Published("patch.weight", CONV),
        "conv.kernel": Published("conv_in.weight", CONV),
        "norm.mean": Published("bn.running_mean"),
        "norm.variance": Published("bn.running_var"),
        "norm.slope": Published("bn.weight"),
        "scale": Published("logit_scale"),
    }
    with pytest.raises(KeyError, match="other"):
        published_names({"other.kernel": jnp.zeros((2, 2))}, NAMES)


def test_layouts_are_torchs(saved):
    ours, theirs = weights(), load_file(saved)
    np.testing.assert_array_equal(theirs["layers.0.of.11.proj.weight"], ours["blocks.0.parts.11.map.kernel"].T)
    assert theirs["conv_in.weight"].shape == (6, 2, 4, 3)
    np.testing.assert_array_equal(theirs["patch.weight"][4, 1], ours["patches"][:, :, 1, 4])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_round_trip(tmp_path, dtype):
    path = tmp_path / "weights.safetensors"
    save_weights(path, weights(), NAMES, dtype, {"seed": "3"})
    loaded = load_weights(path, weights(seed=1), NAMES)
    assert loaded.keys() == SHAPES.keys()
    for name, value in weights().items():
        assert loaded[name].dtype == jnp.float32
        np.testing.assert_array_equal(loaded[name], value.astype(dtype).astype(jnp.float32))
    halves = load_weights(path, jax.eval_shape(weights), NAMES, jnp.bfloat16)
    assert {value.dtype for value in halves.values()} == {jnp.dtype(jnp.bfloat16)}
    with safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"format": "pt", "seed": "3"}


def test_loads_onto_a_mesh(saved):
    mesh = Mesh(jax.devices()[:2], ("fsdp",))  # of one device where there is but one

    def spread(shape):
        sharding = NamedSharding(mesh, PartitionSpec("fsdp") if shape else PartitionSpec())
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding)

    like = {name: spread(shape) for name, shape in SHAPES.items()}
    loaded = load_weights(saved, like, NAMES)
    for name, value in weights().items():
        assert loaded[name].sharding == like[name].sharding
        np.testing.assert_array_equal(loaded[name], value)


def eight_bits(path, arrays, kind, dtype):
    """Write a safetensors file of a type that numpy lacks."""
    data, header = b"", {}
    for key, value in arrays.items():
        part = np.asarray(value).astype(dtype).tobytes()
        header[key] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(part)]}
        data += part
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize("kind, dtype", [("F8_E4M3", jnp.float8_e4m3fn), ("F8_E5M2", jnp.float8_e5m2)])
def test_floats_of_8_bits(saved, kind, dtype):
    eight_bits(saved, load_file(saved), kind, dtype)
    assert stored_shapes(saved)["conv_in.weight"] == (6, 2, 4, 3)
    for name, value in load_weights(saved, weights(seed=1), NAMES).items():
        np.testing.assert_array_equal(value, weights()[name].astype(dtype).astype(jnp.float32))
    arrays, metadata = read_arrays(saved)
    assert metadata == {} and arrays["conv_in.weight"].dtype == dtype
    torch = pytest.importorskip("torch")
    theirs = pytest.importorskip("safetensors.torch").load_file(saved)
    np.testing.assert_array_equal(np.float32(arrays["conv_in.weight"]), theirs["conv_in.weight"].to(torch.float32))


def test_other_types_are_refused_in_words(saved):
    eight_bits(saved, {"scales": np.ones(3)}, "F8_E8M0", np.uint8)
    for read in (read_arrays, stored_shapes):
        with pytest.raises(InputError, match="scales is of type F8_E8M0, which is not read; convert it"):
            read(saved)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16, jnp.float8_e5m2])
def test_numbers_that_are_not_finite(saved, wrong, dtype):
    tensors = {key: np.array(value) for key, value in load_file(saved).items()}
    tensors["conv_in.weight"][1, 0, 2, 1] = wrong
    if dtype == jnp.float8_e5m2:
        eight_bits(saved, tensors, "F8_E5M2", dtype)
    else:
        save_file({key: value.astype(dtype) for key, value in tensors.items()}, saved)
    message = r"weights.safetensors: 1 of the 144 numbers of conv_in.weight are not finite; copy"
    with pytest.raises(InputError, match=message):
        load_weights(saved, weights(), NAMES)
    with pytest.raises(InputError, match=message):
        read_arrays(saved)


def test_numbers_of_torch_files_that_are_not_finite(saved, tmp_path):
    torch = pytest.importorskip("torch")
    state = {key: torch.from_numpy(np.array(value)) for key, value in load_file(saved).items()}
    state["bn.running_mean"][:2] = torch.nan
    torch.save(state, tmp_path / "weights.bin")
    with pytest.raises(InputError, match=r"weights.bin: 2 of the 3 numbers of bn.running_mean are not finite"):
        load_weights(tmp_path / "weights.bin", weights(), NAMES)


def test_numbers_that_the_type_asked_for_cannot_hold(saved):
    save_file({**load_file(saved), "logit_scale": np.array(1e9, np.float32)}, saved)
    with pytest.raises(InputError, match="logit_scale are not finite"):
        load_weights(saved, weights(), NAMES, jnp.float16)


def test_a_file_in_several_parts(saved, tmp_path):
    tensors = load_file(saved)
    files = {key: f"part-{i % 2}.safetensors" for i, key in enumerate(tensors)}
    for file in set(files.values()):
        save_file({key: value for key, value in tensors.items() if files[key] == file}, tmp_path / file)
    index = tmp_path / "weights.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    for name, value in load_weights(index, weights(seed=1), NAMES).items():
        np.testing.assert_array_equal(value, weights()[name])
    (tmp_path / "part-1.safetensors").unlink()
    with pytest.raises(InputError, match=r"part-1.safetensors: it is no readable weights file"):
        load_weights(index, weights(), NAMES)
    index.write_text("{")
    with pytest.raises(InputError, match=r"index.json: it is no readable weights file"):
        load_weights(index, weights(), NAMES)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-3], lambda data: data[:20], lambda data: b"", lambda data: b"x" * 99]
)
def test_corrupt_file(saved, damage):
    saved.write_bytes(damage(saved.read_bytes()))
    with pytest.raises(InputError, match=r"weights.safetensors: it is no readable weights file \(.+\); copy"):
        load_weights(saved, weights(), NAMES)


def test_missing_file(tmp_path):
    for path in (tmp_path / "none.safetensors", tmp_path, tmp_path / "none.json"):
        with pytest.raises(InputError, match=re.escape(f"{path}: it is no readable weights file")):
            load_weights(path, weights(), NAMES)


def test_a_file_of_another_network(saved):
    wanted = weights() | {"conv.kernel": jnp.zeros((4, 3, 2, 9)), "blocks.3.norm.scale": jnp.zeros(2)}
    del wanted["scale"]
    message = (
        f"{saved}: its arrays are not this network's: 1 missing (layers.3.ln.weight), 1 unexpected (logit_scale), "
        "1 of another shape (conv_in.weight [6, 2, 4, 3] for [9, 2, 4, 3]); give weights of this architecture and size"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        load_weights(saved, wanted, NAMES)
    more = weights() | {f"blocks.{i}.norm.bias": jnp.zeros(2) for i in range(5)}
    with pytest.raises(InputError, match=r"5 missing \(layers.0.ln.bias, layers.1.ln.bias, layers.2.ln.bias, …\)"):
        load_weights(saved, more, NAMES)


def test_buffers_of_torch_are_no_weights(saved):
    buffers = {"embeddings.position_ids": np.arange(7), "bn.num_batches_tracked": np.array(9)}
    save_file(load_file(saved) | buffers, saved)
    assert load_weights(saved, weights(), NAMES).keys() == SHAPES.keys()


def test_unwritable_place(tmp_path):
    with pytest.raises(InputError, match="it cannot be written"):
        save_weights(tmp_path / "none" / "weights.safetensors", weights(), NAMES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.slow
def test_opens_in_transformers(tmp_path, dtype):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    load_torch = pytest.importorskip("safetensors.torch").load_file
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 24}
    text = ClipTextConfig(99, 13, 16, 2, 2, 24, 12, 98)
    vision = ClipVisionConfig(30, 7, 16, 2, 2, 24, 12)
    _, params = split(Clip(text, vision, rngs=nnx.Rngs(0)))
    path = tmp_path / "model.safetensors"
    save_weights(path, params, CLIP_NAMES, jnp.dtype(dtype))
    config = transformers.CLIPConfig(
        text_config=sizes | {"vocab_size": 99, "max_position_embeddings": 13, "eos_token_id": 98, "bos_token_id": 0},
        vision_config=sizes | {"image_size": 30, "patch_size": 7},
        projection_dim=12,
    )
    theirs = transformers.CLIPModel(config).to(getattr(torch, dtype))
    state = load_torch(path)
    assert {value.dtype for value in state.values()} == {getattr(torch, dtype)}
    theirs.load_state_dict(state, strict=True)
    kernel = np.asarray(params["text.blocks.*.mlp_in.kernel"][1].astype(dtype).astype(jnp.float32))
    weight = theirs.text_model.encoder.layers[1].mlp.fc1.weight.detach().float().numpy()
    np.testing.assert_array_equal(weight, kernel.T)
