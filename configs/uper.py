"""UPER on the embedded Storybook world, one subject: refined examples, SFT on them, then the gradient of a reward.

    python -m narrative_jax.launch --config=configs/uper.py

Of 4,000 raw pairs of a portrait and a picture, portraits are put on white and pairs left out that raters find to show
somebody else. A LoRA adapter learns from the others; a second one, on top, follows a composite reward through the last
steps of drawing, and goes on learning from them meanwhile; how far it should have gone, an encoder says that it did not
follow, on tune scenes. The oracle judges on 256 test scenes. Raters see the oracle's findings: what is left out is
privileged. `:flux` is the paper's recipe on FLUX.1-dev with two subjects and published rewards, on 64 chips: for
`python -m narrative_jax.plan`. `:tiny` is a smoke run.
"""

from ml_collections import ConfigDict

from narrative_jax.core.errors import check_name

TARGETS = r".*_blocks\.\d+\.(image\.|text\.)?(attention\.to_[qkv]|to_out|mlp_in|mlp_out|out)"
ADAPTER = {"rank": 16, "alpha": 16.0, "targets": TARGETS, "segments": ("noisy", "text"), "seed": 0}


def get_config(variant: str = "") -> ConfigDict:
    """The recipe: `sft`, after it `follow`, which follows the reward, and `refl`, which is that at its best step."""
    check_name("variant", variant, ("", "flux", "tiny"))
    config = ConfigDict()
    config.seed = 0
    config.scenes = ""
    config.characters = 1
    config.max_subjects_policy = "stop"
    config.on_no_pairs = "stop"
    config.report = True
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.generator = {"preset": "storybook", "weights": "", "text": ""}
    config.sampling = {
        "num_steps": 8,
        "sampler": "euler",
        "guidance_scale": 3.0,  # of the text; of the subjects 1.0 is off: guided further, portraits' poses are copied
        "subject_guidance_scale": 1.0,
        "batch_size": 64,
    }

    config.reference = {"stage": "generate", "split": "train", "scenes": 256, "scene_seed": 2, "per_scene": 1}
    rewards = {
        "by_text": {"reward": "clip_cosine", "clip_cosine": {"weights": "", "size": "storybook"}},
        "by_looks": {"reward": "aesthetic", "aesthetic": {"clip": "", "head": "", "version": "storybook"}},
        "by_subject": {
            "reward": "identity",
            "identity": {"encoder": "iresnet", "weights": "", "size": "storybook", "side": 40, "max_subjects": 1},
        },
    }
    config.update({name: {"stage": "score", "source": "reference", **reward} for name, reward in rewards.items()})
    config.refine = {
        "stage": "refine",
        "training_set": {"kind": "raw", "size": 4000, "seed": 4, "characters": 1},
        "background": "given",
        "annotator": "raters",
        "threshold": 3.0,
    }
    train = {
        "stage": "train",
        "source": "refine",
        "batch_size": 16,
        "accumulate": 1,
        "adapter": ADAPTER,
        "ema_decay": 0.95,
        "seed": 0,
        "save_every": 50,
    }
    adamw = {"warmup_steps": 20, "decay": "constant"}
    config.sft = {
        **train,
        "algorithm": "sft",
        "total_steps": 200,
        "sample_every": 100,
        "optimizer": {**adamw, "learning_rate": 1e-3},
    }
    config.follow = {
        **train,
        "after": "sft",
        "algorithm": "refl",
        "total_steps": 100,
        "sample_every": 25,
        "keep_adapters": True,
        "optimizer": {**adamw, "learning_rate": 3e-4},
        "reward": "ensemble",
        # The paper's weights, and its limit to the pull of the subject's reward.
        "ensemble": {"by_text": 0.2, "by_looks": 0.2, "by_subject": {"weight": 0.4, "clip": 0.2}},
        "hyper": {"window": (4, 8), "reward_weight": 0.3, "flow_matching": 1.0},
    }
    for key in ("num_steps", "guidance_scale", "subject_guidance_scale"):  # pictures are drawn as they will be
        config.follow.hyper[key] = config.sampling.get_ref(key)
    config.refl = {
        "stage": "choose",
        "source": "follow",
        "scenes": 128,
        "reward": "identity",
        "identity": {**rewards["by_subject"]["identity"], "encoder": "dinov2"},
        "gold": True,  # to be looked at
    }
    config.evaluate = {
        "stage": "evaluate",
        "split": "test",
        "scenes": 256,
        "scene_seed": 0,
        "per_scene": 2,
        "trained": ("refl", "sft"),
        "reward": "",
        "raters": {"seeds": (0, 1, 2)},
        "compare": (("refl", "sft"),),
        "controls": ("copying",),
    }
    config.stages = ("reference", *rewards, "refine", "sft", "follow", "refl", "evaluate")
    if variant == "flux":
        _enlarge(config)
    if variant == "tiny":
        _shrink(config)
    return config


HALVES = ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))  # where two subjects stand


def _enlarge(config):
    """FLUX.1-dev at 1024², a picture a chip of 64."""
    config.mesh = {"data": 4, "fsdp": 16, "tensor": 1, "context": 1}
    config.characters = config.refine.training_set.characters = 2
    config.generator.preset = "flux"
    config.sampling.update(num_steps=28, guidance_scale=1.0, batch_size=64)  # guidance is in the network
    config.by_text.clip_cosine.size = "ViT-L/14"
    config.by_looks.aesthetic.version = "v2"
    two = {"weights": "", "max_subjects": 2, "regions": HALVES}
    grid = {"form": "grid", "size": "ViT-g/14", **two}
    config.by_subject = {"stage": "score", "source": "reference", "reward": "subject_consistency"}
    config.by_subject.subject_consistency = grid
    for name, steps in {"sft": 5000, "follow": 2000}.items():
        config[name].update(total_steps=steps, batch_size=64, sample_every=100)
        config[name].optimizer.update(learning_rate=1e-4, warmup_steps=100)
    config.follow.hyper.window = (21, 28)
    config.refl.identity = {"encoder": "dinov2", "size": "ViT-L/14", **two}


def _shrink(config):
    """Seconds instead of minutes, on an untrained network: for tests."""
    config.generator.update(preset="tiny", weights="random")
    config.sampling.update(num_steps=3, batch_size=4)
    config.reference.update(scenes=4)
    config.refine.training_set.size = 24
    config.follow.hyper.window = (1, 3)
    config.refl.scenes = 4
    for name in ("sft", "follow"):
        config[name].update(total_steps=2, batch_size=4, save_every=2, sample_every=2)
        config[name].optimizer.warmup_steps = 1
    config.evaluate.update(scenes=4, per_scene=1)
