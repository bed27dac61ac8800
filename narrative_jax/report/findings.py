"""What a run found, in plain words, and what it learned from."""

from typing import Any

from narrative_jax.models.shipped import STORYBOOK
from narrative_jax.report.run import Run
from narrative_jax.report.wording import DOWN, UNCLEAR, UP, change, counted, percent, share_of, signed, words
from narrative_jax.rewards.ensemble import Ensemble, PerAspect
from narrative_jax.rewards.nireward_sizes import NIREWARD_SIZES
from narrative_jax.rewards.oracle import Oracle, Presence
from narrative_jax.rewards.raters import Raters
from narrative_jax.runs.generator import GENERATOR
from narrative_jax.runs.rewards import TRAINED
from narrative_jax.runs.trained import training_of
from narrative_jax.statistics.comparison import FEWEST, GIVEN_PRESENCE

RATERS = "raters, who see the oracle's findings"
# Rewards that know the gold judge; below, those that ship, made by configs/nireward.py and configs/reward.py.
INFORMED = {
    Raters.name: RATERS,
    Oracle.name: "the oracle, the judge itself",
    Presence.name: "the oracle, who says who is there",
}
_SEEING = ("recognition", "picturing", "describing")  # algorithms that learn what the oracle sees
DESCRIPTIONS = "the oracle's descriptions"
STORYBOOK_NIREWARD = f"the NIReward that ships, which learned on other scenes from {RATERS}, and {DESCRIPTIONS}"
STORYBOOK_HEAD = f"Storybook's aesthetic head, which learned from {RATERS}"


def verdict(run: Run) -> str:
    """One paragraph that claims no more than the intervals do."""
    if not run.judge:
        told = " ".join(_agreeing(run))
        return told or "Nothing was evaluated in this run, so there is nothing to claim."
    if not run.arms:
        why = "Alignment was skipped: no pair survived screening." if run.skipped else "Nothing was trained."
        return f"{why} What is shown is the baseline alone."
    return " ".join([*_changes(run), *_caveats(run)])


def privileged(config: dict[str, Any], entry: str) -> str:
    """What a train entry, or one that chose of it, learned from and knows the gold judge, itself or by what it learned
    from; "" for nothing.
    """
    if config.get("scenes"):
        return ""  # no gold judges a user's scenes
    train = config[training_of(config, entry)]
    source, before = config.get(train.get("source", ""), {}), train.get("after", "")
    found = [_of_rewards(config, train)] if train.get("trains", GENERATOR) == GENERATOR else []
    found += [_of_rewards(config, config[entry])] if train is not config[entry] else []
    if source.get("stage") == "screen":  # people's own preferences know nothing of it
        found.append(_of_rewards(config, config[source["source"]], source.get("aspects")))
    if source.get("annotator") == Raters.name:
        found.append(RATERS if source["stage"] == "annotate" else f"pairs kept by {RATERS}")
    if train.get("trains") == "reward" and _describes(train):
        found.append(DESCRIPTIONS)
    return _joined([*found, privileged(config, before) if before else ""])


def is_clear(run: Run) -> bool:
    """Whether any aspect's interval for the first arm leaves 0 out."""
    return any(
        change(run.numbers, run.key(arm, aspect))[0] != UNCLEAR
        for arm in run.arms[:1]
        for aspect in run.results["aspects"]
    )


def _describes(train):
    """Whether a reward learns to tell what Storybook's pictures show."""
    _, room = NIREWARD_SIZES[train.get("nireward", {}).get("size", STORYBOOK)]
    return train["algorithm"] in _SEEING or (train["algorithm"] == "critique" and room.aloud > 0)


def _of_rewards(config, section, aspects=()):
    """What of an entry's reward, or of those that it is put together from, knows the gold judge."""
    rewards = [(section, section["reward"])] if section.get("reward", "") else []
    if section.get("reward") == PerAspect.name:
        by_aspect = section[PerAspect.name]
        rewards = [(section, by_aspect[aspect]) for aspect in aspects or by_aspect]
    if section.get("reward") == Ensemble.name:
        rewards = [(config[term], config[term]["reward"]) for term, weight in section[Ensemble.name].items() if weight]
    found = [_informed(config, *reward) for reward in rewards]
    known = _joined(found)
    return known if all(found) or not known else f"several rewards, among them {known}"


def _joined(found):
    return ", and ".join(dict.fromkeys(filter(None, found)))


def _informed(config, score, name):
    """`privileged` of one of the rewards of a score entry."""
    options = score.get(name, {})
    if name == TRAINED:
        learned = privileged(config, score["reward_from"])
        return learned and f"a reward that learned from {learned}"
    if name == "aesthetic" and options.get("version") == STORYBOOK and not options.get("head"):
        return STORYBOOK_HEAD
    if name == "nireward" and not options.get("weights"):
        return STORYBOOK_NIREWARD
    return INFORMED.get(name, "")


def _changes(run):
    """What changed and what cannot be told; then how far that goes."""
    arm, found = run.arms[0], {UP: [], DOWN: [], UNCLEAR: []}
    for aspect in run.results["aspects"]:
        mark, diff, low, high = change(run.numbers, run.key(arm, aspect))
        between = f", interval {signed(low)} to {signed(high)}" if mark == UNCLEAR else ""
        found[mark].append(f"{words(aspect)} ({signed(diff)}{between})")
    clear = [f"{verb} {_and(found[mark])}" for verb, mark in (("improved", UP), ("worsened", DOWN)) if found[mark]]
    judge = "the oracle" if run.gold else f"the reward {run.reward_of(run.judge)}"
    name = "alignment" if run.name_of(arm) == "aligned" else arm
    start = (
        f"On {len(run.results['scenes'])} scenes, drawn from the same noise with and without it and judged by {judge},"
    )
    yield f"{start} {name} {_and(clear) if clear else 'shows no clear change'}."
    if found[UNCLEAR]:
        interval = "its 95 % interval includes" if len(found[UNCLEAR]) == 1 else "their 95 % intervals include"
        yield f"No change can be claimed for {_and(found[UNCLEAR])}: {interval} 0."
    if run.gold and clear:
        share = run.numbers["gold/gap_closed"]
        moved = f"{_verb(share)} by {percent(abs(share))}{_given_presence(run)}"
        yield f"The gap from the baseline to true pictures {moved}."
    if run.gold and len(run.arms) > 1:
        shares = {arm: run.numbers[run.key(arm, "gap_closed")] for arm in run.arms}
        best = max(shares, key=shares.get)
        told = f"Of all {len(shares)} arms {best} closed most of it: {percent(shares[best])}."
        yield told if shares[best] > 0 else f"None of the {len(shares)} arms closed any of it."


def _agreeing(run):
    """How often the leader of each accuracy entry, or its first reward, prefers what is preferred."""
    for entry in run.entries("accuracy"):
        options, numbers = run.config[entry], run.manifests[entry]["summary"]
        name = options.get("leader", "") or options["sources"][0]
        shares = [
            f"{share_of(numbers, f'{name}/{each}')} of {numbers[f'pairs/{each}']:,} pairs on {words(each)}"
            for each in counted(numbers, "pairs/")
        ]
        yield f"{name} prefers what {options['gold']} prefers in {_and(shares)}; a guess would in half of them."
        if informed := _informed(run.config, run.config[name], run.config[name].get("reward", "")):
            yield f"It is privileged: {informed}."


def _given_presence(run):
    """What is left of the gain where nobody's presence changed."""
    key = run.key(run.arms[0], f"{GIVEN_PRESENCE}/")
    if run.numbers.get(f"{key}scenes", 0) < FEWEST:
        return ""
    share = run.numbers[f"{key}gap_closed"]
    again = "" if _verb(share) == _verb(run.numbers["gold/gap_closed"]) else f"{_verb(share)} "
    return f", and {again}by {percent(abs(share))} where both show everybody"


def _verb(share):
    """What the gap did."""
    return "closed" if share >= 0 else "grew"


def _caveats(run):
    if run.gold and run.trained and (informed := privileged(run.config, run.shown or run.trained)):
        yield f"The feedback was privileged: trained on {informed}."
    if not run.gold:
        trained_on = run.screen and run.same_reward(run.config[run.screen]["source"], run.judge)
        same = ", and the very reward that was trained on" if trained_on else ""
        yield f"That reward is a stand-in for a judge{same}: look at the pictures before you believe it."
    if run.config[run.judge].get("source", ""):
        yield "The scenes are those of the pictures that were trained on: how others are drawn is not shown."
    if run.rising:
        yield "Both errors rose in training, the preferred pictures' too: the generator was pushed away from both."
    if len(run.results["scenes"]) < FEWEST:
        yield f"So few scenes ({len(run.results['scenes'])}) say little."


def _and(parts):
    *most, last = parts
    return f"{', '.join(most)} and {last}" if most else last
