"""Record directories: what a stage leaves for the next one, and for anyone with `tensorflow_datasets` alone.

A directory holds one kind of record in ArrayRecord shards and describes itself: `tfds.builder_from_directory(folder)
.as_data_source("records")` reads it, without this library and without TensorFlow. Pictures are PNG bytes; the images of
a subject are one PNG, stacked downward. A directory appears whole or not at all.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from io import BytesIO
from itertools import chain, islice
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from narrative_jax.core.errors import InputError
from narrative_jax.core.files import new_folder
from narrative_jax.core.records import Candidate, Preference, Scene, Score, Subject

SPLIT = "records"  # the only split of every directory; what a scene is for stands in the scene
RECORDS_PER_SHARD = 1024
WRITE_AGAIN = "remove the folder of the entry that wrote it and run that again"
PNG_COMPRESSION = 3  # 3 % larger than the usual 6, and a third faster


def write_records(folder: str | Path, records: Iterable) -> int:
    """Write records of one type to a directory, in order, in place of what was there; returns how many.

    Raises InputError where there is no record, or the disk refuses.
    """
    records = iter(records)
    first = next(records, None)
    if first is None:
        raise InputError(f"no record for {folder}", "a record directory holds at least one", "give some records")
    kind, count = KINDS[type(first)], 0
    with new_folder(folder) as temporary:
        identity = tfds.core.dataset_info.DatasetIdentity(kind.name, tfds.core.Version("1.0.0"), str(temporary), "")
        info = tfds.core.DatasetInfo(builder=identity, features=kind.features, description=kind.description)
        writer = tfds.core.SequentialWriter(info, RECORDS_PER_SHARD, file_format="array_record")
        writer.initialize_splits([SPLIT])
        records = chain([first], records)
        while block := list(islice(records, RECORDS_PER_SHARD)):
            examples = [kind.encode(record) for record in block]
            with _refused(folder):
                writer.add_examples({SPLIT: examples})
            count += len(block)
        with _refused(folder):
            writer.close_all()
    return count


def open_records(folder: str | Path, record_type: type) -> "Records":
    """The records of a directory, with random access; each is decoded when it is asked for.

    Raises InputError where the directory or one of its shards is missing or damaged, or holds another type.
    """
    return Records(Path(folder), record_type)


class Records(Sequence):
    """Records on disk as a sequence; reading a damaged one raises InputError."""

    def __init__(self, folder: Path, record_type: type):
        self.folder, self.kind = folder, KINDS[record_type]
        if not (folder / "dataset_info.json").is_file():
            remedy = "name one, or run the stage that writes it"
            raise InputError(f"{folder}", "it is no record directory (no dataset_info.json)", remedy)
        with _damaged(folder, "its description"):
            builder = tfds.builder_from_directory(folder)
        if builder.name != self.kind.name:
            rule = f"its records are of kind {builder.name!r}, {self.kind.name!r} are needed"
            raise InputError(f"{folder}", rule, "name another directory")
        split = builder.info.splits[SPLIT]
        for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
            _check_shard(Path(path), length)
        self.source = builder.as_data_source(SPLIT)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int):
        if not -len(self) <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        index = int(index) % len(self)
        with _damaged(self.folder, f"record {index}"):
            return self.kind.decode(self.source[index])


def write_chunk(folder: str | Path, number: int, records: Iterable) -> None:
    """Keep chunk `number` (0, 1, ...) of a long work: a stage that is killed goes on behind its finished chunks.

    A chunk is a small record directory, so it is there whole or not at all. Raises InputError as `write_records`.
    """
    write_records(_chunk(folder, number), records)


def finished_chunks(folder: str | Path) -> list[int]:
    """The numbers of the chunks in `folder`, in order."""
    return sorted(int(path.name.removeprefix("chunk-")) for path in Path(folder).glob("chunk-*"))


def pack_chunks(folder: str | Path, destination: str | Path, record_type: type) -> int:
    """Write the records of all chunks, in order, as one record directory; returns how many.

    The chunks stay: remove `folder` once the stage is done. Raises InputError where a chunk is missing or damaged.
    """
    numbers = finished_chunks(folder)
    if numbers != list(range(len(numbers))):
        missing = next(number for number in range(len(numbers)) if number not in numbers)
        raise InputError(f"{folder}", f"chunk {missing} is missing", "run the stage again")
    chunks = (open_records(_chunk(folder, number), record_type) for number in numbers)
    return write_records(destination, chain.from_iterable(chunks))


def _chunk(folder, number):
    return Path(folder) / f"chunk-{number:06d}"


def _check_shard(path, length):
    """A shard ends with its index, so one that was cut short does not know its length."""
    if not path.is_file():
        raise InputError(f"{path}", "this shard is missing", WRITE_AGAIN)
    if ArrayRecordReader(str(path)).num_records() != length:
        raise InputError(f"{path}", f"this shard is truncated or damaged ({length} records expected)", WRITE_AGAIN)


@contextmanager
def _damaged(folder, part):
    """Whatever is raised inside means that the files are not what was written."""
    try:
        yield
    except Exception as error:
        raise InputError(f"{folder}", f"{part} cannot be read ({_first_line(error)})", WRITE_AGAIN) from error


@contextmanager
def _refused(folder):
    """ArrayRecord reports a disk that takes no more as RuntimeError."""
    try:
        yield
    except RuntimeError as error:
        remedy = "free the disk, or choose another place"
        raise InputError(f"{folder}", f"it cannot be written ({_first_line(error)})", remedy) from error


def _first_line(error):
    return str(error).split("\n")[0][:120]


@dataclass(frozen=True)
class _Kind:
    """How one type of record stands on disk."""

    name: str
    description: str
    features: tfds.features.FeaturesDict
    encode: Callable
    decode: Callable


def _encode_picture(pixels) -> bytes:
    """PNG of u8[h, w, 3] or bool[h, w]."""
    png = BytesIO()
    Image.fromarray(pixels).save(png, "PNG", compress_level=PNG_COMPRESSION)
    return png.getvalue()


def _decode_picture(png: bytes) -> np.ndarray:
    return np.array(Image.open(BytesIO(png)))


def _encode_subject(subject):
    return {
        "name": subject.name,
        "class_word": subject.class_word,
        "num_images": len(subject.images),
        "images": _encode_picture(np.concatenate(subject.images)),
        "masks": b"" if subject.masks is None else _encode_picture(np.concatenate(subject.masks)),
        "landmarks": _encode_points(subject.landmarks),
    }


def _encode_points(points) -> str:
    return "" if points is None else json.dumps(np.float64(points).tolist())


def _decode_points(text: bytes) -> np.ndarray | None:
    return np.float32(json.loads(text)).reshape(-1, 5, 2) if text else None


def _decode_subject(name, class_word, num_images, images, masks, landmarks=b""):
    images = np.stack(np.split(_decode_picture(images), num_images))
    masks = np.stack(np.split(_decode_picture(masks), num_images)) if masks else None
    return Subject(name.decode(), class_word.decode(), images, masks, _decode_points(landmarks))


def _encode_scene(scene):
    facts = asdict(scene.facts) if is_dataclass(scene.facts) else scene.facts
    return {
        "id": scene.id,
        "prompt": scene.prompt,
        "split": scene.split,
        "subjects": [_encode_subject(subject) for subject in scene.subjects],
        "facts": "" if facts is None else json.dumps(facts, ensure_ascii=False),
        "faces": _encode_points(scene.faces),
    }


def _decode_scene(fields):
    columns = (fields["subjects"][name] for name in _SUBJECT if name in fields["subjects"])  # once without landmarks
    subjects = tuple(_decode_subject(*values) for values in zip(*columns, strict=True))
    facts = json.loads(fields["facts"]) if fields["facts"] else None
    id, prompt, split = (fields[name].decode() for name in ("id", "prompt", "split"))
    return Scene(id, prompt, subjects, split, facts, _decode_points(fields.get("faces", b"")))


def _encode_candidate(candidate):
    return {**vars(candidate), "image": _encode_picture(candidate.image)}


def _decode_candidate(fields):
    texts = {name: fields[name].decode() for name in ("id", "scene_id", "generator")}
    return Candidate(image=_decode_picture(fields["image"]), seed=int(fields["seed"]), **texts)


def _encode_score(score):
    return {**vars(score), "scores": np.asarray(score.scores, np.float32)}


def _decode_score(fields):
    return Score(fields["candidate_id"].decode(), fields["reward"].decode(), tuple(fields["scores"].tolist()))


def _encode_preference(preference):
    return {**vars(preference), "gap": np.nan if preference.gap is None else preference.gap}


def _decode_preference(fields):
    texts = {name: fields[name].decode() for name in ("chosen_id", "rejected_id", "aspect")}
    gap = float(fields["gap"])
    return Preference(tie=bool(fields["tie"]), gap=None if np.isnan(gap) else gap, **texts)


_TEXT, _INTEGER, _REAL = tfds.features.Text(), tfds.features.Scalar(np.int64), tfds.features.Scalar(np.float32)
_SUBJECT = {  # in the order of _decode_subject's arguments
    "name": _TEXT,
    "class_word": _TEXT,
    "num_images": _INTEGER,
    "images": _TEXT,
    "masks": _TEXT,
    "landmarks": _TEXT,
}
KINDS = {
    Scene: _Kind(
        "scene",
        "What is asked for. A subject's images and masks (may be empty) are one PNG each, num_images stacked downward; "
        "facts is JSON, or empty; so are landmarks and faces, [n, 5, 2] in shares of width and height.",
        tfds.features.FeaturesDict(
            {
                "id": _TEXT,
                "prompt": _TEXT,
                "split": _TEXT,
                "subjects": tfds.features.Sequence(_SUBJECT),
                "facts": _TEXT,
                "faces": _TEXT,
            }
        ),
        _encode_scene,
        _decode_scene,
    ),
    Candidate: _Kind(
        "candidate",
        "Pictures (PNG) that a generator drew for scenes.",
        tfds.features.FeaturesDict(
            {"id": _TEXT, "scene_id": _TEXT, "image": _TEXT, "seed": _INTEGER, "generator": _TEXT}
        ),
        _encode_candidate,
        _decode_candidate,
    ),
    Score: _Kind(
        "score",
        "A reward's scores of candidates, one number for each aspect.",
        tfds.features.FeaturesDict(
            {"candidate_id": _TEXT, "reward": _TEXT, "scores": tfds.features.Tensor(shape=(None,), dtype=np.float32)}
        ),
        _encode_score,
        _decode_score,
    ),
    Preference: _Kind(
        "preference",
        "Of two candidates the preferred one; gap is the difference of scores, NaN where unknown.",
        tfds.features.FeaturesDict(
            {
                "chosen_id": _TEXT,
                "rejected_id": _TEXT,
                "aspect": _TEXT,
                "tie": tfds.features.Scalar(np.bool_),
                "gap": _REAL,
            }
        ),
        _encode_preference,
        _decode_preference,
    ),
}
