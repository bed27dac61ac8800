"""The FLUX flow transformer with subject images as condition branches (OminiControl, Tan et al. 2024).

Tokens: text, noisy image, then one branch a subject. Double-stream blocks hold one set of weights for text and one
for image tokens, single-stream blocks one for both; subject tokens pass through the image weights. A branch has its
own timestep 0, its own distilled guidance 1, positions of its own, and never sees another branch. In the independent
form it sees nothing but itself, so that its keys and values need computing only once per image.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from narrative_jax.core.errors import check_name
from narrative_jax.core.mesh import apply_spread, spread_tokens
from narrative_jax.core.types import Segment
from narrative_jax.models.attention import ATTENTIONS, attend
from narrative_jax.models.layers import TYPES, ZEROS, LayerNorm, Linear, RMSNorm, rotary, rotate, sinusoids
from narrative_jax.models.stacks import KEPT, Stack

TEXT, NOISY, SUBJECT = SEGMENTS = ("text", "noisy", "subject")  # kinds of tokens; all subjects are one segment
FREQUENCIES = 256  # of the sinusoids that timesteps and guidance become
TIME_SCALE = 1000.0  # FLUX's networks count t from 0 to 1000


def _stream_names(ours, norm, attention, mlp):
    q, k, v, out, norm_q, norm_k = attention
    return {
        f"double_blocks.*.{ours}.modulation": f"transformer_blocks.*.{norm}.linear",
        f"double_blocks.*.{ours}.attention.to_q": f"transformer_blocks.*.attn.{q}",
        f"double_blocks.*.{ours}.attention.to_k": f"transformer_blocks.*.attn.{k}",
        f"double_blocks.*.{ours}.attention.to_v": f"transformer_blocks.*.attn.{v}",
        f"double_blocks.*.{ours}.attention.norm_q": f"transformer_blocks.*.attn.{norm_q}",
        f"double_blocks.*.{ours}.attention.norm_k": f"transformer_blocks.*.attn.{norm_k}",
        f"double_blocks.*.{ours}.to_out": f"transformer_blocks.*.attn.{out}",
        f"double_blocks.*.{ours}.mlp_in": f"transformer_blocks.*.{mlp}.net.0.proj",
        f"double_blocks.*.{ours}.mlp_out": f"transformer_blocks.*.{mlp}.net.2",
    }


# diffusers' names of FLUX's layers.
FLUX_NAMES = {
    "image_in": "x_embedder",
    "text_in": "context_embedder",
    "time_in.linear_1": "time_text_embed.timestep_embedder.linear_1",
    "time_in.linear_2": "time_text_embed.timestep_embedder.linear_2",
    "guidance_in.linear_1": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.linear_2": "time_text_embed.guidance_embedder.linear_2",
    "pooled_in.linear_1": "time_text_embed.text_embedder.linear_1",
    "pooled_in.linear_2": "time_text_embed.text_embedder.linear_2",
    **_stream_names("image", "norm1", ("to_q", "to_k", "to_v", "to_out.0", "norm_q", "norm_k"), "ff"),
    **_stream_names(
        "text",
        "norm1_context",
        ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out", "norm_added_q", "norm_added_k"),
        "ff_context",
    ),
    "single_blocks.*.modulation": "single_transformer_blocks.*.norm.linear",
    "single_blocks.*.attention.to_q": "single_transformer_blocks.*.attn.to_q",
    "single_blocks.*.attention.to_k": "single_transformer_blocks.*.attn.to_k",
    "single_blocks.*.attention.to_v": "single_transformer_blocks.*.attn.to_v",
    "single_blocks.*.attention.norm_q": "single_transformer_blocks.*.attn.norm_q",
    "single_blocks.*.attention.norm_k": "single_transformer_blocks.*.attn.norm_k",
    "single_blocks.*.mlp_in": "single_transformer_blocks.*.proj_mlp",
    "single_blocks.*.out": "single_transformer_blocks.*.proj_out",
    "modulation": "norm_out.linear",
    "out": "proj_out",
}


def check_segments(segments: Sequence[str]) -> None:
    """Raise InputError for a kind of tokens that there is not."""
    for segment in segments:
        check_name("segment", segment, SEGMENTS)


def tokens_of(layer: str) -> tuple[str, ...]:
    """The kinds of tokens that pass a linear layer, named by its dotted path."""
    if layer == "text_in" or ".text." in layer:
        return (TEXT,)
    if layer == "image_in" or ".image." in layer:
        return NOISY, SUBJECT
    return (NOISY,) if layer in ("modulation", "out") else SEGMENTS


def acts_elsewhere(layers: Collection[str], segments: Sequence[str]) -> str:
    """What changes where an adapter that changed these layers, on tokens of these segments, acts on all their tokens;
    "" where nothing does.
    """
    more = {kind for layer in layers for kind in tokens_of(layer)} - set(segments) if segments else ()
    if not more:
        return ""
    told = f"This adapter acts on {' and '.join(segments)} tokens only, which the files cannot say: elsewhere "
    if set(more) == {SUBJECT}:
        return told + "it acts on subject tokens too; without subject images the pictures are the same."
    return told + f"it acts on {' and '.join(sorted(more))} tokens too and the pictures are others."


@dataclass(frozen=True)
class FlowTransformerConfig:
    """Sizes; the width is heads × sum(axes_dim). `text_dim` and `pooled_dim` are the text encoders' sizes.

    `scanned` and `kept` say how the blocks run, see `Stack.run`; they change no result. `compute` is the type in which
    tokens pass through the network, between float32 noise and a float32 prediction, `attention` as `attend` has it.
    """

    channels: int
    heads: int
    axes_dim: tuple[int, int, int]
    double_blocks: int
    single_blocks: int
    text_dim: int
    pooled_dim: int
    distilled_guidance: bool = False
    independent_subjects: bool = True
    scanned: bool = False
    kept: str = "all"
    compute: str = "float32"
    attention: str = "xla"

    def __post_init__(self):
        check_name("kept", self.kept, KEPT)
        check_name("compute", self.compute, TYPES)
        check_name("attention", self.attention, ATTENTIONS)

    @property
    def width(self) -> int:
        return self.heads * sum(self.axes_dim)


class Positions(NamedTuple):
    """Where tokens stand, i[n, 3] for noisy image tokens and i[s, m, 3] for those of each subject; text stands at 0."""

    noisy: np.ndarray
    subjects: np.ndarray


class Subjects(NamedTuple):
    """Subject tokens f32[b, s, m, c] and which of them are there, bool[b, s]."""

    tokens: jax.Array
    mask: jax.Array


class Prepared(NamedTuple):
    """Keys and values of subject tokens, f32[blocks, b, s · m, heads, d] each, of both kinds of blocks."""

    double: tuple[jax.Array, jax.Array]
    single: tuple[jax.Array, jax.Array]


class _Part(NamedTuple):
    """A run of tokens on its way through the blocks: hidden states, modulation vector, rotation and segments."""

    hidden: jax.Array
    vector: jax.Array
    rotation: jax.Array
    segments: tuple[Segment, ...]


class Embedder(nnx.Module):
    """Two linear layers with a SiLU between."""

    def __init__(self, size_in, width, *, rngs):
        self.linear_1 = Linear(size_in, width, axes=("embed", None), rngs=rngs)
        self.linear_2 = Linear(width, width, axes=("embed", None), rngs=rngs)

    def __call__(self, x, segments):
        return self.linear_2(jax.nn.silu(self.linear_1(x, segments)), segments)


class _Attention(nnx.Module):
    """Queries, keys and values of a run of tokens, normalised per head and turned to their positions."""

    def __init__(self, config, *, rngs):
        self.heads = config.heads
        width, axes = config.width, ("embed", "heads")
        self.to_q, self.to_k, self.to_v = (Linear(width, width, axes=axes, rngs=rngs) for _ in range(3))
        self.norm_q, self.norm_k = (RMSNorm(width // config.heads) for _ in range(2))

    def __call__(self, x, rotation, segments):
        q, k, v = (
            layer(x, segments).reshape(*x.shape[:-1], self.heads, -1) for layer in (self.to_q, self.to_k, self.to_v)
        )
        return rotate(self.norm_q(q), rotation), rotate(self.norm_k(k), rotation), v


class Stream(nnx.Module):
    """One stream's weights in a double-stream block."""

    def __init__(self, config, *, rngs):
        width = config.width
        self.modulation = Linear(width, 6 * width, axes=(None, "embed"), kernel_init=ZEROS, rngs=rngs)
        self.norm = LayerNorm(width, affine=False)
        self.attention = _Attention(config, rngs=rngs)
        self.to_out = Linear(width, width, axes=("heads", "embed"), rngs=rngs)
        self.mlp_in = Linear(width, 4 * width, axes=("embed", "mlp"), rngs=rngs)
        self.mlp_out = Linear(4 * width, width, axes=("mlp", "embed"), rngs=rngs)

    def queries(self, part):
        """(q, k, v) and what `finish` needs."""
        shift, scale, *rest = _modulation(self.modulation, part, 6)
        hidden = self.norm(part.hidden) * (1 + scale) + shift
        return self.attention(hidden, part.rotation, part.segments), rest

    def finish(self, part, attended, rest):
        """The part's hidden states after the block."""
        gate, mlp_shift, mlp_scale, mlp_gate = rest
        hidden = part.hidden + gate * self.to_out(_merge_heads(attended), part.segments)
        mlp = self.mlp_in(self.norm(hidden) * (1 + mlp_scale) + mlp_shift, part.segments)
        return spread_tokens(hidden + mlp_gate * self.mlp_out(jax.nn.gelu(mlp), part.segments))


class DoubleBlock(nnx.Module):
    """Text and image streams that attend to each other."""

    def __init__(self, config, *, rngs):
        self.text = Stream(config, rngs=rngs)
        self.image = Stream(config, rngs=rngs)


class SingleBlock(nnx.Module):
    """Attention and MLP side by side on all tokens."""

    def __init__(self, config, *, rngs):
        width = config.width
        self.modulation = Linear(width, 3 * width, axes=(None, "embed"), kernel_init=ZEROS, rngs=rngs)
        self.norm = LayerNorm(width, affine=False)
        self.attention = _Attention(config, rngs=rngs)
        self.mlp_in = Linear(width, 4 * width, axes=("embed", "mlp"), rngs=rngs)
        self.out = Linear(5 * width, width, axes=("mlp", "embed"), rngs=rngs)

    def queries(self, part):
        """(q, k, v) and what `finish` needs."""
        shift, scale, gate = _modulation(self.modulation, part, 3)
        hidden = self.norm(part.hidden) * (1 + scale) + shift
        mlp = jax.nn.gelu(self.mlp_in(hidden, part.segments))
        return self.attention(hidden, part.rotation, part.segments), (gate, mlp)

    def finish(self, part, attended, rest):
        """The part's hidden states after the block."""
        gate, mlp = rest
        both = jnp.concatenate([_merge_heads(attended), mlp], -1)
        return spread_tokens(part.hidden + gate * self.out(both, part.segments))


class FlowTransformer(nnx.Module):
    """Predicts velocity (or whatever it was trained to predict) of noisy latent tokens."""

    def __init__(self, config: FlowTransformerConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.width
        self.image_in = Linear(config.channels, width, axes=("embed", None), rngs=rngs)
        self.text_in = Linear(config.text_dim, width, axes=("embed", None), rngs=rngs)
        self.time_in = Embedder(FREQUENCIES, width, rngs=rngs)
        self.guidance_in = Embedder(FREQUENCIES, width, rngs=rngs) if config.distilled_guidance else None
        self.pooled_in = Embedder(config.pooled_dim, width, rngs=rngs)
        self.double_blocks = Stack(lambda rngs: DoubleBlock(config, rngs=rngs), config.double_blocks, rngs=rngs)
        self.single_blocks = Stack(lambda rngs: SingleBlock(config, rngs=rngs), config.single_blocks, rngs=rngs)
        self.norm = LayerNorm(width, affine=False)
        self.modulation = Linear(width, 2 * width, axes=(None, "embed"), kernel_init=ZEROS, rngs=rngs)
        self.out = Linear(width, config.channels, axes=("embed", None), kernel_init=ZEROS, rngs=rngs)

    def __call__(
        self,
        noisy: jax.Array,
        t: jax.Array,
        text: jax.Array,
        pooled: jax.Array,
        positions: Positions,
        subjects: Subjects | None = None,
        prepared: Prepared | None = None,
        distilled_guidance: jax.Array | None = None,
    ) -> jax.Array:
        """Prediction f32[b, n, c] for noisy tokens f32[b, n, c] at t f32[b].

        `text` f32[b, l, text_dim], `pooled` f32[b, pooled_dim], `distilled_guidance` f32[b] (FLUX-dev's embedded
        guidance). Of `subjects` only the mask is used where `prepared` holds their keys and values, of b / k rows that
        serve k times over, each time side by side.
        """
        noisy, text = (x.astype(self.config.compute) for x in (noisy, text))
        n_text, n_noisy = text.shape[1], noisy.shape[1]
        zeros = np.zeros((n_text, 3), positions.noisy.dtype)
        segments = (Segment(TEXT, 0, n_text), Segment(NOISY, n_text, n_text + n_noisy))
        vector = self._vector(t, pooled, distilled_guidance, segments)
        noisy_only = (Segment(NOISY, 0, n_noisy),)
        image = _Part(
            spread_tokens(self.image_in(noisy, noisy_only)), vector, self._rotation(positions.noisy), noisy_only
        )
        text_part = _Part(spread_tokens(self.text_in(text, segments[:1])), vector, self._rotation(zeros), segments[:1])
        subject = None if subjects is None or prepared is not None else self._subject_part(subjects, pooled, positions)
        mask = None if subjects is None else subjects.mask
        double, single = prepared or (None, None)

        def double_block(block, carry, cached):
            members = ((block.text, text_part), (block.image, image))
            return self._layer(members, (block.image, subject), mask, carry, cached), None

        def single_block(block, carry, cached):
            return self._layer(((block, main),), (block, subject), mask, carry, cached), None

        carry = (text_part.hidden, image.hidden), None if subject is None else subject.hidden
        (hidden, of_subjects), _ = self._through(self.double_blocks, double_block, carry, double)
        both = jnp.concatenate([text_part.rotation, image.rotation], 1)
        main = _Part(None, vector, both, segments)
        carry = (jnp.concatenate(hidden, 1),), of_subjects
        ((hidden,), _), _ = self._through(self.single_blocks, single_block, carry, single)

        scale, shift = _modulation(self.modulation, image, 2)
        return self.out(self.norm(hidden[:, n_text:]) * (1 + scale) + shift, noisy_only).astype(jnp.float32)

    def prepare(self, subjects: Subjects, pooled: jax.Array, positions: Positions) -> Prepared:
        """What `__call__` needs of the subject tokens (independent form)."""
        part, branches = self._subject_part(subjects, pooled, positions), subjects.mask.shape[1]

        def body(block, hidden, _):
            now = part._replace(hidden=hidden)
            (q, k, v), rest = block.queries(now)
            return block.finish(now, self._attend_branches(q, k, v, branches), rest), (k, v)

        hidden, double = self._through(self.double_blocks, lambda block, *rest: body(block.image, *rest), part.hidden)
        _, single = self._through(self.single_blocks, body, hidden)
        return Prepared(double, single)

    def _through(self, stack, body, carry, given=None):
        return stack.run(body, carry, given, scanned=self.config.scanned, kept=self.config.kept)

    def _layer(self, members, subject, mask, carry, cached):
        """One block on the main parts (all attend to all) and the subject branches (each to itself, or to main too).

        `members` and `subject` are (block, part), `carry` the hidden states of the first and of the second.
        """
        hidden, of_subjects = carry
        members = [(block, part._replace(hidden=x)) for (block, part), x in zip(members, hidden, strict=True)]
        queried = [block.queries(part) for block, part in members]
        q, k, v = (jnp.concatenate(parts, 1) for parts in zip(*(qkv for qkv, _ in queried), strict=True))
        if of_subjects is not None:
            subject_block, part = subject[0], subject[1]._replace(hidden=of_subjects)
            (subject_q, *cached), subject_rest = subject_block.queries(part)
        out = self._attend(q, k, v) if cached is None else self._attend_with_subjects(q, k, v, cached, mask)
        ends = np.cumsum([x.shape[1] for x in hidden])[:-1]
        main = tuple(
            block.finish(part, out, rest)
            for (block, part), out, (_, rest) in zip(members, jnp.split(out, ends, 1), queried, strict=True)
        )
        if of_subjects is None:
            return main, None
        seen = () if self.config.independent_subjects else (k, v)
        branches = self._attend_branches(subject_q, *cached, mask.shape[1], *seen)
        return main, subject_block.finish(part, branches, subject_rest)

    def _attend_with_subjects(self, q, k, v, subject_keys_values, mask):
        copies = len(q) // len(subject_keys_values[0])  # repeated here, a block at a time, and never as a whole
        subject_k, subject_v = (jnp.repeat(x, copies, 0) for x in subject_keys_values)
        there = jnp.repeat(mask, subject_k.shape[1] // mask.shape[1], 1)
        there = jnp.concatenate([jnp.ones((len(mask), k.shape[1]), bool), there], 1)[:, None, None]
        return self._attend(q, jnp.concatenate([k, subject_k], 1), jnp.concatenate([v, subject_v], 1), there)

    def _attend(self, q, k, v, mask=None):
        return attend(q, k, v, mask, self.config.attention)

    def _attend_branches(self, q, k, v, branches, main_k=None, main_v=None):
        """Each branch's tokens attend to that branch, and to the main tokens where those are given."""
        shape = q.shape
        q, k, v = (x.reshape(-1, shape[1] // branches, *shape[2:]) for x in (q, k, v))
        if main_k is not None:
            k, v = (
                jnp.concatenate([jnp.repeat(main, branches, 0), own], 1) for main, own in ((main_k, k), (main_v, v))
            )
        return self._attend(q, k, v).reshape(shape)

    def _subject_part(self, subjects, pooled, positions):
        tokens = subjects.tokens.astype(self.config.compute)
        b, s, m, c = tokens.shape
        segments = (Segment(SUBJECT, 0, s * m),)
        vector = self._vector(jnp.zeros(b), pooled, jnp.ones(b), segments)
        rotation = self._rotation(positions.subjects[:s].reshape(s * m, -1))
        return _Part(spread_tokens(self.image_in(tokens.reshape(b, s * m, c), segments)), vector, rotation, segments)

    def _vector(self, t, pooled, distilled_guidance, segments):
        """What modulates a part's tokens, f32[b, 1, width], from its time, its guidance and the pooled text."""
        vector = self.time_in(self._sinusoids(t), segments)
        if self.guidance_in is not None:
            vector += self.guidance_in(self._sinusoids(distilled_guidance), segments)
        return vector + self.pooled_in(pooled[:, None].astype(self.config.compute), segments)

    def _sinusoids(self, values):
        return sinusoids(TIME_SCALE * values, FREQUENCIES)[:, None].astype(self.config.compute)

    def _rotation(self, positions):
        return rotary(positions, self.config.axes_dim)


def _modulation(linear, part, count):
    return jnp.split(apply_spread(lambda x: linear(x, part.segments), jax.nn.silu(part.vector)), count, -1)


def _merge_heads(x):
    return x.reshape(*x.shape[:-2], -1)
