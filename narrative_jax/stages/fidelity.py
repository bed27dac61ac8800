"""What other rewards say of an evaluation's pictures, and how far these are from true ones.

The measures of papers on personalised generators, each by the encoder that its name bears: prompts and subjects as
encoders see them (CLIP-T, CLIP-I, DINO), subjects cut out on both sides (DINOv2-Sim), FID and KID. Nobody should have
trained on an encoder that judges here; what did is no judge but a witness. How much of a subject image was pasted is
told beside the true picture of the same scene (MultiID-Bench).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from narrative_jax.core.errors import InputError, Stopped, check_count, check_name
from narrative_jax.core.files import read_json, write_json
from narrative_jax.core.options import File, files_in
from narrative_jax.core.records import Candidate, Scene
from narrative_jax.data.backgrounds import BACKGROUNDS, GIVEN, drawn_on_white
from narrative_jax.data.datasets import open_records
from narrative_jax.rewards.features import Features
from narrative_jax.runs.backgrounds import background_of
from narrative_jax.runs.directory import Context
from narrative_jax.runs.rewards import check_reward_of, open_reward
from narrative_jax.runs.truths import PASTED, distances_to, pasted, true_pictures
from narrative_jax.statistics.comparison import Judged, compare, wins
from narrative_jax.trainees.base import TrainingSetOptions

INPUTS = ("source", "measures", "cut_out", "pasted")
ALONE = True
_BASELINE, _TRUE = "baseline", "true pictures"  # the latter is no entry's name
_IDENTITY = "identity"  # the reward that knows what was pasted


@dataclass(frozen=True)
class Options:
    """`source` is an evaluate entry; `measures` and `cut_out` are score entries whose rewards judge its arms' pictures.

    Those of `cut_out` see pictures and subject images without their `background`, a name of
    `data.backgrounds.BACKGROUNDS` whose options stand in a section of that name. With `features`, pictures are compared
    with the true ones of `truth`, a training set of so many pictures. `pasted` are score entries of identity rewards,
    by whose embeddings copy_paste and blending are told (`Identity.measures`): `truth` has the scenes' true pictures,
    which all measures then judge as well.
    """

    source: str
    measures: tuple[str, ...] = ()
    cut_out: tuple[str, ...] = ()
    pasted: tuple[str, ...] = ()
    background: str = ""
    features: Features | None = None
    truth: TrainingSetOptions | None = None


def sections(context: Context) -> list[str]:
    """Those of the background's options."""
    return [name for name in BACKGROUNDS if name in context.entry]


def check(context: Context, options: Options) -> None:
    """Raise InputError for what is no evaluation of an arm, no score entry, features or a truth that cannot be had."""
    evaluations = [name for name, section in context.config.items() if getattr(section, "stage", "") == "evaluate"]
    check_name("evaluation", options.source, evaluations)
    if not context.config[options.source].get("trained", ()):
        rule = "it compares nothing that was trained with the baseline"
        raise InputError(f"evaluation {options.source!r}", rule, f"name train entries in {options.source}.trained")
    if not (options.measures or options.cut_out or options.pasted or options.features):
        rule = "nothing is measured"
        raise InputError(f"{context.name} of {options.source!r}", rule, "name score entries in measures, or features")
    own = bool(context.config.scenes or context.config[options.source].get("source", ""))
    for name in (*options.measures, *options.cut_out, *options.pasted):
        scores = [each for each, section in context.config.items() if getattr(section, "stage", "") == "score"]
        check_name("score entry that measures", name, scores)
        check_reward_of(context, name, own)
    for name in options.pasted:
        if context.config[name].reward != _IDENTITY:
            given, rule = f"{name}.reward {context.config[name].reward!r}", "pasting is told by an identity encoder"
            raise InputError(given, rule, f"name an entry with the reward {_IDENTITY!r} in pasted")
    if options.cut_out:
        _background(context, options)
    elif options.background:
        given, rule = f"{context.name}.background {options.background!r}", "nothing is cut out"
        raise InputError(given, rule, "name score entries in cut_out, or leave it out")
    _check_truth(context, options, own)


def _check_truth(context, options, own):
    """That there are features where there are true pictures, and these where there are features."""
    if (options.features is None and not options.pasted) != (options.truth is None):
        given, rule = f"{context.name}.truth", "features of pictures and what was pasted are told beside true ones"
        raise InputError(given, rule, "set it with features or pasted, or neither")
    if options.truth:
        if own:
            rule = "true pictures are Storybook's, and these are of people's own scenes"
            raise InputError(f"{context.name}.truth", rule, "leave features, pasted and truth out")
        options.truth.open()
    if options.pasted:
        if options.truth.kind != "true":
            rule = "what was pasted is told beside true pictures"
            raise InputError(f"{context.name}.truth.kind {options.truth.kind!r}", rule, "set it to 'true'")
        scenes = context.config[options.source].get("scenes", 0)
        if options.truth.size < scenes:
            given = f"{context.name}.truth.size {options.truth.size}"
            raise InputError(given, f"each of the {scenes} scenes of {options.source} has its own", f"set {scenes}")
    if options.features:
        _ = options.features.network
        check_count("truth.size", options.truth.size, minimum=4)


def files(context: Context) -> Iterable[File]:
    """The background's."""
    by = background_of(context) if context.entry.get("background", "") else None
    return files_in(by) if by else ()


def run(context: Context, options: Options) -> dict[str, float]:
    """Measure the baseline and all arms that were drawn as it was; leave what was found by scene in results.json.

    Returns <entry>/<aspect>/{baseline,aligned,diff,...} as `comparison.compare` has it, <entry>/<aspect>/true of true
    pictures, <entry>/<arm>/win_rate{,_low,_high}, the share of scenes that the arm's pictures of have the higher mean,
    and {fid,kid}_<encoder>/<arm>; <entry> is "<entry> cut out" and "<entry> pasted" of those. Raises Stopped before a
    measure.
    """
    scenes, arms = _open(context, options.source)
    numbers, found, aspects, distances = {}, {}, {}, {}
    shown = arms
    if options.pasted:
        true = true_pictures(options.truth, scenes)
        shown = arms | {_TRUE: true[:, None]}
    for name in options.pasted:
        reward, key = open_reward(context.of(name)), f"{name} pasted"
        judged = {arm: Judged(values) for arm, values in pasted(true, reward.reward, scenes, arms).items()}
        aspects[key] = list(PASTED)
        numbers |= compare(judged, dict.fromkeys(PASTED, ()), key, {})
        found[key] = {arm: np.round(each.values, 6).tolist() for arm, each in judged.items()}
    asked = [(name, name, scenes, shown) for name in options.measures]
    if options.cut_out:
        white = drawn_on_white(scenes, shown, _background(context, options))
        asked += [(f"{name} cut out", name, *white) for name in options.cut_out]
    for key, name, those, pictures in asked:
        if context.stop.requested:
            raise Stopped
        reward = open_reward(context.of(name))
        judged = {arm: Judged(_judged(reward, arm, those, images)) for arm, images in pictures.items()}
        found[key] = {arm: np.round(each.values, 6).tolist() for arm, each in judged.items()}
        if true := judged.pop(_TRUE, None):
            means = zip(reward.aspects, true.values.mean(0), strict=True)
            numbers |= {f"{key}/{aspect}/true": float(mean) for aspect, mean in means}
        aspects[key], columns = list(reward.aspects), {aspect: () for aspect in reward.aspects}
        numbers |= compare(judged, columns, key, {}) | wins(judged, key)
    if options.features:
        distances = distances_to(options.truth, options.features, arms)
    results = {"scenes": [scene.id for scene in scenes], "arms": list(arms), "aspects": aspects, "measures": found}
    results["distances"] = list(dict.fromkeys(key.partition("/")[0] for key in distances))
    write_json(context.folder / "results.json", results)
    return numbers | distances


def _open(context, source):
    """The evaluation's scenes, and the pictures u8[scenes, k, h, w, 3] of each arm that has its own."""
    folder = context.path(source)
    scenes = list(open_records(folder / "scenes", Scene))
    arms = {}
    for name in read_json(folder / "results.json")["arms"]:
        records = folder / name / "candidates"
        if not records.exists():  # nobody drew true pictures and copies
            continue
        drawn = open_records(records, Candidate)
        if name == _BASELINE or len(drawn) == len(scenes) * arms[_BASELINE].shape[1]:  # of best_of there are more
            images = np.stack([each.image for each in drawn])
            arms[name] = images.reshape(len(scenes), -1, *images.shape[1:])
    return scenes, arms


def _background(context, options):
    name = options.background
    check_name("background", name, [each for each in BACKGROUNDS if each != GIVEN])  # nobody gave masks of pictures
    return background_of(context)


def _judged(reward, arm, scenes, pictures):
    """f64[scenes, aspects], means over a scene's pictures. Who looks by chance looks at each arm's by another one."""
    count, each = pictures.shape[:2]
    flat = pictures.reshape(-1, *pictures.shape[2:])
    ids = [f"{arm}/{scene.id}/{place}" for scene in scenes for place in range(each)]
    values = reward.score_images(flat, [scene for scene in scenes for _ in range(each)], ids)
    return np.float64(values).reshape(count, each, -1).mean(1)
