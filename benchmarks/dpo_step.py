"""One LoRA-DPO train step (loss, gradients of the adapter, AdamW) of ours beside torch + diffusers + peft, on CPU.

    python benchmarks/dpo_step.py [--rounds N] [--out docs/dpo_step.md]

torch runs diffusers' Flux modules with subject branches as OminiControl's scripts have them: the forward is written
over the modules, subject tokens pass the base layers only and see nothing but their own branch, peft's adapter acts on
text and noisy tokens, the reference is the base without gradient. Both members of a pair go through in one batch.
Each side once with the subjects' keys and values computed once a step and shared ("cached"), once with the subject
tokens in every forward. Weights, adapter (b is not zero), data, t and noise are the same for the parity of loss and
gradient that is asserted first, at β = 100. The four then take turns, at β = 500, float32, all cores.
"""

import argparse
import dataclasses
import os
import statistics
from copy import copy
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
from measuring import matmul_rates, processor, timed
from page import write_page
from torch_flux import ADAPTER, B2, BETA, CLIP_NORM, LEARNING_RATE, BranchedFlux, TorchTrainer, add_adapter, flux

from narrative_jax.algorithms.base import Algorithm, drawn
from narrative_jax.algorithms.dpo import DPO
from narrative_jax.core.mesh import make_mesh
from narrative_jax.generators.flow import TRANSFORMER, FlowConditioning, FlowGenerator
from narrative_jax.generators.flow_presets import RANDOM, STORYBOOK_FLOW
from narrative_jax.models.checkpoints import published_names
from narrative_jax.models.flow_transformer import FLUX_NAMES, FlowTransformerConfig
from narrative_jax.models.lora import adapter_of
from narrative_jax.models.network import below, under
from narrative_jax.models.stacks import unstacked
from narrative_jax.trainees.generator import GeneratorTrainee
from narrative_jax.training.optimizer import Optimizer
from narrative_jax.training.step import gradients, make_step, new_state

SEED = 0
RANK = 16
TARGETS = r".*_blocks\.\d+\.(image\.|text\.)?(attention\.to_[qkv]|to_out|mlp_in|mlp_out|out)"
# Sinusoids of 1,000 t, in float32 on both sides, are apart by 1e-5 or so, and β multiplies that: gradients are 2e-5
# apart at β = 10, 2e-4 at 100, 1e-3 at 500.
PARITY_BETA = 100.0
PARITY = 1e-4  # relative, of the loss
GRADIENT_PARITY = 1e-3  # relative to the largest element of an array
# How often a step takes a pair's subject tokens forward. XLA finds by itself that policy and reference do the same.
SUBJECT_FORWARDS = {"ours, cached": 1, "ours": 2, "torch, cached": 1, "torch": 4}
ALGORITHM = DPO(beta=BETA)
LIBRARIES = ("jax", "flax", "optax", "torch", "diffusers", "peft")
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


def torch_trainer(preset, positions, base, adapter, *, cached):
    """torch's step with these weights."""
    model = flux(preset.transformer)
    base, adapter = (unstacked(below(TRANSFORMER, weights)) for weights in (base, adapter))
    published = published_names(base, FLUX_NAMES)
    weights = {
        key: torch.from_numpy(np.array(np.asarray(base[name]).transpose(layout and np.argsort(layout))))
        for name, (key, layout) in published.items()
    }
    model.load_state_dict(weights)
    parameters = add_adapter(model, {**base, **adapter}, RANK)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(torch.from_numpy(np.array(adapter[name]).T))
    network = BranchedFlux(model, positions, preset.text_length)
    return TorchTrainer(network, under(TRANSFORMER, parameters), preset.timestep_distribution, cached=cached)


# --- ours ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Gradients:
    """Of the package's step."""

    trainee: GeneratorTrainee
    algorithm: Algorithm = ALGORITHM

    def gradients(self, adapter, frozen, batch, key):
        """The adapter's by their names on disk, and the step's metrics."""
        found, metrics = jax.jit(partial(gradients, self.algorithm, self.trainee))(adapter, frozen, batch, key)
        return unstacked(found), metrics


class Trainer(Gradients):
    """The package's own step."""

    def __init__(self, generator, policy, frozen, adapter, mesh, *, cached=True, algorithm=ALGORITHM, reward=None):
        if not cached:
            generator, policy = (
                UncachedGenerator(**{f.name: getattr(g, f.name) for f in dataclasses.fields(g)})
                for g in (generator, policy)
            )
        models = {"reference": generator, "reward": reward}
        trainee = GeneratorTrainee(None, None, generator, policy, adapter, frozen, encoding={}, **models)
        super().__init__(trainee, algorithm)
        optimizer = Optimizer(LEARNING_RATE, clip_norm=CLIP_NORM, b2=B2).build(total_steps=1)
        made = make_step(algorithm, trainee, optimizer, mesh, seed=SEED, ema_decay=0.95)
        self.run, self.state = made.run, jax.device_put(new_state(adapter, optimizer), made.state_shardings)
        self.frozen = jax.device_put(frozen, made.frozen_shardings)

    def step(self, batch):
        self.state, metrics = self.run(self.state, self.frozen, batch)
        return float(metrics["loss"])


def at_beta(trainer, beta):
    """What a trainer computes with another β than it trains with."""
    if not isinstance(trainer, TorchTrainer):
        return Gradients(trainer.trainee, DPO(beta=beta))
    other = copy(trainer)
    other.beta = beta
    return other


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
            grads[name], metrics = trainer.gradients(adapter, base, batch, key)
            losses[name] = float(metrics["loss"])
    assert abs(losses["torch"] / np.log(2) - 1) > 0.01, "the adapter changes nothing: parity would be empty"
    return check_gaps(losses, grads)


def check_gaps(losses, grads, size=0.0):
    """The largest relative differences of losses and gradients from torch's; of a loss that cancels, relative to the
    `size` of what it is a mean of.
    """
    loss_gap = max(abs(loss - losses["torch"]) for loss in losses.values()) / max(size, abs(losses["torch"]))
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
        trainers["torch" + suffix] = torch_trainer(preset, positions, base, adapter, cached=cached)
    flops = {name: step_flops(preset, positions, pairs, SUBJECT_FORWARDS[name]) for name in trainers}
    arrays = {**batch, **batch["conditioning"]._asdict()}
    torch_batch = {n: torch.from_numpy(x) for n, x in arrays.items() if isinstance(x, np.ndarray)}
    compared = {name: at_beta(trainer, PARITY_BETA) for name, trainer in trainers.items()}
    gaps = check_parity(compared, generator, base, adapter, batch, torch_batch)
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
    return "\n".join([*lines, "", *notes, *conditions(rounds, rates)])


def conditions(rounds, rates, *more):
    """What was measured where and with what; `more` are libraries besides those of a step."""
    libraries = ", ".join(f"{name} {version(name)}" for name in (*LIBRARIES, *more))
    found = ", ".join(f"{rate:.0f} ({name})" for name, rate in rates.items())
    return [
        f"- {os.cpu_count()} cores ({processor()}), float32, {rounds} rounds of {STEPS} steps in turn, seed {SEED}; "
        "medians, ranges in brackets.",
        f"- matmul of 2048²: {found} GFLOP/s, the best before and after; the faster is the measure; {libraries}.",
    ]


def command(about, report):
    """Measure as the command line says, print the table, and write it where it is asked for."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(SEED)
    table = report(arguments.rounds)
    print(table)
    if arguments.out:
        write_page(arguments.out, about, table)


if __name__ == "__main__":
    command(__doc__, report)
