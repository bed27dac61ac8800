"""Storybook's own CLIP, self-supervised encoder and identity encoder, from random weights.

    python -m narrative_jax.launch --config=configs/encoders.py

Three contrastive trainings (see narrative_jax/trainees/encoder.py), then how often each finds the other half of a pair
among those of tune scenes. What ships in narrative_jax/storybook/weights/encoders is this run's result; `:embedded`
trains nothing and says how often those find it.
"""

from ml_collections import ConfigDict

from narrative_jax.core.errors import check_name


def get_config(variant: str = "") -> ConfigDict:
    """`tiny` is a smoke run of the same stages, `embedded` looks at what ships."""
    check_name("variant", variant, ("", "tiny", "embedded"))
    config = ConfigDict()
    config.seed = 0
    config.scenes = ""
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.report = False
    shared = {
        "stage": "train",
        "source": "",
        "seed": 0,
        "accumulate": 1,
        "trains": "encoder",
        "algorithm": "contrastive",
        "ema_decay": 0.99,
        "save_every": 100,
        "training_set": {"kind": "raw", "size": 40_000, "seed": 0},
    }
    adamw = {"learning_rate": 1e-3, "warmup_steps": 50, "decay": "cosine", "weight_decay": 0.1}
    muon = {**adamw, "method": "muon", "learning_rate": 3e-3, "weight_decay": 0.01}
    config.clip = {**shared, "encoder": "clip", "batch_size": 256, "total_steps": 1000, "optimizer": muon}
    config.dinov2 = {**shared, "encoder": "dinov2", "batch_size": 256, "total_steps": 500, "optimizer": muon}
    config.iresnet = {**shared, "encoder": "iresnet", "batch_size": 128, "total_steps": 600, "optimizer": adamw}
    trained = ("clip", "dinov2", "iresnet")
    pairs = {"kind": "true", "split": "tune", "seed": 0, "pairs": 512}
    config.retrieve = {"stage": "retrieve", "trained": trained, "embedded": (), **pairs}
    config.stages = (*trained, "retrieve")
    if variant == "embedded":
        config.retrieve.update(trained=(), embedded=trained)
        config.stages = ("retrieve",)
    if variant == "tiny":
        config.retrieve.pairs = 8
        for name in trained:
            config[name].update(total_steps=2, batch_size=8, save_every=2)
            config[name].optimizer.warmup_steps = 1
            config[name].training_set.size = 64
    return config
