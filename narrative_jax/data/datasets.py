"""Record directories: what a stage leaves for the next one, and for anyone with `tensorflow_datasets` alone.

A directory holds one kind of record in ArrayRecord shards and describes itself: `tfds.builder_from_directory(folder)
.as_data_source("records")` reads it, without this library and without TensorFlow. `kinds` says how the fields of each
kind stand in it. A directory appears whole or not at all.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from narrative_jax.core import processes
from narrative_jax.core.errors import InputError
from narrative_jax.core.files import new_folder
from narrative_jax.data.kinds import KINDS

SPLIT = "records"  # the only split of every directory; what a scene is for stands in the scene
RECORDS_PER_SHARD = 1024
_PNG_SIZE = slice(16, 24)  # bytes of a PNG that say its width and height
WRITE_AGAIN = "remove the folder of the entry that wrote it and run that again"


def write_records(folder: str | Path, records: Iterable) -> int:
    """Write records of one type to a directory, in order, in place of what was there; returns how many.

    Raises InputError where there is no record, or the disk refuses.
    """
    records = iter(records)
    first = next(records, None)
    if first is None:
        raise InputError(f"no record for {folder}", "a record directory holds at least one", "give some records")
    kind = KINDS[type(first)]
    examples = (kind.encode(record) for record in chain([first], records))
    return write_dataset(folder, kind.name, kind.description, kind.features, {SPLIT: examples})[SPLIT]


def write_dataset(
    folder: str | Path,
    name: str,
    description: str,
    features: tfds.features.FeaturesDict,
    splits: Mapping[str, Iterable[dict]],
) -> dict[str, int]:
    """Write a TFDS directory of these splits' examples, in place of what was there; returns how many each has.

    Raises InputError where the disk refuses.
    """
    counts = dict.fromkeys(splits, 0)
    with new_folder(folder) as temporary:
        identity = tfds.core.dataset_info.DatasetIdentity(name, tfds.core.Version("1.0.0"), str(temporary), "")
        info = tfds.core.DatasetInfo(builder=identity, features=features, description=description)
        writer = tfds.core.SequentialWriter(info, RECORDS_PER_SHARD, file_format="array_record")
        writer.initialize_splits(list(splits))
        for split, examples in splits.items():
            examples = iter(examples)
            while block := list(islice(examples, RECORDS_PER_SHARD)):
                with _refused(folder):
                    writer.add_examples({split: block})
                counts[split] += len(block)
        with _refused(folder):
            writer.close_all()
    return counts


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

    def columns(self, *names: str) -> dict[str, list]:
        """The values of these fields, of all records; no picture is decoded.

        Fields are of texts or numbers: any other is a KeyError. Raises InputError for a damaged record.
        """
        decoders = {name: field.decode for name, field in self.kind.fields.items() if field.plain}
        decoders = {name: decoders[name] for name in names}
        columns = {name: [] for name in names}
        for index in range(len(self)):
            with _damaged(self.folder, f"record {index}"):
                values = self.source[index]
                for name, decode in decoders.items():
                    columns[name].append(decode(values[name]))
        return columns

    def picture_sizes(self) -> list[tuple[int, int]]:
        """Height and width of each record's picture, from the head of its PNG. Raises InputError as `columns`."""
        sizes = []
        for index in range(len(self)):
            with _damaged(self.folder, f"record {index}"):
                width, height = struct.unpack(">II", self.source[index]["image"][_PNG_SIZE])
                sizes.append((height, width))
        return sizes

    def rows_by(self, name: str) -> dict[str, int]:
        """The row of each record by its value of a field, as `columns` reads it.

        Raises InputError where two records have one value, and as `columns`.
        """
        values = self.columns(name)[name]
        rows = {value: row for row, value in enumerate(values)}
        if len(rows) < len(values):
            value, count = Counter(values).most_common(1)[0]
            rule = f"{count} records have this {name}, each has its own"
            raise InputError(f"{self.folder}: {name} {value!r}", rule, WRITE_AGAIN)
        return rows


def write_chunk(folder: str | Path, number: int, records: Iterable) -> None:
    """Keep chunk `number` (0, 1, ...) of a long work: a stage that is killed goes on behind its finished chunks.

    A chunk is a small record directory, so it is there whole or not at all. Raises InputError as `write_records`.
    """
    write_records(_chunk(folder, number), records)


def finished_chunks(folder: str | Path) -> list[int]:
    """The numbers of the chunks in `folder`, in order."""
    return sorted(int(path.name.removeprefix("chunk-")) for path in Path(folder).glob("chunk-*"))


def pack_chunks(folder: str | Path, destination: str | Path, record_type: type, count: int) -> int:
    """Write the records of all chunks, `count` of them, in order, as one record directory; returns how many.

    Waits for those that other hosts wrote to be seen here. The chunks stay: remove `folder` once the stage is done.
    Raises InputError where a chunk is missing or damaged.
    """

    def missing():
        return sorted({*range(count)} - {*finished_chunks(folder)})

    if not processes.is_seen(lambda: not missing()):
        raise InputError(f"{folder}", f"chunk {missing()[0]} of {count} is missing", "run the stage again")
    chunks = (open_records(_chunk(folder, number), record_type) for number in range(count))
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
