"""A vision-language model behind a server: vLLM, Ollama, LM Studio and hosted ones speak this protocol."""

import base64
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from math import isfinite
from numbers import Real
from typing import Any, ClassVar, Self, TypeVar
from urllib.parse import urlsplit

import numpy as np
import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from narrative_jax.core.answers import Answers
from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.images import png

_BACK_OFF = wait_exponential_jitter(initial=1, max=60)
_LONGEST = 600.0  # seconds that a stage sleeps through for a server: it cannot be stopped meanwhile
_SHOWN = 300  # characters of a server's words that a message repeats
T = TypeVar("T")


class UnfitError(ValueError):
    """An answer that is not what was asked for; its text is the rule."""


@dataclass(frozen=True)
class ChatModel:
    """The `model` of an OpenAI-compatible server at `url`, such as http://localhost:8000/v1.

    `key_variable`: the environment variable that holds the API key; "" sends none. An answer may take `timeout_s`; each
    question is asked up to `tries` times, `at_once` of them at a time. Raises InputError for bad options and a missing
    key. `name` is what messages call it. What it answers may be kept, see `keeping`.
    """

    name: ClassVar[str]

    url: str
    model: str
    key_variable: str = ""
    timeout_s: float = 120.0
    tries: int = 6
    at_once: int = 8
    _answers: Answers | None = field(default=None, init=False, compare=False, repr=False)

    def __post_init__(self):
        self._check_url()
        if not self.model:
            raise InputError("model ''", f"{self.name} asks a model by name", "give one that the server has")
        if not isinstance(self.timeout_s, Real) or not isfinite(self.timeout_s) or self.timeout_s <= 0:
            raise InputError(f"timeout_s {self.timeout_s!r}", "timeout_s is a number > 0", "give seconds, e.g. 120")
        check_count("tries", self.tries, minimum=1)
        check_count("at_once", self.at_once, minimum=1)
        self._key()

    def keeping(self, answers: Answers) -> Self:
        """The same one, which leaves each answer there, and asks no question a second time.

        Answers are paid for: neither a failure among others asked meanwhile nor another threshold loses them.
        """
        kept = copy(self)
        object.__setattr__(kept, "_answers", answers)
        return kept

    def answer(self, content: Sequence[Mapping], about: str, kind: str, schema: Mapping, read: Callable[[Any], T]) -> T:
        """What `read` makes of the JSON that the model answers, asked for until it comes or the tries are used up.

        `content` are parts made by `text` and `picture`, `schema` is that of an answer, named `kind`. `read` raises
        UnfitError for an answer that is something else. Raises InputError where the server cannot be reached, refuses,
        or does not answer as asked about `about`.
        """
        request = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": kind, "strict": True, "schema": schema},
            },
        }
        question = {"url": self.url, **request}
        if self._answers and (said := self._answers.find(question)) is not None:
            try:
                return read(said)
            except UnfitError:  # of an earlier version, which asked for less
                pass
        self._permit()
        until = Retrying(
            retry=retry_if_exception_type(_UnansweredError),
            stop=stop_after_attempt(self.tries),
            wait=_wait,
            before_sleep=_tell,
            reraise=True,
        )
        said, found = until(self._ask, request, about, read)
        if self._answers:
            self._answers.keep(question, said)
        return found

    def _permit(self):
        """Raise InputError where no more may be asked."""

    def _ask(self, request, about, read):
        """Raises _UnansweredError where it may help to ask again, InputError where it cannot."""
        url = f"{self.url.rstrip('/')}/chat/completions"
        limit = f"each question is asked up to {self.tries} times"
        try:
            # A connection of its own, since a session of requests is not made for several threads.
            response = requests.post(url, json=request, auth=self._sign, timeout=self.timeout_s, allow_redirects=False)
        except requests.RequestException as error:
            cause = getattr(next(iter(error.args), None), "reason", error)  # without the pools it came through
            raise _UnansweredError(f"no answer from {url} ({self._shown(cause)})", limit, "see that it runs") from error
        status = response.status_code
        said = f"{url} says {status} ({self._shown(response.text)})"
        if status == 429 or status >= 500:
            seconds = _seconds_asked_for(response)
            if seconds > _LONGEST:
                raise InputError(said, f"it wants to be left alone for {seconds:.0f} s", "run it again after that")
            raise _UnansweredError(said, limit, "see what keeps it, or lower at_once", seconds)
        if status != 200:
            raise InputError(said, "it refuses such requests", "correct url, model, or the key in key_variable")
        return self._read(response, about, read, limit)

    def _read(self, response, about, read, limit):
        """What it answers, and what `read` makes of that. Raises _UnansweredError."""
        said = response.text
        try:
            said = response.json()["choices"][0]["message"]["content"]
            answer = json.loads(said)
        except (ValueError, LookupError, TypeError):
            answer = None  # no completion, or no JSON in it: not what was asked for
        try:
            return answer, read(answer)
        except UnfitError as error:
            value = f"answer of {self.model} on {about}: {self._shown(said)}"
            raise _UnansweredError(
                value, f"{error}; {limit}", "take a model and a server with structured output"
            ) from None

    def _sign(self, request):
        """Adds the key, if there is one; as `auth` it also keeps requests from looking for one in .netrc."""
        if self.key_variable:
            request.headers["Authorization"] = f"Bearer {self._key()}"
        return request

    def _key(self):
        """The key, read when it is needed, so that no field, config or message holds it. Raises InputError."""
        if not self.key_variable:
            return ""
        if not re.fullmatch("[A-Z_][A-Z0-9_]*", self.key_variable):  # it may be the key itself, so it is not shown
            rule = "it is the name of an environment variable, in capitals, not the key"
            raise InputError(f"key_variable of {self.name}", rule, "name one, e.g. OPENAI_API_KEY")
        key = os.environ.get(self.key_variable, "")
        if not re.fullmatch("[!-~]+", key):
            rule = f"environment variable {self.key_variable} holds no key (printable ASCII without spaces)"
            raise InputError(f"key_variable {self.key_variable!r}", rule, f"set it: export {self.key_variable}=...")
        return key

    def _shown(self, words):
        """Foreign words as a message may repeat them: on one line, not all of them, and without the key."""
        line = " ".join(str(words).split())
        if self.key_variable:
            line = line.replace(self._key(), "(the key)")
        return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."

    def _check_url(self):
        """Raise InputError unless it is a plain http(s) address; what may hold a key is not shown."""
        url = self.url
        if re.search("[@?#]", url):
            given = f"url of {self.name} with one of @ ? #"
            raise InputError(given, "it holds no user, key or query", "use key_variable")
        try:
            parts = urlsplit(url)
            known = parts.scheme in ("http", "https") and parts.hostname.encode("idna") and parts.port != 0
        except (ValueError, AttributeError):  # a bad port or name; no name at all
            known = False
        if not known:
            rule = "it is the base address of an OpenAI-compatible server"
            raise InputError(f"url {url!r}", rule, "give one, e.g. http://localhost:8000/v1")


def text(words: str) -> dict:
    """A part of a question."""
    return {"type": "text", "text": words}


def picture(image: np.ndarray) -> dict:
    """A part of a question: a picture u8[h, w, 3]."""
    url = f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


class _UnansweredError(InputError):
    """A failure that may pass; the server wants to be left alone for `seconds`."""

    def __init__(self, value, rule, remedy, seconds=0.0):
        super().__init__(value, rule, remedy)
        self.seconds = seconds


def _wait(state):
    return max(_BACK_OFF(state), state.outcome.exception().seconds)


def _tell(state):
    logging.getLogger(__name__).warning(
        "%s; asking again in %.1f s", state.outcome.exception(), state.next_action.sleep
    )


def _seconds_asked_for(response):
    """What Retry-After says, in seconds or as a date; 0 where it says neither: the back-off is enough then."""
    text = response.headers.get("Retry-After", "")
    if text.isdecimal():
        return float(text)
    try:
        return parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return 0.0
