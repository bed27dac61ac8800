"""Pictures criticised and scored a second by NIReward, ours beside transformers + torch, on CPU.

    python benchmarks/critique_rate.py [--size storybook|wide] [--rounds N] [--out docs/critique_rate.md]

Both sides take bytes and scenes and give three critiques of a picture and three scores: portraits and prompt are read,
then each aspect's question, a critique is written greedily, and the head reads its last token. Tokens and patches of
prompts are made by the same code. torch runs transformers' Qwen2-VL in inference mode: `generate` on each question with
all that comes before it, as the library has it ("whole prompts"); and by hand, as ours does, what the questions share
once, its keys and values repeated for each question ("shared"); attention is torch's fused kernel. Weights, random, are
the same and never say that a critique ends: each has all the tokens there is room for, and nothing is said aloud
before. Critiques that differ stop the benchmark, and scores that do. The sides then take turns, float32, all cores.
"""

import argparse
import os
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers
from measuring import processor, ratio, timed
from page import write_page

from narrative_jax.core.images import to_float
from narrative_jax.core.mesh import make_mesh
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.models.chat_tokenizer import ChatTokenizer
from narrative_jax.models.critic import structure
from narrative_jax.models.network import below, under
from narrative_jax.models.preprocessing import CLIP, normalise
from narrative_jax.models.tokenizer import TOKENIZER
from narrative_jax.models.vlm import THETA, VlmConfig
from narrative_jax.models.vlm_files import load_vlm_weights
from narrative_jax.models.vlm_inputs import as_patches
from narrative_jax.models.vlm_vision import VisionTowerConfig
from narrative_jax.rewards.base import OnHost
from narrative_jax.rewards.nireward import NIReward
from narrative_jax.rewards.nireward_files import BACKBONE
from narrative_jax.rewards.nireward_prompts import Prompts, Room
from narrative_jax.rewards.nireward_sizes import NIREWARD_SIZES

SEED = 0
PARITY = 1e-3  # relative to the largest score


@dataclass(frozen=True)
class Size:
    """The network, what it has room for, how many pictures are scored in a call, and how many calls are timed."""

    config: VlmConfig
    room: Room
    batch: int
    calls: int


_WIDE = VlmConfig(
    768,
    768,
    heads=12,
    key_heads=2,
    blocks=6,
    mlp_width=2048,
    tied=True,
    sections=(8, 12, 12),
    vision=VisionTowerConfig(patch_size=8, merge=2, width=384, heads=6, blocks=6, mlp_width=1536),
)
_STORYBOOK = NIREWARD_SIZES["storybook"]
SIZES = {
    "storybook": Size(_STORYBOOK[0], replace(_STORYBOOK[1], aloud=0), batch=32, calls=2),
    "wide": Size(_WIDE, Room(side=112, tokens=256, max_subjects=2, critique=64), batch=8, calls=1),
}


def random_model(config, tokenizer):
    """transformers' model, random, with no zeros, and a head: as built, biases are, and critiques end at once."""
    words = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.blocks,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.key_heads,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": THETA, "mrope_section": list(config.sections)},
        "bos_token_id": None,
        "eos_token_id": None,
    }
    vision = {
        "depth": config.vision.blocks,
        "embed_dim": config.vision.width,
        "hidden_size": config.width,
        "num_heads": config.vision.heads,
        "mlp_ratio": config.vision.mlp_width // config.vision.width,
        "patch_size": config.vision.patch_size,
        "spatial_merge_size": config.vision.merge,
    }
    sizes = transformers.Qwen2VLConfig(
        text_config=words, vision_config=vision, tie_word_embeddings=config.tied, image_token_id=tokenizer.picture
    )
    torch.manual_seed(SEED)
    model = transformers.Qwen2VLForConditionalGeneration(sizes).eval()
    head = torch.randn(config.width) / config.width**0.5
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) / config.width**0.5)
        model.get_input_embeddings().weight[tokenizer.end] = 0  # of no use, and never the likeliest
    return model, head


def nireward(size, model, head):
    """Our reward with the weights of transformers' model and the head."""
    tokenizer = ChatTokenizer.load(BACKBONE / TOKENIZER)
    network, shapes = structure(size.config)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        weights = under("vlm", load_vlm_weights(folder, below("vlm", shapes)))
    weights["reward.kernel"] = jnp.asarray(head.numpy())[:, None]
    return NIReward("random", Prompts(tokenizer, size.config.vision, size.room), network, lambda mesh: weights)


def positions_after(model, mask):
    """Positions i64[b, 1] of the last tokens of rows that `generate` wrote on."""
    return mask.sum(1, keepdim=True) - 1 + model.model.rope_deltas


class TorchCritic:
    """The same critiques and scores in torch, of all questions with what comes before them, or of what they `share`."""

    def __init__(self, model, head, prompts, *, shared):
        self.model, self.head, self.prompts, self.shared = model, head, prompts, shared
        self.questions = [question[there] for question, there in zip(*prompts.questions, strict=True)]

    @torch.inference_mode()
    def __call__(self, pictures, scenes):
        """Critiques i64[b, k, m], and scores f32[b, k]."""
        asked = self.prompts.shown(scenes)
        seen = as_patches(normalise(to_float(pictures), CLIP), self.prompts.tower)
        patches = [
            each
            for row, picture, place in zip(asked.inputs.patches, seen, asked.place, strict=True)
            for each in (*row[:place], picture)
        ]
        tokens, scores = (self._shared if self.shared else self._whole)(asked, np.stack(patches))
        shape = (len(pictures), len(self.questions))
        return tokens.numpy().reshape(*shape, -1), scores.numpy().reshape(shape)

    def _pictures(self, patches, tokens):
        """What transformers' model takes beside tokens i64[b, n]."""
        count, across = patches.shape[1], self.prompts.room.side // self.prompts.tower.patch_size
        frames = patches.reshape(-1, 3, 1, self.prompts.tower.patch_size**2).repeat(2, axis=2)
        return {
            "pixel_values": torch.from_numpy(frames.reshape(len(frames), -1)),
            "image_grid_thw": torch.tensor([[1, across, count // across]] * len(patches)),
            "mm_token_type_ids": (tokens == self.prompts.tokenizer.picture).int(),
        }

    def _whole(self, asked, patches):
        inputs, count = asked.inputs, len(self.questions)
        rows = [[*tokens[there], *question] for tokens, there in zip(inputs.tokens, inputs.mask, strict=True)
                for question in self.questions]  # fmt: skip
        longest = max(map(len, rows))
        tokens = torch.tensor([[self.prompts.tokenizer.pad] * (longest - len(row)) + [*map(int, row)] for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        ends = np.cumsum(asked.place + 1)[:-1]
        patches = np.concatenate([np.tile(part, (count, 1, 1)) for part in np.split(patches, ends)])
        length = self.prompts.room.critique
        found = self.model.generate(
            input_ids=tokens,
            attention_mask=mask,
            **self._pictures(patches, tokens),
            max_new_tokens=length,
            do_sample=False,
            pad_token_id=self.prompts.tokenizer.pad,
            return_dict_in_generate=True,
        )
        written = found.sequences[:, longest:]
        # Of the last token nobody has asked what comes after it.
        mask = torch.cat([mask, torch.ones_like(written)], 1)
        after = positions_after(self.model, mask)
        last = self.model.model(
            input_ids=written[:, -1:],
            attention_mask=mask,
            position_ids=after.expand(3, *after.shape),
            past_key_values=found.past_key_values,
        )
        return written, last.last_hidden_state[:, 0] @ self.head

    def _shared(self, asked, patches):
        inputs, count = asked.inputs, len(self.questions)
        tokens, mask = torch.from_numpy(inputs.tokens).long(), torch.from_numpy(inputs.mask).long()
        positions = torch.from_numpy(inputs.positions).long().permute(2, 0, 1)
        shown = self._pictures(patches, tokens)
        read = self.model.model(input_ids=tokens, attention_mask=mask, position_ids=positions, **shown, use_cache=True)
        cache = read.past_key_values
        cache.batch_repeat_interleave(count)
        mask, after = mask.repeat_interleave(count, 0), positions.amax((0, 2)).repeat_interleave(count) + 1
        said, there = (torch.from_numpy(np.tile(part, (len(tokens), 1))).long() for part in self.prompts.questions)
        hidden, mask, after = self._read_on(said, there, mask, after, cache)
        hidden, written = hidden[range(len(said)), there.sum(1) - 1], []
        for _ in range(self.prompts.room.critique):
            written.append(self.model.lm_head(hidden).argmax(-1, keepdim=True))
            hidden, mask, after = self._read_on(written[-1], torch.ones_like(written[-1]), mask, after, cache)
            hidden = hidden[:, 0]
        return torch.cat(written, 1), hidden @ self.head

    def _read_on(self, tokens, there, mask, after, cache):
        """Hidden states of tokens that come after what is in the cache; which are there, and the next position."""
        places = after[:, None] + (there.cumsum(1) - 1).clamp(min=0)
        mask = torch.cat([mask, there], 1)
        found = self.model.model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=places.expand(3, *places.shape),
            past_key_values=cache,
            use_cache=True,
        )
        return found.last_hidden_state, mask, after + there.sum(1)


def check_parity(jobs):
    """How far any side's scores are from ours, relative to the largest; its critiques are ours, token by token."""
    found = {name: job() for name, job in jobs.items()}
    words, scores = found.pop("ours")
    assert scores.std() > 1e-3 and len({row.tobytes() for row in words.reshape(-1, words.shape[-1])}) > 3, "all alike"
    for name, (theirs, _) in found.items():
        assert np.array_equal(theirs, words), f"critiques of {name} differ"
    gap = max(np.abs(theirs - scores).max() for _, theirs in found.values()) / np.abs(scores).max()
    assert gap <= PARITY, f"scores differ by {gap:.1e}"
    return gap


def measure(size, rounds):
    """Pictures a second of every variant in each round, and the parity."""
    scenes = list(storybook_scenes("train", size.batch))
    tokenizer = ChatTokenizer.load(BACKBONE / TOKENIZER)
    model, head = random_model(size.config, tokenizer)
    reward = nireward(size, model, head)
    side = size.room.side
    pictures = np.random.default_rng(SEED).integers(0, 256, (size.batch, side, side, 3), np.uint8)
    host = OnHost(reward, size.batch, make_mesh({"data": -1}))

    def ours():
        return host.criticise_images(list(pictures), scenes, [scene.id for scene in scenes])

    def tokens_and_scores():
        context = reward.encode(scenes)
        texts, scores = jax.jit(reward.criticise)(reward.params, reward.fit(to_float(pictures), context), context)
        return np.asarray(texts.tokens), np.asarray(scores)

    critics = {
        "torch, whole prompts": TorchCritic(model, head, reward.prompts, shared=False),
        "torch, shared": TorchCritic(model, head, reward.prompts, shared=True),
    }
    theirs = {name: partial(critic, pictures, scenes) for name, critic in critics.items()}
    gap = check_parity({"ours": tokens_and_scores, **theirs})
    jobs = {"ours": ours, **theirs}
    rates = {name: [] for name in jobs}
    for _ in range(rounds):  # in turn, so that the machine's moods fall on all alike
        for name, job in jobs.items():
            rates[name].append(size.batch / timed(job, size.calls))
    return rates, gap


def report(sizes, rounds):
    """The Markdown that the benchmark prints."""
    lines = ["| size | variant | pictures a second | ours ÷ it |", "| --- | --- | ---: | ---: |"]
    notes = []
    for name, size in sizes.items():
        rates, gap = measure(size, rounds)
        for variant, values in rates.items():
            low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
            lines.append(
                f"| {name} | {variant} | {middle:.4g} [{low:.4g}, {high:.4g}] | {ratio(rates['ours'], values, SEED)} |"
            )
        config, room = size.config, size.room
        notes.append(
            f"- {name}: {size.batch} pictures of {room.side}² a call, up to {room.max_subjects} portraits beside, "
            f"{config.blocks} blocks of width {config.width}, 3 critiques of {room.critique} tokens; critiques equal, "
            f"scores within {gap:.0e} of torch's."
        )
    libraries = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "torch", "transformers"))
    notes.append(
        f"- {os.cpu_count()} cores ({processor()}), as many threads, float32, {rounds} rounds in turn, seed {SEED}; "
        f"medians, in brackets quartiles of the rates and 95 % bootstrap intervals of the rounds' ratios; {libraries}."
    )
    return "\n".join([*lines, "", *notes])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, help="one instead of both")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    table = report({arguments.size: SIZES[arguments.size]} if arguments.size else SIZES, arguments.rounds)
    print(table)
    if arguments.out:
        write_page(arguments.out, __doc__, table)


if __name__ == "__main__":
    main()
