"""NIReward on the embedded Storybook world: its data (NI-RLHF), its training, and what it is worth.

    python -m narrative_jax.launch --config=configs/nireward.py

Four ways of drawing, each with flaws of its own, draw the same scenes; of each scene the three pictures are kept that
three proxies like best. Three raters write a critique of each aspect of each, and score it; which of two pictures is
better, the majority says. NIReward learns critiques and preferences from them. Raters see the oracle's findings, so
what it learned from is privileged. `:tiny` is a smoke run.
"""

from ml_collections import ConfigDict

from narrative_jax.core.errors import check_name

# Of drawing: what each is known for. The last one is kept for the bench.
VARIANTS = {
    "as_it_is": {},
    "copying": {"guidance_scale": 2.5, "subject_guidance_scale": 2.5},  # poses of portraits
    "hurried": {"num_steps": 3, "guidance_scale": 6.0},  # blurred figures
    "deaf": {"guidance_scale": 1.0},  # what was asked is heeded less
}


def get_config(variant: str = "") -> ConfigDict:
    """`tiny` is a smoke run of the same stages."""
    check_name("variant", variant, ("", "tiny"))
    config = ConfigDict()
    config.seed = 0
    config.scenes = ""
    config.max_subjects_policy = "stop"
    config.on_no_pairs = "stop"
    config.report = False
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.generator = {"preset": "storybook", "weights": "", "text": ""}
    config.sampling = {
        "num_steps": 6,
        "sampler": "euler",
        "guidance_scale": 3.0,  # of the text; of the subjects 1.0 is off: guided further, portraits' poses are copied
        "subject_guidance_scale": 1.0,
        "batch_size": 64,
    }
    draw = {"stage": "generate", "split": "train", "scenes": 1200, "scene_seed": 7, "per_scene": 1}
    for name, sampling in VARIANTS.items():
        config[name] = {**draw, "sampling": sampling}
    config.drawn = {"stage": "gather", "sources": tuple(VARIANTS)}
    score = {"stage": "score", "source": "drawn"}
    config.by_text = {**score, "reward": "clip_cosine", "clip_cosine": {"weights": "", "size": "storybook"}}
    config.by_looks = {**score, "reward": "aesthetic", "aesthetic": {"clip": "", "head": "", "version": "storybook"}}
    halves = ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))  # where two subjects stand
    config.by_subject = {
        **score,
        "reward": "identity",
        "identity": {
            "encoder": "iresnet",
            "weights": "",
            "size": "storybook",
            "side": 40,
            "max_subjects": 2,
            "regions": halves,
        },
    }
    proxies = ("by_text", "by_looks", "by_subject")
    config.proxies = {**score, "reward": "ensemble", "ensemble": dict.fromkeys(proxies, 1.0)}
    config.annotated = {
        "stage": "annotate",
        "source": "proxies",
        "per_scene": 3,
        "annotator": "raters",
        "raters": {"seeds": (0, 1, 2)},
        "spread": 1.5,
    }
    config.nireward = {
        "stage": "train",
        "source": "annotated",
        "trains": "reward",
        "reward": "nireward",
        "nireward": {"backbone": "", "size": "storybook"},
        "algorithm": "critique",
        "hyper": {"gamma": 1.0, "without_critique": 0.3},
        "batch_size": 32,
        "accumulate": 1,
        "total_steps": 1000,
        "optimizer": {"learning_rate": 5e-4, "warmup_steps": 50, "decay": "cosine", "weight_decay": 0.05},
        "ema_decay": 0.99,
        "seed": 0,
        "save_every": 100,
    }
    config.stages = (*VARIANTS, "drawn", *proxies, "proxies", "annotated", "nireward")
    if variant == "tiny":
        _shrink(config)
    return config


def _shrink(config):
    """Seconds instead of hours, on untrained networks: for tests."""
    config.generator.update(preset="tiny", weights="random")
    config.sampling.update(num_steps=2, batch_size=4)
    for name in VARIANTS:
        config[name].scenes = 4
    config.nireward.update(total_steps=2, batch_size=4, save_every=2)
    config.nireward.optimizer.warmup_steps = 1
