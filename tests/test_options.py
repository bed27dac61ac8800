"""Sections as dataclasses: what fits becomes what the fields say, what does not is named where it stands."""

import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest
from ml_collections import ConfigDict, FrozenConfigDict

from narrative_jax.core.errors import InputError, check_count, check_name
from narrative_jax.core.options import File, files_in, names_of, parse


@dataclass(frozen=True)
class Rate:
    """A section in a section."""

    value: float
    warmup: int = 0
    table: File = ""

    def __post_init__(self):
        check_count("warmup", self.warmup)


@dataclass(frozen=True)
class Options:
    """An option of each type."""

    count: int
    rate: Rate
    fast: bool = False
    scale: float = 1.0
    name: str = ""
    weights: File = ""
    limit: int | None = None
    photos: File | None = None
    second: Rate | None = None
    scales: tuple[float, ...] = ()
    pair: tuple[str, int] = ("", 0)
    pairs: tuple[tuple[str, str], ...] = ()
    rates: tuple[Rate, ...] = ()
    shares: dict[str, float] = field(default_factory=dict)
    by_name: dict[str, Rate] = field(default_factory=dict)
    hyper: dict[str, Any] = field(default_factory=dict)
    anything: Any = None
    derived: int = field(default=7, init=False)


LEAST = {"count": 3, "rate": {"value": 0.5}}


def read(section=LEAST, **changes):
    return parse(Options, {**section, **changes}, "align")


def test_defaults():
    assert read() == Options(3, Rate(0.5))
    assert read().derived == 7 and read().hyper is not read().hyper


@pytest.mark.parametrize(
    ("option", "given", "kept"),
    [
        ("count", -2, -2),
        ("fast", True, True),
        ("scale", 2.5, 2.5),
        ("scale", 2, 2.0),
        ("name", "Mara", "Mara"),
        ("name", "", ""),
        ("weights", "a.safetensors", File("a.safetensors")),
        ("limit", 4, 4),
        ("limit", None, None),
        ("photos", "mine", File("mine")),
        ("photos", None, None),
        ("second", {"value": 1}, Rate(1.0)),
        ("second", None, None),
        ("scales", (1, 2.5), (1.0, 2.5)),
        ("scales", [1.5], (1.5,)),
        ("scales", (), ()),
        ("pair", ["a", 1], ("a", 1)),
        ("pairs", [["a", "b"], ("c", "d")], (("a", "b"), ("c", "d"))),
        ("rates", [{"value": 1}, {"value": 2, "warmup": 3}], (Rate(1.0), Rate(2.0, 3))),
        ("shares", {"a": 1, "b": 0.5}, {"a": 1.0, "b": 0.5}),
        ("shares", {}, {}),
        ("by_name", {"a": {"value": 1, "table": "t"}}, {"a": Rate(1.0, 0, File("t"))}),
        ("hyper", {"beta": 500.0, "preserve": None, "of": ("a", 1)}, {"beta": 500.0, "preserve": None, "of": ("a", 1)}),
        ("anything", ("a", 1), ("a", 1)),
    ],
)
def test_what_fits(option, given, kept):
    found = getattr(read(**{option: given}), option)
    assert found == kept and type(found) is type(kept)
    if isinstance(kept, tuple):
        assert [type(part) for part in found] == [type(part) for part in kept]


@pytest.mark.parametrize("kind", [dict, ConfigDict, FrozenConfigDict])
def test_sections_of_a_config(kind):
    section = {"count": 3, "rate": {"value": 1}, "by_name": {"a": {"value": 2}}, "pairs": (("a", "b"),), "limit": None}
    found = parse(Options, kind(section), "align")
    assert found == Options(3, Rate(1.0), by_name={"a": Rate(2.0)}, pairs=(("a", "b"),))
    assert type(found.by_name) is dict


@pytest.mark.parametrize(
    ("option", "given", "said"),
    [
        ("count", 2.0, "align.count 2.0: it is an integer; give such a value"),
        ("count", True, "align.count True: it is an integer"),
        ("count", "3", "align.count '3': it is an integer"),
        ("count", None, "align.count None: it is an integer"),
        ("count", (3,), "align.count (3,): it is an integer"),
        ("fast", 1, "align.fast 1: it is true or false"),
        ("fast", "true", "align.fast 'true': it is true or false"),
        ("scale", True, "align.scale True: it is a number"),
        ("scale", "1.0", "align.scale '1.0': it is a number"),
        ("name", 7, "align.name 7: it is a text"),
        ("name", None, "align.name None: it is a text"),
        ("weights", 7, "align.weights 7: it is a path"),
        ("weights", None, "align.weights None: it is a path"),
        ("limit", "4", "align.limit '4': it is an integer"),
        ("photos", 4, "align.photos 4: it is a path"),
        ("rate", 0.5, "align.rate 0.5: it is a section"),
        ("rate", None, "align.rate None: it is a section"),
        ("second", (1,), "align.second (1,): it is a section"),
        ("scales", 1.0, "align.scales 1.0: it is a list, each element a number"),
        ("scales", "12", "align.scales '12': it is a list, each element a number"),
        ("scales", (1.0, "2"), "align.scales[1] '2': it is a number"),
        ("scales", (True,), "align.scales[0] True: it is a number"),
        ("pair", ("a",), "align.pair ('a',): it is a list of 2: a text, an integer"),
        ("pair", ("a", 1, 2), "align.pair ('a', 1, 2): it is a list of 2: a text, an integer"),
        ("pair", (1, "a"), "align.pair[0] 1: it is a text"),
        ("pairs", ("a", "b"), "align.pairs[0] 'a': it is a list of 2: a text, a text"),
        ("pairs", (("a", "b"), ("a", 7)), "align.pairs[1][1] 7: it is a text"),
        ("rates", ({"value": 1}, 2), "align.rates[1] 2: it is a section"),
        ("shares", ("a",), "align.shares ('a',): it is a section"),
        ("shares", {"a": "much"}, "align.shares.a 'much': it is a number"),
        ("hyper", 1.0, "align.hyper 1.0: it is a section"),
        # At depth: of another type, unknown, missing, refused by the section itself.
        ("rate", {"value": "1"}, "align.rate.value '1': it is a number"),
        (
            "rate",
            {"value": 1, "warmpu": 2},
            "unknown option of align.rate 'warmpu': known are value, warmup, table; did",
        ),
        ("rate", {"warmup": 2}, "align.rate: 'value' is missing, it has no default; set align.rate.value to a number"),
        ("rate", {"value": 1, "warmup": -1}, "align.rate.warmup -1: warmup is an integer ≥ 0"),
        (
            "rates",
            [{"value": 1}, {"vale": 1}],
            "unknown option of align.rates[1] 'vale': known are value, warmup, table",
        ),
        ("rates", [{}], "align.rates[0]: 'value' is missing"),
        ("by_name", {"a": {"value": 1, "table": 7}}, "align.by_name.a.table 7: it is a path"),
        ("by_name", {"a": {"value": 1, "at": 7}}, "unknown option of align.by_name.a 'at'"),
        ("by_name", {"a": 1.0}, "align.by_name.a 1.0: it is a section"),
        ("count", ConfigDict({"a": 1}), "align.count {'a': 1}: it is an integer"),
    ],
)
def test_what_does_not_fit(option, given, said):
    with pytest.raises(InputError) as caught:
        read(**{option: given})
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)


def test_unknown_and_missing_options():
    with pytest.raises(
        InputError, match=r"unknown option of align 'cuont': known are count, .*; did you mean 'count'\?"
    ):
        read(cuont=1)
    with pytest.raises(InputError, match="unknown option of align 'derived'"):
        read(derived=1)
    with pytest.raises(InputError, match=r"^align: 'rate' is missing, it has no default; set align.rate to a section$"):
        read({"count": 3})

    @dataclass
    class Needed:
        limit: int | None
        pairs: tuple[tuple[str, str], ...]
        free: Any

    known = {"limit": None, "pairs": (), "free": 0}
    for missing, words in (
        ("limit", "an integer or None"),
        ("pairs", "a list, each element a list of 2: a text, a text"),
        ("free", "any value"),
    ):
        section = {key: value for key, value in known.items() if key != missing}
        with pytest.raises(
            InputError, match=f"x: '{missing}' is missing, it has no default; set x.{missing} to {words}$"
        ):
            parse(Needed, section, "x")


def test_options_of_others():
    """They may stand in the same section, whatever they are; nowhere else."""
    section = {"stage": "train", "adapter": {"rank": 4}, **LEAST}
    assert parse(Options, section, "align", ["stage", "adapter"]) == read()
    with pytest.raises(InputError, match="unknown option of align 'adapter'"):
        parse(Options, section, "align", ["stage"])
    with pytest.raises(InputError, match=r"unknown option of align.rate 'stage'"):
        parse(Options, {**LEAST, "rate": {"value": 1, "stage": "train"}}, "align", ["stage"])
    with pytest.raises(InputError, match=r"unknown option of align 'stagee'.*known are .*stage.*did you mean 'stage'"):
        parse(Options, {**LEAST, "stagee": "train"}, "align", iter(["stage"]))


def test_names():
    assert names_of(Rate) == ["value", "warmup", "table"]
    assert "derived" not in names_of(Options) and len(names_of(Options)) == 17


def test_what_a_section_itself_refuses_is_named_by_its_whole_key():
    @dataclass
    class Strict:
        rule: str = "a"
        low: float = 0.0
        high: float = 1.0

        def __post_init__(self):
            check_name("rule", self.rule, ("a", "b"))
            if self.low > self.high:
                raise InputError(f"low {self.low} and high {self.high}", "low is below high", "raise high")
            if self.high > 9:
                raise InputError("rules.high of others", "nothing here", "whatever")

    for section, said in (
        ({"rule": "c"}, "unknown x.screen.rule 'c': known are a, b"),
        ({"low": 2}, "x.screen.low 2.0 and high 1.0: low is below high; raise high"),
        ({"high": 10}, "rules.high of others: nothing here; whatever"),
    ):
        with pytest.raises(InputError) as caught:
            parse(Strict, section, "x.screen")
        assert str(caught.value).startswith(said)


def test_a_tilde_is_the_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/mara")
    found = read(name="~/text", weights="~/w", second={"value": 1, "table": "~"}, by_name={"x": {"value": 1}})
    assert (found.name, found.weights, found.second.table) == ("~/text", "/home/mara/w", "/home/mara")
    assert pickle.loads(pickle.dumps(found)) == found


def test_files_at_any_depth():
    found = read(
        name="no file",
        weights="a",
        photos="b",
        second={"value": 1, "table": "c"},
        rates=[{"value": 1, "table": "d"}, {"value": 1}],
        by_name={"x": {"value": 1, "table": "e"}},
        hyper={"file": "no file: nothing says that it is one"},
    )
    assert list(files_in(found)) == ["a", "b", "c", "d", "e"]
    assert all(type(file) is File for file in files_in(found))
    assert not list(files_in(read())) and not list(files_in(read(photos=None, weights="")))
