"""Pre-training of the embedded Storybook generator on the raw set, flaws and all, from random weights.

    python -m narrative_jax.launch --config=configs/pretrain.py

CLIP first (4 minutes on two cores), then the flow transformer on its frozen text encoder (an hour and a half), then the
oracle's scores on tune scenes. `:continued` trains the transformer that ships for longer, with a warm-up of its own:
the optimiser's state is not kept with it.
"""

from ml_collections import ConfigDict

from narrative_jax.core.errors import check_name


def get_config(variant: str = "") -> ConfigDict:
    """`continued` goes on from what ships, `tiny` is a smoke run of the same stages."""
    check_name("variant", variant, ("", "continued", "tiny"))
    config = ConfigDict()
    config.seed = 0
    config.scenes = ""
    config.scene_seed = 0
    config.max_subjects_policy = "stop"
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.generator = {"preset": "storybook", "weights": "random", "text": "clip"}
    config.sampling = {
        "num_steps": 8,
        "sampler": "euler",
        "guidance_scale": 2.5,  # of the text; of the subjects 1.0 is off: guided further, portraits' poses are copied
        "subject_guidance_scale": 1.0,
        "batch_size": 64,
    }
    config.report = False

    shared = {
        "stage": "train",
        "source": "",
        "seed": 0,
        "accumulate": 1,
        "training_set": {"kind": "raw", "size": 200_000, "seed": 0},
    }
    config.clip = {
        **shared,
        "trains": "encoder",
        "encoder": "clip",
        "algorithm": "contrastive",
        "total_steps": 600,
        "batch_size": 128,
        "ema_decay": 0.99,
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 100, "decay": "cosine", "weight_decay": 0.1},
        "save_every": 200,
    }
    config.pretrain = {
        **shared,
        "algorithm": "sft",
        "hyper": {"text_dropout": 0.05, "subject_dropout": 0.1},
        "total_steps": 1900,
        "batch_size": 64,
        "ema_decay": 0.998,
        "optimizer": {
            "method": "muon",
            "learning_rate": 3e-3,
            "warmup_steps": 200,
            "decay": "cosine",
            "weight_decay": 0.01,
        },
        "save_every": 250,
        "sample_every": 250,
    }
    config.stages = ("clip", "pretrain", "evaluate")
    config.evaluate = {
        "stage": "evaluate",
        "split": "tune",
        "scenes": 256,
        "scene_seed": 0,
        "per_scene": 1,
        "trained": ("pretrain",),
        "reward": "raters",
        "best_of": 0,
        "guidance_scales": (),
    }
    if variant == "continued":
        config.generator.update(weights="", text="")
        config.stages = ("pretrain", "evaluate")
        config.pretrain.update(seed=1, total_steps=2000)  # another order of the examples
        config.pretrain.optimizer.update(learning_rate=2.5e-3, warmup_steps=100)
    if variant == "tiny":
        config.generator.preset = "tiny"
        for entry in (config.clip, config.pretrain):
            entry.update(total_steps=2, batch_size=8, save_every=2)
            entry.optimizer.warmup_steps = 1
            entry.training_set.size = 64
        config.pretrain.sample_every = 2
        config.evaluate.scenes = 4
        config.sampling.update(num_steps=2, batch_size=4)
    return config
