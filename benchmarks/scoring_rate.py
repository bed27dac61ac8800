"""Pictures scored a second by CLIP's cosine with their prompts, ours beside transformers + torch, on CPU.

    python benchmarks/scoring_rate.py [--size storybook|large] [--rounds N] [--out docs/scoring_rate.md]

Both sides take bytes and prompts and give scores, as the score stage asks for them: resizing (bicubic, antialiased, the
shortest side to that of the tower; none where the picture fits), middle crop, normalisation, image tower, cosine. The
prompts' embeddings are worked out before on both sides and looked up. torch runs transformers' image tower (attention
by torch's fused kernel) in inference mode, once as it is and once all of it through torch.compile, and resizes by
torch's own antialiased filter, on floats, so that both sides see the same pixels. Weights, random, are the same; scores
that differ stop the benchmark. The sides then take turns, float32, all cores. Ours computes of the last block what the
class token needs, transformers all of it; the GFLOP are of what each computes.
"""

import argparse
import os
import statistics
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import torch
import transformers
from measuring import matmul_rates, processor, ratio, timed
from page import write_page
from torch.nn.functional import interpolate, normalize

from narrative_jax.core.mesh import make_mesh
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.models.checkpoints import published_names
from narrative_jax.models.clip import CLIP_NAMES, CLIP_SIZES, ClipTextConfig, ClipVisionConfig
from narrative_jax.models.preprocessing import CLIP
from narrative_jax.models.stacks import shapes_on_disk, stacked
from narrative_jax.models.tokenizer import train_tokenizer
from narrative_jax.rewards.base import OnHost
from narrative_jax.rewards.clip_scores import ClipCosine, ClipPair

SEED = 0
PARITY = 1e-4  # relative to the largest score


@dataclass(frozen=True)
class Size:
    """Towers, the side of the pictures, how many are scored in a call, and how many calls are timed at a turn."""

    text: ClipTextConfig
    vision: ClipVisionConfig
    side: int
    batch: int
    calls: int


SIZES = {
    "storybook": Size(
        ClipTextConfig(max_length=24, width=128, heads=4, blocks=3, mlp_width=512, projection=128),
        ClipVisionConfig(40, 5, width=128, heads=4, blocks=3, mlp_width=512, projection=128),
        side=40,
        batch=64,
        calls=20,
    ),
    "large": Size(*CLIP_SIZES["ViT-L/14"], side=256, batch=8, calls=1),
}


def random_clip(size, tokenizer):
    """transformers' model, random, with no zeros: as built, its biases are."""
    text, vision = _words(size.text), _words(size.vision)
    text |= {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": size.text.max_length}
    text |= {"eos_token_id": tokenizer.end, "bos_token_id": tokenizer.start, "pad_token_id": tokenizer.pad}
    vision |= {"image_size": size.vision.image_size, "patch_size": size.vision.patch_size}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=size.vision.projection)
    torch.manual_seed(SEED)
    model = transformers.CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))
    return model


def _words(config):
    """A tower's sizes in transformers' words."""
    return {
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.blocks,
        "intermediate_size": config.mlp_width,
        "hidden_act": config.activation,
        "projection_dim": config.projection,
    }


def with_weights(model, size, tokenizer):
    """Our pair of towers with the weights of transformers' model."""
    state = {key: value.numpy() for key, value in model.state_dict().items()}

    def read(like):
        published = published_names(shapes_on_disk(like), CLIP_NAMES)
        weights = {
            name: jnp.asarray(state[key] if layout is None else state[key].transpose(layout))
            for name, (key, layout) in published.items()
        }
        return stacked(weights, like)

    text = replace(size.text, vocab_size=tokenizer.vocab_size, end_token=tokenizer.end)
    return ClipPair("random", tokenizer, text, size.vision, read)


class TorchScorer:
    """The same score in torch; `known` are the unit embeddings of the prompts."""

    def __init__(self, model, size, known, *, compiled):
        self.model, self.known, self.size = model, known, size.vision.image_size
        self.mean, self.deviation = (255 * torch.tensor(values)[:, None, None] for values in CLIP)
        self.run = torch.compile(self._score) if compiled else self._score

    @torch.inference_mode()
    def __call__(self, pictures, prompts):
        texts = torch.stack([self.known[prompt] for prompt in prompts])
        return self.run(torch.from_numpy(pictures), texts).numpy()

    def _score(self, pictures, texts):
        images = (self._fitted(pictures.permute(0, 3, 1, 2).float()) - self.mean) / self.deviation
        looks = self.model.visual_projection(self.model.vision_model(images).pooler_output)
        return (normalize(looks, dim=-1) * texts).sum(-1)

    def _fitted(self, images):
        height, width = images.shape[2:]
        if min(height, width) != self.size:
            sides = [int(self.size * side / min(height, width)) for side in (height, width)]
            images = interpolate(images, sides, mode="bicubic", antialias=True)
        top, left = ((side - self.size) // 2 for side in images.shape[2:])
        return images[:, :, top : top + self.size, left : left + self.size]


def embed_prompts(model, tokenizer, prompts, length):
    """Each prompt's unit embedding by torch."""
    tokens = torch.from_numpy(tokenizer.encode(prompts, length)).long()
    # Found here, since transformers takes an end token of number 2, which is this tokeniser's, for a mistake.
    ends = (tokens == tokenizer.end).int().argmax(1)
    with torch.inference_mode():
        pooled = model.text_model(tokens).last_hidden_state[range(len(tokens)), ends]
        return dict(zip(prompts, normalize(model.text_projection(pooled), dim=-1), strict=True))


def picture_flops(vision, *, whole):
    """Arithmetic of a picture's way through the tower's matrices and attention, two operations a multiplication.

    `whole`: the last block computes all tokens, not the class token alone, whose keys and values are of all anyway.
    """
    patches = (vision.image_size // vision.patch_size) ** 2
    tokens, width = patches + 1, vision.width
    one = 4 * width**2 + 4 * width * vision.mlp_width + 4 * tokens * width  # query, output, MLP, attention
    keys_values = 4 * width**2 * tokens
    last = one * (tokens if whole else 1) + keys_values
    ends = patches * 2 * 3 * vision.patch_size**2 * width + 2 * width * vision.projection
    return (vision.blocks - 1) * (one * tokens + keys_values) + last + ends


def check_parity(jobs):
    """The largest difference of any side's scores from torch's, relative to the largest score."""
    scores = {name: job() for name, job in jobs.items()}
    expected = scores["torch"]
    assert expected.std() > 1e-3, "pictures hardly differ in score: parity would be empty"
    gap = max(np.abs(found - expected).max() for found in scores.values()) / np.abs(expected).max()
    assert gap <= PARITY, f"scores differ by {gap:.1e}"
    return gap


def measure(size, rounds, compiled):
    """Pictures a second of every variant in each round, and the parity."""
    scenes = list(storybook_scenes("train", size.batch))
    prompts = [scene.prompt for scene in scenes]
    tokenizer = train_tokenizer(prompts)
    model = random_clip(size, tokenizer)
    known = embed_prompts(model, tokenizer, prompts, size.text.max_length)
    # Away from black and white: where the filter overshoots them, ours cuts as PIL does, and torch's does not.
    rng = np.random.default_rng(SEED)
    tints = rng.integers(70, 186, (size.batch, 1, 1, 3))
    pictures = np.uint8(tints + rng.integers(-20, 21, (size.batch, size.side, size.side, 3)))
    ours = OnHost(ClipCosine(with_weights(model, size, tokenizer)), size.batch, make_mesh({"data": -1}))
    jobs = {"ours": lambda: ours.score_images(pictures, scenes, [scene.id for scene in scenes])[:, 0]}
    for name, flag in {"torch": False, "torch, compiled": True}.items():
        if compiled or not flag:
            scorer = TorchScorer(model, size, known, compiled=flag)
            jobs[name] = lambda scorer=scorer: scorer(pictures, prompts)
    gap = check_parity(jobs)  # also compiles
    rates = {name: [] for name in jobs}
    for _ in range(rounds):  # in turn, so that the machine's moods fall on all alike
        for name, job in jobs.items():
            rates[name].append(size.batch / timed(job, size.calls))
    return rates, gap


def report(sizes, rounds, compiled=True):
    """The Markdown that the benchmark prints."""
    before = matmul_rates()
    measured = {name: measure(size, rounds, compiled) for name, size in sizes.items()}
    matmul = {name: max(rate, before[name]) for name, rate in matmul_rates().items()}
    peak = max(matmul.values())
    lines = [
        "| size | variant | pictures a second | ours ÷ it | GFLOP a picture | GFLOP/s | of matmul rate |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    notes = []
    for name, size in sizes.items():
        rates, gap = measured[name]
        for variant, values in rates.items():
            flops = picture_flops(size.vision, whole=variant != "ours") / 1e9
            low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
            speed = flops * statistics.median(values)
            against = ratio(rates["ours"], values, SEED)
            lines.append(
                f"| {name} | {variant} | {middle:.4g} [{low:.4g}, {high:.4g}] | {against} | {flops:.3g} | {speed:.0f} "
                f"| {speed / peak:.0%} |"
            )
        vision = size.vision
        notes.append(
            f"- {name}: {size.batch} pictures of {size.side}² a call, seen as {vision.image_size}² in patches of "
            f"{vision.patch_size}², {vision.blocks} blocks of width {vision.width}; before timing, all scores within "
            f"{gap:.0e} of torch's."
        )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "torch", "transformers"))
    notes.append(
        f"- {os.cpu_count()} cores ({processor()}), as many threads, float32, {rounds} rounds in turn, seed {SEED}; "
        "medians, in brackets quartiles of the rates and 95 % bootstrap intervals of the rounds' ratios."
    )
    found = ", ".join(f"{rate:.0f} ({name})" for name, rate in matmul.items())
    notes.append(
        f"- matmul of 2048²: {found} GFLOP/s, the best before and after; the faster is the measure; {libraries}."
    )
    return "\n".join([*lines, "", *notes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, help="one instead of both")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    sizes = {arguments.size: SIZES[arguments.size]} if arguments.size else SIZES
    table = report(sizes, arguments.rounds)
    print(table)
    if arguments.out:
        write_page(arguments.out, __doc__, table)


if __name__ == "__main__":
    main()
