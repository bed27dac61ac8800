"""A scalar reward trained on preferences, beside rewards that were not: how often does each agree with gold?

    python -m narrative_jax.launch --config=configs/reward.py

2,000 preferences of raters between pictures of train scenes; a network in ImageReward's manner and a linear head in
LAION's are trained on them. Then 4,000 pairs of pictures of test scenes, which gold judges. What ships as Storybook's
aesthetic head is this run's result; a weighted sum of CLIP, identity and that head is one of those compared with gold.

`:own` trains on preferences of one's own, from the weights of CLIP ViT-L/14 (tokenizer.json beside them) and DINOv2
ViT-B/14, and says how often the reward then agrees with others, held out. Lines of FILE.jsonl and OTHERS.jsonl are as
for configs/score.py, with one or two subjects each, those of the preferences {"chosen": id, "rejected": id}:

    python -m narrative_jax.launch --config=configs/reward.py:own \
        --config.collect.pictures=FILE.jsonl --config.collect.preferences=PREFERENCES.jsonl \
        --config.held_out.pictures=OTHERS.jsonl --config.held_out.preferences=THEIRS.jsonl \
        --config.scalar.scalar.clip=CLIP/model.safetensors --config.scalar.scalar.subject=DINOV2/model.safetensors
"""

from ml_collections import ConfigDict

from narrative_jax.core.errors import check_name

HALVES = ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))  # where two characters stand
IDENTITY = {"encoder": "iresnet", "size": "storybook", "side": 40, "max_subjects": 2, "regions": HALVES, "weights": ""}


def get_config(variant: str = "") -> ConfigDict:
    """`tiny` is a smoke run of the same stages, `own` is on preferences of one's own."""
    check_name("variant", variant, ("", "tiny", "own"))
    config = ConfigDict()
    config.seed = 0
    config.scenes = ""
    config.max_subjects_policy = "stop"
    config.on_no_pairs = "stop"
    config.report = False
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.generator = {"preset": "storybook", "weights": "", "text": ""}
    config.sampling = {
        "num_steps": 8,
        "sampler": "euler",
        "guidance_scale": 2.5,  # of the text; of the subjects 1.0 is off: guided further, portraits' poses are copied
        "subject_guidance_scale": 1.0,
        "batch_size": 64,
    }

    config.generate = {"stage": "generate", "split": "train", "scenes": 1000, "scene_seed": 2, "per_scene": 4}
    raters = {"reward": "raters", "raters": {"seeds": (0, 1, 2)}}
    config.score = {"stage": "score", "source": "generate", **raters}
    screen = {"stage": "screen", "source": "score", "rule": "average", "rejection": False, "shuffle_labels": False}
    screen["thresholds"] = (0.0, 0.0, 0.0)
    config.screen = {**screen, "aspects": (), "max_pairs_per_prompt": 2}
    config.screen_quality = {**screen, "aspects": ("visual_quality",), "max_pairs_per_prompt": 2}

    train = {
        "stage": "train",
        "trains": "reward",
        "algorithm": "reward_modelling",
        "batch_size": 64,
        "accumulate": 1,
        "ema_decay": 0.98,
        "seed": 0,
    }
    adamw = {"learning_rate": 3e-4, "warmup_steps": 10, "decay": "cosine", "weight_decay": 1.0}
    config.scalar = {
        **train,
        "source": "screen",
        "reward": "scalar",
        "scalar": {"clip": "", "subject": "", "size": "storybook", "regions": HALVES, "train_towers": False},
        "total_steps": 60,
        "save_every": 20,
        "optimizer": adamw,
    }
    config.aesthetic = {
        **train,
        "source": "screen_quality",
        "reward": "aesthetic",
        "aesthetic": {"clip": "", "version": "storybook"},
        "total_steps": 200,
        "save_every": 200,
        "optimizer": {**adamw, "learning_rate": 1e-1, "weight_decay": 0.0},
    }

    config.held_out = {"stage": "generate", "split": "test", "scenes": 4000, "scene_seed": 2, "per_scene": 2}
    score = {"stage": "score", "source": "held_out"}
    config.gold = {**score, "reward": "oracle"}
    config.by_raters = {**score, **raters}
    score["batch_size"] = 64
    config.by_clip = {**score, "reward": "clip_cosine", "clip_cosine": {"weights": "", "size": "storybook"}}
    config.by_identity = {**score, "reward": "identity", "identity": IDENTITY}
    config.by_subject = {**score, "reward": "identity", "identity": {**IDENTITY, "encoder": "dinov2"}}
    config.by_aesthetic = {**score, "reward": "trained", "reward_from": "aesthetic"}
    config.by_scalar = {**score, "reward": "trained", "reward_from": "scalar"}
    weights = {"by_clip": 0.2, "by_aesthetic": 0.2, "by_identity": 0.4}  # UPER's, of text, looks and subject
    config.by_ensemble = {**score, "reward": "ensemble", "ensemble": weights}
    judges = ("by_raters", "by_clip", "by_identity", "by_subject", "by_aesthetic", "by_ensemble", "by_scalar")
    config.accuracy = {"stage": "accuracy", "gold": "gold", "sources": judges, "pairs": 4000}
    training = ("generate", "score", "screen", "screen_quality", "scalar", "aesthetic")
    config.stages = (*training, "held_out", "gold", *judges, "accuracy")
    if variant == "tiny":
        _shrink(config)
    return _own(config) if variant == "own" else config


def _own(config):
    """The scalar reward at full size, without Storybook."""
    files = {"stage": "collect", "pictures": "", "preferences": "", "damaged_policy": "stop"}
    scalar = {**config.scalar.to_dict(), "source": "collect", "total_steps": 2000}
    scalar["scalar"].update(size="ViT-L/14", regions=())
    by_scalar = {**config.by_scalar.to_dict(), "batch_size": 8}
    accuracy = {"stage": "accuracy", "gold": "held_out", "sources": ("by_scalar",), "pairs": 1_000_000}
    own = {"collect": files, "scalar": scalar, "held_out": {**files}, "by_scalar": by_scalar, "accuracy": accuracy}
    shared = {key: config[key] for key in ("seed", "scenes", "report", "mesh")}
    return ConfigDict({**shared, **own, "stages": tuple(own)})


def _shrink(config):
    """Seconds instead of minutes: for tests."""
    config.sampling.update(num_steps=2, batch_size=4)
    config.generate.update(scenes=6)
    config.held_out.update(scenes=6)
    for name in ("scalar", "aesthetic"):
        config[name].update(total_steps=2, batch_size=4, save_every=2)
        config[name].optimizer.warmup_steps = 1
    for name in config.accuracy.sources[1:]:  # all but raters, who have no batches
        config[name].batch_size = 8
