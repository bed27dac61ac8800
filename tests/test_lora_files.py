"""LoRA files between us, diffusers and PEFT: the same pictures either way, and what is refused."""

import json
from dataclasses import asdict, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from narrative_jax.core.errors import InputError
from narrative_jax.models.checkpoints import published_names
from narrative_jax.models.flow_transformer import (
    FLUX_NAMES,
    FlowTransformer,
    FlowTransformerConfig,
    Positions,
    Subjects,
    tokens_of,
)
from narrative_jax.models.layers import Linear
from narrative_jax.models.lora import AdapterOptions, append_adapter, linear_paths
from narrative_jax.models.lora_files import CONFIG, NAME, WEIGHTS, read_lora, save_lora
from narrative_jax.models.network import abstract, split

SIZES = FlowTransformerConfig(6, 2, (4, 2, 2), 1, 2, text_dim=9, pooled_dim=7, distilled_guidance=True)
NETWORK, SHAPES = abstract(lambda: FlowTransformer(SIZES, rngs=nnx.Rngs(0)))
PLACES = np.stack(np.broadcast_arrays(0, *np.mgrid[:3, :2]), -1).reshape(-1, 3)
RNG = np.random.default_rng(0)
ASKED = {
    "noisy": RNG.normal(size=(2, 6, 6)),
    "t": np.array([0.2, 0.9]),
    "text": RNG.normal(size=(2, 4, 9)),
    "pooled": RNG.normal(size=(2, 7)),
    "distilled_guidance": np.array([1.0, 3.5]),
}
ASKED = {name: np.float32(value) for name, value in ASKED.items()}
BLOCKS = r".*_blocks\.\d+\.(image\.|text\.)?(attention\.to_[qkv]|to_out|mlp_in|mlp_out|out)"  # configs/adpo.py
ALL = AdapterOptions(rank=3, alpha=0.7, targets=".*", segments=(), seed=4)
USUAL = AdapterOptions(rank=2, alpha=4.0, targets=BLOCKS, segments=("noisy", "text"), seed=4)
PART = "transformer"  # what pipelines call the network
Q = "transformer_blocks.0.attn.to_q"


@pytest.fixture(scope="module")
def base(random_weights):
    return random_weights(SHAPES)


def adapted(base, made_with, name="mine"):
    """A network with an adapter, and its weights, none of them 0."""
    module = NETWORK.bind(base)
    append_adapter(module, name, **asdict(made_with))
    network, params = split(module)
    rng = np.random.default_rng(7)
    return network, {n: np.float32(rng.normal(size=w.shape)) for n, w in params.items() if n not in base}


def drawn(network, params):
    params = jax.tree.map(jnp.asarray, params)
    return np.asarray(network.bind(params)(positions=Positions(PLACES, None), **ASKED))


def with_file(base, path):
    """What our network draws with the adapter of a file."""
    name, made_with, _, weights = read_lora(path, base, FLUX_NAMES, PART)
    network, fresh = adapted(base, made_with, name)
    assert {n: w.shape for n, w in fresh.items()} == {n: w.shape for n, w in weights.items()}
    return drawn(network, base | weights)


def flux(base):
    """diffusers' model with our weights."""
    diffusers, torch = pytest.importorskip("diffusers"), pytest.importorskip("torch")
    model = diffusers.FluxTransformer2DModel(
        in_channels=SIZES.channels,
        num_layers=SIZES.double_blocks,
        num_single_layers=SIZES.single_blocks,
        attention_head_dim=sum(SIZES.axes_dim),
        num_attention_heads=SIZES.heads,
        joint_attention_dim=SIZES.text_dim,
        pooled_projection_dim=SIZES.pooled_dim,
        guidance_embeds=True,
        axes_dims_rope=SIZES.axes_dim,
    )
    published = published_names(base, FLUX_NAMES).items()
    weights = {key: base[name].transpose(layout and np.argsort(layout)) for name, (key, layout) in published}
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in weights.items()})
    return model.eval()


def drawn_by(model):
    import torch

    noisy, t, text, pooled, guidance = map(torch.from_numpy, ASKED.values())
    with torch.no_grad():
        return model(
            hidden_states=noisy,
            encoder_hidden_states=text,
            pooled_projections=pooled,
            timestep=t,
            img_ids=torch.tensor(PLACES, dtype=torch.float32),
            txt_ids=torch.zeros(text.shape[1], 3),
            guidance=guidance,
        ).sample.numpy()


def relative_error(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


# Ours there


def load_into_model(model, folder):
    model.load_lora_adapter(str(folder), weight_name=WEIGHTS)


def load_as_pipelines_do(model, folder):
    from diffusers.loaders import FluxLoraLoaderMixin as Pipeline

    found = Pipeline.lora_state_dict(str(folder), weight_name=WEIGHTS, return_alphas=True, return_lora_metadata=True)
    weights, alphas, metadata = found
    Pipeline.load_lora_into_transformer(weights, network_alphas=alphas, transformer=model, metadata=metadata)


def load_by_peft(model, folder):
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    inject_adapter_in_model(LoraConfig.from_pretrained(str(folder)), model)
    weights = {key.removeprefix("transformer."): value for key, value in load_file(folder / WEIGHTS).items()}
    assert not set_peft_model_state_dict(model, weights).unexpected_keys


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_into_model, load_as_pipelines_do, load_by_peft])
@pytest.mark.parametrize("made_with", [ALL, USUAL], ids=["all layers", "as in ADPO"])
def test_ours_loaded_there(base, made_with, load, tmp_path):
    network, weights = adapted(base, made_with)
    save_lora(tmp_path, weights, made_with, "hash", "the base", FLUX_NAMES, PART)
    model = flux(base)
    before = drawn_by(model)
    load(model, tmp_path)
    expected = drawn_by(model)
    assert relative_error(drawn(network, base | weights), expected) <= 1e-4
    assert relative_error(before, expected) > 1e-2


@pytest.mark.parametrize("made_with", [ALL, USUAL], ids=["all layers", "as in ADPO"])
def test_there_and_back_is_bit_equal(base, made_with, tmp_path):
    _, weights = adapted(base, made_with)
    save_lora(tmp_path, weights, made_with, "hash", "the base", FLUX_NAMES, PART)
    name, back, hash_of_base, found = read_lora(tmp_path / WEIGHTS, base, FLUX_NAMES, PART)
    assert (name, hash_of_base) == (NAME, "hash")
    assert replace(back, targets="", seed=0) == replace(made_with, targets="", seed=0)
    assert found.keys() == {key.replace(".mine.", f".{NAME}.") for key in weights}
    for key, value in weights.items():
        np.testing.assert_array_equal(found[key.replace(".mine.", f".{NAME}.")], value)
    settings = json.loads((tmp_path / CONFIG).read_text())
    assert (settings["r"], settings["lora_alpha"]) == (made_with.rank, made_with.alpha)
    assert settings["peft_type"] == "LORA" and settings["base_model_name_or_path"] == "the base"
    assert len(settings["target_modules"]) == len(weights) / 2 and Q in settings["target_modules"]


# Theirs here

PATTERNS = {
    "r": 4,
    "lora_alpha": 7,
    "target_modules": ["to_q", "to_k", "add_v_proj", "proj_out", "norm1.linear", "linear_1"],
    "rank_pattern": {"to_k": 2},
    "alpha_pattern": {"single_transformer_blocks.1.attn.to_q": 3, "to_k": 1.5},
}
ROOT = {"r": 4, "lora_alpha": 7, "target_modules": ["to_q", "to_v"], "use_rslora": True}


@pytest.fixture(scope="module", params=[PATTERNS, ROOT], ids=["ranks and alphas by layer", "root of the rank"])
def theirs(request, base):
    """diffusers' model with peft's adapter, A and B random, and what it draws."""
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    model = flux(base)
    model.add_adapter(peft.LoraConfig(**request.param))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model, drawn_by(model)


def save_model(model, folder):
    model.save_lora_adapter(folder)
    return folder / WEIGHTS


def save_pipeline(model, folder):
    from diffusers.loaders import FluxLoraLoaderMixin as Pipeline
    from peft import get_peft_model_state_dict

    settings = model.peft_config["default"].to_dict()
    Pipeline.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(model),
        transformer_lora_adapter_metadata={k: list(v) if isinstance(v, set) else v for k, v in settings.items()},
    )
    return folder / WEIGHTS


def save_by_peft(model, folder):
    weights = load_file(save_model(model, folder))
    model.peft_config["default"].save_pretrained(folder)
    save_file(
        {f"base_model.model.{key}": value for key, value in weights.items()}, folder / "adapter_model.safetensors"
    )
    return folder / "adapter_model.safetensors"


def save_with_alphas(model, folder):
    """As older trainers did: down and up, an alpha for each layer."""
    old = {}
    for key, value in load_file(save_model(model, folder)).items():
        old["transformer." + key.replace("lora_A", "lora.down").replace("lora_B", "lora.up")] = value
    for name, layer in model.named_modules():
        if hasattr(layer, "lora_A"):
            rank, scale = layer.r["default"], layer.scaling["default"]
            old[f"transformer.{name}.alpha"] = np.array(scale * rank, np.float32)
    save_file(old, folder / "old.safetensors")
    return folder / "old.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("save", [save_model, save_pipeline, save_by_peft, save_with_alphas])
def test_theirs_loaded_here(base, theirs, save, tmp_path):
    model, expected = theirs
    path = save(model, tmp_path)
    assert relative_error(with_file(base, path), expected) <= 1e-4
    assert relative_error(drawn(NETWORK, base), expected) > 1e-2


def test_a_file_without_settings_has_scale_1(base, tmp_path):
    a, b = np.float16(RNG.normal(size=(3, 16))), np.float16(RNG.normal(size=(16, 3)))
    save_file({f"{Q}.lora_A.weight": a, f"{Q}.lora_B.weight": b}, tmp_path / "x.safetensors")
    _, made_with, hash_of_base, weights = read_lora(tmp_path / "x.safetensors", base, FLUX_NAMES, PART)
    assert (made_with.rank, made_with.alpha, made_with.segments, hash_of_base) == (3, 3.0, (), "")
    found_b, found_a = (weights[f"double_blocks.0.image.attention.to_q.adapters.{NAME}.{leaf}"] for leaf in "ba")
    np.testing.assert_array_equal(found_a, np.float32(a).T)
    np.testing.assert_array_equal(found_b, np.float32(b).T)


PAIR = {f"{Q}.lora_A.weight": np.ones((2, 16), np.float32), f"{Q}.lora_B.weight": np.ones((16, 2), np.float32)}
HALF = {f"{Q}.lora_A.weight": PAIR[f"{Q}.lora_A.weight"]}


@pytest.mark.parametrize(
    "arrays, metadata, message",
    [
        ({}, {"format": "pt"}, r"a LoRA has two arrays of one rank for a layer \(there is none\)"),
        (HALF, {}, rf"a LoRA has two arrays of one rank for a layer \({Q}\); copy or download it again"),
        (PAIR | {f"{Q}.lora_B.weight": np.ones((16, 3), np.float32)}, {}, "two arrays of one rank"),
        (PAIR | {f"{Q}.lora_magnitude_vector": np.ones(16)}, {}, rf"1 unexpected \({Q}.lora_magnitude_vector\)"),
        (PAIR | {f"{Q}.lora_B.bias": np.ones(16)}, {}, rf"1 unexpected \({Q}.lora_B.bias\)"),
        (PAIR | {f"{Q}.alpha": np.ones(2)}, {}, rf"1 unexpected \({Q}.alpha\)"),
        ({"text_encoder.fc1.lora_A.weight": np.ones((2, 2))}, {}, "1 unexpected .text_encoder.fc1.lora_A.weight."),
        ({Q.replace(".0.", ".1.") + ".lora_A.weight": np.ones((2, 16))}, {}, "1 unexpected"),
        (PAIR, {"lora_adapter_metadata": "{"}, "its LoRA settings cannot be read"),
        (PAIR, {"lora_adapter_metadata": "[1]"}, "its LoRA settings cannot be read"),
        (PAIR, {"lora_adapter_metadata": '{"lora_alpha": "much"}'}, "its LoRA settings cannot be read"),
        (PAIR, {"segments": "1"}, "its LoRA settings cannot be read"),
    ],
)
def test_what_is_no_lora_of_this_network(base, tmp_path, arrays, metadata, message):
    path = tmp_path / "x.safetensors"
    save_file(arrays, path, metadata=metadata)
    with pytest.raises(InputError, match=r"x\.safetensors: .*" + message):
        read_lora(path, base, FLUX_NAMES, PART)


def test_pickles_are_refused(base, tmp_path):
    torch = pytest.importorskip("torch")
    for name in ("pytorch_lora_weights.bin", "renamed.safetensors"):
        torch.save({key: torch.from_numpy(value) for key, value in PAIR.items()}, tmp_path / name)
    with pytest.raises(InputError, match=r"weights\.bin: only safetensors files are read, since a pickle can run code"):
        read_lora(tmp_path / "pytorch_lora_weights.bin", base, FLUX_NAMES, PART)
    with pytest.raises(InputError, match=r"renamed\.safetensors: it is no readable weights file"):
        read_lora(tmp_path / "renamed.safetensors", base, FLUX_NAMES, PART)


def test_tokens_that_pass_a_layer(base, monkeypatch):
    """As seen by every layer in a forward with subjects."""
    module, seen = NETWORK.bind(base), {}
    paths = {id(layer): ".".join(map(str, path)) for path, layer in nnx.iter_modules(module)}
    plain = Linear.__call__

    def watched(layer, x, segments=()):
        seen.setdefault(paths[id(layer)], set()).update(segment.name for segment in segments)
        return plain(layer, x, segments)

    monkeypatch.setattr(Linear, "__call__", watched)
    subjects = Subjects(jnp.ones((2, 1, 6, 6)), np.ones((2, 1), bool))
    jax.eval_shape(partial(module, positions=Positions(PLACES, PLACES[None]), subjects=subjects, **ASKED))
    assert seen == {layer: set(tokens_of(layer)) for layer in linear_paths(module)}
