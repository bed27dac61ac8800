"""CLIP scores against the towers run by hand, and published files in both kinds of names."""

import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from parity import published_shapes
from safetensors.numpy import save_file
from small_rewards import PROMPTS, TEXT, TOKENIZER, VISION, clip_network, clip_params, pictures, small_clip

from narrative_jax.core.errors import InputError
from narrative_jax.core.mesh import make_mesh
from narrative_jax.core.options import parse
from narrative_jax.core.records import Scene
from narrative_jax.models.checkpoints import published_names, save_weights
from narrative_jax.models.clip import CLIP_NAMES, CLIP_SIZES
from narrative_jax.models.open_clip import OPEN_CLIP_NAMES
from narrative_jax.models.preprocessing import CLIP, longest_side_pad, normalise, shortest_side_crop
from narrative_jax.models.stacks import unstacked
from narrative_jax.rewards.base import OnHost
from narrative_jax.rewards.clip_scores import (
    ClipCosine,
    ClipCosineOptions,
    ClipScore,
    ClipScoreOptions,
    HpsV2,
    HpsV2Options,
    PickScore,
    PickScoreOptions,
    load_clip,
)

SCENES = [Scene(str(i), prompt, (), "user") for i, prompt in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def params(random_weights):
    return clip_params(random_weights)


@pytest.fixture
def clip(random_weights):
    return small_clip(random_weights)


@pytest.fixture(scope="module")
def images():
    return pictures(len(SCENES))


def cosines(params, images, prompts=PROMPTS):
    """Of each prompt and its picture, by both towers at once."""
    network, tokens = clip_network()[0], TOKENIZER.encode(prompts, TEXT.max_length)
    text, looks = jax.jit(lambda params, *given: network.bind(params)(*given))(params, tokens, normalise(images, CLIP))
    return np.asarray((text * looks).sum(1))


def scored(reward, images):
    return np.asarray(jax.jit(reward.score)(reward.params, images, reward.encode(SCENES)))[:, 0]


def test_scores_are_what_they_are_called(clip, params, images):
    cropped = cosines(params, shortest_side_crop(images, 12, 12))
    assert cropped.min() < -0.05 and cropped.max() > 0.05, "both signs are seen"
    np.testing.assert_allclose(scored(ClipCosine(clip), images), cropped, atol=1e-6)
    np.testing.assert_allclose(scored(ClipScore(clip), images), 2.5 * np.maximum(cropped, 0), atol=1e-6)
    np.testing.assert_allclose(scored(PickScore(clip), images), np.exp(1.5) * cropped, atol=1e-5)
    padded = cosines(params, longest_side_pad(images, 12))
    assert np.abs(padded - cropped).max() > 0.01
    np.testing.assert_allclose(scored(HpsV2(clip), images), padded, atol=1e-6)


def test_scores_bear_the_name_of_their_clip_where_it_is_free(clip):
    named = {kind: (kind(clip).name, kind(clip).aspects) for kind in (ClipCosine, ClipScore, HpsV2, PickScore)}
    assert named[ClipCosine] == ("clip_cosine_small", ("clip_cosine_small",))
    assert named[ClipScore] == ("clip_score_small", ("clip_score_small",))
    assert named[HpsV2] == ("hps_v2", ("hps_v2",)) and named[PickScore] == ("pick_score", ("pick_score",))


def test_the_text_tower_is_no_argument_of_the_score(clip):
    assert {name.split(".")[0] for name in ClipCosine(clip).params} == {"vision", "logit_scale"}


def test_on_the_host_pictures_of_bytes_are_scored(clip, params, images):
    drawn = np.uint8(np.round((images + 1) * 127.5))
    scores = OnHost(ClipCosine(clip), 3, make_mesh({"data": -1})).score_images(drawn, SCENES, None)
    expected = cosines(params, shortest_side_crop(np.float32(drawn) / 127.5 - 1, 12, 12))
    np.testing.assert_allclose(scores[:, 0], expected, atol=1e-5)


def test_each_prompt_is_encoded_once(clip, monkeypatch):
    seen = []
    genuine = type(TOKENIZER).encode
    monkeypatch.setattr(
        type(TOKENIZER), "encode", lambda self, p, n: seen.extend(filter(None, p)) or genuine(self, p, n)
    )
    first = clip.embed_prompts(PROMPTS)
    np.testing.assert_array_equal(clip.embed_prompts(PROMPTS[::-1]), first[::-1])
    assert seen == list(dict.fromkeys(PROMPTS))
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, rtol=1e-5)


def test_what_is_empty_or_cut_off_is_said_once(clip, capsys):
    long = "Mara waves in the forest in the castle"  # 8 words, of which 6 fit
    clip.embed_prompts(["Ivo reads", "", long])
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "CLIP small: prompts like '' have no words",
        f"CLIP small: prompts like {long!r} have more than 8 tokens, the rest is not read",
    ]
    clip.embed_prompts([" ", long + " too"])
    assert capsys.readouterr().err == ""


# Published files


def fused(params):
    """The state of OpenCLIP's model with these weights."""
    params = unstacked(params)
    state, names = {}, published_names(params, OPEN_CLIP_NAMES)
    for name, (key, layout) in names.items():
        value = np.asarray(params[name])
        state[key] = value if layout is None else value.transpose(np.argsort(layout))
    for key in [key for key in state if key.endswith((".query.weight", ".query.bias"))]:
        parts = [state.pop(key.replace("query", part)) for part in ("query", "key", "value")]
        state[key.replace("query.", "in_proj_")] = np.concatenate(parts)
    return {key: np.asarray(value, order="C") for key, value in state.items()}


@pytest.mark.parametrize("names", ["transformers", "open_clip"])
def test_a_folder_of_published_files(tmp_path, params, clip, images, names, monkeypatch):
    monkeypatch.setitem(CLIP_SIZES, "Tiny/4", (replace(TEXT, vocab_size=49408, end_token=49407), VISION))
    TOKENIZER.save(tmp_path / "tokenizer.json")
    path = tmp_path / "model.safetensors"
    if names == "transformers":
        save_weights(path, params, CLIP_NAMES, dtype=np.float32)
    else:
        save_file(fused(params), path)
    reward = ClipCosine(load_clip(str(path), "Tiny/4"))
    assert reward.name == "clip_cosine_tiny_4"
    np.testing.assert_allclose(scored(reward, images), scored(ClipCosine(clip), images), atol=1e-6)


OPTIONS = {
    ClipCosineOptions: (ClipCosine, "ViT-L/14"),
    ClipScoreOptions: (ClipScore, "ViT-L/14"),
    HpsV2Options: (HpsV2, "ViT-H/14"),
    PickScoreOptions: (PickScore, "ViT-H/14"),
}


@pytest.mark.parametrize("options", OPTIONS)
def test_a_score_from_its_options(tmp_path, params, clip, images, options, monkeypatch):
    kind, usual = OPTIONS[options]
    monkeypatch.setitem(CLIP_SIZES, "Tiny/4", (TEXT, VISION))
    TOKENIZER.save(tmp_path / "tokenizer.json")
    path = tmp_path / "model.safetensors"
    save_weights(path, params, CLIP_NAMES, dtype=np.float32)
    parsed = parse(options, {"weights": str(path), "size": "Tiny/4"}, "score.reward")
    reward = parsed.build()
    assert type(reward) is kind and replace(parsed, size=usual) == options(str(path))
    np.testing.assert_array_equal(scored(reward, images), scored(kind(clip), images))
    with pytest.raises(InputError, match=r"unknown option of score.reward 'wait': .*did you mean 'weights'"):
        parse(options, {"wait": "x"}, "score.reward")
    with pytest.raises(InputError, match=r"score.reward: 'weights' is missing"):
        parse(options, {}, "score.reward")
    with pytest.raises(InputError, match="weights '': there is no such file"):
        options("").build()


def test_the_names_are_open_clips():
    open_clip, torch = pytest.importorskip("open_clip"), pytest.importorskip("torch")
    for ours, theirs in {"ViT-H/14": "ViT-H-14", "ViT-B/32": "ViT-B-32-quickgelu"}.items():
        with torch.device("meta"):
            state = open_clip.create_model(theirs, device="meta").state_dict()
        shapes = published_shapes(clip_network(*CLIP_SIZES[ours])[1], OPEN_CLIP_NAMES)
        thirds = {key: shape for key, shape in shapes.items() if ".attn.query." in key}
        shapes = {key: shape for key, shape in shapes.items() if not re.search(r"\.(query|key|value)\.", key)}
        for key, (first, *rest) in thirds.items():
            shapes[key.replace("query.", "in_proj_")] = (3 * first, *rest)
        assert shapes == {key: tuple(value.shape) for key, value in state.items()}


def test_the_scores_are_open_clips(tmp_path, images, monkeypatch):
    open_clip, torch = pytest.importorskip("open_clip"), pytest.importorskip("torch")
    vision = {"image_size": 12, "layers": 2, "width": 20, "head_width": 10, "patch_size": 4, "mlp_ratio": 1.4}
    text = {"context_length": 8, "vocab_size": TOKENIZER.vocab_size, "width": 16, "heads": 2, "layers": 2}
    model = open_clip.CLIP(12, vision, {**text, "mlp_ratio": 1.5}, quick_gelu=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    state = {key: value.numpy() for key, value in model.state_dict().items() if key != "attn_mask"}
    save_file({key: np.asarray(value, order="C") for key, value in state.items()}, tmp_path / "model.safetensors")
    monkeypatch.setitem(CLIP_SIZES, "Tiny/4", (TEXT, VISION))
    TOKENIZER.save(tmp_path / "tokenizer.json")
    reward = PickScore(load_clip(str(tmp_path / "model.safetensors"), "Tiny/4"))
    seen = np.asarray(normalise(shortest_side_crop(images, 12, 12), CLIP)).transpose(0, 3, 1, 2)
    tokens = TOKENIZER.encode(PROMPTS, 8)
    with torch.no_grad():
        looks = model.encode_image(torch.tensor(seen), normalize=True)
        hidden = model.token_embedding(torch.tensor(tokens)) + model.positional_embedding
        hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask))
        ends = (tokens == TOKENIZER.end).argmax(1)
        words = torch.nn.functional.normalize(hidden[range(len(ends)), ends] @ model.text_projection, dim=-1)
        expected = (model.logit_scale.exp() * (looks * words).sum(1)).numpy()
    np.testing.assert_allclose(scored(reward, images), expected, rtol=1e-3, atol=1e-4)


def test_unfit_files(tmp_path):
    with pytest.raises(InputError, match=r"unknown size of CLIP 'ViT-L/15'.*did you mean 'ViT-L/14'"):
        load_clip(str(tmp_path / "model.safetensors"), "ViT-L/15")
    with pytest.raises(InputError, match=r"model.safetensors': there is no such file"):
        load_clip(str(tmp_path / "model.safetensors"), "ViT-L/14")
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InputError, match=r"tokenizer\.json: it is no readable"):
        load_clip(str(tmp_path / "model.safetensors"), "ViT-L/14")
    TOKENIZER.save(tmp_path / "tokenizer.json")
    clip = load_clip(str(tmp_path / "model.safetensors"), "ViT-L/14")
    with pytest.raises(InputError, match=r"model\.safetensors"):
        _ = clip.params


def test_a_gradient_reaches_every_pixel_that_is_seen(clip, images):
    reward = ClipCosine(clip)
    context = reward.encode(SCENES)
    slope = jax.jit(jax.grad(lambda x: reward.score(reward.params, x, context).sum()))(images)
    assert (np.abs(slope[:, :, 6:21]).max((1, 2, 3)) > 1e-5).all() and np.isfinite(slope).all()
