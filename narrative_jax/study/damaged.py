"""What people bring, whole and damaged, and what reads it."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save

from narrative_jax.core.config import load, override
from narrative_jax.data.own_pairs import find_pairs
from narrative_jax.data.photos import check_picture, picture_size, read_photo
from narrative_jax.data.sources import read_scenes
from narrative_jax.pipeline import check, completed
from narrative_jax.runs.trained import with_lora_file
from narrative_jax.study.drawn import embedded_generator

RECIPE, DRAWN = "adpo:tiny", "drawn.png"  # what commands are given, and leave
SETTINGS = "adapter_config.json"
_OVERRIDES = (
    "seed=3",
    "mesh.data=1",
    "generator.preset=tiny",
    "sampling.num_steps=4",
    "sampling.guidance_scale=2.5",
    "generate.scenes=4",
    "screen.thresholds=(0.1,0.1,0.1)",
    "align.total_steps=2",
    "align.optimizer.learning_rate=1e-4",
    "align.adapter.rank=2",
    "evaluate.split=test",
    'stages=("reference","calibrate","generate","score")',
)


@dataclass(frozen=True)
class Target:
    """Something that people bring: whole bytes of it, what reads it in a folder, and the command that does."""

    seed: bytes
    name: str
    read: Callable[[Path], object]
    command: Callable[[Path], list[str]]


def mutations(data: bytes, count: int, rng: np.random.Generator) -> Iterator[bytes]:
    """So many damaged forms: flipped, cut and doubled bytes, and fields of JSON in each other's place."""
    kinds = [_flip, _cut, _double, *([_swap] if b'": ' in data or b"=" in data else [])]
    for number in range(count):
        yield kinds[number % len(kinds)](data, rng)


def _flip(data, rng):
    flipped = bytearray(data)
    for place in rng.integers(len(data), size=rng.integers(1, 9)):
        flipped[place] = rng.integers(256)
    return bytes(flipped)


def _cut(data, rng):
    return data[: rng.integers(len(data))]


def _double(data, rng):
    start, stop = np.sort(rng.integers(len(data) + 1, size=2))
    return data[:stop] + data[start:stop] + data[stop:]


def _swap(data, rng):
    parts = re.split(rb'("[^"]*"|[-\w.]+)', data)  # the odd ones are words
    one, other = 2 * rng.integers(len(parts) // 2, size=2) + 1
    parts[one], parts[other] = parts[other], parts[one]
    return b"".join(parts)


def targets(folder: Path) -> dict[str, Target]:
    """What is damaged, by kind; `folder` gets what stands beside it."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 40, 3), np.uint8))
    photo.save(folder / "photo.png")
    generator, params = embedded_generator()
    subject = {"class_word": "character", "name": "Mara", "images": ["photo.png"]}
    photo.transpose(Image.Transpose.ROTATE_180).save(folder / "other.png")
    pairs = [{"prompt": "Mara waves.", "chosen": "photo.png", "rejected": "other.png", "subjects": [subject]}]
    lines = [{"id": str(i), "prompt": "Mara waves.", "subjects": [subject] * (1 + i % 2)} for i in range(3)]
    lora, settings = _lora()

    def sampled(flag, path):
        drawn = f"--out={path.parent / DRAWN}"
        return ["narrative_jax.sample", flag, "--prompt=Mara waves.", "--count=1", "--num-steps=1", drawn]

    def checked(*changes):
        return ["narrative_jax.launch", f"--config={RECIPE}", "--check", *changes]

    def read_picture(path):
        check_picture(path, path.name)
        return picture_size(path), read_photo(path)

    def drawn_from(path):
        return sampled(f"--subject={path}", path)

    pictures = {
        kind: Target(_encoded(photo, kind), f"p.{kind.lower()}", read_picture, drawn_from) for kind in ("PNG", "JPEG")
    }
    return {
        "JSONL of scenes": Target(
            "\n".join(map(json.dumps, lines)).encode(),
            "scenes.jsonl",
            read_scenes,
            lambda path: checked(f"--config.scenes={path}"),
        ),
        "JSONL of pairs": Target(
            "\n".join(map(json.dumps, pairs)).encode(),
            "pairs.jsonl",
            find_pairs,
            lambda path: ["narrative_jax.launch", "--config=dpo", "--check", f"--config.collect.preferences={path}"],
        ),
        **pictures,
        "safetensors": Target(
            lora,
            "lora.safetensors",
            lambda path: with_lora_file(path, generator, params),
            lambda path: sampled(f"--entry={path}", path),
        ),
        SETTINGS: Target(
            settings,
            SETTINGS,
            lambda path: with_lora_file(path.parent, generator, params),
            lambda path: sampled(f"--entry={path.parent}", path),
        ),
        "config overrides": Target(
            "\n".join(_OVERRIDES).encode(),
            "overrides",
            lambda path: _overridden(path.read_bytes()),
            lambda path: checked(*(f"--config.{change}" for change in _changes(path.read_bytes()))),
        ),
    }


def _encoded(photo, kind):
    file = BytesIO()
    photo.save(file, kind)
    return file.getvalue()


def _lora():
    """A LoRA of the embedded generator and its settings, as bytes."""
    rng, prefix = np.random.default_rng(0), "transformer.single_transformer_blocks.0.attn.to_q"
    arrays = {
        f"{prefix}.lora_{leaf}.weight": rng.normal(size=size).astype(np.float32)
        for leaf, size in (("A", (4, 192)), ("B", (192, 4)))
    }
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["to_q"], "use_rslora": False}
    return save(arrays), json.dumps(settings, indent=1).encode()


def _changes(data):
    """Overrides as a shell would hand them over: no zeros, no line ends."""
    return [line for line in data.replace(b"\0", b"").decode("utf-8", "replace").split("\n") if "=" in line]


def _overridden(data):
    config = load(RECIPE)
    for change in _changes(data):
        key, _, text = change.partition("=")
        override(config, key, text)
    check(completed(config))


def put(target: Target, data: bytes, folder: Path) -> Path:
    """Write damaged bytes where the target is read, with what belongs beside them; returns the path."""
    if target.name == SETTINGS:
        (folder / "pytorch_lora_weights.safetensors").write_bytes(_lora()[0])
    path = folder / target.name
    path.write_bytes(data)
    return path
