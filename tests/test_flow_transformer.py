"""The flow transformer equals diffusers' FLUX, and with subjects a plain rendering of OminiControl's one sequence."""

import math
from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest
from flax import nnx

from narrative_jax.models.checkpoints import load_weights, published_names
from narrative_jax.models.flow_transformer import (
    FLUX_NAMES,
    FlowTransformer,
    FlowTransformerConfig,
    Positions,
    Subjects,
)
from narrative_jax.models.layers import sinusoids
from narrative_jax.models.network import abstract
from narrative_jax.models.stacks import shapes_on_disk, unstacked

GUIDED = FlowTransformerConfig(12, 3, (4, 6, 6), 1, 2, text_dim=20, pooled_dim=10, distilled_guidance=True)
UNGUIDED = FlowTransformerConfig(6, 2, (8, 4, 4), 2, 1, text_dim=9, pooled_dim=7)
FLUX_DEV = FlowTransformerConfig(64, 24, (16, 56, 56), 19, 38, 4096, 768, distilled_guidance=True)
SUBJECT = (2, 2)  # rows and columns of a subject's tokens
SIZES = {"guided": GUIDED, "unguided": UNGUIDED}


@cache
def structure(config):
    """The network and the shapes of its weights."""
    return abstract(lambda: FlowTransformer(config, rngs=nnx.Rngs(0)))


@cache
def compiled(config, rows, columns, offsets=(), method="__call__"):
    """call(params, arguments) of the network for a picture of rows × columns tokens, subjects of SUBJECT tokens."""
    subjects = [grid(*SUBJECT) + np.array((0, *offset)) for offset in offsets]
    positions = Positions(grid(rows, columns), np.stack(subjects) if offsets else None)

    def call(params, arguments):
        return getattr(structure(config)[0].bind(params), method)(positions=positions, **arguments)

    return jax.jit(call)


def grid(rows, columns):
    return np.stack(np.broadcast_arrays(0, *np.mgrid[:rows, :columns]), -1).reshape(-1, 3)


def relative_error(ours, theirs):
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


# FLUX


def flux(config):
    """diffusers' transformer of these sizes."""
    diffusers = pytest.importorskip("diffusers")
    return diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=config.channels,
        num_layers=config.double_blocks,
        num_single_layers=config.single_blocks,
        attention_head_dim=sum(config.axes_dim),
        num_attention_heads=config.heads,
        joint_attention_dim=config.text_dim,
        pooled_projection_dim=config.pooled_dim,
        guidance_embeds=config.distilled_guidance,
        axes_dims_rope=config.axes_dim,
    )


@pytest.fixture(scope="module", params=SIZES)
def published(request, tmp_path_factory):
    """Sizes, diffusers' model with random weights everywhere, and ours from the files it wrote: one, and shards."""
    torch = pytest.importorskip("torch")
    config = SIZES[request.param]
    theirs = flux(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("flux")
    sharded = config is UNGUIDED
    theirs.save_pretrained(folder, max_shard_size="20KB" if sharded else "1GB")
    path = folder / "diffusion_pytorch_model.safetensors"
    path = path.with_name(f"{path.name}.index.json") if sharded else path
    return config, theirs, load_weights(path, structure(config)[1], FLUX_NAMES)


@pytest.mark.parametrize("rows, columns, length", [(3, 5, 7), (4, 1, 2)])
def test_equals_diffusers(published, rows, columns, length):
    import torch

    config, theirs, params = published
    rng = np.random.default_rng(rows)
    positions = grid(rows, columns)
    noisy = rng.normal(size=(3, len(positions), config.channels)).astype(np.float32)
    text = rng.normal(size=(3, length, config.text_dim)).astype(np.float32)
    pooled = rng.normal(size=(3, config.pooled_dim)).astype(np.float32)
    t, guidance = np.float32([0.0, 0.37, 1.0]), np.float32([1.0, 3.5, 0.2])
    with torch.no_grad():
        expected = theirs(
            hidden_states=torch.tensor(noisy),
            encoder_hidden_states=torch.tensor(text),
            pooled_projections=torch.tensor(pooled),
            timestep=torch.tensor(t),
            img_ids=torch.tensor(positions, dtype=torch.float32),
            txt_ids=torch.zeros(length, 3),
            guidance=torch.tensor(guidance) if config.distilled_guidance else None,
        ).sample.numpy()
    asked = {"noisy": noisy, "t": t, "text": text, "pooled": pooled, "distilled_guidance": guidance}
    ours = compiled(config, rows, columns)(params, asked)
    assert relative_error(ours, expected) <= 1e-4


def published_shapes(shapes):
    """Keys and shapes that our module would write."""
    shapes = shapes_on_disk(shapes)
    entries = published_names(shapes, FLUX_NAMES)
    assert len({entry.key for entry in entries.values()}) == len(shapes)
    return {
        key: tuple(shapes[name].shape if layout is None else (shapes[name].shape[axis] for axis in np.argsort(layout)))
        for name, (key, layout) in entries.items()
    }


def torch_shapes(config):
    """Keys and shapes of diffusers' model, which is never filled."""
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in flux(config).state_dict().items()}


@pytest.mark.slow
def test_names_cover_the_published_checkpoints():
    dev = structure(FLUX_DEV)[1]
    assert published_shapes(dev) == torch_shapes(FLUX_DEV)
    # Tracing so many layers takes long, so schnell is dev without what the next test shows to be the difference.
    schnell = {name: value for name, value in dev.items() if not name.startswith("guidance_in.")}
    assert published_shapes(schnell) == torch_shapes(replace(FLUX_DEV, distilled_guidance=False))
    counts = [sum(math.prod(value.shape) for value in shapes.values()) for shapes in (dev, schnell)]
    assert counts == [11_901_408_320, 11_891_178_560]


@pytest.mark.parametrize("config", SIZES.values(), ids=SIZES)
def test_the_embedded_guidance_is_all_that_dev_has_more(config):
    _, dev = structure(replace(config, distilled_guidance=True))
    _, schnell = structure(replace(config, distilled_guidance=False))
    more = {f"guidance_in.linear_{i}.{leaf}" for i in (1, 2) for leaf in ("kernel", "bias")}
    assert dev.keys() - schnell.keys() == more and schnell.keys() <= dev.keys()
    assert {name: dev[name].shape for name in schnell} == {name: value.shape for name, value in schnell.items()}


# Subjects

B, ROWS, COLUMNS, LENGTH = 2, 3, 2, 3
OFFSETS, EXCHANGED, MOVED = ((0, -2), (1, 5)), ((1, 5), (0, -2)), ((0, -2), (1, 6))
MASKS = {"both": [[1, 1], [1, 1]], "one each": [[1, 0], [0, 1]], "none and two": [[0, 0], [1, 1]]}
FORMS = {
    "independent": GUIDED,
    "dependent": replace(GUIDED, independent_subjects=False),
    "dependent unguided": replace(UNGUIDED, independent_subjects=False),
}


@pytest.fixture(scope="module", params=FORMS)
def form(request, random_weights):
    """Sizes, random weights without zeros, and what is asked of both pictures."""
    config = FORMS[request.param]
    rng = np.random.default_rng(5)
    asked = {
        "noisy": rng.normal(size=(B, ROWS * COLUMNS, config.channels)),
        "t": rng.random(B),
        "text": rng.normal(size=(B, LENGTH, config.text_dim)),
        "pooled": rng.normal(size=(B, config.pooled_dim)),
        "distilled_guidance": 4 * rng.random(B),
    }
    tokens = rng.normal(size=(B, 2, 4, config.channels)).astype(np.float32)
    return config, random_weights(structure(config)[1]), {k: np.float32(v) for k, v in asked.items()}, tokens


def forward(form, tokens=None, mask="both", offsets=OFFSETS, prepared=None, **changed):
    config, params, asked, ours = form
    mask = np.array(MASKS[mask] if isinstance(mask, str) else mask, bool)
    subjects = Subjects(ours if tokens is None else tokens, mask)
    run = compiled(config, ROWS, COLUMNS, offsets)
    return run(params, {**asked, **changed, "subjects": subjects, "prepared": prepared})


def prepare(form, tokens=None):
    config, params, asked, ours = form
    subjects = Subjects(ours if tokens is None else tokens, np.ones((B, 2), bool))
    run = compiled(config, ROWS, COLUMNS, OFFSETS, "prepare")
    return run(params, {"subjects": subjects, "pooled": asked["pooled"]})


def sees(groups, independent):
    """Whether a token of one group sees one of another: 0 text, 1 noisy picture, 2 and more subjects."""
    ask, answer = groups[:, None], groups[None]
    own = ask == answer
    return (ask < 2) | own if independent else (ask < 2) | (answer < 2) | own


def reference(form, mask, rule=sees, subject_t=0.0, subject_guidance=1.0):
    """OminiControl, plainly: one sequence [text | noisy | subject 1 | subject 2] in float64, a mask that says which
    token sees which, and for every token the modulation of its own time and guidance."""
    config, params, asked, tokens = form
    p = {name: np.float64(value) for name, value in unstacked(params).items()}
    noisy, text, pooled = asked["noisy"], asked["text"], asked["pooled"]
    sizes = [LENGTH, ROWS * COLUMNS, *[tokens.shape[2]] * tokens.shape[1]]
    groups = np.repeat(np.arange(4), sizes)
    there = np.concatenate([np.ones((B, 2), bool), np.array(MASKS[mask], bool)], 1)[:, groups]
    seen = rule(groups, config.independent_subjects)[None] & there[:, None] | np.eye(len(groups), dtype=bool)

    def linear(name, x):
        return x @ p[f"{name}.kernel"] + p[f"{name}.bias"]

    def silu(x):
        return x / (1 + np.exp(-x))

    def gelu(x):
        return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2

    def norm(x):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

    def embed(name, x):
        return linear(f"{name}.linear_2", silu(linear(f"{name}.linear_1", x)))

    def vector(t, guidance):
        # Sinusoids of 1000 radians and more are what float32 makes of them, in FLUX too.
        time, guidance = (np.float64(sinusoids(1000 * np.float32(value), 256)) for value in (t, guidance))
        found = embed("time_in", time) + embed("pooled_in", pooled)
        return found + embed("guidance_in", guidance) if config.distilled_guidance else found

    main = vector(asked["t"], asked["distilled_guidance"])
    branch = vector(np.full(B, subject_t), np.full(B, subject_guidance))
    vectors = silu(np.stack([main, main, branch, branch], 1)[:, groups])

    branches = [grid(*SUBJECT) + np.array((0, *offset)) for offset in OFFSETS]
    places = np.concatenate([np.zeros((LENGTH, 3)), grid(ROWS, COLUMNS), *branches])
    turns = np.concatenate(
        [places[:, axis, None] / 10_000 ** (np.arange(0, d, 2) / d) for axis, d in enumerate(config.axes_dim)], -1
    )

    def turned(x, scale):
        x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * scale
        pairs = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * turns)[:, None]
        return np.stack([pairs.real, pairs.imag], -1).reshape(x.shape)

    def attention(q, k, v):
        scores = np.einsum("bihd,bjhd->bhij", q, k) / np.sqrt(q.shape[-1])
        scores = np.exp(np.where(seen[:, None], scores, -np.inf))
        found = np.einsum("bhij,bjhd->bihd", scores / scores.sum(-1, keepdims=True), v)
        return found.reshape(*found.shape[:2], -1)

    def heads(x):
        return x.reshape(*x.shape[:2], config.heads, -1)

    def streams(block, layer, x):
        """Text tokens through the text stream's layer, all others through the image stream's."""
        return np.concatenate(
            [linear(f"{block}.text.{layer}", x[:, :LENGTH]), linear(f"{block}.image.{layer}", x[:, LENGTH:])], 1
        )

    def stream_scale(block, layer):
        scales = p[f"{block}.text.{layer}.scale"], p[f"{block}.image.{layer}.scale"]
        return np.stack(scales)[np.minimum(groups, 1)][:, None]

    images = np.concatenate([noisy, tokens.reshape(B, -1, config.channels)], 1)
    x = np.concatenate([linear("text_in", text), linear("image_in", images)], 1)
    for i in range(config.double_blocks):
        block = f"double_blocks.{i}"
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = np.split(streams(block, "modulation", vectors), 6, -1)
        y = norm(x) * (1 + scale) + shift
        q, k, v = (heads(streams(block, f"attention.to_{name}", y)) for name in "qkv")
        q, k = (turned(part, stream_scale(block, f"attention.norm_{n}")) for n, part in (("q", q), ("k", k)))
        x = x + gate * streams(block, "to_out", attention(q, k, v))
        y = gelu(streams(block, "mlp_in", norm(x) * (1 + mlp_scale) + mlp_shift))
        x = x + mlp_gate * streams(block, "mlp_out", y)
    for i in range(config.single_blocks):
        block = f"single_blocks.{i}"
        shift, scale, gate = np.split(linear(f"{block}.modulation", vectors), 3, -1)
        y = norm(x) * (1 + scale) + shift
        q, k, v = (heads(linear(f"{block}.attention.to_{name}", y)) for name in "qkv")
        q, k = (turned(part, p[f"{block}.attention.norm_{n}.scale"]) for n, part in (("q", q), ("k", k)))
        both = np.concatenate([attention(q, k, v), gelu(linear(f"{block}.mlp_in", y))], -1)
        x = x + gate * linear(f"{block}.out", both)
    scale, shift = np.split(linear("modulation", vectors), 2, -1)
    return linear("out", norm(x) * (1 + scale) + shift)[:, groups == 1]


@pytest.mark.parametrize("mask", MASKS)
def test_subjects_equal_one_sequence_under_a_group_mask(form, mask):
    assert relative_error(forward(form, mask=mask), reference(form, mask)) <= 1e-5


def test_the_reference_tells_rules_apart(form):
    # Otherwise the test above would not see a branch that looks at another, or one modulated like the picture.
    ours, config = forward(form), form[0]
    wrong = [
        reference(form, "both", lambda groups, _: sees(groups, not config.independent_subjects)),
        reference(form, "both", lambda groups, own: sees(groups, own) | (groups[:, None] > 1) & (groups > 1)),
        reference(form, "both", lambda groups, own: sees(groups, own) & ~((groups[:, None] == 0) & (groups > 1))),
        reference(form, "both", subject_t=0.01),
    ]
    if config.distilled_guidance:
        wrong.append(reference(form, "both", subject_guidance=1.1))
    assert min(relative_error(ours, other) for other in wrong) > 1e-3


def test_an_absent_subject_changes_nothing(form):
    tokens = form[3]
    rubbish = tokens.copy()
    rubbish[0, 1], rubbish[1, 0] = 1e3, -7.0
    mask = MASKS["one each"]
    masked = forward(form, mask=mask)
    assert relative_error(forward(form, rubbish, mask), masked) <= 1e-6
    assert relative_error(forward(form, rubbish), forward(form)) > 1e-3


@pytest.mark.slow
def test_fewer_slots_equal_masked_slots(form):
    config, params, asked, tokens = form
    masked = forward(form, mask=[[1, 0], [1, 0]])
    assert relative_error(forward(form, tokens[:, :1], np.ones((B, 1))), masked) <= 1e-5
    nobody = forward(form, mask=np.zeros((B, 2)))
    alone = compiled(config, ROWS, COLUMNS)(params, asked)
    assert relative_error(alone, nobody) <= 1e-5
    assert relative_error(masked, nobody) > 1e-3


@pytest.mark.slow
def test_each_subjects_place_matters(form):
    straight = forward(form)
    assert relative_error(forward(form, offsets=EXCHANGED), straight) > 1e-3
    assert relative_error(forward(form, offsets=MOVED), straight) > 1e-3
    # Slots have no meaning beyond their places: subjects and places exchanged give the same picture.
    assert relative_error(forward(form, form[3][:, ::-1], offsets=EXCHANGED), straight) <= 1e-5


@pytest.fixture
def independent(form):
    if not form[0].independent_subjects:
        pytest.skip("subjects see the picture")
    return form


def test_prepared_subjects(independent):
    prepared = prepare(independent)
    for mask in MASKS:
        fresh = forward(independent, mask=mask)
        assert relative_error(forward(independent, mask=mask, prepared=prepared), fresh) <= 1e-6
    # Prepared once, they serve every time and picture; and it is they that are looked at, not the tokens.
    changed = {"noisy": independent[2]["noisy"] + 1, "t": np.float32([0.9, 0.1])}
    rubbish = np.full_like(independent[3], 9.0)
    fresh = forward(independent, **changed)
    assert relative_error(forward(independent, rubbish, prepared=prepared, **changed), fresh) <= 1e-6
    assert relative_error(fresh, forward(independent)) > 1e-3


def test_prepared_branches_are_blind_to_each_other(independent):
    config, _, _, tokens = independent
    other = tokens.copy()
    other[:, 1] += 1
    before, after = prepare(independent), prepare(independent, other)
    for kind, count in (("double", config.double_blocks), ("single", config.single_blocks)):
        for left, right in zip(getattr(before, kind), getattr(after, kind), strict=True):
            assert left.shape == (count, B, 8, config.heads, sum(config.axes_dim))
            np.testing.assert_array_equal(left[:, :, :4], right[:, :, :4])
            assert (np.abs(left[:, :, 4:] - right[:, :, 4:]).max((2, 3, 4)) > 1e-2).all()
