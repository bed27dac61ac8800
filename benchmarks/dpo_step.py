"""One LoRA-DPO train step (loss, gradients of the adapter, AdamW) of ours beside torch + diffusers + peft, on CPU.

    python benchmarks/dpo_step.py [--rounds N] [--out docs/dpo_step.md]

torch runs diffusers' Flux modules with subject branches as OminiControl's scripts have them: the forward is written
over the modules, subject tokens pass the base layers only and see nothing but their own branch, peft's adapter acts on
text and noisy tokens, the reference is the base without gradient. Both members of a pair go through in one batch.
Each side once with the subjects' keys and values computed once a step and shared ("cached"), once with the subject
tokens in every forward. Weights, adapter (b is not zero), data, t and noise are the same for the parity of loss and
gradient that is asserted first. The four then take turns, float32, all cores.
"""

import argparse
import dataclasses
import os
import statistics
from functools import partial
from importlib.metadata import version
from pathlib import Path

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers.models.embeddings import apply_rotary_emb
from measuring import matmul_rates, processor, timed
from peft import LoraConfig, inject_adapter_in_model
from torch.nn.functional import logsigmoid, scaled_dot_product_attention

from narrative_jax.algorithms.base import drawn
from narrative_jax.algorithms.dpo import DPO
from narrative_jax.core.mesh import make_mesh
from narrative_jax.diffusion.path import T_FLOOR
from narrative_jax.generators.flow import TRANSFORMER, FlowConditioning, FlowGenerator
from narrative_jax.generators.flow_presets import RANDOM, STORYBOOK_FLOW
from narrative_jax.models.checkpoints import published_names
from narrative_jax.models.flow_transformer import FLUX_NAMES, FlowTransformerConfig
from narrative_jax.models.lora import adapter_of
from narrative_jax.models.network import below
from narrative_jax.models.stacks import unstacked
from narrative_jax.trainees.generator import GeneratorTrainee
from narrative_jax.training.optimizer import Optimizer
from narrative_jax.training.step import gradients, make_step, new_state

SEED = 0
ADAPTER = "align"
RANK = 16
TARGETS = r".*_blocks\.\d+\.(image\.|text\.)?(attention\.to_[qkv]|to_out|mlp_in|mlp_out|out)"
BETA, LEARNING_RATE, B2, CLIP_NORM = 500.0, 1e-3, 0.99, 1.0
PARITY = 1e-4  # relative, of the loss
GRADIENT_PARITY = 1e-3  # relative to the largest element of an array
# How often a step takes a pair's subject tokens forward. XLA finds by itself that policy and reference do the same.
SUBJECT_FORWARDS = {"ours, cached": 1, "ours": 2, "torch, cached": 1, "torch": 4}
STEPS = 2  # timed at a turn, after one that is not
LARGE = dataclasses.replace(
    STORYBOOK_FLOW,
    transformer=FlowTransformerConfig(
        channels=192, heads=8, axes_dim=(8, 28, 28), double_blocks=2, single_blocks=5, text_dim=128, pooled_dim=128
    ),
    image_size=64,
    subject_size=32,
    patch=8,
    subject_offsets=((0, -4), (0, 8)),
)
SIZES = {"small": (STORYBOOK_FLOW, 16), "large": (LARGE, 4)}  # preset and pairs in a batch


class UncachedGenerator(FlowGenerator):
    """Computes the subject tokens in every forward."""

    def prepare(self, params, conditioning):
        return None


def example(preset, pairs):
    """Generator, policy, base weights and adapter, all random and nothing zero, and a batch with every subject there.

    Each weight is moved by a little, which makes modulation, head and b alive.
    """
    rng = np.random.default_rng(SEED)
    generator, weights = preset.load(preset.Options(weights=RANDOM), SEED)
    weights = {name: w for name, w in weights.items() if name.startswith(f"{TRANSFORMER}.")}  # encoders take no part
    policy, weights = generator.with_adapter(
        weights, ADAPTER, rank=RANK, alpha=RANK, targets=TARGETS, segments=("text", "noisy"), seed=SEED
    )
    weights = {name: w + jnp.float32(0.02 * rng.normal(size=w.shape)) for name, w in weights.items()}
    adapter = {name: w for name, w in weights.items() if adapter_of(name)}
    base = {name: w for name, w in weights.items() if not adapter_of(name)}
    draw = lambda *shape: np.float32(rng.normal(size=shape))  # noqa: E731
    size, slots, length = preset.transformer, generator.max_subjects, preset.text_length
    batch = {
        "chosen": 0.5 * draw(pairs, *generator.latent_shape),
        "rejected": 0.5 * draw(pairs, *generator.latent_shape),
        "conditioning": FlowConditioning(
            text=draw(pairs, length, size.text_dim),
            pooled=draw(pairs, size.pooled_dim),
            empty_text=draw(pairs, length, size.text_dim),
            empty_pooled=draw(pairs, size.pooled_dim),
            subjects=0.5 * draw(pairs, slots, generator._positions.subjects.shape[1], size.channels),
            subject_mask=np.ones((pairs, slots), bool),
        ),
        "gap": np.ones(pairs, np.float32),
    }
    return generator, policy, base, adapter, batch


def draws(generator, key, batch):
    """The t and noise that `DPO` draws with this key."""
    numbered = {"index": np.arange(len(batch["chosen"]), dtype=np.int32)}
    t, noise, _ = drawn(generator, key, numbered, generator.latent_shape)
    return [torch.from_numpy(np.array(x)) for x in (t, noise)]


# --- torch -----------------------------------------------------------------------------------------------------------


def torch_names(names):
    """Our names of weights, the adapter's included, in diffusers' and peft's, and the layouts."""
    base = published_names({name: np.empty((1, 1)) for name in names if name.endswith("kernel")}, FLUX_NAMES)
    lora = {"a": "lora_A", "b": "lora_B"}
    for name in names:
        if adapter_of(name):
            layer, _, leaf = name.partition(".adapters.")
            key = base[f"{layer}.kernel"].key.removesuffix(".weight")
            yield name, f"{key}.{lora[leaf[-1]]}.{ADAPTER}.weight"


def flux(config, base, adapter):
    """diffusers' model with these weights and peft's adapter, whose parameters stand under our names."""
    base, adapter = (unstacked(below(TRANSFORMER, weights)) for weights in (base, adapter))
    model = diffusers.FluxTransformer2DModel(
        in_channels=config.channels,
        num_layers=config.double_blocks,
        num_single_layers=config.single_blocks,
        attention_head_dim=config.width // config.heads,
        num_attention_heads=config.heads,
        joint_attention_dim=config.text_dim,
        pooled_projection_dim=config.pooled_dim,
        axes_dims_rope=config.axes_dim,
    )
    published = published_names(base, FLUX_NAMES)
    weights = {
        key: np.asarray(base[name]).transpose(layout and np.argsort(layout))
        for name, (key, layout) in published.items()
    }
    model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in weights.items()})
    model.requires_grad_(False)
    names = dict(torch_names({**base, **adapter}))
    targets = sorted({key.split(".lora_")[0] for key in names.values()})
    inject_adapter_in_model(
        LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, lora_bias=False), model, ADAPTER
    )
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, key in names.items():
            parameters[key].copy_(torch.from_numpy(np.array(adapter[name]).T))
    return model, {f"{TRANSFORMER}.{name}": parameters[key] for name, key in names.items()}


class BranchedFlux:
    """diffusers' Flux modules, run with subject branches that see only themselves.

    `adapted` False leaves the adapter out of all tokens. A branch's tokens never pass through it.
    """

    def __init__(self, model, positions, text_length):
        self.model = model
        text = np.zeros((text_length, 3))
        self.main = model.pos_embed(torch.from_numpy(np.concatenate([text, positions.noisy])))
        self.branches = model.pos_embed(torch.from_numpy(positions.subjects.reshape(-1, 3)))
        self.count = len(positions.subjects)

    def __call__(self, noisy, t, text, pooled, subjects, cached, adapted):
        model, n_text = self.model, text.shape[1]
        vector = model.time_text_embed(1000 * t, pooled)
        image, text = model.x_embedder(noisy), model.context_embedder(text)
        branch, cached = None if cached else self._embed(subjects, pooled), iter(cached or ())

        for block in model.transformer_blocks:
            image_hidden, *image_rest = block.norm1(image, emb=vector)
            text_hidden, *text_rest = block.norm1_context(text, emb=vector)
            from_text = _project(block.attn, text_hidden, _TEXT, adapted)
            from_image = _project(block.attn, image_hidden, _IMAGE, adapted)
            q, k, v = (torch.cat(both, 1) for both in zip(from_text, from_image, strict=True))
            q, k = _turn(q, self.main), _turn(k, self.main)
            branch, subject_k, subject_v = (None, *next(cached)) if branch is None else self._double(block, *branch)
            out = _attend(q, torch.cat([k, subject_k], 1), torch.cat([v, subject_v], 1))
            attn = block.attn
            image_out, text_out = _apply(attn.to_out[0], out[:, n_text:], adapted), out[:, :n_text]
            image = _finish(image, image_out, image_rest, block.norm2, block.ff, adapted)
            text_out = _apply(attn.to_add_out, text_out, adapted)
            text = _finish(text, text_out, text_rest, block.norm2_context, block.ff_context, adapted)

        main = torch.cat([text, image], 1)
        for block in model.single_transformer_blocks:
            hidden, gate = block.norm(main, emb=vector)
            mlp = block.act_mlp(_apply(block.proj_mlp, hidden, adapted))
            q, k, v = _project(block.attn, hidden, _IMAGE, adapted)
            q, k = _turn(q, self.main), _turn(k, self.main)
            branch, subject_k, subject_v = (None, *next(cached)) if branch is None else self._single(block, *branch)
            out = _attend(q, torch.cat([k, subject_k], 1), torch.cat([v, subject_v], 1))
            main = main + gate[:, None] * _apply(block.proj_out, torch.cat([out, mlp], -1), adapted)
        return model.proj_out(model.norm_out(main[:, n_text:], vector))

    @torch.no_grad()
    def prepare(self, subjects, pooled):
        """Keys and values of the subject tokens in every block."""
        branch, cached = self._embed(subjects, pooled), []
        for blocks, run in (
            (self.model.transformer_blocks, self._double),
            (self.model.single_transformer_blocks, self._single),
        ):
            for block in blocks:
                branch, *keys_values = run(block, *branch)
                cached.append(keys_values)
        return cached

    def _embed(self, subjects, pooled):
        vector = self.model.time_text_embed(torch.zeros(len(pooled)), pooled)
        return self.model.x_embedder(subjects.flatten(1, 2)), vector

    def _double(self, block, hidden, vector):
        normed, *rest = block.norm1(hidden, emb=vector)
        out, k, v = self._branch_attention(block.attn, normed)
        out = _apply(block.attn.to_out[0], out, False)
        return (_finish(hidden, out, rest, block.norm2, block.ff, False), vector), k, v

    def _single(self, block, hidden, vector):
        normed, gate = block.norm(hidden, emb=vector)
        mlp = block.act_mlp(_apply(block.proj_mlp, normed, False))
        out, k, v = self._branch_attention(block.attn, normed)
        return (hidden + gate[:, None] * _apply(block.proj_out, torch.cat([out, mlp], -1), False), vector), k, v

    def _branch_attention(self, attn, hidden):
        q, k, v = _project(attn, hidden, _IMAGE, False)
        q, k = _turn(q, self.branches), _turn(k, self.branches)
        out = _attend(*(x.unflatten(1, (self.count, -1)).flatten(0, 1) for x in (q, k, v)))
        return out.reshape(hidden.shape), k, v


_IMAGE = ("to_q", "to_k", "to_v", "norm_q", "norm_k")
_TEXT = ("add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k")


def _apply(layer, x, adapted):
    return layer(x) if adapted else getattr(layer, "base_layer", layer)(x)


def _project(attn, hidden, names, adapted):
    *layers, norm_q, norm_k = (getattr(attn, name) for name in names)
    q, k, v = (_apply(layer, hidden, adapted).unflatten(-1, (attn.heads, -1)) for layer in layers)
    return norm_q(q), norm_k(k), v


def _turn(x, rotation):
    return apply_rotary_emb(x, rotation, sequence_dim=1)


def _attend(q, k, v):
    out = scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)))
    return out.transpose(1, 2).flatten(2)


def _finish(hidden, attended, rest, norm, feed_forward, adapted):
    gate, shift, scale, mlp_gate = (x[:, None] for x in rest)
    hidden = hidden + gate * attended
    first, _, last = feed_forward.net
    mlp = first.gelu(_apply(first.proj, norm(hidden) * (1 + scale) + shift, adapted))
    return hidden + mlp_gate * _apply(last, mlp, adapted)


class TorchTrainer:
    """The DPO step in torch, for a network that predicts the clean latents."""

    def __init__(self, preset, positions, base, adapter, *, cached):
        model, self.parameters = flux(preset.transformer, base, adapter)
        self.network = BranchedFlux(model, positions, preset.text_length)
        self.cached, self.times = cached, preset.timestep_distribution
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=LEARNING_RATE, betas=(0.9, B2), weight_decay=0.0
        )

    def step(self, batch):
        t = torch.sigmoid(self.times.mean + self.times.std * torch.randn(len(batch["chosen"])))
        loss = self.loss(batch, t, torch.randn(batch["chosen"].shape))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), CLIP_NORM)
        self.optimizer.step()
        return loss.item()

    def loss(self, batch, t, noise):
        clean = torch.cat([batch["chosen"], batch["rejected"]])
        t, noise = t.repeat(2), noise.repeat(2, 1, 1)
        noisy = (1 - t[:, None, None]) * clean + t[:, None, None] * noise
        text, pooled, subjects = batch["text"], batch["pooled"], batch["subjects"]
        cached = None
        if self.cached:
            cached = [[x.repeat(2, 1, 1, 1) for x in both] for both in self.network.prepare(subjects, pooled)]
        inputs = noisy, t, text.repeat(2, 1, 1), pooled.repeat(2, 1), subjects.repeat(2, 1, 1, 1), cached

        def errors(adapted):
            residual = (clean - self.network(*inputs, adapted)) / t.clamp(min=T_FLOOR)[:, None, None]
            return residual.square().mean((1, 2)).chunk(2)

        with torch.no_grad():
            chosen_reference, rejected_reference = errors(False)
        chosen, rejected = errors(True)
        margin = (rejected - rejected_reference) - (chosen - chosen_reference)
        return -logsigmoid(BETA / 2 * margin).mean()


# --- ours ------------------------------------------------------------------------------------------------------------


class Trainer:
    """The package's own step."""

    def __init__(self, generator, policy, base, adapter, mesh, *, cached):
        if not cached:
            generator, policy = (
                UncachedGenerator(**{f.name: getattr(g, f.name) for f in dataclasses.fields(g)})
                for g in (generator, policy)
            )
        optimizer = Optimizer(LEARNING_RATE, clip_norm=CLIP_NORM, b2=B2).build(total_steps=1)
        self.trainee = GeneratorTrainee(None, None, generator, policy, adapter, base, encoding={}, reference=generator)
        made = make_step(DPO(beta=BETA), self.trainee, optimizer, mesh, seed=SEED, ema_decay=0.95)
        self.run, self.state = made.run, jax.device_put(new_state(adapter, optimizer), made.state_shardings)
        self.frozen = jax.device_put(base, made.frozen_shardings)

    def step(self, batch):
        self.state, metrics = self.run(self.state, self.frozen, batch)
        return float(metrics["loss"])


def check_parity(trainers, generator, base, adapter, batch, torch_batch):
    """The largest relative differences of loss and gradient between every variant and the first torch one."""
    key = jax.random.fold_in(jax.random.key(SEED), 0)
    t, noise = draws(generator, key, batch)
    losses, grads = {}, {}
    for name, trainer in trainers.items():
        if isinstance(trainer, TorchTrainer):
            loss = trainer.loss(torch_batch, t, noise)
            found = torch.autograd.grad(loss, trainer.parameters.values())
            grads[name] = {n: g.numpy().T for n, g in zip(trainer.parameters, found, strict=True)}
            losses[name] = loss.item()
        else:
            run = jax.jit(partial(gradients, DPO(beta=BETA), trainer.trainee))
            found, metrics = run(adapter, base, batch, key)
            grads[name] = unstacked(found)
            losses[name] = float(metrics["loss"])
    expected = losses["torch"]
    assert abs(expected / np.log(2) - 1) > 0.01, "the adapter changes nothing: parity would be empty"
    loss_gap = max(abs(loss / expected - 1) for loss in losses.values())
    gradient_gap = max(
        np.abs(np.asarray(found[name]) - wanted).max() / np.abs(wanted).max()
        for found in grads.values()
        for name, wanted in grads["torch"].items()
    )
    assert loss_gap <= PARITY, f"losses differ by {loss_gap:.1e}: {losses}"
    assert gradient_gap <= GRADIENT_PARITY, f"gradients differ by {gradient_gap:.1e}"
    return loss_gap, gradient_gap


# --- measuring -------------------------------------------------------------------------------------------------------


def step_flops(preset, positions, pairs, subject_forwards):
    """Arithmetic of one step in the blocks' linear layers, attention and adapters, two operations a multiplication.

    A token meets 12 width² weights in a block of either kind and 18 · width · rank of the adapter (17 in a single
    block, counted alike); a query meets each key twice. Reference and policy go forward, the policy back as well: once
    more through frozen weights (no gradient of theirs is wanted), twice through adapter and attention. A pair's subject
    tokens go forward `subject_forwards` times. Torch's own counter, which leaves out what no gradient needs, and XLA's
    say 1 to 5 % less.
    """
    config = preset.transformer
    width, blocks = config.width, config.double_blocks + config.single_blocks
    main, (branches, branch) = preset.text_length + len(positions.noisy), positions.subjects.shape[:2]
    subject = branches * branch
    linear, attention = 24 * width**2, 4 * width
    rows = 3 * linear * main + 4 * attention * main * (main + subject) + 3 * 36 * width * RANK * main
    subjects = linear * subject + attention * subject * branch
    return blocks * pairs * (2 * rows + subject_forwards * subjects)


def measure(preset, pairs, rounds):
    """Seconds of every variant in each round, FLOPs, number of weights, and the two differences of the parity."""
    generator, policy, base, adapter, batch = example(preset, pairs)
    positions, mesh = generator._positions, make_mesh({"data": 1, "fsdp": 1, "tensor": 1})
    trainers = {}
    for cached in (True, False):
        suffix = ", cached" if cached else ""
        trainers["ours" + suffix] = Trainer(generator, policy, base, adapter, mesh, cached=cached)
        trainers["torch" + suffix] = TorchTrainer(preset, positions, base, adapter, cached=cached)
    flops = {name: step_flops(preset, positions, pairs, SUBJECT_FORWARDS[name]) for name in trainers}
    arrays = {**batch, **batch["conditioning"]._asdict()}
    torch_batch = {n: torch.from_numpy(x) for n, x in arrays.items() if isinstance(x, np.ndarray)}
    gaps = check_parity(trainers, generator, base, adapter, batch, torch_batch)
    batches = {name: torch_batch if name.startswith("torch") else jax.device_put(batch) for name in trainers}
    seconds = {name: [] for name in trainers}
    for name, trainer in trainers.items():
        trainer.step(batches[name])  # compiles
    for _ in range(rounds):  # in turn, so that the machine's moods fall on all alike
        for name, trainer in trainers.items():
            seconds[name].append(timed(lambda trainer=trainer, name=name: trainer.step(batches[name]), STEPS))
    return seconds, flops, sum(w.size for w in base.values()), gaps


def ratio(slow, fast):
    """Median and range over the rounds of how many times as long `slow` takes."""
    ratios = [s / f for s, f in zip(slow, fast, strict=True)]
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def report(rounds):
    """The Markdown that the benchmark prints."""
    before = matmul_rates()
    measured = {size: measure(preset, pairs, rounds) for size, (preset, pairs) in SIZES.items()}
    rates = {name: max(rate, before[name]) for name, rate in matmul_rates().items()}
    peak = max(rates.values())
    lines = [
        "| size | variant | ms a step | torch ÷ it | torch, cached ÷ it | GFLOP a step | GFLOP/s | of matmul rate |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    notes = []
    for size, (preset, pairs) in SIZES.items():
        seconds, flops, weights, (loss_gap, gradient_gap) = measured[size]
        for name, values in seconds.items():
            middle = statistics.median(values)
            rate = flops[name] / middle / 1e9
            ratios = f"{ratio(seconds['torch'], values)} | {ratio(seconds['torch, cached'], values)}"
            spread = f"{1000 * middle:.0f} [{1000 * min(values):.0f}, {1000 * max(values):.0f}]"
            lines.append(
                f"| {size} | {name} | {spread} | {ratios} | {flops[name] / 1e9:.1f} | {rate:.0f} | {rate / peak:.0%} |"
            )
        tokens = f"{len(preset.subject_offsets)} × {(preset.subject_size // preset.patch) ** 2} subject"
        notes.append(
            f"- {size}: {weights / 1e6:.1f} M weights, width {preset.transformer.width}, "
            f"{(preset.image_size // preset.patch) ** 2} noisy + {preset.text_length} text + {tokens} tokens, "
            f"{pairs} pairs, adapter of rank {RANK}; before timing, losses of all four within {loss_gap:.0e} and "
            f"gradients within {gradient_gap:.0e} of torch's."
        )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax", "torch", "diffusers", "peft"))
    notes.append(
        f"- {os.cpu_count()} cores ({processor()}), float32, {rounds} rounds of {STEPS} steps in turn, seed {SEED}; "
        "medians, ranges in brackets."
    )
    found = ", ".join(f"{rate:.0f} ({name})" for name, rate in rates.items())
    notes.append(
        f"- matmul of 2048²: {found} GFLOP/s, the best before and after; the faster is the measure; {libraries}."
    )
    return "\n".join([*lines, "", *notes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(SEED)
    table = report(arguments.rounds)
    print(table)
    if arguments.out:
        about, command, *rest = __doc__.strip().split("\n\n")
        arguments.out.write_text("\n\n".join([f"# {about}", command, *rest, table]) + "\n")


if __name__ == "__main__":
    main()
