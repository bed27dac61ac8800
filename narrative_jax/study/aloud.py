"""How much of what there is to see NIReward says aloud, and how truly; and what its tokens tell of their squares.

    python -m narrative_jax.study.aloud --weights=runs/nireward/seeing/weights.safetensors

Of test scenes: rendered pictures, of which half is otherwise than in caption and portraits; drawn as the generator
draws; and drawn in few steps, guided further. What the oracle sees is what there is, of each figure by its number from
the left. Beside it what somebody gets right, by names, who only repeats portraits and prompt: as much can be said
without looking; and beside what tokens tell how often who always gives the commonest answer is right. Tokens that were
never trained to tell of their squares (`recognition`) tell nothing of them.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from tqdm import tqdm

from narrative_jax.algorithms.recognition import told
from narrative_jax.core.command import Parser, run
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.images import to_float
from narrative_jax.core.markdown import table
from narrative_jax.core.records import Scene
from narrative_jax.data.sources import storybook_scenes, storybook_training_set
from narrative_jax.generators.sampling import Sampling
from narrative_jax.rewards.nireward import NIReward
from narrative_jax.rewards.nireward_files import load_nireward
from narrative_jax.rewards.seen import check_squares, describe_images, describe_unseen, see_squares
from narrative_jax.storybook.squares import QUESTIONS
from narrative_jax.study.drawn import draw, embedded_generator

WAYS = {"drawn": Sampling(), "guided further": Sampling(num_steps=4, guidance_scale=4.0, subject_guidance_scale=1.5)}
_BATCH = 32
_SEED = 0
# What a part of what is said about somebody is about, by its words; the first that fits.
_ABOUT = (
    ("skin", r".+ skin"),
    ("hair", r".+ hair"),
    ("hat", r"(?:.+ )?(?:hat|cap)"),
    ("coat", r".+ coat"),
    ("trousers", r".+ trousers"),
    ("a part is missing", r".+ missing"),
    ("cut off or covered", r"cut off.*|covered.*"),
    ("what they do", r"(?s).*"),
)


_WORN = ("skin", "hair", "hat", "coat", "trousers")


def parts(said: str, by_name: bool = False) -> Iterator[tuple[str, str]]:
    """What is said aloud in its parts: what each is about, and its words, with whose they are: of a figure its number,
    or `by_name` the name that is said to be its.
    """
    picture, portraits, people, *more = *said.removeprefix("In the picture: ").removesuffix(".").split(". "), "", ""
    who = [clause.partition(": ") for clause in _clauses(people)]
    number_of = dict(each.split(" is ", 1) for each, colon, _ in who if colon and " is " in each)
    whose = {number: name if by_name else number for name, number in number_of.items()}
    worn = {}  # by number and thing
    for clause in _clauses(picture):
        number, colon, shown = clause.partition(": ")
        if not colon:
            about = "place and style" if clause.startswith(("in ", "on ", "by ")) else "how clean"
            yield from ((about, part) for part in clause.split(", "))
            continue
        for part in shown.split(", "):
            words = re.sub(r" \d$", "", part)
            about = _about(words)
            worn[number, about] = words
            misplaced = about in _WORN and part != f"{words} {number}"
            yield about, f"{whose.get(number, number)} {words}{' of another number' * misplaced}"
    for name, _, shown in (clause.partition(": ") for clause in _clauses(portraits)):
        for part in shown.split(", "):
            words, same = re.fullmatch(r"(?s)(.*?)((?: \d| nobody)*)", part).groups()
            about, same = _about(words), same.split()
            yield "portraits", f"{name} {words}"
            for number in same:
                yield "who wears the same", f"{name} {about} {whose.get(number, number)}"
            seen = worn.get((number_of.get(name), about), "")
            if not {*seen.split()} <= {*words.split(), "blurred"} and number_of[name] not in same:
                yield "what is not as it should be", f"{name} {about}"
    for clause, colon, doing in who:
        if colon:
            yield "who is who", clause
            yield from _others(doing, f"{clause.split(' is ')[0]} ")
        elif clause.endswith(" is missing") or clause == "somebody too many":
            yield "missing, too many", clause
        else:
            yield from _others(clause, "")
    yield from (("what is no part of this", sentence) for sentence in filter(None, more))


def _about(words):
    return next(about for about, form in _ABOUT if re.fullmatch(form, words))


def _clauses(sentence):
    return filter(None, sentence.split("; "))


def _others(judged, whose):
    """What is not as it should be."""
    for part in judged.split(", "):
        seen, other, _ = part.partition(" not ")
        if other:
            yield "what is not as it should be", f"{whose}{seen}"


def counts(said: Sequence[str], true: Sequence[str], by_name: bool = False) -> dict[str, Counter]:
    """By what they are about, how many parts are said, how many there are, and how many of both are the same."""
    found = {"said": Counter(), "there": Counter(), "right": Counter()}
    for one, other in zip(said, true, strict=True):
        one, other = (Counter(parts(each, by_name)) for each in (one, other))
        for name, some in (("said", one), ("there", other), ("right", one & other)):
            for (about, _), count in some.items():
                found[name][about] += count
    return found


def say(reward: NIReward, images: np.ndarray, scenes: Sequence[Scene]) -> list[str]:
    """What it says aloud of pictures u8[b, h, w, 3]."""
    write, said = jax.jit(reward.say), []
    for start in tqdm(range(0, len(scenes), _BATCH), desc="say", delay=5):
        context = reward.encode(scenes[start : start + _BATCH])
        fitted = reward.fit(to_float(images[start : start + _BATCH]), context)
        said += [text for (text,) in reward.prompts.words(write(reward.params, fitted, context))]
    return said


def told_of_squares(reward: NIReward, images: np.ndarray) -> dict[str, tuple[float, float]]:
    """How often tokens of pictures u8[b, 40, 40, 3] are right about their squares, and how often the commonest answer
    is, by question; about figures where one is. Raises InputError for a reward that sees other squares.
    """
    check_squares(reward.name, reward.prompts.room.side, reward.prompts.tower.side)
    true = see_squares(images, reward.prompts.tower.side)
    tokens = jax.jit(lambda params, x: reward.see(reward.network.bind(params), x))(reward.params, to_float(images))
    answers = np.asarray(told(tokens, len(QUESTIONS)).argmax(-1))
    found = {}
    for i, name in enumerate(QUESTIONS):
        asked = true[..., i] >= 0
        right, given = true[..., i][asked], answers[..., i][asked]
        found[name] = float((given == right).mean()), float(np.bincount(right).max() / len(right))
    return found


def pictures(count: int) -> Iterator[tuple[str, np.ndarray, list[Scene]]]:
    """Each kind's name, its pictures and their scenes."""
    examples = storybook_training_set("changed", count, _SEED, split="test").batch(range(count))
    yield "rendered", np.stack([each.target for each in examples]), [each.scene for each in examples]
    generator, params = embedded_generator()
    scenes = list(storybook_scenes("test", count))
    for name, sampling in WAYS.items():
        yield name, draw(generator, params, scenes, 1, sampling)[:, 0], scenes


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables in Markdown; returns the exit code."""
    parser = Parser(description=__doc__)
    parser.add_argument("--weights", required=True, help="of a NIReward, as its training leaves them, or its seeing")
    parser.add_argument("--pictures", type=int, default=256, help="of each kind, by batches of 32 (default 256)")
    return run(_print_tables, parser, arguments)


def _print_tables(options):
    check_count("pictures", options.pictures, minimum=_BATCH)
    reward, columns, squares = load_nireward(options.weights), {}, {}
    if not reward.prompts.room.aloud:
        raise InputError(
            f"weights {options.weights}", "this NIReward says nothing aloud", "give those of one that does"
        )
    for name, images, scenes in pictures(options.pictures // _BATCH * _BATCH):
        true = describe_images(images, scenes)
        columns[name] = counts(say(reward, images, scenes), true), counts(describe_unseen(scenes), true, by_name=True)
        squares[name] = told_of_squares(reward, images)
    abouts = dict.fromkeys(about for found, _ in columns.values() for of in ("there", "said") for about in found[of])
    header = ["said of", *(f"{name}: there, precision, recall, repeated" for name in columns)]
    print(table(header, [[about, *(_cell(*of, about) for of in columns.values())] for about in abouts]))
    rows = [[name, *("{:.2f}, {:.2f}".format(*of[name]) for of in squares.values())] for name in QUESTIONS]
    print()
    print(table(["tokens tell of their squares", *(f"{name}: right, commonest" for name in squares)], rows))


def _cell(found, repeated, about):
    counted = [(found["right"][about], found[name][about]) for name in ("said", "there")]
    counted.append((repeated["right"][about], found["there"][about]))
    shares = [f"{right / count:.2f}" if count else "–" for right, count in counted]
    return ", ".join([f"{found['there'][about]:,}", *shares])


if __name__ == "__main__":
    sys.exit(main())
