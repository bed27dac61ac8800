"""configs/nireward.py whole, at its smallest."""

import json
import re
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import jax
import numpy as np
import one_entry
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from narrative_jax import launch, pipeline
from narrative_jax.algorithms.critique import CritiqueModelling
from narrative_jax.core.config import load
from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Annotation, Candidate, Preference, Scene, Score
from narrative_jax.data.datasets import open_records, write_records
from narrative_jax.data.ni_rlhf import check_apart
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.planning.rewards import abstract_reward_trainee, annotation_shapes
from narrative_jax.rewards.base import ASPECTS, WEIGHTS
from narrative_jax.rewards.new_nireward import NewNIReward
from narrative_jax.rewards.nireward_files import ABOUT, NIRewardOptions
from narrative_jax.rewards.oracle import judge_images
from narrative_jax.runs.annotations import open_annotated
from narrative_jax.runs.critiques import of_the_next
from narrative_jax.storybook.critiques import critique, faults
from narrative_jax.storybook.squares import QUESTIONS
from narrative_jax.study import aloud
from narrative_jax.trainees.reward import RewardTrainee

KINDS = (("candidates", Candidate), ("scenes", Scene))
READ = ("nireward", "annotated_critiques", "no_critiques")
CONTROLS = ("grey", "grey_and_own_critiques", "swapped_critiques", "critique_length")
CHOOSE = [f"many_by_{name}" for name in ("nireward", "no_critiques", "plain", "clip", "oracle")]
CONFIG = Path(__file__).parents[1] / "configs" / "nireward.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_weights):
    workdir = tmp_path_factory.mktemp("runs") / "nireward"
    flags = [f"--config={CONFIG}:tiny", f"--config.generator.weights={tiny_weights}", f"--workdir={workdir}"]
    assert launch.main(flags) == 0
    return workdir


@pytest.mark.slow
def test_each_entry_is_done(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["drawn/candidates"] == 16 and summary["annotated/annotations"] == 4 * 3 * 3
    assert summary["annotated/preferences"] == 4 * 3 * 3 and summary["nireward/step"] == 2
    looked = [json.loads(line) for line in (run / "looking" / "metrics.jsonl").read_text().splitlines()]
    assert all(row["loss"] > 0 and 0 <= row["right"] <= 1 for row in looked)
    trained = ("looking", "picturing", "seeing", "nireward", "plain")
    assert all(summary[f"compile/{name}"] == 1 for name in trained)
    for name in ("picturing", "seeing"):
        described = [json.loads(line) for line in (run / name / "metrics.jsonl").read_text().splitlines()]
        assert all(row["loss"] > 0 and 0 <= row["right"] <= 1 for row in described)
    for pictures, labels in {"bench": 4 * 6, "kept": 4}.items():
        assert summary[f"{pictures}_faults/there/visual_quality/unclean"] > 0
        assert not any(key.startswith(f"{pictures}_faults/there/") and key.endswith("other") for key in summary)
        assert summary[f"{pictures}_labels/preferences"] == 3 * labels
        judges = (*READ, "plain", "clip", "aesthetic", "identity", "raters", "oracle")
        judges += CONTROLS * (pictures == "kept")
        for name in judges:
            key = f"{pictures}_accuracy/{pictures}_by_{name}/visual_quality"
            assert 0 <= summary[f"{key}_low"] <= summary[key] <= summary[f"{key}_high"] <= 1
            assert name == "nireward" or -1 <= summary[f"{key}_lead"] <= 1
    for aspect in ASPECTS:
        for end, judge in (("accuracy", "nireward"), ("ceiling", "oracle")):
            assert summary[f"nibench/{aspect}/{end}"] == summary[f"bench_accuracy/bench_by_{judge}/{aspect}"]
    assert all(summary[f"best_of/{name}/4_low"] <= summary[f"best_of/{name}/4"] for name in CHOOSE)
    assert summary["best_of/many_by_oracle/4"] > 0 and "best_of/many_by_plain/4_lead" in summary
    rows = [json.loads(line) for line in (run / "nireward" / "metrics.jsonl").read_text().splitlines()]
    assert all(row[name] > 0 for row in rows for name in ("critique", "described", "ranking", "grad_norm"))


def test_a_server_s_model_is_benched_on_both_kinds_of_pictures_and_named_once():
    config = load(f"{CONFIG}:judge")
    config.bench_by_zero_shot.http_judge.url = "http://localhost:8000/v1"
    for pictures in ("bench", "kept"):
        name = f"{pictures}_by_zero_shot"
        assert config[name].http_judge.url and config[name].source == pictures and name in config.stages
        assert name in config[f"{pictures}_accuracy"].sources
    assert not any("zero_shot" in name for name in load(str(CONFIG)).stages)


@pytest.mark.slow
def test_what_it_says_aloud_is_counted(run, capsys):
    """Part by part, of three kinds of pictures; it has hardly learned to see."""
    assert aloud.main([f"--weights={run / 'seeing' / WEIGHTS}", "--pictures=32"]) == 0
    said, told = capsys.readouterr().out.split("\n\n")
    header, _, *rows = said.splitlines()
    assert header.startswith("| said of") and header.count("there, precision, recall") == 3
    there = {row.split("|")[1].strip(): re.findall(r"\| (\d+), ", row) for row in rows}
    assert len(there) >= 10 and all(int(count) >= 5 * 32 for count in there["portraits"])
    _, _, *rows = told.splitlines()
    assert len(rows) == len(QUESTIONS) and all(0 <= float(share) <= 1 for share in re.findall(r"\d\.\d+", told))


@pytest.mark.slow
def test_what_it_learned_from_is_in_one_place(run):
    pictures = open_records(run / "drawn" / "candidates", Candidate).columns("id", "generator")
    assert set(pictures["generator"]) == {"as_it_is", "copying", "hurried", "deaf"}
    said = open_records(run / "annotated" / "annotations", Annotation).columns("candidate_id", "aspect")
    assert set(said["candidate_id"]) < set(pictures["id"]) and set(said["aspect"]) == set(ASPECTS)
    assert {each.aspect for each in open_records(run / "annotated" / "preferences", Preference)} == set(ASPECTS)


@pytest.mark.slow
def test_what_is_planned_is_what_is_trained(run):
    """Shapes of weights and of a batch of pairs, without the run's files."""
    context = one_entry.entry(json.loads((run / "config.json").read_text()), "nireward", run)
    algorithm, planned = CritiqueModelling(), abstract_reward_trainee(context)
    trained = RewardTrainee.open(context, algorithm, planned.options)
    _, batch = trained.batches(algorithm).make(np.arange(4))
    shapes = annotation_shapes(planned.policy, algorithm, 4)
    told = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), each) for each in (batch, shapes)]
    assert told[0] == told[1]
    assert {n: w.shape for n, w in trained.params.items()} == {n: w.shape for n, w in planned.params.items()}


@pytest.mark.slow
def test_published_it_is_read_without_this_library(run):
    """Pairs of both splits as they were annotated, and no scene in both."""
    builder = tfds.builder_from_directory(run / "ni_rlhf" / "ni_rlhf")
    splits = {name: list(builder.as_data_source(name)) for name in ("train", "test")}
    assert {name: len(each) for name, each in splits.items()} == {"train": 4 * 3, "test": 4 * 6}
    pictures = {each.id: each for each in open_records(run / "drawn" / "candidates", Candidate)}
    said = {
        (each.candidate_id, each.aspect): each for each in open_records(run / "annotated" / "annotations", Annotation)
    }
    config = json.loads((run / "config.json").read_text())
    pairs = open_annotated(one_entry.entry(config, "annotated", run), "annotated", ASPECTS)
    annotated = dict(zip(pairs.ids, pairs.better, strict=True))
    orders = [each["id"].decode().split(" ") for of_split in splits.values() for each in of_split]
    assert 9 < sum(first < second for first, second in orders) < 27, "which is the first tells nothing"
    for example in splits["train"]:
        first, second = example["id"].decode().split(" ")
        np.testing.assert_array_equal(np.array(Image.open(BytesIO(example["second"]))), pictures[second].image)
        turned = first > second
        pair = tuple(sorted((first, second)))
        for place, aspect in enumerate(ASPECTS):
            better = annotated[pair][place]
            assert example[aspect]["preferred"] == (-better if turned else better)
            assert example[aspect]["critique_first"].decode() == said[first, aspect].critique
            assert example[aspect]["score_second"] == pytest.approx(said[second, aspect].score)
    prompts = [{each["prompt"] for each in of_split} for of_split in splits.values()]
    assert len(prompts[0] & prompts[1]) <= 1 and all(each["subjects"]["name"] for each in splits["test"])


def test_splits_share_nothing():
    train, other = storybook_scenes("train", 3), storybook_scenes("test", 3)
    check_apart({"train": train, "test": other})
    with pytest.raises(InputError, match=r"scene '.*': it is in train and in test: what is tested was trained on"):
        check_apart({"train": train, "test": [other[0], train[2]]})
    with pytest.raises(InputError, match=r"subject '.*' of '.*': it is in train and in test"):
        check_apart({"train": train, "test": [replace(other[0], subjects=train[1].subjects)]})


@pytest.mark.slow
def test_what_was_trained_scores_pictures(run):
    """From its files as in the run that trained it, with critiques of its own."""
    scene = open_records(run / "drawn" / "scenes", Scene)[0]
    pictures = [each for each in open_records(run / "drawn" / "candidates", Candidate) if each.scene_id == scene.id]
    config = json.loads((run / "config.json").read_text())
    scores = {}
    for name, options in {
        "from_files": {"reward": "nireward", "nireward": {"weights": str(run / "nireward" / WEIGHTS)}},
        "from_run": {"reward": "trained", "reward_from": "nireward"},
    }.items():
        config[name] = {"stage": "score", "source": "drawn", **options}
        one_entry.run(config, name, run)
        scores[name] = [each.scores for each in open_records(run / name / "scores", Score)]
    assert np.shape(scores["from_files"]) == (16, 3) and len(pictures) == 4
    np.testing.assert_array_equal(scores["from_files"], scores["from_run"])
    reward = NIRewardOptions(run / "nireward" / WEIGHTS).build()
    context, images = reward.encode([scene] * 4), np.stack([each.image for each in pictures])
    (words, *_) = reward.prompts.words(
        reward.criticise(reward.params, reward.fit(images / 127.5 - 1, context), context)[0]
    )
    assert len(words) == 3


def scores_of(run, name):
    found = open_records(run / f"kept_by_{name}" / "scores", Score).columns("candidate_id", "scores")
    return dict(zip(found["candidate_id"], map(np.array, found["scores"]), strict=True))


@pytest.mark.slow
def test_controls_tell_what_scores_come_of(run):
    """Others' critiques, grey and none are something else; of one scene all grey pictures are the same."""
    critiques = open_records(run / "kept_by_nireward" / "annotations", Annotation)
    said = {(each.candidate_id, each.aspect): each.critique for each in critiques}
    assert len(said) == 8 * 3
    for name in ("grey", "no_critiques"):
        assert not (run / f"kept_by_{name}" / "annotations").exists(), "these are of grey, or none"
    scores = {name: scores_of(run, name) for name in READ + CONTROLS}
    for name in ("annotated_critiques", "no_critiques", "grey", "critique_length"):
        assert any(np.abs(found - scores[name][id]).max() > 1e-6 for id, found in scores["nireward"].items()), name
    pictures, grey = open_records(run / "kept" / "candidates", Candidate).columns("id", "scene_id"), {}
    for id, scene_id in zip(pictures["id"], pictures["scene_id"], strict=True):
        np.testing.assert_allclose(scores["grey"][id], grey.setdefault(scene_id, scores["grey"][id]), atol=1e-6)
    for id, found in scores["critique_length"].items():
        assert found.tolist() == [-len(said[id, aspect]) for aspect in ASPECTS]


@pytest.mark.slow
def test_critiques_of_peoples_own_pictures(run, tmp_path, monkeypatch, capsys):
    """configs/score.py:critique: one command, of weights given once, and critiques beside scores in the table."""
    monkeypatch.chdir(tmp_path)
    pictures = open_records(run / "drawn" / "candidates", Candidate)
    scenes = {each.id: each for each in open_records(run / "drawn" / "scenes", Scene)}
    lines = []
    for number in range(3):
        scene = scenes[pictures[number].scene_id]
        Image.fromarray(pictures[number].image).save(f"{number}.png")
        Image.fromarray(scene.subjects[0].images[0]).save(f"{number}_portrait.png")
        who = {"class_word": "character", "images": [f"{number}_portrait.png"]}
        line = {"id": f"{number}", "prompt": scene.prompt, "picture": f"{number}.png", "subjects": [who]}
        lines.append(json.dumps(line))
    Path("mine.jsonl").write_text("\n".join(lines))
    weights = run / "nireward" / WEIGHTS
    flags = ["--config.collect.pictures=mine.jsonl", f"--config.nireward.nireward.weights={weights}"]
    assert launch.main([f"--config={CONFIG.with_name('score.py')}:critique", *flags, "--workdir=out"]) == 0
    table = pq.read_table("out/table/scores.parquet").to_pydict()
    assert table["id"] == ["0", "1", "2"] and set(ASPECTS) < table.keys()
    said = {each.aspect: each.critique for each in open_records(Path("out/nireward/annotations"), Annotation)}
    assert {aspect: table[f"nireward/{aspect}/critique"][2] for aspect in ASPECTS} == said


@pytest.mark.slow
def test_candidates_are_criticised_by_what_ships(tmp_path, capsys):
    """configs/adpo.py:nireward, smaller: scores and words by NIReward, no rater, words under pictures in the report."""
    config = load(f"{CONFIG.with_name('adpo.py')}:nireward")
    config.reference.scenes, config.generate.scenes, config.evaluate.scenes = 4, 6, 4
    config.screen.update(rule="average", rejection=False)
    config.align.update(total_steps=2, batch_size=4, save_every=2, sample_every=0)
    config.align.optimizer.warmup_steps = 1
    pipeline.run(config, tmp_path)
    scores = open_records(tmp_path / "score" / "scores", Score).columns("reward", "scores")
    assert set(scores["reward"]) == {"nireward_storybook"} and np.shape(scores["scores"]) == (24, 3)
    said = list(open_records(tmp_path / "score" / "annotations", Annotation))
    assert len(said) == 24 * 3 and all(each.critique and each.score is None for each in said)
    assert np.std(scores["scores"], axis=0).min() > 0.1 and len({each.critique for each in said}) > 10
    printed, page = " ".join(capsys.readouterr().out.split()), (tmp_path / "report.html").read_text()
    assert "privileged: trained on the NIReward that ships, which learned on other scenes from raters" in printed
    assert "<h2>Critiques</h2>" in page and "score: 24 pictures" in page


def test_each_picture_gets_the_words_of_the_next_of_its_scene():
    words = {id: [id.upper()] for id in "abcde"}
    found = of_the_next(words, ["s", "t", "s", "s", "t"])
    assert list(found.items()) == [("a", ["C"]), ("b", ["E"]), ("c", ["D"]), ("d", ["A"]), ("e", ["B"])]
    with pytest.raises(InputError, match="scene 't': its only picture has nobody to swap critiques with"):
        of_the_next({"a": [""], "b": [""], "c": [""]}, ["s", "t", "s"])


def test_a_reward_is_taken_from_entries_that_score_with_it_as_it_is():
    config = load(f"{CONFIG}:tiny")
    with config.unlocked():
        config.proxies.ensemble = {"by_text": 1.0, "kept_by_grey": 0.5}
    with pytest.raises(InputError, match=r"kept_by_grey\.control 'unseen': a reward is taken from entries that score"):
        one_entry.check(config, "proxies")


@pytest.mark.slow
def test_pictures_without_a_critique_are_not_scored_among_others(run):
    config = json.loads((run / "config.json").read_text())
    config["fewer"] = {**config["annotated"], "per_scene": 2}
    one_entry.run(config, "fewer", run)
    config["by_fewer"] = {**config["kept_by_annotated_critiques"], "source": "drawn", "critiques_from": "fewer"}
    with pytest.raises(InputError, match=r"critiques of 'fewer': '.*' has none on .*, and would be scored without"):
        one_entry.run(config, "by_fewer", run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control": "blind"}, "unknown control 'blind'"),
        ({"control": "swapped_critiques", "critiques_from": ""}, "it is of given critiques; name an entry"),
        ({"control": "without_critiques"}, "without critiques none is read"),
        ({"critiques_from": "bench"}, "critiques of 'bench': it leaves none"),
        ({"critiques_from": "kept_by_clip"}, "critiques of 'kept_by_clip': it leaves none"),
        ({"critiques_from": "kept_by_grey"}, "critiques of 'kept_by_grey': it leaves none"),
        (
            {"critiques_from": "bench_by_nireward"},
            "critiques of 'bench_by_nireward', of bench: the pictures are of kept",
        ),
        ({"reward": "oracle"}, "critiques_from 'kept_by_nireward': this reward reads no critiques"),
    ],
)
def test_bad_controls(changes, message):
    config = load(f"{CONFIG}:tiny")
    with config.unlocked():
        config.kept_by_swapped_critiques.update({"control": "", **changes})
    with pytest.raises(InputError, match=message):
        one_entry.check(config, "kept_by_swapped_critiques")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kept_faults.source": ""}, "critiques of '': it leaves none"),
        ({"kept_faults.source": "kept_by_clip"}, "critiques of 'kept_by_clip': it leaves none; name an entry that"),
        ({"kept_faults.source": "kept_by_grey"}, "critiques of 'kept_by_grey': it leaves none"),
        ({"scenes": "mine.jsonl"}, "faults of 'kept_by_nireward': the oracle knows Storybook's own scenes only"),
        ({"bench_as_it_is.stage": "collect", "kept_faults.source": "said"}, "the oracle knows Storybook's own scenes"),
    ],
)
def test_faults_that_nobody_can_count(changes, message):
    config = load(f"{CONFIG}:tiny")
    with config.unlocked():
        config.said = {"stage": "annotate", "source": "bench_as_it_is"}
        config.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=message):
        one_entry.check(config, "kept_faults")


@pytest.mark.slow
def test_faults_are_counted_of_what_was_said(run):
    """The oracle's own words name all faults and no other; one made up, one left out, and a picture left out, count."""
    config = json.loads((run / "config.json").read_text())
    pictures, scenes = (open_records(run / "bench" / name, kind) for name, kind in KINDS)
    asked = {each.id: each for each in scenes}
    of = [asked[each.scene_id] for each in pictures]
    findings = judge_images([each.image for each in pictures], of).findings
    true = [critique("visual_quality", seen, scene.facts) for seen, scene in zip(findings, of, strict=True)]
    faulty = [row for row, words in enumerate(true) if ("no figure", "") in faults(words)]
    assert len(faulty) > 2, "of untrained weights no figure is expected"

    def counted(words):
        config["said"] = {"stage": "annotate", "source": "bench"}
        said = [Annotation(pictures[row].id, "visual_quality", each, 3.0, "x") for row, each in words.items()]
        write_records(run / "said" / "annotations", said)
        config["counted"] = {"stage": "faults", "source": "said"}
        numbers = one_entry.run(config, "counted", run)
        shutil.rmtree(run / "said")
        shutil.rmtree(run / "counted", ignore_errors=True)
        return numbers

    told = counted(dict(enumerate(true)))
    shares = {key: value for key, value in told.items() if key.startswith(("precision/", "recall/"))}
    assert told["count"] == 16 and len(shares) >= 4 and set(shares.values()) == {1.0}
    one, another, *_ = faulty
    told = counted({one: "Ada is covered by somebody else.", another: true[another]})
    assert told["count"] == 2 and told["there/visual_quality/no figure"] == 2
    assert told["recall/visual_quality/no figure"] == 0.5 and told["precision/visual_quality/no figure"] == 1
    assert told["named/visual_quality/covered"] == 1 and told["precision/visual_quality/covered"] == 0


@pytest.mark.slow
def test_it_begins_as_what_came_before_left_it(run):
    """Two steps away from it, and further from the random weights that all began with."""
    before, after = (NIRewardOptions(run / name / WEIGHTS).build().params for name in ("seeing", "nireward"))
    name, random = "vlm.blocks.*.query.kernel", NewNIReward("random").untrained(0)[1]()
    moved = abs(np.asarray(after[name]) - np.asarray(before[name])).mean()
    assert 0 < moved < abs(np.asarray(after[name]) - np.asarray(random[name])).mean()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nireward.after": "proxies"}, "unknown entry that nireward comes after 'proxies': .*seeing"),
        (
            {"nireward.source": "drawn"},
            "source 'drawn': critique learns from annotations; name an entry that annotates",
        ),
        (
            {"nireward.algorithm": "describing", "nireward.hyper": {}},
            "nireward.training_set: a training set is what is",
        ),
        ({"seeing.source": "annotated"}, "source 'annotated' and a training_set: an entry trains on one of both"),
        ({"seeing.reward": "scalar", "seeing.scalar": {"size": "storybook"}}, "describing trains rewards that write"),
        ({"nireward.nireward": {"size": "2B", "backbone": "there"}}, "tokenizer.json"),
        ({"seeing.drawn": "proxies"}, "drawn 'proxies': it draws no pictures; name an entry that generates or gathers"),
        ({"nireward.drawn": "drawn"}, "nireward.drawn 'drawn': drawn pictures are learned from beside those of a"),
    ],
)
def test_bad_options(changes, message):
    config = load(f"{CONFIG}:tiny")
    with config.unlocked():
        for key, value in changes.items():
            entry, _, name = key.partition(".")
            config[entry][name] = value
    with pytest.raises(InputError, match=message):
        one_entry.check(config, next(iter(changes)).partition(".")[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: NewNIReward("random", "2B").untrained(0),
            "backbone 'random': a published Qwen2-VL-2B is where it begins; give its folder",
        ),
        (
            lambda path: NewNIReward(size="2B").untrained(0),
            "backbone '': a published Qwen2-VL-2B is where it begins; give its folder",
        ),
        (lambda path: NewNIReward(size="3B"), "unknown size '3B'"),
        (lambda path: NewNIReward(str(path)).untrained(0), "tokenizer.json"),
        (
            lambda path: NIRewardOptions(str(path / WEIGHTS)).build(),
            "there is no such file; NIReward is weights.safetensors",
        ),
    ],
)
def test_bad_files(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        make(tmp_path)


def test_files_that_say_something_else(tmp_path):
    (tmp_path / WEIGHTS).touch()
    for about, message in (({"size": "tiny"}, "unknown size in"), ({"size": STORYBOOK, "room": {"side": 40}}, "room")):
        (tmp_path / ABOUT).write_text(json.dumps(about))
        with pytest.raises(InputError, match=message):
            NIRewardOptions(str(tmp_path / WEIGHTS)).build()
