"""DPO on preference pairs of one's own pictures: an adapter on the embedded generator, compared before and after.

    python -m narrative_jax.launch --config=configs/dpo.py --config.collect.preferences=PATH

PATH is a folder: STEM_w.png is preferred to STEM_l.png, STEM_e1.png and STEM_e2.png are even, STEM.txt holds their
prompt. Or a JSONL file, a pair a line, with paths from the file's folder: {"prompt": "...", "chosen": "a.png",
"rejected": "b.png"}, and where there are some "subjects": [{"class_word": "character", "images": ["mara.png"]}],
"tie": true, "gap": 1.5 (by how much the chosen one is better: β(a) follows it where every pair has one). Or what was
published: Parquet files of Pick-a-Pic, or a list in JSON of HPDv2, HPDv3 or ImageRewardDB beside its pictures.

Pictures are cut to the generator's shape, ties left out. `evaluate` draws the prompts of the pairs, each once, with and
without the adapter, and the reward that it names judges; --config.evaluate.source= draws other scenes instead, those of
--config.scenes=FILE or Storybook's, which the oracle judges. `:sft` trains on the chosen pictures alone, `:tiny` is a
smoke run.
"""

from ml_collections import ConfigDict

from narrative_jax.core.errors import check_name

# Attention and MLP of both kinds of blocks; modulation stays as it is.
TARGETS = r".*_blocks\.\d+\.(image\.|text\.)?(attention\.to_[qkv]|to_out|mlp_in|mlp_out|out)"


def get_config(variant: str = "") -> ConfigDict:
    """DPO, `sft` or `tiny`."""
    check_name("variant", variant, ("", "sft", "tiny"))
    config = ConfigDict()
    config.seed = 0
    config.scenes = ""  # a JSONL file of scenes to evaluate on, where evaluate.source is ""
    config.max_subjects_policy = "stop"
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

    config.stages = ("collect", "align", "evaluate")
    config.collect = {"stage": "collect", "preferences": "", "damaged_policy": "stop"}
    config.align = {
        "stage": "train",
        "source": "collect",
        "algorithm": "dpo",
        "hyper": {"beta": 500.0, "eta": 0.5, "k": 1.0, "b": 0.5, "preserve": 0.5},
        "adapter": {"rank": 16, "alpha": 16.0, "targets": TARGETS, "segments": ("noisy", "text"), "seed": 0},
        "total_steps": 100,
        "batch_size": 16,
        "accumulate": 1,
        "optimizer": {"learning_rate": 5e-4, "warmup_steps": 20, "decay": "constant"},  # for some dozens of pairs
        "ema_decay": 0.95,
        "save_every": 50,
        "sample_every": 50,
        "seed": 0,
    }
    config.evaluate = {
        "stage": "evaluate",
        "source": "collect",
        "split": "test",
        "scenes": 0,
        "scene_seed": 0,
        "per_scene": 2,
        "trained": ("align",),
        "reward": "clip_cosine",
        "batch_size": 64,
        "clip_cosine": {"weights": "", "size": "storybook"},
        "best_of": 0,
        "guidance_scales": (),
        "compare": (("align", "baseline"),),
    }
    if variant == "sft":
        config.align.algorithm, config.align.hyper = "sft", {"text_dropout": 0.1}
    if variant == "tiny":
        config.generator.update(preset="tiny", weights="random")
        config.sampling.update(num_steps=2, batch_size=4)
        config.align.update(total_steps=2, batch_size=4, save_every=2, sample_every=2)
        config.align.optimizer.warmup_steps = 1
        config.evaluate.update(per_scene=1, batch_size=4)
    return config
