"""Writes scenes for one's own characters: prompts of who does what, where, in which style.

    python -m narrative_jax.prompts --cast=cast.jsonl --out=scenes.jsonl --actions=waves,reads,jumps \
        --places="in the forest,by the castle" --styles="in pastel,in crayon" --count=200

A line of the cast is {"name": "Mara", "class_word": "character", "images": ["mara.png"]}, maybe with "description". A
line of what is written is a scene as configs take it: --config=adpo --config.scenes=scenes.jsonl. With --url and
--model a language model behind an OpenAI-compatible server writes each prompt in words of its own, from the same drafts
and the descriptions; what it answered is kept, and the same command goes on behind it.
"""

import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tqdm import tqdm

from narrative_jax.core.chat import ChatModel, UnfitError, text
from narrative_jax.core.command import Parser, run
from narrative_jax.core.errors import InputError
from narrative_jax.core.files import read_json, write_bytes, write_json
from narrative_jax.data.casting import Draft, drafts, read_cast
from narrative_jax.data.reading import field, json_lines

_LISTS = ("actions", "places", "styles")
_LONGEST = 300  # characters of a prompt
_TASK = f"""Write the prompt of one picture, a sentence of at most {_LONGEST} characters, in words of your own. Use
every name as it is spelt here. Say what each does, where, and in which style, and add nothing that is not given: no
clothes, no looks, nobody else. Answer with a JSON object of "prompt"."""
_ANSWER = {
    "type": "object",
    "properties": {"prompt": {"type": "string"}},
    "required": ["prompt"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class PromptWriter(ChatModel):
    """A language model that puts drafts into words."""

    name: ClassVar[str] = "prompt writer"

    def write(self, draft: Draft) -> str:
        """A prompt that names everybody of the draft. Raises InputError as `ChatModel.answer`."""
        about = [f"{each.name}: a {each.class_word}. {each.description}".strip() for each in draft.characters]
        acts = [f"{who.name} {does}" for who, does in zip(draft.characters, draft.actions, strict=True)]
        asked = [f"Who: {' '.join(about)}", f"What each does: {', '.join(acts)}"]
        asked += [f"{name}: {value}" for name, value in (("Where", draft.place), ("Style", draft.style)) if value]

        def read(answer):
            prompt = answer.get("prompt") if isinstance(answer, dict) and answer.keys() == {"prompt"} else None
            if not isinstance(prompt, str) or not 0 < len(prompt.strip()) <= _LONGEST:
                raise UnfitError(f"it is a JSON object of prompt, a text of 1 to {_LONGEST} characters")
            if missing := [each.name for each in draft.characters if each.name not in prompt]:
                raise UnfitError(f"the prompt names {missing[0]}, as it is spelt")
            return " ".join(prompt.split())

        return self.answer([text(_TASK), text("\n".join(asked))], f"draft {draft.id}", "prompt", _ANSWER, read)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = Parser(prog="narrative_jax.prompts", description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--cast", required=True, help="a JSONL file, a character a line")
    parser.add_argument("--out", required=True, help="the JSONL file to write, a scene a line")
    parser.add_argument("--count", type=int, default=100, help="how many scenes (default 100)")
    parser.add_argument("--most", type=int, default=2, help="characters in a scene at most (default 2)")
    for name, words in {"actions": '"waves,reads"', "places": '"in the forest"', "styles": '"in pastel"'}.items():
        parser.add_argument(f"--{name}", default="", help=f"separated by commas, e.g. {words}")
    parser.add_argument("--seed", type=int, default=0, help="of who does what")
    parser.add_argument("--url", default="", help="of a server, e.g. http://localhost:8000/v1; else words are plain")
    parser.add_argument("--model", default="", help="the server's model")
    parser.add_argument("--key-variable", default="", help="the environment variable with the server's key")
    return run(_write, parser, arguments)


def _write(options):
    lists = [[each.strip() for each in getattr(options, name).split(",") if each.strip()] for name in _LISTS]
    found = drafts(read_cast(options.cast), options.count, options.most, *lists, options.seed)
    if options.model and not options.url:
        raise InputError(f"--model={options.model}", "it is a server's", "give its --url, too")
    writer = PromptWriter(options.url, options.model, options.key_variable) if options.url else None
    out = Path(options.out)
    lines = _Lines(out, Path(options.cast).parent, found, options.model)
    if writer:
        _ask(writer, lines)
    else:
        lines.prompts |= {each.id: each.prompt for each in lines.left}
    lines.save()
    print(f"{out}: {len(found)} scenes")


def _ask(writer, lines):
    """Where one question fails, what was answered is saved, and those that wait are not asked."""
    left, asked = lines.left, []
    try:
        with ThreadPoolExecutor(writer.at_once) as threads:
            asked += [threads.submit(writer.write, draft) for draft in left]
            try:
                for draft, answer in tqdm(zip(left, asked, strict=True), "prompts", total=len(left), delay=5):
                    lines.prompts[draft.id] = answer.result()
                    lines.save()
            finally:
                for each in asked:
                    each.cancel()
    finally:  # those that were under way have been waited for
        answered = [(draft, each) for draft, each in zip(left, asked, strict=False) if not each.cancelled()]
        lines.prompts |= {draft.id: each.result() for draft, each in answered if not each.exception()}
        lines.save()


class _Lines:
    """What stands in the file, by drafts: `prompts` of those that have one; paths are from the file's folder.

    A hidden file beside it says from which drafts and by which model they were written.
    """

    def __init__(self, path: Path, cast: Path, drafts: Sequence[Draft], model: str):
        """Raises InputError where the file holds something else: it is not overwritten."""
        self.path, self.drafts, self.prompts = path, drafts, {}
        folder = os.path.relpath(cast.resolve(), path.parent.resolve())
        self.subjects = {draft.id: [_subject(each, folder) for each in draft.characters] for draft in drafts}
        self.made_from = {each.id: [model, each.prompt, self.subjects[each.id]] for each in drafts}
        if not path.exists():
            return
        before = self._memory.exists() and read_json(self._memory)
        for fields, where in json_lines(path, ("id", "prompt", "subjects")):
            id, prompt = (field(fields, name, str, where) for name in ("id", "prompt"))
            if not before or before.get(id) != self.made_from.get(id):
                rule = "this line was written from something else: another cast, model or flag, or more scenes"
                raise InputError(where, rule, "give the flags that it was written with, or another --out")
            self.prompts[id] = prompt

    @property
    def _memory(self):
        return self.path.with_name(f".{self.path.name}.drafts")

    @property
    def left(self) -> list[Draft]:
        """Those without a prompt."""
        return [draft for draft in self.drafts if draft.id not in self.prompts]

    def save(self) -> None:
        """Write the file anew, whole or not at all."""
        lines = [
            {"id": each.id, "prompt": self.prompts[each.id], "subjects": self.subjects[each.id]}
            for each in self.drafts
            if each.id in self.prompts
        ]
        write_json(self._memory, self.made_from)
        write_bytes(self.path, "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in lines).encode())


def _subject(character, folder):
    images = [str(Path(folder) / Path(image).expanduser()) for image in character.images]
    return {"name": character.name, "class_word": character.class_word, "images": images}


if __name__ == "__main__":
    sys.exit(main())
