"""Storybook's own CLIP, self-supervised encoder, identity encoder and IS-Net, from random weights.

    python -m narrative_jax.launch --config=configs/encoders.py

Contrastive trainings (see narrative_jax/trainees/encoder.py) on renders, half of them noisy or blurred, and on pictures
that the embedded generator drew, in the end with each pixel moved a little against being found; then how often each
finds the other half of a pair among those of tune scenes. IS-Net learns to tell characters from backgrounds, in
portraits and in pictures. `:embedded` trains nothing and says how often the encoders that ship, in
narrative_jax/storybook/weights/encoders, find the other half.
"""

from ml_collections import ConfigDict

from narrative_jax.core.errors import check_name


def get_config(variant: str = "") -> ConfigDict:
    """`tiny` is a smoke run of the same stages, `embedded` looks at what ships."""
    check_name("variant", variant, ("", "tiny", "embedded"))
    config = ConfigDict()
    config.seed = 0
    config.scenes = ""
    config.max_subjects_policy = "stop"
    config.generator = {"preset": "storybook", "weights": "", "text": ""}
    config.sampling = {
        "num_steps": 8,
        "sampler": "euler",
        "guidance_scale": 2.5,  # of the text; of the subjects 1.0 is off: guided further, portraits' poses are copied
        "subject_guidance_scale": 1.0,
        "batch_size": 64,
    }
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.report = False
    config.drawn = {"stage": "generate", "split": "train", "scenes": 4000, "scene_seed": 5, "per_scene": 2}
    shared = {
        "stage": "train",
        "source": "",
        "seed": 0,
        "accumulate": 1,
        "trains": "encoder",
        "algorithm": "contrastive",
        "hyper": {"ascent": 0.06},
        "ema_decay": 0.99,
        "save_every": 100,
        "training_set": {"kind": "worn", "size": 40_000, "seed": 0},
        "drawn": "drawn",
    }
    adamw = {"learning_rate": 1e-3, "warmup_steps": 50, "decay": "cosine", "weight_decay": 0.1}
    muon = {**adamw, "method": "muon", "learning_rate": 3e-3, "weight_decay": 0.01}
    config.dinov2 = {**shared, "encoder": "dinov2", "batch_size": 256, "total_steps": 500, "optimizer": muon}
    # Moved against being found from its first step on, CLIP finds 0.09 of pictures where it else finds 0.43, and the
    # identity encoder nothing: all that it gives becomes one. So these two learn first.
    config.clip_first = {**shared, "encoder": "clip", "batch_size": 256, "total_steps": 1000, "optimizer": muon}
    config.iresnet_first = {**shared, "encoder": "iresnet", "batch_size": 128, "total_steps": 600, "optimizer": adamw}
    for name in ("clip", "iresnet"):
        first = config[f"{name}_first"]
        first.hyper.ascent = 0.0
        config[name] = {**first.to_dict(), "hyper": shared["hyper"], "after": f"{name}_first", "total_steps": 400}
        config[name].optimizer = {**adamw, "learning_rate": 3e-4}
    trained = ("clip", "dinov2", "iresnet")
    config.isnet = {
        **{key: value for key, value in shared.items() if key not in ("hyper", "drawn")},
        "trains": "segmenter",
        "algorithm": "segmentation",
        "batch_size": 32,
        "total_steps": 800,
        "optimizer": {**adamw, "learning_rate": 3e-3, "weight_decay": 0.01},
    }
    pairs = {"kind": "true", "split": "tune", "seed": 0, "pairs": 512}
    config.retrieve = {"stage": "retrieve", "trained": trained, "embedded": (), **pairs}
    config.stages = ("drawn", "clip_first", "clip", "dinov2", "iresnet_first", "iresnet", "retrieve", "isnet")
    if variant == "embedded":
        config.retrieve.update(trained=(), embedded=trained)
        config.stages = ("retrieve",)
    if variant == "tiny":
        config.generator.update(preset="tiny", weights="random")
        config.sampling.update(num_steps=2, batch_size=4)
        config.drawn.scenes = 6
        config.retrieve.pairs = 8
        for name in (*trained, "clip_first", "iresnet_first", "isnet"):
            config[name].update(total_steps=2, batch_size=8, save_every=2)
            config[name].optimizer.warmup_steps = 1
            config[name].training_set.size = 64
    return config
