"""UPER on the embedded Storybook world, one subject: refined examples, SFT on them, then the gradient of a reward.

    python -m narrative_jax.launch --config=configs/uper.py

Of 4,000 raw pairs of a portrait and a picture, portraits are put on white and pairs left out that raters find to show
somebody else. A LoRA adapter learns from the others; a second one, on top, follows a reward of text and subject through
the last steps of drawing, and goes on learning from them meanwhile; how far it should have gone, an encoder says that
it did not follow, on tune scenes. The oracle judges on 256 test scenes. Raters see the oracle's findings: what is left
out is privileged. What is more like the portrait than true pictures are pays for it, or poses would be copied
(docs/uper.md). `:controls` adds the same over three seeds beside SFT on pairs as they are, DPO on pairs that the
composite reward prefers, and the best of four; `:ablations` has UPER's own reward, with an aesthetic head, and one
change at a time of the reward and of how it is followed; `:safeguards` draws, for its report, gold by reward gained as
the reward is driven on, with all that holds it and without each.

`:flux` is the paper's recipe on FLUX.1-dev with two subjects and published rewards, on 64 chips: for
`python -m narrative_jax.plan`. `:tiny` is a smoke run. `:own` is the recipe on people's own examples, by published
rewards:

    python -m narrative_jax.launch --config=configs/uper.py:own --config.collect.examples=PATH \
        --config.by_text.clip_cosine.weights=CLIP --config.by_looks.aesthetic.clip=CLIP \
        --config.by_looks.aesthetic.head=HEAD --config.by_subject.subject_consistency.weights=DINOV2_BASE \
        --config.evaluate.identity.weights=DINOV2_LARGE

PATH is a Parquet file of Subjects200K, a folder of them, or a folder with a folder of photos for each subject, two or
more, as DreamBooth's. Backgrounds stay (--config.refine.background=isnet removes them by weights of one's own) and
nobody compares pairs (--config.refine.annotator=server asks a model). Scenes of the examples are drawn and judged by an
encoder that was not followed; nothing says when to stop.
"""

from ml_collections import ConfigDict

from narrative_jax.core.errors import check_name

TARGETS = r".*_blocks\.\d+\.(image\.|text\.)?(attention\.to_[qkv]|to_out|mlp_in|mlp_out|out)"
ADAPTER = {"rank": 16, "alpha": 16.0, "targets": TARGETS, "segments": ("noisy", "text"), "seed": 0}
SUBJECT = {"weights": "", "size": "storybook", "side": 40, "max_subjects": 1}
# UPER's third reward, and its composite.
LOOKS = {
    "stage": "score",
    "source": "reference",
    "reward": "aesthetic",
    "aesthetic": {"clip": "", "head": "", "version": "storybook"},
}
OTHERS = ("sees_subject", "clip_sees_subject", "rated")  # the recipe follows none of these
MEASURES = ("likeness", *OTHERS)
PUBLISHED = {"by_text": 0.2, "by_looks": 0.2, "by_subject": {"weight": 0.4, "clip": 0.2}}


def get_config(variant: str = "") -> ConfigDict:
    """The recipe: `sft`, after it `follow`, which follows the reward, and `refl`, which is that at its best step."""
    check_name("variant", variant, ("", *VARIANTS))
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
        "guidance_scale": 2.5,  # of the text; of the subjects 1.0 is off: guided further, portraits' poses are copied
        "subject_guidance_scale": 1.0,
        "batch_size": 64,
    }

    config.reference = {"stage": "generate", "split": "train", "scenes": 256, "scene_seed": 2, "per_scene": 1}
    rewards = {
        "by_text": {"reward": "clip_cosine", "clip_cosine": {"weights": "", "size": "storybook"}},
        "by_subject": {
            "reward": "identity",
            # True pictures are 0.91 like their portraits, on average: what is more alike copies them, and pays for it.
            "identity": {**SUBJECT, "encoder": "iresnet", "penalty": 2.0, "threshold": 0.9},
        },
    }
    config.update({name: {"stage": "score", "source": "reference", **reward} for name, reward in rewards.items()})
    config.refine = {
        "stage": "refine",
        "training_set": {"kind": "raw", "size": 4000, "seed": 4, "characters": 1},
        "background": "given",
        "isnet": {"weights": "", "size": "storybook"},  # finds it, where masks are not given
        "annotator": "raters",
        "threshold": 3.0,
    }
    _train(config)
    config.evaluate = {
        "stage": "evaluate",
        "split": "test",
        "scenes": 256,
        "scene_seed": 0,
        "per_scene": 2,
        "trained": ("refl", "sft"),
        "reward": "",
        "raters": {"seeds": (0, 1, 2)},
        "compare": (("refl", "sft"), ("sft", "shown_as_trained")),
        "controls": ("copying", "shown_as_trained"),
    }
    _measure(config)
    config.stages = ("reference", *rewards, "refine", "sft", "follow", "refl", "evaluate", *MEASURES)
    config.stages += ("fidelity",)
    if variant:
        VARIANTS[variant](config)
    return config


def _train(config):
    """What learns from examples, what then follows the reward, and how far that should have gone."""
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
        # The paper's limit to the pull of the subject's reward, and not its third one, PUBLISHED: Storybook's aesthetic
        # head pulls ten times as hard as the others, and what pleases it is unclean.
        "ensemble": {"by_text": 0.5, "by_subject": {"weight": 0.5, "clip": 0.2}},
        "hyper": {"window": (4, 8), "reward_weight": 0.3, "flow_matching": 1.0},
    }
    _draw_as_sampled(config, "follow")
    config.refl = {
        "stage": "choose",
        "source": "follow",
        "scenes": 128,
        "reward": "identity",
        "identity": {**SUBJECT, "encoder": "dinov2"},
        "gold": True,  # to be looked at
    }


def _draw_as_sampled(config, *names):
    """These entries follow pictures that are drawn as all others are."""
    for name in names:
        for key in ("num_steps", "guidance_scale", "subject_guidance_scale"):
            config[name].hyper[key] = config.sampling.get_ref(key)


def _measure(config):
    """What papers report, by the encoder that chose the step, and the raters' preference."""
    score = {"stage": "score", "source": "reference"}
    subject = config.refl.identity.to_dict()
    config.likeness = {**score, "reward": config.by_subject.get_ref("reward"), "identity": {"penalty": 0.0}}
    for key in config.by_subject.identity:  # what is followed without its penalty, to be told beside true pictures'
        if key != "penalty":
            config.likeness.identity[key] = config.by_subject.identity.get_ref(key)
    config.sees_subject = {**score, "reward": "identity", "identity": subject}
    config.clip_sees_subject = {**score, "reward": "identity", "identity": {**subject, "encoder": "clip"}}
    config.rated = {**score, "reward": "raters", "raters": {"seeds": (0, 1, 2)}}
    config.fidelity = {
        "stage": "fidelity",
        "source": "evaluate",
        # CLIP-I, and CLIP-T, which was followed as likeness was
        "measures": ("likeness", "sees_subject", "clip_sees_subject", "by_text", "rated"),
        "cut_out": ("sees_subject",),
        "background": "isnet",
        "isnet": {"weights": "", "size": "storybook"},
        "pasted": ("sees_subject",),
        "features": {"encoder": "dinov2", "weights": "", "size": "storybook", "side": 40},
        "truth": {"kind": "true", "split": "test", "size": 256, "characters": 1},
    }


def _measure_nothing(config):
    """Leave out what knows Storybook only."""
    names = (*MEASURES, "fidelity")
    config.stages = tuple(name for name in config.stages if name not in names)
    for name in names:
        del config[name]


def _add_controls(config):
    """Three training seeds, each with SFT on pairs as they are and DPO after SFT, at as many pictures a step.

    DPO learns in all three from the pictures of the first seed's SFT.
    """
    config.unrefined = {**config.refine.to_dict(), "background": "", "annotator": ""}
    config.drawn = {**config.reference.to_dict(), "scenes": 512, "scene_seed": 1, "per_scene": 4, "trained": "sft_0"}
    composite = {"reward": "ensemble", "ensemble": config.follow.ensemble.to_dict()}
    config.scored = {"stage": "score", "source": "drawn", **composite}
    screen = {"stage": "screen", "source": "scored", "rule": "best_worst", "rejection": False, "shuffle_labels": False}
    config.preferred = {**screen, "thresholds": (0.0,), "aspects": (), "max_pairs_per_prompt": 1}
    hyper = {"beta": 500.0, "eta": 0.5, "k": 1.0, "b": 0.5, "preserve": 0.5}
    arms, pairs, chosen = {}, (), {}
    for seed in range(3):
        sft, follow, refl = (config[name].to_dict() for name in ("sft", "follow", "refl"))
        for train in (sft, follow):
            train.update(seed=seed, adapter={**ADAPTER, "seed": seed})
        dpo = {key: value for key, value in follow.items() if key not in ("reward", "ensemble", "keep_adapters")}
        dpo |= {"algorithm": "dpo", "hyper": hyper, "source": "preferred", "sample_every": 0}
        arms[f"sft_{seed}"] = sft
        arms[f"unrefined_{seed}"] = {**sft, "source": "unrefined", "sample_every": 0}
        arms[f"follow_{seed}"] = {**follow, "after": f"sft_{seed}"}
        arms[f"dpo_{seed}"] = {**dpo, "after": f"sft_{seed}"}
        chosen[f"refl_{seed}"] = {**refl, "source": f"follow_{seed}"}
        others = (f"sft_{seed}", f"dpo_{seed}", "best_of_4")
        pairs += (*((f"refl_{seed}", other) for other in others), (f"sft_{seed}", f"unrefined_{seed}"))
        pairs += ((f"sft_{seed}", "shown_as_trained"),)
    config.update({**arms, **chosen})
    _draw_as_sampled(config, *(f"follow_{seed}" for seed in range(3)))
    for name in ("sft", "follow", "refl"):
        del config[name]
    first = [name for name in arms if name.endswith("_0") and not name.startswith("dpo")]
    rest = [name for name in arms if name not in first]
    before = config.stages[: config.stages.index("sft")]
    measured = ("evaluate", *MEASURES, "fidelity")
    config.stages = (*before, "unrefined", *first, "drawn", "scored", "preferred", *rest, *chosen, *measured)
    judged = (*chosen, *(name for name in arms if not name.startswith("follow")))
    config.evaluate.update(trained=judged, best_of=4, compare=pairs, **composite)


def _add_ablations(config):
    """One change at a time, each followed as long: compared at the last step, where a reward that is hacked shows.

    Those with DINOv2 or CLIP in their reward are judged by the oracle and raters alone: what sees_subject and features
    of DINOv2 say of arms that followed it, says nothing.
    """
    ensemble, subject = config.follow.ensemble.to_dict(), config.follow.ensemble.by_subject.to_dict()
    grid = {"form": "grid", "patches": {"size": 24, "stride": 8}}  # of half the side, about, as UPER's of 512
    crops = {"form": "crops", "patches": {"size": 24, "count": 4, "whole": 40}}
    # By the crops true pictures are 0.31 like their portraits, on average.
    subjects = {"grid": grid, "crops": crops, "penalised": {**crops, "penalty": 2.0, "threshold": 0.31}}
    subjects["clip_patches"] = {**crops, "encoder": "clip"}
    for name, form in subjects.items():
        reward = {"reward": "subject_consistency", "subject_consistency": {**SUBJECT, **form}}
        config[f"by_{name}"] = {"stage": "score", "source": "reference", **reward}
    others = {key: value for key, value in ensemble.items() if key != "by_subject"}
    changes = {
        "as_it_is": {},
        "published": {"ensemble": PUBLISHED},
        "text_alone": {"ensemble": others},
        "subject_alone": {"ensemble": {"by_subject": subject}},
        **{f"with_{name}": {"ensemble": {**others, f"by_{name}": subject}} for name in subjects},
        "without_penalty": {"ensemble": {**others, "likeness": subject}},
        "without_clip": {"ensemble": {**others, "by_subject": {**subject, "clip": None}}},
        "raw": {"hyper": {"statistics": "raw"}},
        "by_calibration": {"hyper": {"statistics": "calibration"}},
        "without_examples": {"hyper": {"flow_matching": 0.0}},
        "one_branch": {"hyper": {"through": "first"}},
    }
    arms = {}
    for name, change in changes.items():
        arm = config.follow.to_dict()
        arm["hyper"] |= change.get("hyper", {})
        arms[name] = {**arm, "ensemble": change.get("ensemble", ensemble), "keep_adapters": False, "sample_every": 0}
    config.update({**arms, "by_looks": LOOKS})
    _draw_as_sampled(config, *arms)
    before = config.stages[: config.stages.index("refine")]
    scores = ("by_looks", "likeness", *(f"by_{name}" for name in subjects))
    config.stages = (*before, *scores, "refine", "sft", *arms, "evaluate", *OTHERS, "fidelity")
    for name in ("follow", "refl"):
        del config[name]
    pairs = (*((name, "sft") for name in arms), ("sft", "shown_as_trained"))
    config.evaluate.update(trained=(*arms, "sft"), compare=pairs)


def _add_safeguards(config):
    """What is gained of gold as the reward is driven further, with all safeguards and without one at a time."""
    follow, refl = config.follow.to_dict(), config.refl.to_dict()
    others = {key: value for key, value in follow["ensemble"].items() if key != "by_subject"}
    subject = follow["ensemble"]["by_subject"]
    changes = {
        "all_of_them": {},
        "without_penalty": {"ensemble": {**others, "likeness": subject}},
        "without_limit": {"ensemble": {**others, "by_subject": {**subject, "clip": None}}},
        "without_examples": {"hyper": {"flow_matching": 0.0}},
    }
    follow.update(total_steps=200, sample_every=40)
    for name, change in changes.items():
        hyper, ensemble = follow["hyper"] | change.get("hyper", {}), change.get("ensemble", follow["ensemble"])
        config[f"follow_{name}"] = {**follow, "hyper": hyper, "ensemble": ensemble}
        config[name] = {**refl, "source": f"follow_{name}"}
        _draw_as_sampled(config, f"follow_{name}")
    before = config.stages[: config.stages.index("refine")]
    arms = (each for name in changes for each in (f"follow_{name}", name))
    config.stages = (*before, "likeness", "refine", "sft", *arms)
    for name in ("follow", "refl", "evaluate", "fidelity", *OTHERS):
        del config[name]


HALVES = ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0))  # where two subjects stand


def _enlarge(config):
    """FLUX.1-dev at 1024², a picture a chip of 64."""
    config.mesh = {"data": 4, "fsdp": 16, "tensor": 1, "context": 1}
    config.characters = config.refine.training_set.characters = 2
    config.generator.preset = "flux"
    config.sampling.update(num_steps=28, guidance_scale=1.0, batch_size=64)  # guidance is in the network
    config.by_text.clip_cosine.size = "ViT-L/14"
    config.by_looks = ConfigDict(LOOKS)
    config.by_looks.aesthetic.version = "v2"
    config.follow.ensemble = ConfigDict(PUBLISHED)
    config.stages = (*config.stages[:1], "by_looks", *config.stages[1:])
    two = {"weights": "", "max_subjects": 2, "regions": HALVES}
    grid = {"form": "grid", "size": "ViT-g/14", **two}
    config.by_subject = {"stage": "score", "source": "reference", "reward": "subject_consistency"}
    config.by_subject.subject_consistency = grid
    for name, steps in {"sft": 5000, "follow": 2000}.items():
        config[name].update(total_steps=steps, batch_size=64, sample_every=100)
        config[name].optimizer.update(learning_rate=1e-4, warmup_steps=100)
    config.follow.hyper.window = (21, 28)
    config.refl.identity = {"encoder": "dinov2", "size": "ViT-L/14", **two}
    _measure_nothing(config)


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
    config.fidelity.truth.size = 4


def _own(config):
    """Examples of people's own in place of Storybook's; the step of following a reward is the last."""
    config.collect = {"stage": "collect", "examples": "", "quality": None, "damaged_policy": "stop"}
    score = {"stage": "score", "source": "collect", "batch_size": 32}
    config.by_text = {**score, "reward": "clip_cosine", "clip_cosine": {"weights": "", "size": "ViT-L/14"}}
    config.by_looks = {**score, "reward": "aesthetic", "aesthetic": {"clip": "", "head": "", "version": "v2"}}
    subject = {"weights": "", "size": "ViT-B/14", "form": "crops", "side": 512, "max_subjects": 1}
    config.by_subject = {**score, "reward": "subject_consistency", "subject_consistency": subject}
    config.refine = {
        "stage": "refine",
        "source": "collect",
        "background": "",
        "isnet": {"weights": "", "size": "RMBG-1.4"},
        "annotator": "",
        "server": {
            "url": "",
            "model": "",
            "key_variable": "",
            "timeout_s": 120.0,
            "tries": 6,
            "at_once": 8,
            "budget": 0,
        },
        "threshold": 3.0,
    }
    config.refl = config.follow
    config.refl.ensemble = ConfigDict(PUBLISHED)
    config.refl.keep_adapters = False
    config.evaluate = {
        "stage": "evaluate",
        "source": "collect",
        "scenes": 64,
        "per_scene": 2,
        "trained": ("refl", "sft"),
        "reward": "identity",
        "batch_size": 32,
        "identity": {"encoder": "dinov2", "weights": "", "size": "ViT-L/14", "side": 224, "max_subjects": 1},
        "compare": (("refl", "sft"),),
        "controls": (),
    }
    _measure_nothing(config)
    del config.reference, config.follow
    config.stages = ("collect", *config.refl.ensemble, "refine", "sft", "refl", "evaluate")


VARIANTS = {
    "controls": _add_controls,
    "ablations": _add_ablations,
    "safeguards": _add_safeguards,
    "own": _own,
    "flux": _enlarge,
    "tiny": _shrink,
}
