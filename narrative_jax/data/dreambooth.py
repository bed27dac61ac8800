"""Photos of people's own subjects, a folder of them for each, as in DreamBooth's data set (Ruiz et al. 2023)."""

from itertools import takewhile
from pathlib import Path

from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Scene, Subject
from narrative_jax.core.text import composed, read_text
from narrative_jax.data.photos import find_file, pictures_in, sieve
from narrative_jax.data.reading import prompt_beside
from narrative_jax.data.subject_photos import Photos

CLASSES = "prompts_and_classes.txt"  # beside the folders
_HEADER = "subject_name,class"  # of its lines of names and classes, which a blank one ends


def read_dreambooth(folder: Path, damaged_policy: str) -> tuple[list[tuple[Scene, Path]], list[str]]:
    """An example of each photo: it is the target, and the subject is seen in the next one of its folder, in the first
    one behind the last; and what is left out.

    A subject is called as its folder, of the class that `CLASSES` says, or without that file as its folder. The prompt
    is what a text file of the photo's name says, or else "a photo of a CLASS". Damaged photos raise InputError under
    the policy "stop" and are left out under "drop"; so does a folder without a pair, and a subject without a class.
    """
    pairs, left_out = [], []
    is_whole = sieve(damaged_policy, left_out)
    classes = _classes(folder / CLASSES)
    for place in sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")):
        photos, others = pictures_in(place)
        left_out.extend(f"{place.name}: {other}" for other in others)
        photos = [photo for photo in photos if is_whole(photo, f"{photo}")]
        if len(photos) < 2:
            left_out.append(f"{place.name}: a pair needs two photos, and it has {len(photos)}")
            continue
        pairs.extend(_examples(place, photos, classes))
    if not pairs:
        rule = f"it holds neither Parquet files nor folders of photos ({left_out[0] if left_out else 'no folder'})"
        raise InputError(f"{folder}", rule, "name a folder with a folder of two or more photos for each subject")
    return pairs, left_out


def _examples(place, photos, classes):
    if classes and place.name not in classes:
        raise InputError(f"{place}", f"{CLASSES} says no class for it", f"add the line {place.name},CLASS")
    class_word, found = classes.get(place.name, place.name.replace("_", " ")), {}
    for target, seen in zip(photos, photos[1:] + photos[:1], strict=True):
        name = composed(target.stem)
        if name in found:
            raise InputError(f"{target}", f"{found[name][1].name} has that name too", "rename one")
        beside = find_file(place, f"{target.stem}.txt").exists()
        prompt = prompt_beside(target, target.stem) if beside else f"a photo of a {class_word}"
        images = Photos([seen])
        subject = Subject(place.name, class_word, images, images.masks())
        found[name] = Scene(f"{place.name}/{name}", prompt, (subject,), "user"), target
    return found.values()


def _classes(path):
    """The class of each subject that the file names, none without it. Raises InputError."""
    if not path.exists():
        return {}
    lines = iter(line.strip() for line in read_text(path).split("\n"))
    if _HEADER not in lines:  # which leaves those behind it
        raise InputError(f"{path}", f"it has no line {_HEADER!r}", "write it before those of subjects, or remove it")
    named = [line.rpartition(",") for line in takewhile(bool, lines)]
    return {name.strip(): class_word.strip() for name, _, class_word in named}
