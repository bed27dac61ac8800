"""NIReward on the embedded Storybook world: its data (NI-RLHF), its training, and what it is worth.

    python -m narrative_jax.launch --config=configs/nireward.py

Four ways of drawing, each with flaws of its own, draw the same scenes; of each scene the three pictures are kept that
three proxies like best. Three raters write a critique of each aspect of each, and score it; which of two pictures is
better, the majority says. A small Qwen2-VL with random weights learns of pictures that captions and portraits often do
not give away, and of as many that were drawn: first its tower tells, square by square, what they show, then it says so
in the words of what the oracle sees in them, of pictures alone and then beside portraits and prompt, and then, as
NIReward, which says aloud what it sees before it judges, learns critiques and preferences. Raters see the oracle's
findings too: what it learned from is privileged. `:tiny` is a smoke run; `:judge` benches a model behind an
OpenAI-compatible server beside, which has learned nothing of all this:

    python -m narrative_jax.launch --config=configs/nireward.py:judge \
        --config.bench_by_zero_shot.http_judge.url=URL --config.bench_by_zero_shot.http_judge.model=NAME

`:7B` is a published Qwen2-VL-7B with an adapter, on preference pairs of one's own: a vision-language model behind an
OpenAI-compatible server criticises and scores both pictures, and NIReward learns it; for 16 chips, and for
`python -m narrative_jax.plan`.

    python -m narrative_jax.launch --config=configs/nireward.py:7B --config.collect.preferences=FILE.jsonl \
        --config.nireward.nireward.backbone=FOLDER --config.annotated.server.url=URL \
        --config.annotated.server.model=NAME
"""

from ml_collections import ConfigDict

from narrative_jax.core.errors import check_name

# Of drawing: what each is known for.
VARIANTS = {
    "as_it_is": {},
    "copying": {"guidance_scale": 2.5, "subject_guidance_scale": 2.5},  # poses of portraits
    "hurried": {"num_steps": 3, "guidance_scale": 6.0},  # blurred figures
    "deaf": {"guidance_scale": 1.0},  # what was asked is heeded less
}
KEPT = {"num_steps": 4, "guidance_scale": 4.0, "subject_guidance_scale": 1.5}  # for the bench alone
_TEST = {"stage": "generate", "split": "test", "scene_seed": 7}
_TRAINED = {"reward": "trained", "reward_from": "nireward"}


def get_config(variant: str = "") -> ConfigDict:
    """`7B` learns of one's own pairs, `judge` benches a server's model too, `tiny` is a smoke run."""
    check_name("variant", variant, ("", "7B", "judge", "tiny"))
    if variant == "7B":
        return _published()
    config = ConfigDict()
    config.seed = 0
    config.scenes = ""
    config.max_subjects_policy = "stop"
    config.on_no_pairs = "stop"
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
    data = _make_data(config)
    _train(config)
    config.ni_rlhf = {"stage": "publish", "train": "annotated", "test": "bench_labels"}
    config.stages = (
        *data,
        "looking",
        "picturing",
        "seeing",
        "nireward",
        "plain",
        *_bench(config, variant),
        *_choose(config),
        "ni_rlhf",
    )
    if variant == "tiny":
        _shrink(config)
    return config


def _make_data(config):
    """Pictures, the proxies that choose of them, and what raters say of those; returns the entries."""
    draw = {"stage": "generate", "split": "train", "scenes": 2400, "scene_seed": 7, "per_scene": 1}
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
    return (*VARIANTS, "drawn", *proxies, "proxies", "annotated")


def _train(config):
    """What learns to see, and then to criticise and to score."""
    train = {
        "stage": "train",
        "source": "",
        "trains": "reward",
        "reward": "nireward",
        "nireward": {"backbone": "random", "size": "storybook"},
        "accumulate": 1,
        "ema_decay": 0.99,
        "seed": 0,
        "save_every": 100,
    }
    # With Muon losses fell faster than with AdamW (docs/nireward.md, where what else differed is said).
    muon = {"method": "muon", "warmup_steps": 50, "decay": "cosine", "weight_decay": 0.05}
    shown = {"drawn": "drawn", "training_set": {"kind": "changed", "size": 200_000, "seed": 8}}
    config.looking = {
        **train,
        **shown,
        "algorithm": "recognition",
        "batch_size": 64,
        "total_steps": 2600,
        # Without decay: nothing pulls at what follows the tower, and it stays.
        "optimizer": {**muon, "learning_rate": 2e-3, "weight_decay": 0.0},
    }
    # Nobody can repeat portraits who was shown none; and it costs less.
    config.picturing = {
        **train,
        **shown,
        "after": "looking",
        "algorithm": "picturing",
        "batch_size": 64,
        "accumulate": 8,  # few examples at once, whose activations stay in a processor's cache
        "total_steps": 700,
        "optimizer": {**muon, "learning_rate": 1e-3, "warmup_steps": 100},  # words begin at random here
    }
    config.seeing = {
        **train,
        **shown,
        "after": "picturing",
        "algorithm": "describing",
        "batch_size": 32,
        "accumulate": 4,
        "total_steps": 800,
        "optimizer": {**muon, "learning_rate": 1e-3},
    }
    config.nireward = {
        **train,
        "after": "seeing",
        "source": "annotated",
        "algorithm": "critique",
        "hyper": {"gamma": 1.0, "without_critique": 0.3},
        "batch_size": 16,
        "accumulate": 2,
        "total_steps": 600,
        "optimizer": {**muon, "learning_rate": 6e-4},
    }
    # The same network, its seeing and its compute, that never writes.
    config.plain = {**config.nireward.to_dict(), "hyper": {"critique": 0.0, "gamma": 1.0, "without_critique": 1.0}}


def _published():
    """A published backbone and people's own pairs."""
    config = ConfigDict()
    config.seed = 0
    config.scenes = ""
    config.report = True
    # Weights stay where they are: spread over fsdp they would be gathered for each word (docs/plans.md).
    config.mesh = {"data": 4, "fsdp": 1, "tensor": 4}
    config.stages = ("collect", "annotated", "nireward", "scored")
    config.collect = {"stage": "collect", "preferences": "", "damaged_policy": "stop"}
    server = {"url": "", "model": "", "key_variable": "", "timeout_s": 120.0, "tries": 6, "at_once": 8, "budget": 0}
    config.annotated = {
        "stage": "annotate",
        "source": "collect",
        "annotator": "server",
        "server": server,
        "spread": 1.5,
        "verdicts": "",
    }
    layers = r"vlm\.blocks\..*(query|key|value|attention_out|mlp_gate|mlp_in|mlp_out)"
    config.nireward = {
        "stage": "train",
        "source": "annotated",
        "trains": "reward",
        "reward": "nireward",
        "nireward": {"backbone": "", "size": "7B"},
        "algorithm": "critique",
        "hyper": {"critique": 1.0, "gamma": 1.0, "without_critique": 0.3},
        "adapter": {"rank": 64, "alpha": 64.0, "targets": layers, "segments": (), "seed": 0},
        "batch_size": 32,  # pairs: 64 sequences
        "accumulate": 2,
        "total_steps": 1000,
        "optimizer": {"learning_rate": 1e-4, "warmup_steps": 50, "decay": "cosine", "weight_decay": 0.0},
        "ema_decay": 0.99,
        "save_every": 100,
        "seed": 0,
    }
    # What it says of the very pictures that it learned from: to be read.
    trained = {"reward": "trained", "reward_from": "nireward"}
    config.scored = {"stage": "score", "source": "collect", **trained, "batch_size": 32}
    return config


def _bench(config, variant):
    """NI-Bench: test scenes, each drawn in the ways of training, and twice in one that is none of these; other raters.

    Returns its entries, those of the kept way behind the others.
    """
    raters = {"annotator": "raters", "raters": {"seeds": (10, 11, 12)}, "spread": 1.5}
    for name, sampling in VARIANTS.items():
        config[f"bench_{name}"] = {**_TEST, "scenes": 700, "per_scene": 1, "sampling": sampling}
    config.bench = {"stage": "gather", "sources": tuple(f"bench_{name}" for name in VARIANTS)}
    config.kept = {**_TEST, "scenes": 1000, "per_scene": 2, "sampling": KEPT}
    entries = [f"bench_{name}" for name in VARIANTS]
    server = {"url": "", "model": "", "key_variable": "", "timeout_s": 120.0, "tries": 6, "at_once": 8}
    server = ConfigDict(server)  # shared, not copied: it is set once
    for pictures in ("bench", "kept"):
        labels, own, faults = f"{pictures}_labels", f"{pictures}_by_nireward", f"{pictures}_faults"
        config[labels] = {"stage": "annotate", "source": pictures, **raters}
        config[faults] = {"stage": "faults", "source": own}  # how true its critiques are
        judges = _judges(config) | {"annotated_critiques": {**_TRAINED, "critiques_from": labels}}
        if pictures == "kept":
            judges |= {name: {**_TRAINED, **control} for name, control in _controls(own).items()}
        judges["raters"] = {"reward": "raters", "raters": {"seeds": (20, 21, 22)}}
        if variant == "judge":
            judges["zero_shot"] = {"reward": "http_judge", "http_judge": server}
        scores = _scores(config, pictures, judges)
        config[f"{pictures}_present"] = {"stage": "score", "source": pictures, "reward": "presence"}
        config[f"{pictures}_accuracy"] = {
            "stage": "accuracy",
            "gold": labels,
            "sources": scores,
            "leader": own,
            "ceiling": "bench_by_oracle" if pictures == "bench" else "",
            "given": f"{pictures}_present",
            "pairs": 4000,
        }
        entries += [pictures, labels, f"{pictures}_present", *scores, faults, f"{pictures}_accuracy"]
    return entries


def _choose(config):
    """Of up to 64 pictures of a test scene the one that a judge likes best, and what the oracle says of that: right of
    most pairs, a judge may still like best of all what fools it. Returns the entries.
    """
    config.many = {**_TEST, "scenes": 64, "per_scene": 64}
    *chosen, gold = _scores(config, "many", _judges(config))
    config.best_of = {"stage": "best_of", "gold": gold, "sources": tuple(chosen), "leader": chosen[0]}
    return ("many", *chosen, gold, "best_of")


def _controls(own):
    """What scores come of: pictures, critiques or their length."""
    return {
        "grey": {"control": "unseen"},  # in writing and in scoring
        "grey_and_own_critiques": {"control": "unseen", "critiques_from": own},
        "swapped_critiques": {"control": "swapped_critiques", "critiques_from": own},
        "critique_length": {"control": "critique_length", "critiques_from": own},
    }


def _judges(config):
    """NIReward by its own critiques and without, others, and last the oracle."""
    silent = {"control": "without_critiques"}
    return {
        "nireward": _TRAINED,  # what it writes itself, by its own tokens
        "no_critiques": {**_TRAINED, **silent},
        "plain": {**_TRAINED, **silent, "reward_from": "plain"},
        "clip": {key: config.by_text[key] for key in ("reward", "clip_cosine")},
        "aesthetic": {key: config.by_looks[key] for key in ("reward", "aesthetic")},
        "identity": {key: config.by_subject[key] for key in ("reward", "identity")},
        "oracle": {"reward": "oracle"},
    }


def _scores(config, pictures, judges):
    """A score entry of each judge; returns their names."""
    for name, judge in judges.items():
        config[f"{pictures}_by_{name}"] = {"stage": "score", "source": pictures, **judge}
    return tuple(f"{pictures}_by_{name}" for name in judges)


def _shrink(config):
    """Seconds instead of hours, on an untrained generator: for tests."""
    config.generator.update(preset="tiny", weights="random")
    config.sampling.update(num_steps=2, batch_size=4)
    for name in VARIANTS:
        config[name].scenes = config[f"bench_{name}"].scenes = 4
    config.kept.scenes = 4
    config.many.update(scenes=2, per_scene=4)
    for name in ("looking", "picturing", "seeing", "nireward", "plain"):
        config[name].update(total_steps=2, batch_size=4, accumulate=1, save_every=2)
        config[name].optimizer.warmup_steps = 1
