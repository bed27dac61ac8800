"""The report says what was measured, no more, on one page that needs nothing from elsewhere."""

import json
import re
import shutil
import sys
from base64 import b64decode
from contextlib import redirect_stdout
from html.parser import HTMLParser
from io import BytesIO, StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from narrative_jax import pipeline, report
from narrative_jax.core.config import load, resolved
from narrative_jax.core.errors import InputError
from narrative_jax.core.files import write_bytes, write_json
from narrative_jax.core.images import png
from narrative_jax.core.records import Annotation, Candidate, Preference, Scene, Score, Subject
from narrative_jax.data.datasets import write_records
from narrative_jax.report import critiques, findings, page
from narrative_jax.report.curves import smooth
from narrative_jax.report.findings import STORYBOOK_NIREWARD, privileged
from narrative_jax.report.run import Run
from narrative_jax.rewards.oracle import WORLD_VERSION
from narrative_jax.statistics.comparison import GIVEN_PRESENCE
from narrative_jax.study import tables as markdown

CONFIGS = Path(__file__).parents[1] / "configs"
ASPECTS = {"prompt_following": ["count", "actions"], "identity_consistency": ["no_leak", "no_copy"]}
STATISTICS = {"sharpness": [], "exposure": []}
HYPER = {"beta": 500.0, "eta": 0.5, "k": 1.0, "b": 0.5}
GAPS = (0.5, 1.0, 2.0)
MAIN = ("generate", "score", "screen", "align", "evaluate")
# Arms change the aspects by so much; the intervals reach 0.02 to both sides.
GAINS = {"align": (0.05, -0.01), "sft": (0.01, 0.0), "best_of_4": (0.06, -0.03)}


def train(source="screen", algorithm="dpo"):
    return {"stage": "train", "source": source, "algorithm": algorithm, "hyper": HYPER if algorithm == "dpo" else {}}


def configure(entries, trained, **changes):
    known = {
        "generate": {"stage": "generate"},
        "score": {"stage": "score", "source": "generate", "reward": "raters"},
        "screen": {"stage": "screen", "source": "score"},
        "align": train(),
        "sft": train(algorithm="sft"),
        "pretrain": train("", "sft"),
        "evaluate": {"stage": "evaluate", "trained": list(trained), "reward": "raters"},
    }
    config = {"scenes": "", "generator": {"weights": ""}, "stages": list(entries)}
    return config | {name: dict(known[name]) for name in entries} | changes


def compared(kind, aspects, gains):
    numbers = {}
    for place, (arm, changes) in enumerate(gains.items()):
        prefix = kind if place == 0 else f"{kind}/{arm}"
        for (aspect, criteria), change in zip(aspects.items(), changes, strict=True):
            for name in (aspect, *(f"{aspect}/{criterion}" for criterion in criteria)):
                values = {"baseline": 0.5, "aligned": 0.5 + change, "diff": change}
                values |= {"diff_low": change - 0.02, "diff_high": change + 0.02}
                values |= {"ceiling": 1.0} if kind == "gold" else {}
                numbers |= {f"{prefix}/{name}/{key}": value for key, value in values.items()}
        if kind == "gold":
            closed = sum(changes)
            numbers |= {f"{prefix}/gap_closed": closed}
            numbers |= {f"{prefix}/gap_closed_low": closed - 0.02, f"{prefix}/gap_closed_high": closed + 0.02}
            numbers |= in_groups(prefix, aspects, changes)
    if not gains:
        names = [*aspects, *(f"{aspect}/{criterion}" for aspect, criteria in aspects.items() for criterion in criteria)]
        arms = {"baseline": 0.5} | ({"ceiling": 0.9} if kind == "gold" else {})
        numbers = {f"{kind}/{name}/{arm}": value for name in names for arm, value in arms.items()}
    return numbers


def in_groups(prefix, aspects, changes):
    """What is found given presence and for one character; there are too few scenes of two."""
    counts = {GIVEN_PRESENCE: 40, "one_character": 50, "two_characters": 3}
    numbers = {f"{prefix}/{group}/scenes": count for group, count in counts.items()}
    for group, share in ((GIVEN_PRESENCE, 0.5), ("one_character", 2.0)):
        key = f"{prefix}/{group}"
        closed = share * sum(changes)
        numbers |= {f"{key}/gap_closed": closed, f"{key}/gap_closed_low": closed - 0.1}
        numbers[f"{key}/gap_closed_high"] = closed + 0.1
        for aspect, change in zip((*aspects, "mean_of_aspects"), (*changes, sum(changes)), strict=True):
            ends = {"diff": share * change, "diff_low": share * change - 0.02, "diff_high": share * change + 0.02}
            numbers |= {f"{key}/{aspect}/{end}": value for end, value in ends.items()}
    return numbers


def between(kind, aspects, gains, pairs):
    """Differences between arms, none like another; the intervals reach 0.033 to both sides."""
    names = [*aspects, *["mean_of_aspects"] * (kind == "gold")]
    keys = [
        f"{kind}/{arm}_over_{other}/{name}"
        for arm, other in pairs
        if {arm, other} <= {"baseline", *gains}
        for name in names
    ]
    found = {}
    for place, key in enumerate(keys):
        diff = 0.03 + place / 500
        found |= {f"{key}/diff": diff, f"{key}/diff_low": diff - 0.033, f"{key}/diff_high": diff + 0.033}
    for arm, other in pairs:
        if kind == "gold" and {arm, other} <= {"baseline", *gains}:
            found |= in_groups(f"{kind}/{arm}_over_{other}", aspects, [0.1] * len(aspects))
    return found


def make_run(folder, config, gains, scenes=9, aspects=ASPECTS, kind="gold", portrait=24, prompt="Ada waves", steps=60):
    """A run directory as the stages leave it; scene i gains i / 100 by each arm."""
    summaries = {
        "screen": {
            "candidates": 12,
            "prompts": 4,
            "pairs": len(GAPS) if steps else 0,
            "pairs_per_prompt": 0.75,
            "considered": 20,
            "removed/dominance": 8,
            "accept/dominance": 0.6,
            "removed/rejection": 9,
            "accept/rejection": 0.25,
        },
        "evaluate": compared(kind, aspects, gains)
        | between(kind, aspects, gains, config["evaluate"].get("compare", [])),
    }
    folder.mkdir()
    write_json(folder / "config.json", config)
    for name in config["stages"]:
        stage = config[name]["stage"]
        (folder / name).mkdir()
        summary = {"step": steps} if stage == "train" else summaries.get(name, {})
        manifest = {"stage": stage, "seconds": 75.2, "peak_bytes": 2_500_000_000, "summary": summary}
        write_json(folder / name / "manifest.json", manifest)
        if stage == "train" and steps:
            leave_training(folder / name, config[name]["algorithm"], steps)
    if "screen" in config["stages"] and steps:
        pairs = [Preference(f"a{i}", f"b{i}", "overall", False, gap) for i, gap in enumerate(GAPS)]
        write_records(folder / "screen" / "preferences", pairs)
    leave_pictures(folder / "evaluate", gains, scenes, aspects, kind, portrait, prompt)
    return folder


def leave_training(folder, algorithm, steps):
    keys = ("margin", "implicit_accuracy", "chosen_error_rise", "rejected_error_rise") if algorithm == "dpo" else ()
    rows = [{"step": step, "loss": 1 / step, **dict.fromkeys(keys, 0.25)} for step in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "adapter.safetensors").touch()  # what says that it was trained
    (folder / "samples").mkdir()
    write_bytes(folder / "samples" / "step-000010.png", png(np.zeros((20, 20, 3), np.uint8)))


def leave_pictures(folder, gains, count, aspects, kind, portrait, prompt):
    random = np.random.default_rng(0)
    photo = random.integers(0, 256, (1, portrait, 2 * portrait, 3), np.uint8)
    scenes = [Scene(f"scene-{i}", prompt, (Subject("Ada", "girl", photo),), "test") for i in range(count)]
    write_records(folder / "scenes", scenes)
    width = len(aspects) + sum(map(len, aspects.values()))
    arms = {"baseline": np.full((count, width), 0.5)}
    for place, arm in enumerate(["baseline", *gains]):
        pictures = [
            Candidate(f"{scene.id}/{k}", scene.id, np.full((8, 8, 3), (place, i, k), np.uint8), k, arm)
            for i, scene in enumerate(scenes)
            for k in range(3)
        ]
        write_records(folder / arm / "candidates", pictures)
        if arm in gains:
            arms[arm] = arms["baseline"] + np.arange(count)[:, None] / 100
    if kind == "gold":
        arms["ceiling"] = np.ones((count, width))
    arms = {name: values.tolist() for name, values in arms.items()}
    results = {"scenes": [scene.id for scene in scenes], "aspects": aspects, "kind": kind, "arms": arms}
    gold = {"world": WORLD_VERSION, "groups": {"one_character": [], "two_characters": []}} if kind == "gold" else {}
    write_json(folder / "results.json", results | gold)


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, folder):
        super().__init__()
        self.source = (folder / "report.html").read_text(encoding="utf-8")
        self.elements, self.words, self.open = [], [], []
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def images(self, alt):
        return [attributes for tag, attributes in self.elements if tag == "img" and alt in attributes["alt"]]


def decoded(image):
    return b64decode(image["src"].partition(";base64,")[2])


def written(folder):
    """What is printed, and the page."""
    with redirect_stdout(StringIO()) as printed:
        report.write(folder)
    return printed.getvalue(), Page(folder)


@pytest.fixture(scope="module")
def main_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "main", configure(MAIN, ["align"]), {"align": GAINS["align"]})


@pytest.fixture(scope="module")
def main(main_run):
    return written(main_run)


def test_the_table(main):
    printed, page = main
    assert printed.splitlines()[1:9] == [
        "                      baseline  aligned  ceiling     difference [interval]            closed",
        "prompt following         0.500    0.550    1.000  ▲+0.050 [+0.030, +0.070]            10.0 %",
        "  count °                0.500    0.550    1.000  ▲+0.050 [+0.030, +0.070]",
        "  actions °              0.500    0.550    1.000  ▲+0.050 [+0.030, +0.070]",
        "identity consistency     0.500    0.490    1.000  ·-0.010 [-0.030, +0.010]            -2.0 %",
        "  no leak °              0.500    0.490    1.000  ·-0.010 [-0.030, +0.010]",
        "  no copy °              0.500    0.490    1.000  ·-0.010 [-0.030, +0.010]",
        "mean of aspects                                                             4.0 % [2.0, 6.0]",
    ]
    assert max(map(len, printed.splitlines()[:-1])) <= 100 and printed.splitlines()[-1].endswith("main/report.html")
    for words in (
        "▲ +0.050 [+0.030, +0.070]",
        "4.0 %",
        "no leak °",
        "2.50 GB",
        "6 min 16 s",
    ):
        assert words in page.text


def test_the_verdict_claims_no_more_than_the_intervals(main):
    printed, page = main
    verdict = (
        "alignment improved prompt following (+0.050). No change can be claimed for identity consistency (-0.010, "
        "interval -0.030 to +0.010): its 95 % interval includes 0. The gap from the baseline to true pictures closed "
        "by 4.0 %, and by 2.0 % where both show everybody. The feedback was privileged: trained on raters, who see the "
        "oracle's findings. So few scenes (9) say little."
    )
    assert verdict in " ".join(printed.split()) and verdict in page.text


def test_each_kind_of_scenes_has_a_row(main):
    printed, page = main
    rows = [
        "aligned         scenes          prompt following      identity consistency",
        "given presence      40  ▲+0.025 [+0.005, +0.045]  ·-0.005 [-0.025, +0.015]",
        "one character       50  ▲+0.100 [+0.080, +0.120]  ·-0.020 [-0.040, +0.000]",
    ]
    assert "\n".join(rows) in printed and "Left out, of fewer than 30 scenes: two characters (3)." in " ".join(
        printed.split()
    )
    assert "given presence: scenes in which both arms show everybody." in page.text


def test_a_run_judged_by_another_world_is_refused(tmp_path):
    folder = make_run(tmp_path / "run", configure(MAIN, ["align"]), {"align": (0.1, 0.1)})
    path = folder / "evaluate" / "results.json"
    for old in ({"world": WORLD_VERSION - 1}, {}):
        results = {name: value for name, value in json.loads(path.read_text()).items() if name != "world"}
        write_json(path, results | old)
        with pytest.raises(InputError, match=f"of world .*: the judge is now that of world {WORLD_VERSION}; .*--redo="):
            report.write(folder)


def test_the_pairs_shown_are_those_that_the_shown_training_learned_from(tmp_path):
    """A control of pairs as they are comes behind."""
    entries = ("refine", "sft", "align", "unrefined", "evaluate")
    config = configure(("sft", "align", "evaluate"), ["align"], stages=list(entries))
    config |= {name: {"stage": "refine"} for name in ("refine", "unrefined")}
    config["sft"]["source"], config["align"] = "refine", {**train("refine", "refl"), "after": "sft"}
    folder = make_run(tmp_path / "run", config, {"align": (0.1, 0.1)})
    assert Run(folder).refined == "refine"
    shutil.rmtree(folder / "evaluate")
    shutil.rmtree(folder / "align")
    assert Run(folder).refined == "refine"
    shutil.rmtree(folder / "sft")
    assert Run(folder).refined == "unrefined", "nothing has learned: the last"
    config["align"]["source"] = config["sft"]["source"] = "unrefined"
    assert Run(make_run(tmp_path / "other", config, {"align": (0.1, 0.1)})).refined == "unrefined"


@pytest.mark.parametrize(("chosen", "rejected", "told"), [(0.1, 0.2, True), (-0.1, 0.2, False), (-0.2, -0.1, False)])
def test_both_errors_rising_is_told(tmp_path, chosen, rejected, told):
    folder = make_run(tmp_path / "run", configure(MAIN, ["align"]), {"align": (0.1, 0.1)})
    path = folder / "align" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["summary"] |= {"chosen_error_rise": chosen, "rejected_error_rise": rejected}
    write_json(path, manifest)
    assert ("Both errors rose in training" in findings.verdict(Run(folder))) == told


@pytest.mark.parametrize(
    ("gains", "words"),
    [
        (
            (-0.05, -0.05),
            "alignment worsened prompt following (-0.050) and identity consistency (-0.050). The gap from",
        ),
        ((-0.05, -0.05), "true pictures grew by 10.0 %"),
        ((0.0, 0.0), "shows no clear change. No change can be claimed for prompt following (+0.000, interval"),
        (
            (0.05, -0.05),
            "alignment improved prompt following (+0.050) and worsened identity consistency (-0.050). The ",
        ),
        ((0.05, -0.05), "true pictures closed by 0.0 %"),
    ],
)
def test_the_verdict_of_other_ends(tmp_path, gains, words):
    config = configure(MAIN, ["align"])
    config["score"]["reward"] = "learned"
    verdict = findings.verdict(Run(make_run(tmp_path / "run", config, {"align": gains}, scenes=30)))
    assert words in verdict and "privileged" not in verdict and "say little" not in verdict


RATERS = "raters, who see the oracle's findings"
LEARNED = f"a reward that learned from {RATERS}"
HEAD = f"Storybook's aesthetic head, which learned from {RATERS}"
STORYBOOK = {"clip": "", "head": "", "version": "storybook"}


def aligned_by(reward, learned_from="people", **options):
    """A config whose pairs are made with `reward`: where one is trained, on what `learned_from` scored or preferred."""
    rewards = {
        "people": {"stage": "collect", "preferences": "mine.jsonl"},
        "screened": {"stage": "screen", "source": "scored"},
        "scored": {"stage": "score", "reward": learned_from},
        "taught": {"stage": "train", "algorithm": "reward_modelling", "reward": "scalar", "hyper": {}},
    }
    rewards["taught"]["source"] = "people" if learned_from == "people" else "screened"
    config = configure(MAIN, ["align"], **rewards)
    config["score"] |= {"reward": reward, "reward_from": "taught", **options}
    return config


def aspects_by(*rewards, **options):
    """A config whose pairs are made with a reward for each aspect."""
    names = ("prompt_following", "identity_consistency", "visual_quality")
    return aligned_by("per_aspect", per_aspect=dict(zip(names, rewards, strict=True)), **options)


def sum_of(*terms, learned_from="people", **weights):
    """A config whose pairs are made with an ensemble of score entries."""
    config = aligned_by("ensemble", learned_from, ensemble={**dict.fromkeys(terms, 0.5), **weights})
    config["by_clip"] = {"stage": "score", "reward": "clip_cosine", "clip_cosine": {}}
    config["by_head"] = {"stage": "score", "reward": "aesthetic", "aesthetic": STORYBOOK}
    config["by_taught"] = {"stage": "score", "reward": "trained", "reward_from": "taught"}
    return config


@pytest.mark.parametrize(
    ("config", "informed"),
    [
        (aligned_by("raters"), RATERS),
        (aligned_by("oracle"), "the oracle, the judge itself"),
        (aligned_by("clip_cosine"), ""),
        (aligned_by("trained"), ""),
        (aligned_by("trained", "raters"), LEARNED),
        (aligned_by("trained", "oracle"), "a reward that learned from the oracle, the judge itself"),
        (aligned_by("trained", "pick_score"), ""),
        (aligned_by("scalar", "raters"), ""),  # one from a file, whatever is trained beside it
        (aligned_by("aesthetic", aesthetic=STORYBOOK), HEAD),
        (aligned_by("aesthetic", aesthetic={**STORYBOOK, "head": "own.safetensors"}), ""),
        (aligned_by("aesthetic", aesthetic={**STORYBOOK, "version": "v2"}), ""),
        (aligned_by("clip_cosine", aesthetic=STORYBOOK, clip_cosine=STORYBOOK), ""),
        (
            aspects_by("clip_cosine", "identity", "aesthetic", aesthetic=STORYBOOK),
            f"several rewards, among them {HEAD}",
        ),
        (aspects_by("clip_cosine", "identity", "pick_score", aesthetic=STORYBOOK), ""),
        (sum_of("by_clip", "by_head"), f"several rewards, among them {HEAD}"),
        (sum_of("by_head"), HEAD),
        (sum_of("by_taught", learned_from="raters"), LEARNED),
        (
            sum_of("by_clip", "by_taught", "by_head", learned_from="raters"),
            f"several rewards, among them {LEARNED}, and {HEAD}",
        ),
        (sum_of("by_taught", "by_clip"), ""),
        (sum_of("by_clip", by_head=0.0), ""),
    ],
)
def test_what_knows_the_judge_is_privileged_feedback(tmp_path, config, informed):
    verdict = findings.verdict(Run(make_run(tmp_path / "run", config, {"align": (0.1, 0.1)}, scenes=30)))
    assert verdict.partition("The feedback was privileged: ")[2] == (informed and f"trained on {informed}.")


def test_a_reward_may_have_learned_from_one_that_learned():
    config = aligned_by("trained", "raters")
    config["screened_again"] = {"stage": "screen", "source": "score"}
    config["taught_again"] = {**config["taught"], "source": "screened_again"}
    config["scored_again"] = {"stage": "score", "reward": "trained", "reward_from": "taught_again"}
    config["screen"]["source"] = "scored_again"
    assert privileged(config, "align") == f"a reward that learned from {LEARNED}"


def test_an_aspect_that_does_not_count_is_no_privileged_feedback():
    config = aspects_by("clip_cosine", "identity", "aesthetic", aesthetic=STORYBOOK)
    config["screen"]["aspects"] = ["prompt_following", "identity_consistency"]
    assert privileged(config, "align") == ""
    config["screen"]["aspects"] = ["visual_quality"]
    assert privileged(config, "align") == HEAD


def test_raters_who_keep_pairs_and_a_reward_that_is_followed_are_told():
    config = configure(MAIN, ["align"])
    config["refine"] = {"stage": "refine", "annotator": "raters"}
    config["by_head"] = {"stage": "score", "reward": "aesthetic", "aesthetic": STORYBOOK}
    config["sft"] = {"stage": "train", "algorithm": "sft", "source": "refine"}
    config["follow"] = {"stage": "train", "algorithm": "refl", "source": "refine", "after": "sft"}
    kept = f"pairs kept by {RATERS}"
    assert privileged(config, "sft") == kept
    config["follow"].update(reward="ensemble", ensemble={"by_head": 1.0})
    config["chosen"] = {"stage": "choose", "source": "follow", "reward": "oracle"}
    assert privileged(config, "follow") == f"{HEAD}, and {kept}"
    assert privileged(config, "chosen") == f"{HEAD}, and the oracle, the judge itself, and {kept}"
    config["refine"]["annotator"] = "server"
    assert privileged(config, "sft") == ""
    config["said"] = {"stage": "annotate", "annotator": "raters"}
    config["criticises"] = {"stage": "train", "trains": "reward", "reward": "nireward", "source": "said"}
    config["criticises"] |= {"algorithm": "critique", "nireward": {"size": "7B"}}
    assert privileged(config, "criticises") == RATERS


def test_no_oracle_judges_scenes_of_a_user():
    config = aligned_by("aesthetic", aesthetic=STORYBOOK)
    assert privileged(config, "align") and not privileged(config | {"scenes": "mine.jsonl"}, "align")


@pytest.mark.parametrize(
    ("name", "score", "informed"),
    [
        ("adpo.py", "score", RATERS),
        ("adpo.py:nireward", "score", STORYBOOK_NIREWARD),
        ("adpo.py:proxies", "score", f"several rewards, among them {HEAD}"),
        ("reward.py", "by_scalar", LEARNED),
        ("reward.py", "by_aesthetic", LEARNED),
        ("reward.py", "by_clip", ""),
        ("reward.py:own", "by_scalar", ""),
    ],
)
def test_upper_bounds_of_the_configs(name, score, informed):
    config = resolved(pipeline.completed(load(f"{CONFIGS / name}")))
    config["pairs"] = {"stage": "screen", "source": score, "aspects": []}
    config["last"] = {"stage": "train", "source": "pairs"}
    assert privileged(config, "last") == informed


def test_an_unclear_gain_is_no_headline(tmp_path, main):
    run = make_run(tmp_path / "run", configure(MAIN, ["align"]), {"align": (0.01, 0.01)})
    assert "of the gap" in main[1].text and "of the gap" not in written(run)[1].text


def test_the_page_needs_nothing_from_elsewhere(main):
    _, page = main
    page_alone = re.sub(r'"data:image/[^"]*"', "", page.source)
    assert not re.search(r"https?:|url\(|@import|//", page_alone) and len(page_alone) < 40_000
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object") and "href" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/") and attributes["alt"]
    vectors = [decoded(image) for image in page.images("") if "svg" in image["src"][:20]]
    assert len(vectors) == 5
    for vector in vectors:
        assert set(re.findall(rb'href="(.)', vector)) <= {b"#"} and b"<script" not in vector
        assert b"prefers-color-scheme" in vector and b"currentColor" in vector


def test_the_page_is_the_same_each_time(main, main_run):
    _, first = main
    _, second = written(main_run)
    assert first.source == second.source
    assert not list(main_run.glob(".*")), "no temporary file stays"


def test_what_a_user_wrote_is_no_markup(tmp_path):
    prompt = 'A "cat" & <script>alert(1)</script>'
    _, page = written(make_run(tmp_path / "run", configure(MAIN, ["align"]), {"align": (0.1, 0.1)}, prompt=prompt))
    assert not [tag for tag, _ in page.elements if tag == "script"]
    assert prompt in page.text and page.images(f"aligned: {prompt}")


def test_best_worst_and_some_by_lot(main):
    _, page = main
    shown = [int(place) for place in re.findall(r"scene-(\d)", page.text)]
    assert shown[:6] == [8, 7, 6, 0, 1, 2] and sorted(shown) == list(range(9))
    assert "baseline 0.500 aligned 0.580" in page.text
    # Two of the three pictures of each scene and arm, with their pixels.
    for label, arm in (("baseline: Ada", 0), ("aligned: Ada", 1)):
        images = page.images(label)
        assert images[0]["class"] == "pixels" and images[0]["width"] == "120"
        colours = [tuple(np.asarray(Image.open(BytesIO(decoded(image))))[0, 0].tolist()) for image in images]
        assert colours == [(arm, scene, place) for scene in shown for place in range(2)]


def test_two_scenes_are_shown_once(tmp_path):
    run = make_run(tmp_path / "run", configure(MAIN, ["align"]), {"align": (0.1, 0.1)}, scenes=2)
    assert re.findall(r"scene-(\d)", written(run)[1].text) == ["1", "0"]


def test_curves(main):
    _, page = main
    beta = 500 * (1 + 0.5 * (1 - np.exp(-(np.array(GAPS) - 0.5))))
    (histogram,) = page.images("Histogram")
    assert histogram["alt"].startswith(
        f"Histogram of β(a) of 3 pairs, from 500 to {beta.max():.4g}, median {beta[1]:.4g}"
    )
    (errors,) = page.images("error minus reference over 60 steps")
    assert errors["alt"].endswith("chosen from 0.25 to 0.25, rejected from 0.25 to 0.25")
    assert page.images("sample grid of step 10")


def test_how_far_a_training_should_have_gone(tmp_path):
    """What chooses rises on while gold falls: both are drawn, less what they were before training."""
    chosen = {"refl": {"stage": "choose", "source": "sft"}}
    config = configure(("generate", "sft", "evaluate"), ["refl"]) | chosen
    config["stages"] = ["generate", "sft", "refl", "evaluate"]
    folder = make_run(tmp_path / "run", config, {"refl": (0.1, 0.1)})
    rewards = {0: 0.3, 25: 0.5, 50: 0.4}
    values = {
        step: {
            "reward": [[value]] * 4,
            "followed": [[0.2 + step / 100], [0.4 + step / 100]] * 2,
            "gold": [[0.9, 0.5 - step / 100, 0.25]] * 4,
        }
        for step, value in rewards.items()
    }
    columns = {"reward": ["identity_dinov2"], "followed": ["ensemble"], "gold": list(ASPECTS)}
    write_json(folder / "refl" / "results.json", {"steps": values, "columns": columns, "chosen": 25})
    random = np.random.default_rng(0)
    subject = Subject("Ada", "girl", random.integers(0, 256, (1, 9, 9, 3), np.uint8))
    scenes = [Scene(f"tune-{i}", "Ada reads", (subject,), "tune") for i in range(4)]
    write_records(folder / "refl" / "scenes", scenes)
    for step in rewards:
        pictures = [Candidate(s.id, s.id, np.full((8, 8, 3), step, np.uint8), 0, "refl") for s in scenes]
        write_records(folder / "refl" / f"step_{step}" / "candidates", pictures)
    _, page = written(folder)
    (reward,), (gold,) = page.images("refl: identity dinov2, which chose"), page.images("refl: gold, which chose")
    assert reward["alt"].endswith("step 25 was chosen: identity dinov2 +0.200 there, +0.100 at the end")
    assert gold["alt"].endswith(
        "prompt following -0.250 there, -0.500 at the end; identity consistency +0.000 there, +0.000 at the end"
    )
    assert page.images("refl: ensemble, which was followed")
    (gained,) = page.images("Gold, mean of aspects, by what was followed")
    assert gained["alt"].endswith("refl -0.250 of gold for +5.00")  # half of 0.5; 0.5 in deviations of 0.1
    for step in rewards:
        shown = page.images(f"step {step}: Ada reads")
        assert [np.unique(Image.open(BytesIO(decoded(each)))).tolist() for each in shown] == [[step]] * 3
    assert "refl: how far sft should have gone" in page.text and "step 25 chosen" in page.text


def test_smoothing_keeps_levels_and_lines():
    np.testing.assert_allclose(smooth(np.full(100, 3.0)), 3)
    np.testing.assert_allclose(smooth(np.arange(100.0))[10:-10], np.arange(100.0)[10:-10])
    assert smooth(np.array([5.0])) == 5


def test_acceptance_of_each_rule(main):
    text = main[1].text
    assert "all pairs within a prompt 20 " in text
    assert "one of the two is better on every aspect 12 60.0 %" in text
    assert "the chosen one is above every threshold 3 25.0 %" in text
    assert "75.0 pairs per 100 prompts" in text


def test_several_arms(tmp_path):
    config = configure(("generate", "score", "screen", "align", "sft", "evaluate"), ["align", "sft"])
    printed, page = written(make_run(tmp_path / "run", config, GAINS))
    assert printed.splitlines()[1:5] == [
        "arm                prompt following      identity consistency             closed",
        "align      ▲+0.050 [+0.030, +0.070]  ·-0.010 [-0.030, +0.010]   4.0 % [2.0, 6.0]",
        "sft        ·+0.010 [-0.010, +0.030]  ·+0.000 [-0.020, +0.020]  1.0 % [-1.0, 3.0]",
        "best_of_4  ▲+0.060 [+0.040, +0.080]  ▼-0.030 [-0.050, -0.010]   3.0 % [1.0, 5.0]",
    ]
    assert "Of all 3 arms align closed most of it: 4.0 %" in page.text
    assert "Entry align." in page.text and page.images("align: Ada") and not page.images("sft: Ada")
    assert len([tag for tag, _ in page.elements if tag == "caption"]) == 5
    lines = printed.splitlines()
    (place,) = (row for row, line in enumerate(lines) if re.match("given presence +prompt following", line))
    row = "align ▲+0.025 [+0.005, +0.045] ·-0.005 [-0.025, +0.015] 2.0 % [-8.0, 12.0]"
    assert re.sub(" +", " ", lines[place + 1]) == row
    assert [line.split()[0] for line in lines[place + 2 : place + 4]] == ["sft", "best_of_4"]


def test_tables_as_markdown(tmp_path, capsys):
    config = configure(("generate", "score", "screen", "align", "sft", "evaluate"), ["align", "sft"])
    run = make_run(tmp_path / "run", config, GAINS)
    assert markdown.main([f"--run={run}"]) == 0
    told = re.sub(" +", " ", capsys.readouterr().out)
    assert "| align | ▲+0.050 [+0.030, +0.070] | ·-0.010 [-0.030, +0.010] | 4.0 % [2.0, 6.0] |\n" in told
    assert "\n\nMeans over 9 scenes." in told and "\n| given presence | prompt following |" in told
    assert markdown.main([f"--run={tmp_path}"]) == 2
    assert capsys.readouterr().err.endswith("it is the directory of a run; name one with a config.json\n")


def test_arms_that_are_compared_with_each_other(tmp_path):
    """After the table of all arms, in the order asked for; without those of an arm that was not trained."""
    config = configure(("generate", "score", "screen", "align", "sft", "evaluate"), ["align", "sft", "lost"])
    pairs = [["align", "sft"], ["best_of_4", "baseline"], ["align", "lost"]]
    config["evaluate"]["compare"] = pairs
    printed, page = written(make_run(tmp_path / "run", config, GAINS))
    lines = printed.splitlines()
    assert lines[1].startswith("arm  ") and lines[4].startswith("best_of_4 ")
    # The mean finds no room in 100 columns.
    assert lines[10:20] == [
        "pair of arms                     prompt following      identity consistency",
        "align over sft           ·+0.030 [-0.003, +0.063]  ·+0.032 [-0.001, +0.065]",
        "best_of_4 over baseline  ▲+0.036 [+0.003, +0.069]  ▲+0.038 [+0.005, +0.071]",
        "",
        "pair of arms                      mean of aspects",
        "align over sft           ▲+0.034 [+0.001, +0.067]",
        "best_of_4 over baseline  ▲+0.040 [+0.007, +0.073]",
        "",
        "The first arm less the second, means over 9 scenes. Differences are paired, with 95 % intervals; ▲▼:",
        "0 lies outside, ·: 0 lies inside.",
    ]
    assert "over lost" not in printed + page.text and max(map(len, lines[:-1])) <= 100
    # On the page one row each, between all arms and the first one.
    row = "align over sft · +0.030 [-0.003, +0.063] · +0.032 [-0.001, +0.065] ▲ +0.034 [+0.001, +0.067]"
    places = [page.text.index(words) for words in ("best_of_4 ▲ +0.060", row, "best_of_4 over baseline", "no leak")]
    assert places == sorted(places)
    labels = [each["aria-label"] for _, each in page.elements if each.get("aria-label", "").startswith("Scores")]
    assert labels == [
        "Scores by arm",
        "Scores by pair of arms",
        "Scores by align",
        "Scores by mean of aspects",
        "Scores by given presence",
        "Scores",
    ]
    assert [tag for tag, _ in page.elements].count("caption") == 6
    rows = page.source.partition('"Scores by pair of arms"')[2].partition("</table>")[0]
    assert re.findall(r'<td class="(\w+)"', rows) == ["unclear", "unclear", "up", "up", "up", "up"]
    assert rows.count("<tr>") == 3 and "<tr class" not in rows, "no row is an aspect, or a part of one"


def test_rewards_are_not_averaged_between_arms(tmp_path):
    config = configure(MAIN, ["align"], scenes="mine.jsonl")
    config["evaluate"]["compare"] = [["align", "baseline"]]
    gains = {"align": GAINS["align"]}
    printed, page = written(make_run(tmp_path / "run", config, gains, aspects=STATISTICS, kind="reward"))
    shown = "align over baseline  ·+0.030 [-0.003, +0.063]  ·+0.032 [-0.001, +0.065]\n"
    assert shown in printed and "mean of aspects" not in printed + page.text


def test_scenes_of_a_user(tmp_path):
    config = configure(MAIN, ["align"], scenes="mine.jsonl")
    config["score"]["reward"] = config["evaluate"]["reward"] = "picture_statistics"
    gains = {"align": GAINS["align"]}
    run = make_run(tmp_path / "run", config, gains, aspects=STATISTICS, kind="reward", portrait=400)
    unknown = [f"word{i}" for i in range(25)]
    notices = {"unknown_words": unknown, "truncated_prompts": [], "dropped_scenes": ["trio"]}
    write_json(run / "generate" / "notices.json", notices)
    printed, page = written(run)
    assert printed.splitlines()[1:3] == [
        "           baseline  aligned     difference [interval]",
        "sharpness     0.500    0.550  ▲+0.050 [+0.030, +0.070]",
    ]
    assert "ceiling" not in page.text and "true pictures" not in page.text and "privileged" not in page.text
    assert "a stand-in for a judge, and the very reward that was trained on" in page.text
    assert "The embedded weights know only Storybook" in page.text
    assert "word19 and 5 more." in page.text and "slots: trio." in page.text and "lost their end" not in page.text
    portrait = page.images("portrait of Ada")[0]
    assert Image.open(BytesIO(decoded(portrait))).size == (160, 80) and (portrait["width"], portrait["height"]) == (
        "96",
        "48",
    )
    assert "class" not in portrait


@pytest.mark.parametrize(
    ("score", "judge", "same"),
    [
        ({"reward": "http_judge"}, {"reward": "http_judge"}, True),
        ({"reward": "aesthetic", "aesthetic": STORYBOOK}, {"reward": "aesthetic", "aesthetic": {"head": "own"}}, False),
        ({"reward": "ensemble", "ensemble": {"a": 1}}, {"reward": "ensemble", "ensemble": {"b": 1}}, False),
        ({"reward": "trained", "reward_from": "one"}, {"reward": "trained", "reward_from": "one"}, True),
        ({"reward": "trained", "reward_from": "one"}, {"reward": "trained", "reward_from": "two"}, False),
        ({"reward": "http_judge", "reward_from": "one"}, {"reward": "http_judge"}, True),  # a name that nothing reads
    ],
)
def test_the_very_reward_that_was_trained_on(tmp_path, score, judge, same):
    config = configure(MAIN, ["align"], scenes="mine.jsonl")
    config["score"] |= score
    config["evaluate"] |= judge
    gains = {"align": (0.1, 0.1)}
    run = Run(make_run(tmp_path / "run", config, gains, scenes=30, aspects=STATISTICS, kind="reward"))
    verdict = findings.verdict(run)
    assert f"judged by the reward {judge.get('reward_from', judge['reward'])}," in verdict
    assert ("the very reward that was trained on" in verdict) == same


def test_alignment_skipped(tmp_path):
    config = configure(MAIN, ["align"], scenes="mine.jsonl")
    run = make_run(tmp_path / "run", config, {}, aspects=STATISTICS, kind="reward", steps=0)
    printed, page = written(run)
    assert "Alignment was skipped: no pair survived screening. What is shown is the baseline alone." in printed
    assert "sharpness     0.500" in printed and page.images("baseline: Ada") and not page.images("aligned")
    assert "one of the two is better on every aspect 12 60.0 %" in page.text and "Training" not in page.text


def test_alignment_skipped_on_storybook_shows_how_far_it_is_to_true_pictures(tmp_path):
    printed, _ = written(make_run(tmp_path / "run", configure(MAIN, ["align"]), {}, steps=0))
    assert re.search(r"baseline +ceiling\n", printed) and re.search(r"identity consistency +0.500 +0.900", printed)


def test_a_run_on_peoples_own_preferences(tmp_path):
    people = {"stage": "collect", "preferences": "mine.jsonl"}
    config = configure(("evaluate",), [], people=people, scalar=train("people", "reward_modelling"))
    config["stages"] = ["people", "scalar"]
    folder = make_run(tmp_path / "run", config, {}, scenes=40)
    printed, page = written(folder)
    assert "Nothing was evaluated in this run" in printed
    assert "Screening" not in page.text and page.images("loss over 60 steps")


def test_a_run_without_pairs(tmp_path):
    config = configure(("pretrain", "evaluate"), ["pretrain"], generator={"weights": "random"})
    printed, page = written(make_run(tmp_path / "run", config, {"pretrain": (0.3, 0.2)}, scenes=40))
    assert "baseline  pretrain  ceiling" in printed
    assert "random weights: its pictures are noise" in page.text and "privileged" not in page.text
    assert "Screening" not in page.text and page.images("loss over 60 steps") and not page.images("margin")


def test_a_run_without_evaluation(tmp_path):
    config = configure(("pretrain",), [])
    folder = tmp_path / "run"
    (folder / "pretrain").mkdir(parents=True)
    write_json(folder / "config.json", config)
    summary = {"step": 3}
    write_json(
        folder / "pretrain" / "manifest.json", {"stage": "train", "seconds": 2.0, "peak_bytes": 1, "summary": summary}
    )
    leave_training(folder / "pretrain", "sft", 3)
    printed, page = written(folder)
    assert "Nothing was evaluated" in printed and page.images("loss over 3 steps") and "Pictures" not in page.text


@pytest.mark.parametrize(
    ("module", "argv", "said"),
    [
        ("narrative_jax.launch", ["launch.py", "--config=adpo"], "python -m narrative_jax.launch --config=adpo"),
        ("narrative_jax.__main__", ["__main__.py", "launch", "--config=adpo"], "narrative_jax launch --config=adpo"),
        (None, ["/usr/bin/narrative_jax", "launch", "--config=my own.py"], "narrative_jax launch '--config=my own.py'"),
        ("ipykernel_launcher", ["ipykernel_launcher.py", "-f", "kernel.json"], None),
        (None, ["", "-c"], None),
    ],
)
def test_the_command_that_is_running(monkeypatch, module, argv, said):
    monkeypatch.setitem(sys.modules, "__main__", SimpleNamespace(__spec__=module and SimpleNamespace(name=module)))
    monkeypatch.setattr(sys, "argv", argv)
    assert page._command() == said


@pytest.mark.parametrize("algorithm", ["recognition", "picturing", "describing"])
def test_a_reward_that_learned_to_see_by_the_oracle_is_told(algorithm):
    config = aligned_by("trained", "http")
    assert privileged(config, "align") == ""
    told = "a reward that learned from the oracle's descriptions"
    config["seeing"] = {"stage": "train", "trains": "reward", "algorithm": algorithm}
    config["taught"]["after"] = "seeing"
    assert privileged(config, "align") == told
    config["taught"] |= {"trains": "reward", "algorithm": "critique", "nireward": {"size": "storybook"}, "after": ""}
    assert privileged(config, "align") == told, "it says aloud what it sees"
    config["taught"]["nireward"]["size"] = "7B"
    assert privileged(config, "align") == ""


def leave_entry(folder, stage, **summary):
    folder.mkdir()
    manifest = {"stage": stage, "seconds": 1.0, "peak_bytes": 10**9, "summary": summary}
    write_json(folder / "manifest.json", manifest)


@pytest.fixture
def criticised(tmp_path):
    """A run that evaluates nothing: two scenes of three pictures, of which the second has neither words nor scores."""
    shares = {f"{name}/quality{end}": 0.6 + place / 10 for name in ("scored", "clip") for end, place in ENDS.items()}
    config = {
        "scenes": "",
        "generator": {"weights": ""},
        "stages": ["draw", "annotated", "scored", "swapped", "accuracy"],
        "draw": {"stage": "generate"},
        "annotated": {"stage": "annotate", "source": "draw"},
        "scored": {"stage": "score", "source": "draw", "reward": "nireward", "nireward": {"weights": "mine"}},
        "swapped": {"stage": "score", "source": "draw", "critiques_from": "scored", "control": "swapped_critiques"},
        "accuracy": {"stage": "accuracy", "gold": "annotated", "sources": ["scored", "clip"], "given": "present"},
    }
    write_json(tmp_path / "config.json", config)
    for name in config["stages"]:
        numbers = {"pairs/quality": 50, "given/pairs/quality": 0, **shares} if name == "accuracy" else {}
        leave_entry(tmp_path / name, config[name]["stage"], **numbers)
    photo = np.zeros((1, 8, 8, 3), np.uint8)
    scenes = [Scene(f"scene-{i}", "Ada waves", (Subject("Ada", "girl", photo),), "test") for i in range(2)]
    pictures = [np.full((8, 8, 3), k, np.uint8) for k in range(3)]
    drawn = [
        Candidate(f"{scene.id}/{k}", scene.id, image, k, "g") for scene in scenes for k, image in enumerate(pictures)
    ]
    write_records(tmp_path / "draw" / "scenes", scenes)
    write_records(tmp_path / "draw" / "candidates", drawn)
    told = drawn[:3]
    said = [Annotation(each.id, "visual_quality", f"words {each.seed}", 2.0 + each.seed, "rater") for each in told]
    said += [Annotation(each.id, "prompt_following", "all there", 3.0, "rater") for each in told[:2]]
    write_records(tmp_path / "annotated" / "annotations", said)
    written = [Annotation(each.id, "visual_quality", f"own {each.seed}", None, "nireward") for each in told]
    write_records(tmp_path / "scored" / "annotations", written)
    for name, sign in (("scored", -1), ("swapped", 1)):
        write_json(tmp_path / name / "calibration.json", {"aspects": ["visual_quality"]})
        write_records(tmp_path / name / "scores", [Score(each.id, name, (sign * float(each.seed),)) for each in told])
    return tmp_path


ENDS = {"": 0, "_low": -1, "_high": 1}


def test_critiques_stand_beside_the_best_and_the_worst(criticised):
    """Of a network too, the score is that behind its words, where they are read as they are.

    A picture of which one aspect is not annotated is no worse for that.
    """
    found = dict(critiques.criticised(Run(criticised)))
    assert list(found) == ["annotated: 3 pictures", "scored: 3 pictures"]
    all_there = ("prompt following", "all there", 3.0)
    expected = [
        [[("visual quality", "words 2", 4.0)], [("visual quality", "words 0", 2.0), all_there]],
        [[("visual quality", "own 0", 0.0)], [("visual quality", "own 2", -2.0)]],
    ]
    for rows, said in zip(found.values(), expected, strict=True):
        assert [row.id for row in rows] == ["scene-0"], "nothing is said of the other scene"
        assert [each.said for row in rows for each in row.pictures] == said
    page = written(criticised)[1]
    for words in ("Critiques", "visual quality 4.00", "words 2", "own 2", "-2.00"):
        assert words in page.text
    assert (
        "words 1" not in page.text and len(page.images("portrait of Ada")) == 2 and len(page.images("Ada waves")) == 4
    )


def test_how_often_rewards_agree_is_told(criticised):
    printed, page = written(criticised)
    told = "scored prefers what annotated prefers in 60.0 % [50.0, 70.0] of 50 pairs on quality; a guess would in half"
    assert told in " ".join(printed.split()) and "privileged" not in printed
    assert "quality (50)" in page.text and "clip 60.0 % [50.0, 70.0]" in page.text
    assert "have present 1" not in page.text, "of given pairs there are none"
    path = criticised / "config.json"
    config = json.loads(path.read_text())
    config["scored"]["reward"] = "raters"
    write_json(path, config)
    assert f"It is privileged: {RATERS}." in " ".join(written(criticised)[0].split())


def test_of_a_run_that_draws_nothing_no_generator_is_spoken_of(criticised):
    """As configs/score.py:critique, of people's own pictures."""
    path = criticised / "config.json"
    config = json.loads(path.read_text())
    config["draw"]["stage"] = "collect"
    manifest = json.loads((criticised / "draw" / "manifest.json").read_text())
    write_json(criticised / "draw" / "manifest.json", {**manifest, "stage": "collect"})
    write_json(path, config)
    assert "embedded weights" in written(criticised)[1].text
    del config["generator"]
    write_json(path, config)
    page = written(criticised)[1].text
    assert "embedded weights" not in page and "NIReward that ships" not in page
    del config["scored"]["nireward"]  # what ships, of people's own pictures
    write_json(path, config)
    assert "The NIReward that ships has learned Storybook's pictures only" in written(criticised)[1].text
