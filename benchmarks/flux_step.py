"""One LoRA-DPO train step of FLUX.1-dev's size, ours beside torch + diffusers + peft, on one GPU of 80 GB.

    python benchmarks/flux_step.py [--side PIXELS] [--attention NAME] [--only ours|torch|parity] [--tiny] [--out FILE]

One pair of pictures with one subject of half their side: the preset with fewer slots, since it is made for subjects,
so that what is measured is the package's own step. FLUX.1-dev's sizes, the adapter of the recipe `adpo:flux`. Weights
are random, made on the device in bfloat16, the adapter's in float32. Both sides compute in bfloat16 and work each block
out again for the gradient; the reference is the base without gradient; the subject's keys and values are computed once
a step. torch runs the blocks of `torch_flux.py` over diffusers' modules, under autocast as diffusers' training scripts
do: eager, and with each kind of block through torch.compile. Each side is a process of its own, so that no allocator
keeps the other's memory. First, loss and gradients of both are compared at tiny sizes, float32, with the same weights,
at β = 10. `--tiny` is a rehearsal on CPU, where compiled blocks are only traced.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from page import write_page

from narrative_jax.algorithms.dpo import DPO
from narrative_jax.core.config import load
from narrative_jax.core.mesh import make_mesh
from narrative_jax.generators.flow import TRANSFORMER
from narrative_jax.generators.flow_presets import FLUX_DEV
from narrative_jax.models.attention import ATTENTIONS
from narrative_jax.models.checkpoints import published_names
from narrative_jax.models.flow_transformer import FLUX_NAMES, TIME_SCALE
from narrative_jax.models.lora import adapter_of
from narrative_jax.models.network import below, under
from narrative_jax.models.stacks import stacked, unstacked
from narrative_jax.planning.flops import flops, live
from narrative_jax.trainees.generator import GeneratorTrainee
from narrative_jax.training.optimizer import Optimizer
from narrative_jax.training.step import gradients, make_step, new_state

SEED = 0
PAIRS = 1
WARM_UP, TIMED = 2, 5  # steps
TINY = {"heads": 2, "axes_dim": (4, 6, 6), "double_blocks": 2, "single_blocks": 2, "text_dim": 32, "pooled_dim": 16}
RECIPE = "adpo:flux"
LIBRARIES = ("jax", "flax", "optax", "torch", "diffusers", "peft")


def preset_of(side, *, tiny, attention="auto"):
    """FLUX.1-dev with one subject, which stands to the left of the picture."""
    sizes, side, length = (TINY, 64, 8) if tiny else ({}, side, FLUX_DEV.text_length)
    return dataclasses.replace(
        FLUX_DEV,
        transformer=dataclasses.replace(FLUX_DEV.transformer, attention=attention, **sizes),
        image_size=side,
        subject_size=side // 2,
        subject_offsets=((0, -(side // 2 // FLUX_DEV.token)),),
        text_length=length,
    )


def abstract_trainee(preset):
    """What the package's step trains, with shapes in place of weights; encoders and decoder take no part."""
    generator, shapes = preset.abstract()
    options, made = load(RECIPE).align.adapter.to_dict(), []

    def adapted(weights):
        policy, weights = generator.with_adapter(weights, "align", **options)
        made.append(policy)  # structure, which is no array, leaves the abstract run by itself
        return weights

    shapes = jax.eval_shape(adapted, under(TRANSFORMER, below(TRANSFORMER, shapes)))
    params = {name: shape for name, shape in shapes.items() if adapter_of(name)}
    frozen = {name: shape for name, shape in shapes.items() if name not in params}
    return GeneratorTrainee(None, None, generator, *made, params, frozen, encoding={}, reference=generator)


def random_batch(generator):
    """Pairs with all that they ask for, every subject there."""
    rng = np.random.default_rng(SEED)
    draw = lambda like: np.float32(rng.normal(size=like.shape)) if like.dtype == np.float32 else like  # noqa: E731
    latents, asked = np.zeros((PAIRS, *generator.latent_shape), np.float32), generator.blank(PAIRS)
    batch = {"chosen": latents, "rejected": latents, "conditioning": asked}
    return {**jax.tree.map(draw, batch), "gap": np.ones(PAIRS, np.float32)}


def useful_flops(preset):
    """Of a step, as the planner counts them in its trace: without what is worked out again."""
    trainee = abstract_trainee(preset.keeping("all"))
    traced = jax.make_jaxpr(lambda *given: gradients(DPO(), trainee, *given, jax.random.key(0)))
    return sum(flops(live(traced(trainee.params, trainee.frozen, random_batch(trainee.base)))))


def spread_of(preset):
    """Of random weights: sums over the width neither grow nor vanish. Those of norms lie around 1."""
    return preset.transformer.width**-0.5


def clocked(job):
    """Seconds of a call."""
    begin = time.perf_counter()
    job()
    return time.perf_counter() - begin


def tell(**found):
    """A line of JSON for the process that makes the table."""
    print(json.dumps(found), flush=True)


def tell_matmul(library, multiply, size):
    """FLOP/s of bfloat16 products of two square matrices, the best of three; `multiply` waits for a number of them."""
    multiply(1)
    tell(library=library, rate=10 * 2 * size**3 / min(clocked(lambda: multiply(10)) for _ in range(3)))


def tell_steps(variant, step, peak):
    """Seconds of each step, and the most bytes that the arrays took."""

    def checked():
        loss = step()
        assert np.isfinite(loss), f"the loss of {variant} is {loss}"

    seconds = []
    for number in range(WARM_UP + TIMED):
        seconds.append(clocked(checked))
        print(f"{variant}, step {number}: {seconds[-1]:.3f} s", flush=True)
    tell(variant=variant, first=seconds[0], seconds=seconds[WARM_UP:], peak=peak())


# --- ours ------------------------------------------------------------------------------------------------------------


def measure_ours(preset, size):
    """The package's own step."""
    matrix, product = jax.random.normal(jax.random.key(SEED), (size, size), jnp.bfloat16), jax.jit(jnp.matmul)
    tell_matmul("XLA", lambda count: jax.block_until_ready([product(matrix, matrix) for _ in range(count)]), size)
    trainee, mesh = abstract_trainee(preset), make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, jax.devices()[:1])
    optimizer = Optimizer(load(RECIPE).align.optimizer.learning_rate).build(total_steps=1)
    made = make_step(DPO(), trainee, optimizer, mesh, seed=SEED, ema_decay=0.95)
    spread, keys = spread_of(preset), iter(jax.random.split(jax.random.key(SEED, impl="rbg"), 1000))

    @partial(jax.jit, static_argnums=(1, 2, 3))
    def normal(key, mean, shape, dtype):
        # A block at a time, or the random bits would take more memory than the step.
        draw = lambda key: mean + spread * jax.random.normal(key, shape[1:], dtype)  # noqa: E731
        return jax.lax.map(draw, jax.random.split(key, shape[0]))

    def drawn(shapes):
        means = {name: float(name.endswith(".scale")) for name in shapes}
        return {name: normal(next(keys), means[name], like.shape, like.dtype) for name, like in shapes.items()}

    state = jax.device_put(new_state(drawn(trainee.params), optimizer), made.state_shardings)
    frozen = jax.device_put(drawn(trainee.frozen), made.frozen_shardings)
    batch = jax.device_put(random_batch(trainee.base), made.batch_sharding)
    print("ours: weights are there", flush=True)

    def step():
        nonlocal state
        state, metrics = jax.block_until_ready(made.run(state, frozen, batch))
        return float(metrics["loss"])

    tell_steps("ours", step, lambda: (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0))


# --- torch -----------------------------------------------------------------------------------------------------------
# torch is imported where it is needed: ours is measured without it, and sooner.


def flux_model(preset, trainee, device):
    """diffusers' model with random weights and peft's adapter. Beside it, by our names, its base weights with their
    layouts, and the adapter's.
    """
    import torch
    import torch_flux

    torch.set_default_dtype(getattr(torch, preset.weight_type))
    with torch.device(device):
        model = torch_flux.flux(preset.transformer)
    torch.set_default_dtype(torch.float32)
    frozen, params = (unstacked(below(TRANSFORMER, shapes)) for shapes in (trainee.frozen, trainee.params))
    weights = dict(model.named_parameters())
    base = {name: (weights[key], layout) for name, (key, layout) in published_names(frozen, FLUX_NAMES).items()}
    adapter = torch_flux.add_adapter(model, {**frozen, **params}, load(RECIPE).align.adapter.rank)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(float(".norm_" in name), spread_of(preset))
        for weight in adapter.values():
            weight.data = weight.float()
    return model, base, adapter


def torch_trainer(preset, trainee, device):
    """`torch_flux.TorchTrainer` for FLUX; `network.compile` compiles its blocks."""
    import torch
    import torch_flux
    from torch.utils.checkpoint import checkpoint

    def double(block, image, text, vector, rotation, subject_k, subject_v, adapted):
        image_hidden, *image_rest = block.norm1(image, emb=vector)
        text_hidden, *text_rest = block.norm1_context(text, emb=vector)
        from_text = torch_flux.project(block.attn, text_hidden, torch_flux.TEXT, adapted)
        from_image = torch_flux.project(block.attn, image_hidden, torch_flux.IMAGE, adapted)
        qkv = (torch.cat(both, 1) for both in zip(from_text, from_image, strict=True))
        text_out, image_out = attend(*qkv, rotation, subject_k, subject_v).split([text.shape[1], image.shape[1]], 1)
        image_out = torch_flux.apply(block.attn.to_out[0], image_out, adapted)
        text_out = torch_flux.apply(block.attn.to_add_out, text_out, adapted)
        image = torch_flux.finish(image, image_out, image_rest, block.norm2, block.ff, adapted)
        return image, torch_flux.finish(text, text_out, text_rest, block.norm2_context, block.ff_context, adapted)

    def single(block, main, vector, rotation, subject_k, subject_v, adapted):
        hidden, gate = block.norm(main, emb=vector)
        mlp = block.act_mlp(torch_flux.apply(block.proj_mlp, hidden, adapted))
        qkv = torch_flux.project(block.attn, hidden, torch_flux.IMAGE, adapted)
        both = torch.cat([attend(*qkv, rotation, subject_k, subject_v), mlp], -1)
        return main + gate[:, None] * torch_flux.apply(block.proj_out, both, adapted)

    def attend(q, k, v, rotation, subject_k, subject_v):
        q, k = torch_flux.turn(q, rotation), torch_flux.turn(k, rotation)
        return torch_flux.attend(q, torch.cat([k, subject_k], 1), torch.cat([v, subject_v], 1))

    class Network(torch_flux.BranchedFlux):
        """Block by block, as checkpoints and the compiler want it, with FLUX's guidance. Gives clean latents."""

        def __init__(self, model):
            super().__init__(model, trainee.base._positions, preset.text_length)
            self.main, self.branches = ([x.to(device) for x in both] for both in (self.main, self.branches))
            self.double, self.single = double, single

        def compile(self):
            backend = "inductor" if device == "cuda" else "aot_eager"
            for name in ("double", "single", "_double", "_single"):
                setattr(self, name, torch.compile(getattr(self, name), dynamic=False, backend=backend))

        def __call__(self, noisy, t, text, pooled, subjects, cached, adapted):
            model, n_text, cached = self.model, text.shape[1], iter(cached)
            vector = self._vector(t, preset.distilled_guidance, pooled)
            image, text = model.x_embedder(noisy), model.context_embedder(text)
            for block in model.transformer_blocks:
                image, text = _run(self.double, block, image, text, vector, self.main, *next(cached), adapted)
            main = torch.cat([text, image], 1)
            for block in model.single_transformer_blocks:
                main = _run(self.single, block, main, vector, self.main, *next(cached), adapted)
            return noisy - t[:, None, None] * model.proj_out(model.norm_out(main[:, n_text:], vector))

        def _embed(self, subjects, pooled):
            vector = self._vector(torch.zeros(len(pooled), device=device), 1.0, pooled)
            return self.model.x_embedder(subjects.flatten(1, 2)), vector

        def _vector(self, t, guidance, pooled):
            return self.model.time_text_embed(TIME_SCALE * t, torch.full_like(t, TIME_SCALE * guidance), pooled)

    def _run(block, *given):
        return checkpoint(block, *given, use_reentrant=False) if torch.is_grad_enabled() else block(*given)

    class Trainer(torch_flux.TorchTrainer):
        def __init__(self):
            model, self.base, adapter = flux_model(preset, trainee, device)
            times = preset.timestep_distribution
            rate = load(RECIPE).align.optimizer.learning_rate
            super().__init__(Network(model), under(TRANSFORMER, adapter), times, cached=True, learning_rate=rate)

        def loss(self, batch, t, noise):
            with torch.autocast(device, torch.bfloat16, enabled=preset.weight_type == "bfloat16"):
                return super().loss(batch, t.to(device), noise.to(device))

    return Trainer()


def torch_batch(batch, device):
    """The batch as `torch_flux.TorchTrainer` has it."""
    import torch

    arrays = {**batch, **batch["conditioning"]._asdict()}
    return {name: torch.from_numpy(x).to(device) for name, x in arrays.items() if isinstance(x, np.ndarray)}


def measure_torch(preset, size):
    """torch's step, eager and then compiled."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(SEED)
    trainee = abstract_trainee(preset)
    trainer, batch = torch_trainer(preset, trainee, device), torch_batch(random_batch(trainee.base), device)
    print("torch: weights are there", flush=True)
    matrix = torch.randn(size, size, dtype=torch.bfloat16, device=device)
    tell_matmul("torch", lambda count: [matrix @ matrix for _ in range(count)][-1][0, 0].item(), size)
    tell_steps("torch, eager", lambda: trainer.step(batch), torch.cuda.max_memory_allocated)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer.network.compile()
    tell_steps("torch, compiled", lambda: trainer.step(batch), torch.cuda.max_memory_allocated)


def compare():
    """Loss and gradients of both at tiny sizes in float32, with torch's weights."""
    import dpo_step
    import torch

    preset = preset_of(0, tiny=True)
    preset = dataclasses.replace(
        preset, transformer=dataclasses.replace(preset.transformer, compute="float32"), weight_type="float32"
    )
    trainee, as_array = abstract_trainee(preset), lambda x: x.detach().numpy()
    torch.manual_seed(SEED)
    trainer, batch = torch_trainer(preset, trainee, "cpu"), random_batch(trainee.base)
    trainer.beta = 10.0  # what sinusoids are apart by in float32, β multiplies: see `dpo_step`
    base = {name: as_array(x).transpose(layout) for name, (x, layout) in trainer.base.items()}
    base = stacked(under(TRANSFORMER, base), trainee.frozen)
    adapter = stacked({name: as_array(x).T for name, x in trainer.parameters.items()}, trainee.params)
    both = {"ours": dpo_step.Gradients(trainee, DPO(beta=trainer.beta)), "torch": trainer}
    loss, gradient = dpo_step.check_parity(both, trainee.base, base, adapter, batch, torch_batch(batch, "cpu"))
    tell(parity=f"losses within {loss:.0e} and gradients within {gradient:.0e} of torch's")


# --- measuring -------------------------------------------------------------------------------------------------------

CHILDREN = {"parity": lambda preset, size: compare(), "ours": measure_ours, "torch": measure_torch}


def lines_of(child, arguments):
    """What the process of a side told, and the end of what it printed where it failed."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if arguments.tiny or child == "parity" else {}
    # torch's side makes batches with jax, which is to take none of the GPU.
    ours = {"JAX_PLATFORMS": "cpu"} if hidden or child == "torch" else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, __file__, *sys.argv[1:], "--child", child]
    told, last = [], ""
    with subprocess.Popen(
        command, env={**os.environ, **hidden, **ours}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            told += [json.loads(line)] if line.startswith('{"') else []
            last = line.strip() or last
    return told, f"{child} failed: {last}" if process.returncode else ""


def report(arguments):
    """The Markdown that the benchmark prints."""
    told, errors = [], []
    for child in [arguments.only] if arguments.only else CHILDREN:
        found, error = lines_of(child, arguments)
        told, errors = told + found, errors + [error] * bool(error)
        if error and child == "parity":
            raise SystemExit(error)  # steps that differ are not timed
    jax.config.update("jax_platforms", "cpu")  # the count takes no device
    preset = preset_of(arguments.side, tiny=arguments.tiny, attention=arguments.attention)
    useful = useful_flops(preset_of(arguments.side, tiny=arguments.tiny))
    rates = {line["library"]: line["rate"] for line in told if "rate" in line}
    variants = {line["variant"]: line for line in told if "variant" in line}
    middles = {name: statistics.median(line["seconds"]) for name, line in variants.items()}
    lines = [
        "| variant | s a step | eager ÷ it | pictures/s | TFLOP/s | of matmul rate | GiB at most | first step, s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, line in variants.items():
        middle, seconds, peak = middles[name], line["seconds"], line["peak"]
        ratio = f"{middles['torch, eager'] / middle:.2f}" if "torch, eager" in middles else ""
        rate = useful / middle
        lines.append(
            f"| {name} | {middle:.3f} [{min(seconds):.3f}, {max(seconds):.3f}] | {ratio} | {2 * PAIRS / middle:.2f} | "
            f"{rate / 1e12:.3g} | {rate / max(rates.values()):.0%} | {f'{peak / 2**30:.1f}' if peak else ''} | "
            f"{line['first']:.1f} |"
        )
    return "\n".join([*lines, "", *notes(preset, told, useful, rates), *(f"- {error}" for error in errors)])


def notes(preset, told, useful, rates):
    """What was measured, where and with what."""
    trainee = abstract_trainee(preset)
    base, adapter = (sum(x.size for x in shapes.values()) for shapes in (trainee.frozen, trainee.params))
    noisy, subject = len(trainee.base._positions.noisy), trainee.base._positions.subjects.shape[1]
    found = ", ".join(f"{rate / 1e12:.3g} ({name})" for name, rate in rates.items())
    return [
        f"- {base / 1e9:.3g} B weights, width {preset.transformer.width}, {preset.transformer.double_blocks} + "
        f"{preset.transformer.single_blocks} blocks; pictures of {preset.image_size}², {noisy} noisy + "
        f"{preset.text_length} text + {subject} subject tokens, {PAIRS} pair; {adapter / 1e6:.3g} M weights of the "
        f"adapter; {useful / 1e12:.3g} TFLOP a step, what is worked out again not counted.",
        f"- {TIMED} steps after {WARM_UP}, of which the first compiles; medians, ranges in brackets; seed {SEED}; ours "
        f"with attention {preset.transformer.attention!r}.",
        *(f"- Tiny, float32, before: {line['parity']}." for line in told if "parity" in line),
        f"- {card()}; matmul in bfloat16: {found} TFLOP/s; the faster is the measure; {versions()}.",
    ]


def card():
    """The GPU and its driver, as the driver names them."""
    if not shutil.which("nvidia-smi"):
        return "no GPU"
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip().replace(", ", ", driver ")


def versions():
    """Of the libraries that are there."""

    def known(name):
        try:
            return [f"{name} {version(name)}"]
        except PackageNotFoundError:
            return []

    return ", ".join(told for name in LIBRARIES for told in known(name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--attention", default="auto", choices=ATTENTIONS, help="of ours")
    parser.add_argument("--only", choices=CHILDREN)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", choices=CHILDREN, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        preset = preset_of(arguments.side, tiny=arguments.tiny, attention=arguments.attention)
        CHILDREN[arguments.child](preset, 256 if arguments.tiny else 8192)
        return
    table = report(arguments)
    print(table)
    if arguments.out:
        write_page(arguments.out, __doc__, table)


if __name__ == "__main__":
    main()
