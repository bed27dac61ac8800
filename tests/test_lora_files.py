"""LoRA files between us, diffusers and other trainers: the same pictures either way, and what is refused."""

import json
from dataclasses import asdict, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from narrative_jax import sample
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
from narrative_jax.models.lora import AdapterOptions, adapter_weights, append_adapter, linear_paths
from narrative_jax.models.lora_files import CONFIG, NAME, WEIGHTS, read_lora, save_lora
from narrative_jax.models.network import abstract, split
from narrative_jax.models.stacks import shapes_on_disk, stacked, unstacked

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
    assert {n: w.shape for n, w in shapes_on_disk(fresh).items()}.items() >= {
        n: w.shape for n, w in weights.items()
    }.items()
    return drawn(network, base | stacked(weights, fresh))


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
    base = unstacked(base)
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


def read_by_pipelines(path):
    from diffusers.loaders import FluxLoraLoaderMixin as Pipeline

    return Pipeline.lora_state_dict(
        str(path.parent), weight_name=path.name, return_alphas=True, return_lora_metadata=True
    )


def load_as_pipelines_do(model, folder, name=WEIGHTS):
    from diffusers.loaders import FluxLoraLoaderMixin as Pipeline

    weights, alphas, metadata = read_by_pipelines(folder / name)
    # Diffusers forgets the prefix of what it renames outside the blocks, and would pass over that.
    weights = {f"{PART}.{key.removeprefix(f'{PART}.')}": value for key, value in weights.items()}
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
    save_lora(tmp_path, adapter_weights(weights, "mine"), made_with, "hash", "the base", FLUX_NAMES, PART)
    model = flux(base)
    before = drawn_by(model)
    load(model, tmp_path)
    expected = drawn_by(model)
    assert relative_error(drawn(network, base | weights), expected) <= 1e-4
    assert relative_error(before, expected) > 1e-2


@pytest.mark.parametrize("made_with", [ALL, USUAL], ids=["all layers", "as in ADPO"])
def test_there_and_back_is_bit_equal(base, made_with, tmp_path):
    _, weights = adapted(base, made_with)
    save_lora(tmp_path, adapter_weights(weights, "mine"), made_with, "hash", "the base", FLUX_NAMES, PART)
    name, back, hash_of_base, found = read_lora(tmp_path / WEIGHTS, base, FLUX_NAMES, PART)
    assert (name, hash_of_base) == (NAME, "hash")
    assert replace(back, targets="", seed=0) == replace(made_with, targets="", seed=0)
    assert found.keys() == {key.replace(".mine.", f".{NAME}.") for key in unstacked(weights)}
    for key, value in unstacked(weights).items():
        np.testing.assert_array_equal(found[key.replace(".mine.", f".{NAME}.")], value)
    settings = json.loads((tmp_path / CONFIG).read_text())
    assert (settings["r"], settings["lora_alpha"]) == (made_with.rank, made_with.alpha)
    assert settings["peft_type"] == "LORA" and settings["base_model_name_or_path"] == "the base"
    assert len(settings["target_modules"]) == len(unstacked(weights)) / 2 and Q in settings["target_modules"]


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


# Files of other trainers


def authors_layers(sizes, double_blocks=1, single_blocks=2):
    """{a layer in the names of FLUX's authors: (in, out)}."""
    w = sizes.width
    layers = {
        "img_in": (sizes.channels, w),
        "txt_in": (sizes.text_dim, w),
        "final_layer.linear": (w, sizes.channels),
        "final_layer.adaLN_modulation.1": (w, 2 * w),
    }
    for name, size_in in (("time_in", 256), ("guidance_in", 256), ("vector_in", sizes.pooled_dim)):
        layers |= {f"{name}.in_layer": (size_in, w), f"{name}.out_layer": (w, w)}
    for i in range(double_blocks):
        for kind in ("img", "txt"):
            begin = f"double_blocks.{i}.{kind}"
            layers |= {f"{begin}_mod.lin": (w, 6 * w), f"{begin}_attn.qkv": (w, 3 * w), f"{begin}_attn.proj": (w, w)}
            layers |= {f"{begin}_mlp.0": (w, 4 * w), f"{begin}_mlp.2": (4 * w, w)}
    for i in range(single_blocks):
        begin = f"single_blocks.{i}"
        layers |= {
            f"{begin}.modulation.lin": (w, 3 * w),
            f"{begin}.linear1": (w, 7 * w),
            f"{begin}.linear2": (5 * w, w),
        }
    return layers


def diffusers_layers():
    """{a layer in the names of diffusers: (in, out)}."""
    kernels = {name: value for name, value in shapes_on_disk(SHAPES).items() if name.endswith(".kernel")}
    published = published_names(kernels, FLUX_NAMES).items()
    return {key.removesuffix(".weight"): kernels[name].shape for name, (key, _) in published}


def lora_arrays(layers, name, down=".lora_down.weight", up=".lora_up.weight", alphas=True, rank=2):
    """Random LoRAs of these layers, as `name(layer)` and the ends of keys spell them."""
    rng, arrays = np.random.default_rng(1), {}
    for place, (layer, (size_in, size_out)) in enumerate(layers.items()):
        arrays[name(layer) + down] = np.float32(rng.normal(size=(rank, size_in)))
        arrays[name(layer) + up] = np.float32(rng.normal(size=(size_out, rank)))
        if alphas and "final_layer" not in layer:  # of whose alpha diffusers says that it is yet to be done
            arrays[f"{name(layer)}.alpha"] = np.array(0.5 + place % 3, np.float32)
    return arrays


def kohya(layers, **more):
    return lora_arrays(layers, lambda layer: "lora_unet_" + layer.replace(".", "_"), **more)


def comfy(layers, **more):
    return lora_arrays(layers, lambda layer: f"diffusion_model.{layer}", **more)


def small_layers():
    """All but linear1, for which diffusers takes FLUX.1's width for granted."""
    return {layer: size for layer, size in authors_layers(SIZES).items() if "linear1" not in layer}


def attention_of_diffusers():
    """With Kohya's underscores, diffusers reads diffusers' names of attention and of embedders alone."""
    found = diffusers_layers().items()
    return {layer: size for layer, size in found if "attn" in layer or "block" not in layer}


def xlabs():
    w = SIZES.width
    image, text = {"qkv_lora1": (w, 3 * w), "proj_lora1": (w, w)}, {"qkv_lora2": (w, 3 * w), "proj_lora2": (w, w)}
    layers = {f"double_blocks.0.processor.{name}": size for name, size in (image | text).items()}
    for begin in ("single_blocks.0.processor", "single_blocks.1.processor"):
        layers |= {f"{begin}.qkv_lora": (w, 3 * w), f"{begin}.proj_lora": (5 * w, w)}
    return lora_arrays(layers, str, ".down.weight", ".up.weight", alphas=False)


OF_TRAINERS = {
    "Kohya's": lambda: kohya(small_layers()),
    "ComfyUI's": lambda: comfy(small_layers()),
    "Kohya's, of diffusers' names": lambda: lora_arrays(
        attention_of_diffusers(), lambda layer: "lora_transformer_" + layer.replace(".", "_")
    ),
    "down and up": lambda: lora_arrays(diffusers_layers(), "transformer.{}".format, alphas=False),
    "XLabs'": xlabs,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:While injecting the PEFT adapters")  # proj_out is a layer's name, and a block's
@pytest.mark.parametrize("trainer", OF_TRAINERS)
def test_files_of_trainers(base, trainer, tmp_path):
    path = tmp_path / "theirs.safetensors"
    save_file(OF_TRAINERS[trainer](), path)
    model = flux(base)
    before = drawn_by(model)
    load_as_pipelines_do(model, tmp_path, path.name)
    there = [name for name, _ in model.named_parameters() if ".lora_" in name]
    *_, here = read_lora(path, base, FLUX_NAMES, PART)
    assert len(there) == len(here)
    expected = drawn_by(model)
    assert relative_error(with_file(base, path), expected) <= 1e-4
    assert relative_error(before, expected) > 1e-2


def changes(weights, alpha_by_rank):
    """{our layer: what its LoRA makes of some numbers}."""
    found, rng = {}, np.random.default_rng(2)
    for key in sorted(weights):
        layer, _, leaf = key.rpartition(".adapters.lora.")
        if leaf == "a":
            x = rng.normal(size=len(weights[key])) @ weights[key]
            found[layer] = alpha_by_rank * x @ weights[f"{layer}.adapters.lora.b"]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("trainer", ["Kohya's", "FAL's"])
def test_files_for_flux(trainer, tmp_path):
    """Each layer of FLUX.1 itself, whose width diffusers takes for granted where a file fuses layers."""
    pytest.importorskip("diffusers")
    of_fal = trainer == "FAL's"
    blocks = (19, 38) if of_fal else (1, 1)  # FAL's files have all
    sizes = FlowTransformerConfig(64, 24, (16, 56, 56), *blocks, text_dim=4096, pooled_dim=768, distilled_guidance=True)
    _, shapes = abstract(lambda: FlowTransformer(sizes, rngs=nnx.Rngs(0)))
    if of_fal:
        layers = authors_layers(sizes, 19, 38).items()
        layers = {name: size for name, size in layers if "_in" not in name and "adaLN" not in name}
        ends = {"down": ".lora_A.weight", "up": ".lora_B.weight", "alphas": False, "rank": 1}
        arrays = lora_arrays(layers, "base_model.model.{}".format, **ends)
    else:
        arrays = kohya(authors_layers(sizes, 1, 1))
    save_file(arrays, tmp_path / "theirs.safetensors")
    weights, alphas, _ = read_by_pipelines(tmp_path / "theirs.safetensors")
    assert not alphas
    converted = {f"{PART}.{key.removeprefix(f'{PART}.')}": value.numpy().copy() for key, value in weights.items()}
    save_file(converted, tmp_path / "converted.safetensors")
    both = []
    for file in ("theirs", "converted"):
        _, made_with, _, weights = read_lora(tmp_path / f"{file}.safetensors", shapes, FLUX_NAMES, PART)
        both.append(changes(weights, made_with.alpha / made_with.rank))
    ours, expected = both
    assert ours.keys() == expected.keys() and len(ours) == len(converted) / 2
    for layer, change in expected.items():
        assert relative_error(ours[layer], change) <= 1e-5, layer


def read(base, arrays, path, **more):
    save_file(arrays, path, **more)
    return read_lora(path, base, FLUX_NAMES, PART)


@pytest.mark.parametrize(
    "name", [f"{PART}.{Q}", f"diffusion_model.{Q}", f"base_model.model.{Q}", "lora_unet_" + Q.replace(".", "_")]
)
@pytest.mark.parametrize("ends", [("down", "up"), ("A", "B"), ("A.default", "B.default"), ("A.mine", "B.mine")])
def test_spellings_of_one_layer(base, name, ends, tmp_path):
    """Names that diffusers reads in part, each of them a matter of spelling alone."""
    plain = read(base, PAIR | {f"{Q}.alpha": np.array(3.0)}, tmp_path / "plain.safetensors")
    spelt = {f"{name}.lora_{end}.weight": value for end, value in zip(ends, PAIR.values(), strict=True)} | {
        f"{name}.alpha": np.array([3.0], np.float16)
    }
    found = read(base, spelt, tmp_path / "spelt.safetensors")
    assert found[:3] == plain[:3] and found[1].alpha == 3.0
    for key, value in plain[3].items():
        np.testing.assert_array_equal(found[3][key], value)


def test_text_encoders_are_left_out(base, tmp_path, capsys):
    plain = read(base, PAIR, tmp_path / "plain.safetensors")
    assert capsys.readouterr() == ("", "")
    names = (
        "text_encoder.fc1",
        "text_encoder_2.fc1",
        "text_encoders.clip_l.transformer.fc1",
        "lora_te_fc1",
        "lora_te1_fc1",
    )
    more = {f"{name}.lora_A.weight": np.ones((2, 8), np.float32) for name in names}
    found = read(base, PAIR | more, tmp_path / "x.safetensors")
    assert found[:3] == plain[:3] and found[3].keys() == plain[3].keys()
    told = f"{tmp_path}/x.safetensors: 5 arrays are of text encoders and left out\n"
    assert capsys.readouterr() == ("", told)


@pytest.mark.parametrize(
    "file, settings, alpha",
    [
        ("adapter_model.safetensors", {"lora_alpha": 6}, 6.0),
        (WEIGHTS, {"lora_alpha": 6}, 6.0),
        ("mine.safetensors", {"lora_alpha": 6}, 2.0),  # which lies beside the settings of another
        (WEIGHTS, None, 2.0),
    ],
)
def test_settings_beside_a_file(base, tmp_path, file, settings, alpha):
    if settings:
        (tmp_path / CONFIG).write_text(json.dumps(settings))
    assert read(base, PAIR, tmp_path / file)[1].alpha == alpha


def test_the_file_in_a_folder(base, tmp_path):
    def opened():
        return read_lora(tmp_path, base, FLUX_NAMES, PART)[1].alpha

    with pytest.raises(InputError, match="a folder with a LoRA holds one file of the name pytorch_lora_weights"):
        opened()
    read(base, PAIR, tmp_path / "mine.safetensors")
    read(base, PAIR | {f"{Q}.alpha": np.array(7.0)}, tmp_path / WEIGHTS)
    assert opened() == 7.0
    (tmp_path / WEIGHTS).rename(tmp_path / "adapter_model.safetensors")
    assert opened() == 7.0
    read(base, PAIR, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match="this one 2; name the file itself"):
        opened()


@pytest.mark.parametrize(
    "file, told",
    [
        ("down_up", ""),
        ("comfy_prefix", ""),
        ("named_default", ""),
        ("fp8", ""),
        ("with_text_encoder", "2 arrays are of text encoders and left out"),
    ],
)
def test_trials(test_data, capsys, file, told):
    painter = sample.load(entry=str(test_data / "trials" / "lora" / f"{file}.safetensors"))
    weights = {name: value.shape for name, value in adapter_weights(painter.params, NAME).items()}
    prefix = f"{PART}.single_blocks.0.attention.to_q.adapters.{NAME}"
    assert weights == {f"{prefix}.a": (192, 1), f"{prefix}.b": (1, 192)}
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == bool(told) and told in err


@pytest.mark.parametrize(
    "file, message",
    [
        (
            "kohya",
            "its layers are of other sizes (lora_unet_single_blocks_0_linear1 from 192 to 8, here from 192 to 1344); "
            "give a LoRA that was trained on this generator",
        ),
        ("nan", "numbers of transformer.single_transformer_blocks.0.attn.to_q.lora_"),
    ],
)
def test_trials_that_are_refused(test_data, tmp_path, capsys, file, message):
    entry = f"--entry={test_data}/trials/lora/{file}.safetensors"
    assert sample.main([entry, "--prompt=x", f"--out={tmp_path}/x.png"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert not list(tmp_path.iterdir())


# What is refused

PAIR = {f"{Q}.lora_A.weight": np.ones((2, 16), np.float32), f"{Q}.lora_B.weight": np.ones((16, 2), np.float32)}
HALF = {f"{Q}.lora_A.weight": PAIR[f"{Q}.lora_A.weight"]}
OF_FLUX = FlowTransformerConfig(64, 24, (16, 56, 56), 1, 1, text_dim=4096, pooled_dim=768)
LINEAR1 = "lora_unet_single_blocks_0_linear1"


@pytest.mark.parametrize(
    "arrays, metadata, message",
    [
        ({}, {"format": "pt"}, r"a LoRA has two arrays of one rank for a layer \(there is none\)"),
        (HALF, {}, rf"a LoRA has two arrays of one rank for a layer \({Q}\); copy or download it again"),
        (PAIR | {f"{Q}.lora_B.weight": np.ones((16, 3), np.float32)}, {}, "two arrays of one rank"),
        (PAIR | {f"{Q}.alpha": np.ones(2)}, {}, rf"two arrays of one rank for a layer \({Q}\)"),
        (
            PAIR | {f"{Q}.lora_magnitude_vector": np.ones(16)},
            {},
            rf"it holds DoRA's magnitudes \({Q}.lora_magnitude_vector\), which are not read; give a plain LoRA",
        ),
        (
            kohya({"img_in": (6, 16)}) | {"lora_unet_img_in.dora_scale": np.ones(16)},
            {},
            r"magnitudes \(lora_unet_img_in",
        ),
        ({f"{Q}.lokr_w1": np.ones((4, 4)), f"{Q}.alpha": np.ones(1)}, {}, rf"it holds LoKr's factors \({Q}.lokr_w1\)"),
        ({f"lycoris_x.{name}": np.ones((4, 4)) for name in ("hada_w1_a", "hada_w2_b")}, {}, "it holds LoHa's factors"),
        (PAIR | {f"{Q}.lora_B.bias": np.ones(16)}, {}, rf"it holds biases \({Q}.lora_B.bias\), which are not read"),
        (PAIR | {f"diffusion_model.{Q}.diff_b": np.ones(16)}, {}, rf"it holds biases \(diffusion_model.{Q}.diff_b\)"),
        (PAIR | {f"{Q}.diff": np.ones((16, 16))}, {}, "it holds whole differences of weights"),
        (PAIR | {"query_norm.scale": np.ones(8)}, {}, r"it holds arrays that are no LoRA's \(query_norm.scale\); give"),
        (PAIR | {key.replace("lora_A", "lora_A.b"): v for key, v in PAIR.items()}, {}, rf"several LoRAs .* \({Q}\)"),
        (PAIR | kohya({"double_blocks.0.img_attn.qkv": (16, 48)}), {}, r"several .* \(lora_unet_double_.*_qkv, trans"),
        ({"text_encoder.fc1.lora_A.weight": np.ones((2, 2))}, {}, "it changes nothing but text encoders"),
        (
            kohya(authors_layers(OF_FLUX), rank=1),
            {},
            "its width is 3072, as of FLUX.1; this generator's is 16; give a LoRA that was trained on this generator",
        ),
        (comfy({"double_blocks.0.img_attn.qkv": (40, 120)}), {}, "its width is 40; this generator's is 16"),
        (
            kohya({"double_blocks.1.img_mlp.0": (16, 64)}),
            {},
            r"has no such layers \(lora_unet_double_blocks_1_img_mlp_0\)",
        ),
        (
            kohya({"single_blocks.0.linear1": (16, 48)}),
            {},
            rf"its layers are of other sizes \({LINEAR1} from 16 to 48, here from 16 to 112\)",
        ),
        (PAIR | {f"{Q}.alpha": np.array(np.nan)}, {}, rf"1 of the 1 numbers of {Q}.alpha are not finite"),
        (PAIR, {"lora_adapter_metadata": "{"}, "its LoRA settings cannot be read"),
        (PAIR, {"lora_adapter_metadata": "[1]"}, "its LoRA settings cannot be read"),
        (PAIR, {"lora_adapter_metadata": '{"lora_alpha": "much"}'}, "its LoRA settings cannot be read"),
        (PAIR, {"lora_adapter_metadata": '{"lora_alpha": NaN}'}, r"its LoRA settings cannot be read \(alpha nan\)"),
        (PAIR, {"segments": "1"}, "its LoRA settings cannot be read"),
    ],
)
def test_what_is_no_lora_of_this_network(base, tmp_path, arrays, metadata, message):
    with pytest.raises(InputError, match=r"x\.safetensors: .*" + message):
        read(base, arrays, tmp_path / "x.safetensors", metadata=metadata)


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
    for path, layer in nnx.iter_modules(module):
        if isinstance(layer, Linear):
            layer.path = ".".join(map(str, path))  # a block taken from its stack has it too
    plain = Linear.__call__

    def watched(layer, x, segments=()):
        seen.setdefault(layer.path.replace("*", "0"), set()).update(segment.name for segment in segments)
        return plain(layer, x, segments)

    monkeypatch.setattr(Linear, "__call__", watched)
    subjects = Subjects(jnp.ones((2, 1, 6, 6)), np.ones((2, 1), bool))
    jax.eval_shape(partial(module, positions=Positions(PLACES, PLACES[None]), subjects=subjects, **ASKED))
    assert seen == {
        layer: set(tokens_of(layer)) for layer in linear_paths(module) if not layer.startswith("single_blocks.1.")
    }
