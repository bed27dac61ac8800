"""NIReward: what it reads, writes and scores, and what it learns from."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from narrative_jax.algorithms.base import Models, Role
from narrative_jax.algorithms.critique import CritiqueModelling, Picturing
from narrative_jax.core.errors import InputError
from narrative_jax.core.images import to_float, to_uint8
from narrative_jax.core.mesh import make_mesh
from narrative_jax.data.sources import storybook_scenes
from narrative_jax.losses.language import token_cross_entropy
from narrative_jax.models.chat_tokenizer import PICTURE, question, train_chat_tokenizer
from narrative_jax.models.checkpoints import save_weights
from narrative_jax.models.critic import Critic, Texts
from narrative_jax.models.network import abstract, below
from narrative_jax.models.vlm import VlmConfig
from narrative_jax.models.vlm_files import QWEN2_VL_NAMES
from narrative_jax.models.vlm_vision import VisionTowerConfig
from narrative_jax.rewards.base import WEIGHTS, OnHost, WithWeights
from narrative_jax.rewards.new_nireward import NewNIReward
from narrative_jax.rewards.nireward import NIReward
from narrative_jax.rewards.nireward_files import ABOUT, BACKBONE, load_nireward, save_nireward
from narrative_jax.rewards.nireward_prompts import INSTRUCTIONS, Prompts, Room
from narrative_jax.rewards.nireward_sizes import NIREWARD_SIZES

ROOM = Room(side=40, tokens=160, max_subjects=2, critique=24)
SAID = ("Ann is missing.", "Ben's hat is red instead of blue.", "A clean picture.")
TOWER = VisionTowerConfig(patch_size=5, merge=2, width=16, heads=2, blocks=1, mlp_width=32)


@pytest.fixture(scope="module")
def reward(random_weights):
    """A small one with random weights, on a tokeniser that knows a few words."""
    scenes = storybook_scenes("train", 20)
    texts = [*SAID, *INSTRUCTIONS.values(), question(""), *(scene.prompt for scene in scenes)]
    tokenizer = train_chat_tokenizer(texts, 400)
    config = VlmConfig(tokenizer.vocab_size, 32, 4, 2, 2, 48, True, (1, 1, 2), TOWER)
    network, shapes = abstract(lambda: Critic(config, rngs=nnx.Rngs(0)))
    return NIReward(
        "test", Prompts(tokenizer, TOWER, ROOM), network, lambda mesh: jax.tree.map(jnp.asarray, random_weights(shapes))
    )


@pytest.fixture(scope="module")
def scenes():
    """With one character, and with two."""
    found = storybook_scenes("train", 20)
    return [next(scene for scene in found if len(scene.subjects) == count) for count in (1, 2)]


@pytest.fixture(scope="module")
def pictures(scenes):
    return to_float(np.random.default_rng(0).integers(0, 256, (len(scenes), 40, 40, 3), np.uint8))


@pytest.fixture(scope="module")
def score(reward):
    """Scores of pictures, compiled once for own critiques and once for given ones."""
    return partial(jax.jit(reward.score), reward.params)


@pytest.fixture(scope="module")
def judged(reward):
    """All that the network says of pictures and critiques."""

    def judge(params, pictures, context, texts):
        critic = reward.network.bind(params)
        asked = critic.ask(reward.show(critic, reward.fit(pictures, context), context), reward.prompts.questions)
        return critic.judge(asked, texts, asked)

    return partial(jax.jit(judge), reward.params)


def critiques(reward, *of_pictures):
    return reward.prompts.texts(of_pictures)


def written(reward, pictures, scenes):
    context = reward.encode(scenes)
    return jax.jit(reward.criticise)(reward.params, reward.fit(pictures, context), context)[0]


@pytest.mark.slow
def test_it_begins_with_a_published_backbone(reward, tmp_path, monkeypatch, score, pictures, scenes):
    """A folder of its weights and tokenizer.json; the head that scores is new, and drawn by the seed."""
    config = VlmConfig(reward.prompts.tokenizer.vocab_size, 32, 4, 2, 2, 48, True, (1, 1, 2), TOWER)
    monkeypatch.setitem(NIREWARD_SIZES, "Small", (config, ROOM))
    save_weights(tmp_path / "model.safetensors", below("vlm", reward.params), QWEN2_VL_NAMES, np.float32)
    reward.prompts.tokenizer.save(tmp_path / "tokenizer.json")
    options = NewNIReward(str(tmp_path), "Small")
    fresh, read = options.untrained(0)
    params = read()
    assert params.keys() == reward.params.keys()
    for name, value in below("vlm", params).items():
        np.testing.assert_array_equal(value, reward.params[f"vlm.{name}"])
    heads = [options.untrained(seed)[1]()["reward.kernel"] for seed in (0, 1)]
    np.testing.assert_array_equal(heads[0], params["reward.kernel"])
    assert np.abs(heads[0] - heads[1]).max() > 1e-3
    context, texts = fresh.encode(scenes), critiques(fresh, SAID, SAID)
    as_it_was = params | {"reward.kernel": reward.params["reward.kernel"]}
    found = jax.jit(fresh.score)(as_it_was, pictures, context, texts)
    np.testing.assert_allclose(found, score(pictures, context, texts), atol=1e-5)
    monkeypatch.setitem(NIREWARD_SIZES, "Smaller", (replace(config, vocab_size=300), ROOM))
    with pytest.raises(InputError, match=r"tokenizer.json of \d+ tokens: the network has 300 words"):
        NewNIReward(str(tmp_path), "Smaller").untrained(0)


def test_the_backbone_that_ships_is_begun_with():
    """Its weights but for the head, which is drawn by the seed, as what a training of one's own left would be."""
    shipped = load_nireward(BACKBONE / WEIGHTS).params
    one, other = (NewNIReward().untrained(seed)[1]() for seed in (0, 1))
    random = NewNIReward("random").untrained(0)[1]()
    for name in below("vlm", shipped):
        np.testing.assert_array_equal(one[f"vlm.{name}"], shipped[f"vlm.{name}"])
    assert np.abs(one["reward.kernel"] - other["reward.kernel"]).max() > 1e-3
    assert np.abs(random["vlm.token_embedding"] - shipped["vlm.token_embedding"]).max() > 1e-3
    again = NewNIReward(str(BACKBONE)).untrained(0)[1]()
    for name, value in one.items():
        np.testing.assert_array_equal(again[name], value)


def test_texts_come_back(reward):
    texts = reward.prompts.texts([SAID, ("", "B.", "")])
    assert texts.tokens.shape == texts.mask.shape == (2, 3, ROOM.critique)
    assert reward.prompts.words(texts) == [list(SAID), ["", "B.", ""]]
    long = " ".join(SAID * 5)
    ((cut, *_),) = reward.prompts.words(reward.prompts.texts([(long, "", "")]))
    assert long.startswith(cut) and 10 < len(cut) < len(long), "as its own critiques end where there is no more room"


@pytest.mark.slow
def test_it_scores_the_critique_that_it_writes(reward, score, pictures, scenes):
    context, texts = reward.encode(scenes), written(reward, pictures, scenes)
    own = score(pictures, context)
    assert own.shape == (2, 3)
    np.testing.assert_allclose(own, score(pictures, context, texts), rtol=1e-5, atol=1e-5)
    others = score(pictures, context, critiques(reward, SAID, SAID))
    assert abs(own - others).max() > 1e-2


def test_an_adapter_begins_with_nothing_and_then_counts(reward, score, pictures, scenes):
    """On the decoder, the tower and the head that scores; another adapter goes on top."""
    adapter = {"rank": 1, "alpha": 2.0, "targets": ".*(query|qkv)|reward", "segments": (), "seed": 0}
    adapted, params = reward.with_adapter(reward.params, "align", **adapter)
    context, texts = reward.encode(scenes), critiques(reward, SAID, SAID)
    base = score(pictures, context, texts)
    run, silent = jax.jit(adapted.score), jax.jit(adapted.silent.score)
    np.testing.assert_array_equal(run(params, pictures, context, texts), base)
    added = {name for name in params if ".adapters.align." in name}
    assert params.keys() - added == reward.params.keys() and adapted.axes.keys() == params.keys()
    for part in ("reward", "vlm.blocks", "vlm.vision"):
        grown = {
            name: value + 0.3 * (name in added and name.startswith(part) and name.endswith(".b"))
            for name, value in params.items()
        }
        assert np.abs(run(grown, pictures, context, texts) - base).max() > 1e-3, part
        # As a trained adapter's reward is held: at once it judges by the same weights.
        held = WithWeights(adapted, grown).silent
        none = critiques(reward, *[[""] * 3] * 2)
        np.testing.assert_allclose(
            silent(held.laid(), pictures, context), run(grown, pictures, context, none), atol=1e-5
        )
    twice, _ = adapted.with_adapter(params, "again", **adapter)
    assert len(twice.axes) > len(adapted.axes)
    with pytest.raises(InputError, match=r"segments \('text',\)"):
        reward.with_adapter(reward.params, "other", **{**adapter, "segments": ("text",)})


@pytest.mark.slow
def test_on_the_host_critiques_are_found_by_the_picture_s_id(reward, score, pictures, scenes):
    """Batches are filled up, and words come as they are written."""
    images, ids = to_uint8(pictures), ["b", "a"]
    host, words = OnHost(reward, 3, make_mesh({"data": 1})), {"a": SAID, "b": SAID[::-1]}
    found = replace(host, critiques=words).score_images(list(images), scenes, ids)
    asked = to_float(images), reward.encode(scenes), critiques(reward, *(words[id] for id in ids))
    np.testing.assert_allclose(found, score(*asked), atol=1e-5)
    assert not replace(host, critiques=words).writes and host.writes
    own = reward.prompts.words(written(reward, to_float(images), scenes))
    said, scores = host.criticise_images(list(images), scenes, ids)
    assert said == own and any(map(any, own))
    behind = score(to_float(images), reward.encode(scenes), critiques(reward, *own))
    np.testing.assert_allclose(scores, behind, atol=1e-5)


def test_each_token_that_it_writes_is_the_likeliest_of_the_text_so_far(reward, judged, pictures, scenes):
    """Read in one pass, as in training, its own critique is what the network expects."""
    context, texts = reward.encode(scenes), written(reward, pictures, scenes)
    found = judged(pictures, context, texts)
    mask = np.asarray(texts.mask)
    np.testing.assert_array_equal(np.asarray(found.logits.argmax(-1))[mask], np.asarray(texts.tokens)[mask])


@pytest.fixture(scope="module")
def aloud(reward):
    """One that first says aloud what it sees."""
    return replace(reward, prompts=replace(reward.prompts, room=replace(ROOM, aloud=20)))


@pytest.mark.slow
def test_what_it_says_aloud_it_criticises_behind(aloud, reward, pictures, scenes):
    """Read in one go, what is shown, asked and said, in turn, ends in the same score; what is said is its own."""
    context = aloud.encode(scenes[:1])
    fitted = aloud.fit(pictures[:1], context)
    words, scores = jax.jit(aloud.criticise)(aloud.params, fitted, context)
    critic, prompts = aloud.network.bind(aloud.params), aloud.prompts
    shown = aloud.show(critic, fitted, context)
    opening = critic.ask(shown, prompts.opening)
    said = critic.write(opening, length=20, end=prompts.tokenizer.end, pad=prompts.tokenizer.pad)
    said = said.tokens[0, 0, : said.lengths[0, 0]]
    assert len(said) > 1
    for place, score in enumerate(scores[0]):
        question = prompts.next_questions.tokens[place][prompts.next_questions.mask[place]]
        text = np.concatenate([prompts.opening.tokens[0], said, question, words.tokens[0, place][words.mask[0, place]]])
        at_once = critic.ask(shown, Texts(text[None], np.ones((1, len(text)), bool)))
        assert float(critic.score(at_once.last)[0, 0]) == pytest.approx(float(score), abs=1e-4)
    assert abs(scores - jax.jit(reward.criticise)(reward.params, fitted, context)[1]).max() > 1e-3


@pytest.mark.slow
def test_without_a_critique_nothing_is_said_aloud_either(aloud, reward, score, pictures, scenes):
    context, none = reward.encode(scenes), critiques(reward, *[[""] * 3] * 2)
    found = jax.jit(aloud.score)(aloud.params, pictures, context, none)
    np.testing.assert_allclose(found, score(pictures, context, none), atol=1e-5)
    silent = aloud.silent
    assert aloud.writes and not silent.writes
    np.testing.assert_allclose(jax.jit(silent.score)(silent.params, pictures, context), found, atol=1e-5)
    behind = jax.jit(aloud.score)(aloud.params, pictures, context, critiques(reward, SAID, SAID))
    assert abs(behind - score(pictures, context, critiques(reward, SAID, SAID))).min() > 1e-4
    with pytest.raises(InputError, match="nothing is said aloud in it"):
        reward.prompts.aloud(["Ann."])


@pytest.mark.slow
def test_what_is_said_aloud_is_learned_word_by_word(aloud, reward, pictures, scenes):
    """Behind it critiques and preferences; what learns no words reads none."""
    given, said = batch(reward, pictures, scenes, np.ones((2, 3))), ("Ann has a red hat.", "Ben.")
    given |= {"first_aloud": aloud.prompts.aloud(said), "second_aloud": aloud.prompts.aloud(said[::-1])}
    found, silent = loss_of(aloud, given), loss_of(reward, given)
    logits = []
    for side in ("first", "second"):
        critic, context = aloud.network.bind(aloud.params), given["context"]
        opening = critic.ask(aloud.show(critic, given[side], context), aloud.prompts.opening)
        texts = Texts(*given[f"{side}_aloud"])
        logits.append(token_cross_entropy(critic.answer(opening, texts).logits, *texts).sum())
    assert float(found.metrics["described"]) == pytest.approx(float(sum(logits)) / 2, rel=1e-4)
    told = {name: float(value) for name, value in found.metrics.items()}
    assert float(found.sum) == pytest.approx(told["critique"] + told["described"] + told["ranking"], rel=1e-4)
    assert told["cut"] == 0, "critiques have room"
    crowded = replace(reward, prompts=replace(reward.prompts, room=replace(ROOM, critique=2)))
    given["first_critiques"] = crowded.prompts.texts([["", said[0], ""]] * 2)
    given["second_critiques"] = crowded.prompts.texts([[""] * 3] * 2)
    assert float(loss_of(crowded, given).metrics["cut"]) == pytest.approx(2 * (1 / 3) / 2), "one of three, of one side"
    assert told["critique"] != pytest.approx(float(silent.metrics["critique"]), rel=1e-3)
    assert float(silent.metrics["described"]) == 0
    plain = [loss_of(each, given, critique=0.0, without_critique=1.0) for each in (aloud, reward)]
    assert float(plain[0].sum) == pytest.approx(float(plain[1].sum), rel=1e-6)


@pytest.mark.slow
def test_of_pictures_alone_nothing_else_is_shown(aloud, pictures):
    prompts, context = aloud.prompts, aloud.prompts.alone(len(pictures))
    tokens = context.inputs.tokens[0]
    assert (tokens == prompts.tokenizer.picture).sum() == (ROOM.side // TOWER.side) ** 2
    said = prompts.tokenizer.encode(f"{question('?').partition('?')[0]}{PICTURE}\n")
    picture = prompts.tokenizer.picture
    np.testing.assert_array_equal(tokens[tokens != picture], said[said != picture])
    given = {"pictures": pictures, "context": context, "aloud": prompts.pictured(["Ben.", "Ann has a red hat."])}
    assert given["aloud"].tokens.shape == (2, 1, 10)
    cut, whole = (texts.tokens[0, 0][texts.mask[0, 0]] for texts in (given["aloud"], prompts.aloud(["Ben."])))
    np.testing.assert_array_equal([*cut, prompts.tokenizer.end], whole)  # more comes after it
    found = [loss_of(aloud, each, Picturing()) for each in (given, given | {"pictures": pictures[::-1]})]
    critic, texts = aloud.network.bind(aloud.params), Texts(*given["aloud"])
    logits = critic.answer(critic.ask(aloud.show(critic, pictures, context), prompts.opening), texts).logits
    assert float(found[0].sum) == pytest.approx(float(token_cross_entropy(logits, *texts).sum()), rel=1e-4)
    assert float(found[1].sum) != pytest.approx(float(found[0].sum), rel=1e-3)


def test_a_row_does_not_depend_on_those_beside_it(reward, score, pictures, scenes):
    context = reward.encode(scenes)
    turned = score(pictures[::-1], reward.encode(scenes[::-1]))
    np.testing.assert_allclose(turned[::-1], score(pictures, context), rtol=1e-4, atol=1e-5)
    beside = score(np.stack([pictures[0], -pictures[1]]), context)
    np.testing.assert_allclose(beside[0], turned[1], rtol=1e-4, atol=1e-5)


def test_it_sees_pictures_portraits_and_prompts(reward, score, pictures, scenes):
    """Each changes its scores; so do other names, which stand in the prompt."""
    texts = critiques(reward, SAID, SAID)
    before = score(pictures, reward.encode(scenes), texts)
    first = scenes[0].subjects[0]
    inverted = replace(first, images=255 - np.asarray(first.images))
    for pictures_now, scene in (
        (-pictures, scenes[0]),
        (pictures, replace(scenes[0], subjects=(inverted,))),
        (pictures, replace(scenes[0], prompt="Ann waves.")),
        (pictures, replace(scenes[0], subjects=(replace(first, name="Zoe"),))),
    ):
        now = score(pictures_now, reward.encode([scene, scenes[1]]), texts)
        assert abs(now[0] - before[0]).min() > 1e-4


def test_the_score_without_a_critique_knows_none(reward, judged, pictures, scenes):
    """What is said later changes nothing before it, and an empty critique is none."""
    context = reward.encode(scenes)
    one, other, none = (
        judged(pictures, context, critiques(reward, *[each] * 2)) for each in (SAID, SAID[::-1], [""] * 3)
    )
    np.testing.assert_array_equal(one.before, other.before)
    np.testing.assert_array_equal(none.after, none.before)
    assert abs(one.after - other.after)[:, 0].min() > 1e-4
    np.testing.assert_allclose(one.after[:, 1], other.after[:, 1], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_the_gradient_holds_the_words_fixed(reward, score, pictures, scenes):
    context = reward.encode(scenes)

    def own(images):
        return score(images, context).sum()

    texts = written(reward, pictures, scenes)

    def given(images):
        return score(images, context, texts).sum()

    found, expected = jax.jit(jax.grad(own))(jnp.asarray(pictures)), jax.jit(jax.grad(given))(jnp.asarray(pictures))
    assert abs(expected).max() > 0
    np.testing.assert_allclose(found, expected, atol=1e-4 * float(abs(expected).max()))


# Losses


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], [[0.2, 0.2, 0.6], [1.0, 1.0, 1.0]]]))
    mask = jnp.array([[True, True], [True, False]])
    found = token_cross_entropy(logits, jnp.array([[0, 1], [2, 0]]), mask)
    np.testing.assert_allclose(found, [-(np.log(0.5) + np.log(0.8)) / 2, -np.log(0.6)], rtol=1e-6)
    assert token_cross_entropy(logits, jnp.zeros((2, 2), int), jnp.zeros((2, 2), bool)).tolist() == [0, 0]


def batch(reward, pictures, scenes, better):
    return {
        "first": pictures,
        "second": -pictures,
        "context": reward.encode(scenes),
        "first_critiques": critiques(reward, SAID, SAID),
        "second_critiques": critiques(reward, SAID[::-1], ("", *SAID[1:])),
        "better": np.float32(better),
    }


def loss_of(reward, given, algorithm=None, **hyper):
    algorithm = algorithm or CritiqueModelling(**hyper)

    @jax.jit
    def loss(params, given):
        return algorithm.loss(Models(Role(reward, params)), given, jax.random.key(0))

    return loss(reward.params, given)


def swapped(given):
    return {
        **given,
        "first": given["second"],
        "second": given["first"],
        "first_critiques": given["second_critiques"],
        "second_critiques": given["first_critiques"],
        "better": -given["better"],
    }


def test_the_loss_is_that_of_the_paper(reward, score, pictures, scenes):
    better = np.array([[1, -1, 0], [np.nan, -1, 1]])
    given = batch(reward, pictures, scenes, better)
    found = loss_of(reward, given, gamma=2.0, without_critique=0.0)
    context = given["context"]
    first, second = (score(given[side], context, given[f"{side}_critiques"]) for side in ("first", "second"))
    gap = np.float64(first - second)
    each = np.log1p(np.exp(-np.where(np.isnan(better), 0, better) * gap))
    ties = (np.log1p(np.exp(gap)) + np.log1p(np.exp(-gap))) / 2
    each = np.where(better == 0, ties, each)
    ranking = np.array([each[0].mean(), each[1, 1:].mean()]).sum()
    assert float(found.metrics["ranking"]) == pytest.approx(ranking, rel=1e-4)
    assert float(found.sum) == pytest.approx(float(found.metrics["critique"]) + 2 * ranking, rel=1e-4)
    assert float(found.weight) == 2
    silent = loss_of(reward, given, critique=0.0, gamma=2.0, without_critique=0.0)
    assert float(silent.sum) == pytest.approx(2 * ranking, rel=1e-4)


def test_nothing_hangs_on_the_order_of_two_pictures(reward, pictures, scenes):
    given = batch(reward, pictures, scenes, [[1, -1, 0], [np.nan, -1, 1]])
    one, other = loss_of(reward, given), loss_of(reward, swapped(given))
    assert float(one.sum) == pytest.approx(float(other.sum), rel=1e-5)
    for name, value in one.metrics.items():
        assert float(other.metrics[name]) == pytest.approx(float(value), rel=1e-4)


@pytest.mark.slow
def test_every_weight_learns_and_unknown_labels_teach_the_head_nothing(reward, pictures, scenes):
    given = batch(reward, pictures, scenes, np.full((2, 3), np.nan))

    def gradients(given, **hyper):
        def total(params):
            return CritiqueModelling(**hyper).loss(Models(Role(reward, params)), given, jax.random.key(0)).sum

        return jax.jit(jax.grad(total))(reward.params)

    unknown = gradients(given)
    assert all(np.isfinite(value).all() for value in unknown.values())
    assert not any(abs(value).max() > 0 for name, value in unknown.items() if name.startswith("reward."))
    known = gradients({**given, "better": np.ones((2, 3), np.float32)})
    assert all(abs(value).max() > 0 for value in known.values())
    assert abs(gradients(given, gamma=0.0)["reward.kernel"]).max() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda reward, scene: reward.encode([replace(scene, prompt="a dog " * 100)]),
            r"scene .* of \d+ tokens: there is room for 160; shorten its prompt",
        ),
        (lambda reward, scene: reward.encode([replace(scene, subjects=())]), "with 0 subjects"),
        (lambda reward, scene: CritiqueModelling(gamma=-1.0), "gamma -1.0"),
        (lambda reward, scene: CritiqueModelling(critique=-1.0), "critique -1.0"),
        (lambda reward, scene: CritiqueModelling(critique=0.0, gamma=0.0), "nothing is left to learn"),
        (lambda reward, scene: CritiqueModelling(without_critique=1.5), "without_critique 1.5"),
    ],
)
def test_bad_input(reward, scenes, make, message):
    with pytest.raises(InputError, match=message):
        make(reward, scenes[0])


def test_it_is_asked_what_one_likes(reward, tmp_path, pictures, scenes):
    """Of some aspects, in other words: it has as many scores, and both are kept beside its weights."""
    asked = {"visual_quality": "Is the picture clean?"}
    other = replace(reward, prompts=replace(reward.prompts, instructions=asked))
    assert other.aspects == ("visual_quality",)
    context, said = other.encode(scenes), critiques(other, SAID[2:], SAID[2:])
    scores = jax.jit(other.score)(other.params, pictures, context, said)
    assert scores.shape == (len(scenes), 1)
    usual = {"visual_quality": INSTRUCTIONS["visual_quality"]}
    same = replace(reward, prompts=replace(reward.prompts, instructions=usual))
    assert np.abs(scores - jax.jit(same.score)(same.params, pictures, context, said)).max() > 1e-3
    begun, _ = NewNIReward(instructions=asked).untrained(0)
    save_nireward(tmp_path / WEIGHTS, begun, begun.params)
    assert load_nireward(tmp_path / WEIGHTS).aspects == ("visual_quality",)
    after, _ = NewNIReward(str(tmp_path)).untrained(0)
    assert after.prompts.instructions == asked, "as the backbone was"
    about = json.loads((tmp_path / ABOUT).read_text())
    assert about["instructions"] == asked
    (tmp_path / ABOUT).write_text(json.dumps({**about, "instructions": ["Is it?"]}))
    with pytest.raises(InputError, match=r"instructions \[.*\]: each asks about an aspect; give some of"):
        load_nireward(tmp_path / WEIGHTS)


@pytest.mark.parametrize(
    ("instructions", "message"),
    [
        ({"beauty": "Is it?"}, "unknown aspect of instructions 'beauty'"),
        ({"visual_quality": " "}, "instructions ' ' on visual_quality: a question has words; give some, e.g. 'Visual"),
    ],
)
def test_bad_instructions(instructions, message):
    with pytest.raises(InputError, match=message):
        NewNIReward(instructions=instructions).untrained(0)
