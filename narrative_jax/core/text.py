"""Text of people: how the bytes of a file are read, and what has no bytes."""

import codecs
import unicodedata
from pathlib import Path

from narrative_jax.core.errors import InputError

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UTF_32 = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def read_text(path: Path) -> str:
    """A file in UTF-8, or in UTF-16 with a byte-order mark; line ends as they are. Raises InputError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        remedy = "correct the path, or make it readable"
        raise InputError(f"{path}", f"it cannot be read ({error.strerror or error})", remedy) from error
    wide = data.startswith(_UTF_16) and not data.startswith(_UTF_32)
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        rule = (
            f"it cannot be read ({error.reason} at byte {error.start}): UTF-16 has a byte-order mark, all else is UTF-8"
        )
        raise InputError(f"{path}", rule, "save it in UTF-8") from error


def check_text(given: str, text: str) -> str:
    """The text. Raises InputError where it has no UTF-8 form: half of a pair of surrogates, bytes of another encoding.

    `given` is what a message calls it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        rule = f"character {error.start + 1} has no UTF-8 form (half of an emoji, or bytes of another encoding)"
        raise InputError(f"{given} {text!r}", rule, "write it anew in UTF-8") from None
    return text


def composed(name: str) -> str:
    """One form of a name (NFC) for all that look alike: file systems and keyboards differ in how they spell é."""
    return unicodedata.normalize("NFC", name)
