"""Published preferences as their authors leave them: which of two pictures is the better one, and what is left out."""

import json
from io import BytesIO

import numpy as np
import one_entry
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from narrative_jax.core.errors import InputError
from narrative_jax.core.hashing import Hashes
from narrative_jax.core.records import Candidate, Preference
from narrative_jax.data.datasets import open_records
from narrative_jax.data.photos import read_photo
from narrative_jax.data.published_pairs import find_published, is_published


def picture(shade):
    """JPEG bytes of one grey."""
    jpeg = BytesIO()
    Image.new("RGB", (32, 24), (shade,) * 3).save(jpeg, "JPEG")
    return jpeg.getvalue()


@pytest.fixture
def listed(tmp_path):
    """listed(items, name): the path of such a list; pictures N.jpg of grey 10 N lie in train/, for N from 1 to 9."""
    (tmp_path / "train").mkdir()
    for number in range(1, 10):
        (tmp_path / "train" / f"{number}.jpg").write_bytes(picture(10 * number))

    def listed(items, name="train.json"):
        (tmp_path / name).write_text(json.dumps(items))
        return tmp_path / name

    return listed


def shades(pairs):
    """Each preference as (grey of the better one, grey of the other, whether it is a tie)."""
    grey = {id: int(read_photo(found)[0, 0, 0]) for id, _, found in pairs.pictures}
    return [(grey[each.chosen_id], grey[each.rejected_id], each.tie) for each in pairs.preferences]


HPD2 = {"prompt": " a cat ", "file_path": ["1.jpg", "2.jpg"], "human_preference": [0, 1]}
RANKED = {"prompt": "a dog", "image_path": ["1.jpg", "2.jpg", "3.jpg"], "rank": [2, 1, 2], "raw_annotations": []}
HPD3 = {"prompt": "a hen", "path1": "3.jpg", "path2": "4.jpg", "choice_dist": [9, 2], "confidence": 0.9, "model1": None}
IMAGEREWARD = {"id": "7", "prompt": "a fox", "generations": ["5.jpg", "6.jpg", "7.jpg"], "ranking": [3, 1, 2]}


def test_the_better_one_of_two(listed):
    other = {**HPD2, "human_preference": [1, 0]}
    pairs = find_published(listed([HPD2, other]))
    assert shades(pairs) == [(20, 10, False), (10, 20, False)]
    assert [(each.id, each.prompt, each.subjects) for each in pairs.scenes] == [
        ("train/0", "a cat", ()),
        ("train/1", "a cat", ()),
    ]
    assert pairs.left_out == [] and {each.aspect for each in pairs.preferences} == {"overall"}


def test_the_lowest_rank_is_the_best(listed):
    found = shades(find_published(listed([RANKED], "test.json")))
    assert {each for each in found if not each[2]} == {(20, 10, False), (20, 30, False)}
    assert [set(each[:2]) for each in found if each[2]] == [{10, 30}]
    assert set(shades(find_published(listed([IMAGEREWARD])))) == {(60, 50, False), (60, 70, False), (70, 50, False)}


def test_the_first_is_the_better_one_but_where_votes_are_even(listed):
    even = {**HPD3, "path1": "5.jpg", "path2": "6.jpg", "choice_dist": [4, 4]}
    first, second = shades(find_published(listed([HPD3, even])))
    assert first == (30, 40, False) and second[2]


def test_the_order_of_pictures_tells_nothing(listed):
    """The better one is first in about half of the scenes, and the same pictures come in the same order again."""
    path = listed([HPD3] * 200)
    pairs = find_published(path)
    firsts = [each.chosen_id.endswith("/0") for each in pairs.preferences]
    assert 70 < sum(firsts) < 130
    order = [id for id, *_ in pairs.pictures]
    assert order == [f"train/{number}/{place}" for number in range(200) for place in (0, 1)]
    assert find_published(path) == pairs


def test_a_real_list(test_data, tmp_path):
    """ImageReward's test list: as many decided pairs and ties as its ranks have."""
    items = json.loads((test_data / "imagereward" / "test.json").read_text())[:20]
    for number, name in enumerate(name for item in items for name in item["generations"]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(path, "WEBP", lossless=True)
    (tmp_path / "test.json").write_text(json.dumps(items))
    pairs = find_published(tmp_path / "test.json")
    ranks = [np.array(item["ranking"]) for item in items]
    ties = sum(int((each[:, None] == each).sum() - len(each)) // 2 for each in ranks)
    assert sum(each.tie for each in pairs.preferences) == ties > 0
    assert len(pairs.preferences) == sum(len(each) * (len(each) - 1) // 2 for each in ranks)
    order = [id for _, id, _ in pairs.pictures]
    assert len(pairs.pictures) == sum(map(len, ranks)) and len(set(order)) == 20


# Pick-a-Pic


def rows(path, labels, group=2, **changes):
    """A Parquet file whose row N has pictures of grey 20 N + 10 and 20 N + 20."""
    columns = {
        "caption": [f"prompt {number}" for number in range(len(labels))],
        "jpg_0": [picture(20 * number + 10) for number in range(len(labels))],
        "jpg_1": [picture(20 * number + 20) for number in range(len(labels))],
        "label_0": [first for first, _ in labels],
        "label_1": [second for _, second in labels],
        "has_label": [True] * len(labels),
        "model_0": ["x"] * len(labels),
        **changes,
    }
    pq.write_table(pa.table({name: each for name, each in columns.items() if each}), path, row_group_size=group)
    return path


def test_rows_of_pick_a_pic(tmp_path):
    labels = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 0.0), (None, None), (float("nan"), 0.0)]
    rows(tmp_path / "train-0.parquet", labels, has_label=[True, True, True, False, True, True])
    for path in (tmp_path, tmp_path / "train-0.parquet"):
        assert is_published(path)
        pairs = find_published(path)
        one, other, tie = shades(pairs)
        assert one == (10, 20, False) and other == (40, 30, False) and tie[2] and set(tie[:2]) == {50, 60}
        assert [each.prompt for each in pairs.scenes] == ["prompt 0", "prompt 1", "prompt 2"]
        assert pairs.left_out == [f"{path}: 3 rows that nobody judged"]
    assert {found.size for *_, found in pairs.pictures} == {(24, 32)}


def test_damaged_rows(tmp_path):
    first = [picture(10), None, picture(50)[:200], picture(80)]
    path = rows(tmp_path / "a.parquet", [(1.0, 0.0)] * 4, jpg_0=first)
    with pytest.raises(InputError, match=r"a.parquet, row 1: jpg_0: it is missing; .*damaged_policy 'drop'"):
        find_published(path)
    pairs = find_published(path, "drop")
    assert [each.id for each in pairs.scenes] == ["a/0"]
    assert [each.partition(", ")[2].partition(": ")[0] for each in pairs.left_out] == ["row 1", "row 2", "row 3"]
    assert "two of them are the same" in pairs.left_out[2]


def test_files_of_one_name_in_several_folders(tmp_path):
    """As hubs convert them: train/0000.parquet and test/0000.parquet."""
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
        rows(tmp_path / folder / "0000.parquet", [(1.0, 0.0)])
    assert [scene.id for scene in find_published(tmp_path).scenes] == ["test/0000/0", "train/0000/0"]


@pytest.mark.parametrize("changes", [{"label_0": ["1"]}, {"caption": [b"x"]}, {"jpg_1": ["x"]}])
def test_columns_of_another_type(tmp_path, changes):
    path = rows(tmp_path / "a.parquet", [(1.0, 0.0)], **changes)
    with pytest.raises(InputError, match=f"it has no column {next(iter(changes))} of its type"):
        find_published(path)


def test_a_picture_that_changed_is_another_list(listed):
    """Also where it lies in train/: what was collected from it is stale."""
    path = listed([HPD2])
    before = Hashes(path.with_name("hashes")).of(path)
    (path.parent / "train" / "2.jpg").write_bytes(picture(99))
    assert Hashes(path.with_name("hashes")).of(path) != before
    (path.parent / "train" / "5.jpg").write_bytes(picture(99))
    again = Hashes(path.with_name("hashes")).of(path)
    assert again == Hashes(path.with_name("others")).of(path) != before, "others of the folder are no part of it"


def test_a_parquet_of_something_else(tmp_path):
    path = rows(tmp_path / "a.parquet", [(1.0, 0.0)], jpg_1=None)
    with pytest.raises(InputError, match="it has no column jpg_1 of its type, as Pick-a-Pic has"):
        find_published(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="it is no readable Parquet file"):
        find_published(path)


# What is no good


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{**HPD2, "file_path": ["1.jpg", "gone.jpg"]}], "train.json, item 0: gone.jpg: there is no"),
        ([HPD2, {**HPD2, "file_path": ["1.jpg", "1.jpg"]}], "item 1: 2 pictures: two of them are the same"),
        ([HPD2, {**HPD2, "human_preference": [1]}], "item 1: 2 pictures and 1 ranks: each of two or more has a rank"),
        ([HPD2, {**HPD2, "prompt": " "}], "item 1: prompt '': it is empty"),
        ([HPD2, {**HPD2, "prompt": None}], "item 1: its fields prompt, file_path, human_preference are no good"),
        ([HPD3, HPD2], "item 1: its fields prompt, path1, path2 are no good"),
        ([HPD3, {**HPD3, "choice_dist": [5]}], "item 1: its fields prompt, path1, path2 are no good"),
        ([RANKED, {**RANKED, "rank": [1, float("nan"), 2]}], "item 1: ranks .*nan"),
        ([HPD2, {**HPD2, "prompt": "\ud800"}], "item 1: prompt"),
    ],
)
def test_damaged_items(listed, items, message):
    path = listed(items)
    with pytest.raises(InputError, match=message):
        find_published(path)
    if len(items) > 1:
        pairs = find_published(path, "drop")
        assert len(pairs.scenes) == 1 and len(pairs.left_out) == 1
    else:
        with pytest.raises(InputError, match="it holds no pair"):
            find_published(path, "drop")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"prompt": "x"}', "it is no list of objects"),
        ("[1]", "it is no list of objects"),
        ("[", "it is no JSON"),
        ("[]", "of nothing: it is no list of published preferences"),
        ('[{"prompt": "x", "text": "y"}]', "of prompt, text: it is no list of published preferences"),
    ],
)
def test_lists_that_are_none(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=message):
        find_published(tmp_path / "x.json")


def test_paths_and_policies(tmp_path, listed):
    with pytest.raises(InputError, match="there is no such file or folder"):
        find_published(tmp_path / "gone.json")
    with pytest.raises(InputError, match="damaged_policy 'skip'"):
        find_published(listed([HPD2]), "skip")
    assert not is_published(tmp_path) and not is_published(tmp_path / "pairs.jsonl")


def test_collected_like_peoples_own(listed, tmp_path):
    """From a list to records: candidates, which one is preferred, and what is left out."""
    path = listed([HPD2, {**HPD2, "file_path": ["1.jpg", "gone.jpg"]}, RANKED | HPD2])
    config = {"collect": {"stage": "collect", "pictures": "", "preferences": str(path), "damaged_policy": "drop"}}
    one_entry.check(config, "collect")
    numbers = one_entry.run(config, "collect", tmp_path)
    assert numbers == {"pictures": 4, "left_out": 1, "preferences": 2}
    folder = tmp_path / "collect"
    grey = {each.id: each.image[0, 0, 0] for each in open_records(folder / "candidates", Candidate)}
    preferences = list(open_records(folder / "preferences", Preference))
    assert [grey[each.chosen_id] > grey[each.rejected_id] for each in preferences] == [True, True]
    assert "gone.jpg" in json.loads((folder / "notices.json").read_text())["left_out"][0]
