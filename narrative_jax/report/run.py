"""A finished run as its report sees it."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import read_json
from narrative_jax.rewards.oracle import WORLD_VERSION
from narrative_jax.runs.directory import CONFIG, read_manifest, was_trained
from narrative_jax.runs.lineage import made_from
from narrative_jax.runs.rewards import TRAINED
from narrative_jax.runs.trained import training_of
from narrative_jax.statistics.comparison import GIVEN_PRESENCE


@dataclass(frozen=True)
class Run:
    """A run directory, and which of its entries the report is about."""

    workdir: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config."""
        return read_json(self.workdir / CONFIG)

    @cached_property
    def manifests(self) -> dict[str, dict]:
        """The manifests of the finished entries, in order."""
        found = {name: read_manifest(self.workdir / name) for name in self.config["stages"]}
        return {name: manifest for name, manifest in found.items() if manifest}

    @cached_property
    def results(self) -> dict[str, Any]:
        """What the evaluate entry left: values of each arm by scene; empty without one."""
        if self.judge is None:
            return {"scenes": [], "aspects": {}, "kind": "gold", "arms": {}}
        path = self.workdir / self.judge / "results.json"
        results = read_json(path)
        if results["kind"] == "gold" and results.get("world") != WORLD_VERSION:
            given, rule = f"{path} of world {results.get('world')}", f"the judge is now that of world {WORLD_VERSION}"
            raise InputError(given, rule, f"judge anew with --redo={self.judge}")
        return results

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The compared means of the evaluate entry."""
        return self.manifests[self.judge]["summary"] if self.judge else {}

    @property
    def judge(self) -> str | None:
        """The last evaluate entry."""
        return next(reversed(self.entries("evaluate")), None)

    @property
    def gold(self) -> bool:
        """Whether the oracle judged, as it does Storybook's scenes."""
        return self.results["kind"] == "gold"

    @property
    def groups(self) -> list[str]:
        """The kinds of scenes that arms are compared in, besides all together."""
        return [GIVEN_PRESENCE, *self.results["groups"]] if self.gold and self.judge else []

    @property
    def rising(self) -> bool:
        """Whether the shown training ended with both errors above the reference's, the chosen pictures' too."""
        numbers = self.manifests[self.trained]["summary"] if self.trained else {}
        return all(numbers.get(name, 0) > 0 for name in ("chosen_error_rise", "rejected_error_rise"))

    @property
    def arms(self) -> list[str]:
        """What is compared with the baseline."""
        return [name for name in self.results["arms"] if name not in ("baseline", "ceiling")]

    @property
    def compared(self) -> list[tuple[str, str]]:
        """The pairs of arms that are compared with each other, without those of an arm that was not trained."""
        pairs = self.config[self.judge].get("compare", ()) if self.judge else ()
        return [(arm, other) for arm, other in pairs if {arm, other} <= self.results["arms"].keys()]

    @property
    def shown(self) -> str | None:
        """The arm whose pictures stand beside the baseline's: the first trained one."""
        trained = self.config[self.judge]["trained"] if self.judge else ()
        return next((arm for arm in self.arms if arm in trained), None)

    @property
    def trained(self) -> str | None:
        """The train entry whose curves are shown."""
        trained = [name for name in self.entries("train") if self._has_trained(name)]
        shown = training_of(self.config, self.shown) if self.shown else self._leading
        return shown if shown in trained else next(reversed(trained), None)

    @property
    def _leading(self):
        """The train entry whose reward the last accuracy entry compares with others."""
        leader = next((self.config[name].get("leader") for name in reversed(self.entries("accuracy"))), "")
        return self.config[leader].get("reward_from") if leader else None

    @property
    def skipped(self) -> bool:
        """Whether an entry had nothing to train on."""
        return not all(self._has_trained(name) for name in self.entries("train"))

    @property
    def screen(self) -> str | None:
        """The screen entry that the shown training learned from; None where that were people's own preferences."""
        if self.trained:
            source = self.config[self.trained].get("source")
            return source if source in self.entries("screen") else None
        return next(iter(self.entries("screen")), None)

    @property
    def refined(self) -> str | None:
        """The refine entry that the shown training learned from, or where none has trained the last one."""
        refined = self.entries("refine")
        if refined and self.trained:
            return made_from(self.config, self.trained, "refine") or None
        return next(reversed(refined), None)

    @property
    def reward(self) -> str | None:
        """The reward that the pairs were made with."""
        return self.reward_of(self.config[self.screen]["source"]) if self.screen else None

    @property
    def calibrated_on(self) -> str:
        """Which pictures the scores that pairs were made with are measured by."""
        scored = self.config[self.screen]["source"]
        name = self.config[scored].get("calibration")
        return f"the pictures of {self.config[name]['source']}" if name else "the screened pictures themselves"

    def reward_of(self, entry: str) -> str:
        """The reward of an entry; one that another entry trained is called by that one."""
        chosen = self.config[entry]
        return chosen["reward_from"] if chosen["reward"] == TRAINED else chosen["reward"]

    @property
    def judged_by_shipped_nireward(self) -> bool:
        """Whether an entry has the NIReward that ships, which knows Storybook's pictures alone."""
        entries = [self.config[name] for name in self.manifests if self.config[name]["stage"] != "train"]
        return any(
            each.get("reward", "") == "nireward" and not each.get("nireward", {}).get("weights", "") for each in entries
        )

    def same_reward(self, entry: str, other: str) -> bool:
        """Whether two entries have the same reward, options and all."""
        one, another = self.config[entry], self.config[other]
        if TRAINED in (one["reward"], another["reward"]):
            return self.reward_of(entry) == self.reward_of(other)
        return one["reward"] == another["reward"] and one.get(one["reward"]) == another.get(one["reward"])

    def entries(self, stage: str) -> list[str]:
        """The finished entries of a stage."""
        return [name for name, manifest in self.manifests.items() if manifest["stage"] == stage]

    def name_of(self, arm: str) -> str:
        """What an arm is called: the only one that was trained on screened pictures is the aligned one."""
        return "aligned" if len(self.arms) == 1 and self.config.get(arm, {}).get("source") else arm

    def prefix(self, arm: str) -> str:
        """What the keys of an arm's `numbers` begin with: the first one's stand without its name."""
        kind = self.results["kind"]
        return kind if arm == self.arms[0] else f"{kind}/{arm}"

    def key(self, arm: str, name: str) -> str:
        """Where `numbers` holds what was found for an arm."""
        return f"{self.prefix(arm)}/{name}"

    def _has_trained(self, name):
        return was_trained(self.workdir / name)
