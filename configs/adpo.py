"""ADPO on the embedded Storybook world: the main job, minutes on two CPU cores.

    python -m narrative_jax.launch --config=configs/adpo.py

Four candidates of each of 1,024 train scenes, scored by three raters, read in deviations of pictures of 256 other
scenes, screened by dominance and rejection sampling, aligned by Diffusion-DPO with adaptive β(a) and SFT on the chosen
pictures beside, judged by the oracle on 256 test scenes. Raters see the oracle's findings: feedback is privileged.
`:nireward` asks no rater about these pictures: the NIReward that ships, which learned from raters of other scenes and
the oracle's descriptions (configs/nireward.py), criticises and scores them. `:proxies` asks neither: CLIP's cosine, an
identity encoder and an aesthetic head score one aspect each, as where only published rewards exist; of them the head
was trained on raters. `:controls` adds the same over three training seeds beside SFT on the chosen pictures at equal
compute, DPO on shuffled labels, on pairs by presence alone, without SFT beside, and on as many pairs by each rule at
one β, each compared with ADPO of its seed; best-of-4 by the raters and by presence, tuned guidance, and pictures that
copy the portrait. `:recipes` trains in other ways on the same pairs, at the same compute, and has the oracle say on
tune scenes how far each gets. `:flux` aligns FLUX.1-dev with two subjects by published rewards, on 64 chips: for
`python -m narrative_jax.plan`. `:tiny` is a smoke run.
"""

from ml_collections import ConfigDict

from narrative_jax.core.errors import check_name

VARIANTS = ("", "nireward", "proxies", "controls", "recipes", "flux", "tiny")


def get_config(variant: str = "") -> ConfigDict:
    """The recipe; with `--config.scenes=FILE.jsonl` on scenes of one's own, then without raters and gold.

    The reward "" is `raters` for Storybook and `picture_statistics` for scenes of one's own.
    """
    check_name("variant", variant, VARIANTS)
    config = ConfigDict()
    config.seed = 0
    config.scenes = ""  # a JSONL file of one's own scenes; "" is Storybook
    config.max_subjects_policy = "stop"
    config.on_no_pairs = ""  # with no pair to train on: "stop" for Storybook, "skip" for scenes of one's own
    config.report = True
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.generator = {"preset": "storybook", "weights": "", "text": ""}
    config.sampling = {
        "num_steps": 6,
        "sampler": "euler",
        "guidance_scale": 2.5,  # of the text; of the subjects 1.0 is off: guided further, portraits' poses are copied
        "subject_guidance_scale": 1.0,
        "batch_size": 64,
    }

    config.stages = ("reference", "calibrate", "generate", "score", "screen", "align", "evaluate")
    config.reference = {"stage": "generate", "split": "train", "scenes": 256, "scene_seed": 2, "per_scene": 1}
    config.generate = {"stage": "generate", "split": "train", "scenes": 1024, "scene_seed": 1, "per_scene": 4}
    rewards = {"nireward": NIREWARD, "proxies": PROXIES, "flux": PROXIES}
    config.score = {"stage": "score", "source": "generate", **rewards.get(variant, RATERS)}
    _calibrate(config)
    config.screen = {
        "stage": "screen",
        "source": "score",
        "rule": "dominance",
        "rejection": True,
        "thresholds": (0.0, 0.0, 0.0),
        "aspects": (),
        "max_pairs_per_prompt": 0,
        "shuffle_labels": False,
    }
    config.align = {
        "stage": "train",
        "source": "screen",
        "algorithm": "dpo",
        "hyper": {"beta": 500.0, "eta": 0.5, "k": 1.0, "b": 0.5, "imitation": 0.5},
        "adapter": {"rank": 16, "alpha": 16.0, "targets": TARGETS, "segments": ("noisy", "text"), "seed": 0},
        "total_steps": 300,
        "batch_size": 16,
        "accumulate": 1,
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 20, "decay": "constant"},
        "ema_decay": 0.95,
        "save_every": 100,
        "sample_every": 100,
        "seed": 0,
    }
    config.evaluate = {
        "stage": "evaluate",
        "split": "test",
        "scenes": 256,
        "scene_seed": 0,
        "per_scene": 2,
        "trained": ("align",),
        **rewards.get(variant, RATERS),
        "best_of": 0,
        "guidance_scales": (),
        "compare": (),  # pairs of arms, e.g. (("align", "best_of_4"),); all are compared with the baseline
        "controls": (),
    }
    if variant == "controls":
        _add_controls(config)
    if variant == "recipes":
        _compare_recipes(config)
    if variant == "flux":
        _enlarge(config)
    if variant == "tiny":
        _shrink(config)
    return config


# Attention and MLP of both kinds of blocks; modulation stays as it is.
TARGETS = r".*_blocks\.\d+\.(image\.|text\.)?(attention\.to_[qkv]|to_out|mlp_in|mlp_out|out)"

RATERS = {"reward": "", "raters": {"seeds": (0, 1, 2)}}
NIREWARD = {"reward": "nireward", "nireward": {"weights": ""}, "batch_size": 64}
# Storybook's own small ones; for a real generator, published weights and their sizes.
PROXIES = {
    "reward": "per_aspect",
    "per_aspect": {
        "prompt_following": "clip_cosine",
        "identity_consistency": "identity",
        "visual_quality": "aesthetic",
    },
    "clip_cosine": {"weights": "", "size": "storybook"},
    "identity": {
        "encoder": "iresnet",
        "weights": "",
        "size": "storybook",
        "side": 40,
        "max_subjects": 2,
        "regions": ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)),  # where two characters stand
    },
    "aesthetic": {"clip": "", "head": "", "version": "storybook"},
    "batch_size": 64,
}


def _calibrate(config):
    """Scores are read in deviations of what the same reward gives the reference pictures, whatever is screened.

    The reward is shared, not copied: what a command line changes in one entry it changes in both.
    """
    own = ("stage", "source")
    config.calibrate = {"stage": "score", "source": "reference"}
    for key, value in config.score.items():
        if key not in own:
            config.calibrate[key] = value if isinstance(value, ConfigDict) else config.score.get_ref(key)
    config.score.calibration = "calibrate"


def _add_controls(config):
    """Three training seeds of ADPO and of its controls, on the same candidates."""
    screens = {
        "by_average": {"rule": "average", "as_many_as": "screen"},
        "by_prompt": {"aspects": ("prompt_following",), "thresholds": (0.0,), "as_many_as": "screen"},
        "by_presence": {"source": "present", "thresholds": (0.0,)},
    }
    screens |= {f"shuffled_labels_{seed}": {"shuffle_labels": True, "seed": seed} for seed in range(3)}
    config.present = {"stage": "score", "source": "generate", "reward": "presence"}
    config.update({name: {**config.screen.to_dict(), **changes} for name, changes in screens.items()})
    arms, pairs = {}, ()
    for seed in range(3):
        adpo = {**config.align.to_dict(), "seed": seed, "sample_every": 0}
        adpo["adapter"]["seed"] = seed
        one_beta = {**adpo["hyper"], "beta": 578.0, "eta": 0.0}  # the mean of ADPO's β(a)
        kinds = {
            "adpo": {},
            # A pair costs 8/3 of a picture: two with their gradients, and two through the reference without.
            "sft": {"algorithm": "sft", "hyper": {}, "total_steps": 800},
            "shuffled": {"source": f"shuffled_labels_{seed}"},
            "presence": {"source": "by_presence"},
            "dominance": {"hyper": one_beta},
            "average": {"source": "by_average", "hyper": one_beta},
            "prompt": {"source": "by_prompt", "hyper": one_beta},
            "pairs_alone": {"hyper": {**adpo["hyper"], "imitation": 0.0}},
        }
        arms |= {f"{kind}_{seed}": {**adpo, **changes} for kind, changes in kinds.items()}
        pairs += tuple((f"adpo_{seed}", f"{kind}_{seed}") for kind in kinds if kind != "adpo")
    config.update(arms)
    del config.align
    config.stages = (*config.stages[:4], "present", "screen", *screens, *arms, "evaluate")
    config.evaluate.update(trained=tuple(arms), best_of=4, guidance_scales=(2.0, 3.0, 4.0), compare=pairs)
    config.evaluate.controls = ("copying", "presence")


def _compare_recipes(config):
    """What keeps pictures good while pairs are learned, how strongly the reference holds, and SFT alone or before.

    At half the compute of the main job, and those that imitate, and SFT, at all of it. The oracle chooses here: what it
    says of the chosen one on tune scenes is no result.
    """
    dpo = {**config.align.to_dict(), "save_every": 50, "sample_every": 50, "keep_adapters": True, "total_steps": 150}
    sft = {**dpo, "algorithm": "sft", "hyper": {}, "save_every": 100, "sample_every": 100}
    hypers = {
        "preserving": {"preserve": 1.0},
        "half": {"preserve": 0.5},
        "half_held": {"preserve": 0.5, "beta": 2000.0},
        "held": {"beta": 2000.0},
        "held_more": {"beta": 8000.0},
        "imitating_half": {"imitation": 0.5},
        "imitating_and_preserving": {"imitation": 0.5, "preserve": 0.5},
        "imitating": {"imitation": 1.0},
    }
    arms = {name: {**dpo, "hyper": {**dpo["hyper"], "imitation": 0.0, **changes}} for name, changes in hypers.items()}
    arms["sft"] = {**sft, "total_steps": 400}  # see `_add_controls`
    arms["sft_faster"] = {**arms["sft"], "optimizer": {"learning_rate": 3e-3, "warmup_steps": 10, "decay": "cosine"}}
    arms["sft_first"] = {**sft, "total_steps": 200}
    arms["then_half"] = {**arms["half"], "after": "sft_first", "total_steps": 75, "sample_every": 25}
    longer = {**dpo, "total_steps": 300, "save_every": 100, "sample_every": 100}
    hypers = {
        "longer_imitating_quarter": {"imitation": 0.25},
        "longer_imitating_half": {"imitation": 0.5},
        "longer_imitating": {"imitation": 1.0},
        "longer_imitating_held": {"imitation": 1.0, "beta": 2000.0},
    }
    arms |= {name: {**longer, "hyper": {**dpo["hyper"], **changes}} for name, changes in hypers.items()}
    arms["longer_sft"] = {**sft, "total_steps": 800, "save_every": 400, "sample_every": 400}
    choose = {"stage": "choose", "scenes": 256, "reward": "oracle"}
    chosen = {f"how_far_{name}": {**choose, "source": name} for name in arms}
    config.update({**arms, **chosen})
    del config.align, config.evaluate
    config.stages = (*config.stages[:5], *(entry for name in arms for entry in (name, f"how_far_{name}")))


def _enlarge(config):
    """FLUX.1-dev at 1024², four pairs a chip of 64."""
    config.mesh = {"data": 4, "fsdp": 16, "tensor": 1, "context": 1}
    config.generator.preset = "flux"
    config.sampling.update(num_steps=28, guidance_scale=1.0, batch_size=64)  # guidance is in the network
    config.align.update(batch_size=256, total_steps=2000, sample_every=0)
    config.align.optimizer.update(learning_rate=1e-4, warmup_steps=100)


def _shrink(config):
    """Seconds instead of minutes, on an untrained network: for tests."""
    config.generator.update(preset="tiny", weights="random")
    config.sampling.update(num_steps=2, batch_size=4)
    config.reference.update(scenes=4)
    config.generate.update(scenes=6)
    config.screen.update(rule="average", rejection=False)
    config.align.update(total_steps=4, batch_size=4, save_every=2, sample_every=2)
    config.align.optimizer.warmup_steps = 1
    config.evaluate.update(scenes=4, per_scene=1)
