"""Scores of finished pictures, whoever drew them: a table, and a Parquet file with a row for each picture.

    python -m narrative_jax.launch --config=configs/score.py --config.collect.pictures=FOLDER \
        --config.clip.clip_cosine.weights=clip-vit-large-patch14/model.safetensors

FOLDER holds pictures, each beside a text file of its name with the prompt; or name a JSONL file whose lines have id,
prompt, picture, and subjects with photos. tokenizer.json lies beside CLIP's weights. More scores are other entries:
`:all` has them all, each with its own weights. Identity of faces by ArcFace is `identity` with encoder=iresnet,
size=IResNet-50, side=112, landmarks=True, and lines that give the landmarks of the faces (see `find_pictures`). A
weighted sum of scores is the reward `ensemble`, as in configs/reward.py.

`:storybook` needs no weights of yours: the embedded ones score pictures of Storybook's world.

`:judge` asks a vision-language model behind an OpenAI-compatible server (vLLM, Ollama, LM Studio, a hosted one) for
ratings on the three aspects instead; its pictures come with subjects, so from a JSONL file:

    python -m narrative_jax.launch --config=configs/score.py:judge --config.collect.pictures=FILE.jsonl \
        --config.judge.http_judge.url=http://localhost:8000/v1 --config.judge.http_judge.model=NAME

`:critique` writes a critique of each aspect and scores on it, and has both in the table: NIReward, the one that ships
for Storybook's pictures, or as its training by configs/nireward.py leaves it in
--config.nireward.nireward.weights=FILE; pictures come with subjects.

A server that wants an API key gets it from the environment: --config.judge.http_judge.key_variable=OPENAI_API_KEY.
"""

from ml_collections import ConfigDict

from narrative_jax.core.errors import check_name

LARGE, HUGE = "ViT-L/14", "ViT-H/14"


def get_config(variant: str = "") -> ConfigDict:
    """CLIP's cosine alone, `all` scores with weights, those of `storybook`, the `judge` of a server, or `critique`."""
    check_name("variant", variant, ("", "all", "storybook", "judge", "critique"))
    config = ConfigDict()
    config.seed = 0
    config.scenes = ""
    config.report = variant == "critique"  # words are read under their pictures
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.collect = {"stage": "collect", "pictures": "", "damaged_policy": "stop"}
    score = {"stage": "score", "source": "collect", "batch_size": 32}
    if variant == "judge":
        options = {"url": "", "model": "", "key_variable": "", "timeout_s": 120.0, "tries": 6, "at_once": 8}
        config.judge = {"stage": "score", "source": "collect", "reward": "http_judge", "http_judge": options}
        scores = ("judge",)
    elif variant == "critique":
        config.nireward = {**score, "reward": "nireward", "nireward": {"weights": ""}}
        scores = ("nireward",)
    else:
        config.clip = {**score, "reward": "clip_cosine", "clip_cosine": {"weights": "", "size": LARGE}}
        scores = ("clip",)
    if variant == "storybook":
        config.clip.clip_cosine.size = "storybook"
        config.aesthetic = {
            **score,
            "reward": "aesthetic",
            "aesthetic": {"clip": "", "head": "", "version": "storybook"},
        }
        scores = ("clip", "aesthetic")
    if variant == "all":
        config.clip_score = {**score, "reward": "clip_score", "clip_score": {"weights": "", "size": LARGE}}
        config.hps = {**score, "reward": "hps_v2", "hps_v2": {"weights": "", "size": HUGE}}
        config.pick = {**score, "reward": "pick_score", "pick_score": {"weights": "", "size": HUGE}}
        aesthetic = {"clip": "", "head": "", "version": "v2"}
        config.aesthetic = {**score, "reward": "aesthetic", "aesthetic": aesthetic}
        subject = {"weights": "", "size": "ViT-B/14", "form": "crops", "side": 512, "max_subjects": 1}
        config.subject = {**score, "reward": "subject_consistency", "subject_consistency": subject}
        identity = {"weights": "", "encoder": "dinov2", "size": "ViT-B/14", "side": 224}
        identity |= {"max_subjects": 1, "regions": (), "landmarks": False}
        config.identity = {**score, "reward": "identity", "identity": identity}
        scores = ("clip", "clip_score", "hps", "pick", "aesthetic", "subject", "identity")
    critiques = scores if variant == "critique" else ()
    config.table = {"stage": "tabulate", "sources": scores, "critiques": critiques}
    config.stages = ("collect", *scores, "table")
    return config
