"""A vision-language model behind a server as the judge: vLLM, Ollama, LM Studio and hosted ones speak this protocol."""

import base64
import json
import logging
import os
import re
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import isfinite
from numbers import Real
from typing import ClassVar
from urllib.parse import urlsplit

import numpy as np
import requests
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from narrative_jax.core.errors import InputError, check_count
from narrative_jax.core.images import png
from narrative_jax.core.records import Scene
from narrative_jax.core.types import Pictures
from narrative_jax.rewards.base import ASPECTS

_MOST = 10  # the best rating; the worst is 0
_QUESTION = f"""An image generator drew the last picture below, for a prompt and subjects shown in reference pictures.
Rate it on three aspects, each by an integer from 0 (it fails) to {_MOST} (nothing could be better):
- prompt_following: who and how many are there, what they do, where, and in which style, as the prompt says.
- identity_consistency: each subject looks as in its reference pictures, without features of another subject;
  pasting a reference picture in is a failure.
- visual_quality: clean, with whole bodies and a good composition, whatever the prompt and the subjects are.
Answer with a JSON object of these three integers alone."""
_RATING = {
    "type": "object",
    # Listed, since several servers refuse "minimum" and "maximum" in a schema.
    "properties": {aspect: {"type": "integer", "enum": list(range(_MOST + 1))} for aspect in ASPECTS},
    "required": list(ASPECTS),
    "additionalProperties": False,
}
_BACK_OFF = wait_exponential_jitter(initial=1, max=60)
_LONGEST = 600.0  # seconds that a stage sleeps through for a server: it cannot be stopped meanwhile
_SHOWN = 300  # characters of a server's words that a message repeats


@dataclass(frozen=True)
class HttpJudge:
    """Scores in [0, 1] by the `model` of an OpenAI-compatible server at `url`, such as http://localhost:8000/v1.

    `key_variable`: the environment variable that holds the API key; "" sends none. An answer may take `timeout_s`; each
    picture is sent up to `tries` times, `at_once` of them at a time. Raises InputError for bad options and a missing
    key.
    """

    name: ClassVar[str] = "http_judge"
    aspects: ClassVar[tuple[str, ...]] = ASPECTS
    differentiable: ClassVar[bool] = False
    needs_facts: ClassVar[bool] = False

    url: str
    model: str
    key_variable: str = ""
    timeout_s: float = 120.0
    tries: int = 6
    at_once: int = 8

    def __post_init__(self):
        _check_url(self.url)
        if not self.model:
            raise InputError("model ''", "http_judge asks a model by name", "give one that the server has")
        if not isinstance(self.timeout_s, Real) or not isfinite(self.timeout_s) or self.timeout_s <= 0:
            raise InputError(f"timeout_s {self.timeout_s!r}", "timeout_s is a number > 0", "give seconds, e.g. 120")
        check_count("tries", self.tries, minimum=1)
        check_count("at_once", self.at_once, minimum=1)
        self._key()

    def score_images(self, images: Pictures, scenes: Sequence[Scene], candidate_ids: Sequence[str]) -> np.ndarray:
        """Scores f32[b, 3]; see `HostReward`.

        Raises InputError for a scene without subjects, and where the server cannot be reached, refuses, or does not
        answer as asked.
        """
        for scene in scenes:
            if not scene.subjects:
                rule = "identity is rated against subjects' pictures"
                raise InputError(f"scene {scene.id!r} without subjects", rule, "give subjects")
        with ThreadPoolExecutor(self.at_once) as threads:  # the first failure cancels what has not begun
            ratings = list(threads.map(self._rate, images, scenes, candidate_ids))
        return np.float32(ratings) / _MOST

    def _rate(self, image, scene, candidate_id):
        """The rating of one picture, a number for each aspect, asked for until it comes or the tries are used up."""
        until = Retrying(
            retry=retry_if_exception_type(_UnansweredError),
            stop=stop_after_attempt(self.tries),
            wait=_wait,
            before_sleep=_tell,
            reraise=True,
        )
        return until(self._ask, self._request(image, scene), candidate_id)

    def _request(self, image, scene):
        content = [_text(_QUESTION), _text(f"The prompt: {scene.prompt}")]
        for number, subject in enumerate(scene.subjects, start=1):
            words = ", ".join(dict.fromkeys((subject.name, subject.class_word)))  # the one stands in for the other
            content += [_text(f"Subject {number} ({words}):"), *map(_picture, subject.images)]
        content += [_text("The picture to rate:"), _picture(image)]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "rating", "strict": True, "schema": _RATING},
            },
        }

    def _ask(self, request, candidate_id):
        """Raises _UnansweredError where it may help to ask again, InputError where it cannot."""
        url = f"{self.url.rstrip('/')}/chat/completions"
        limit = f"a picture is sent up to {self.tries} times"
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
        return self._rating(response, candidate_id, limit)

    def _rating(self, response, candidate_id, limit):
        """The numbers in an answer, in the order of the aspects. Raises _UnansweredError."""
        said, rating = response.text, None
        try:
            said = response.json()["choices"][0]["message"]["content"]
            rating = json.loads(said)
        except (ValueError, LookupError, TypeError):
            pass  # no completion, or no JSON in it: no rating, as below
        if not isinstance(rating, dict) or set(rating) != set(ASPECTS) or not all(map(_is_mark, rating.values())):
            value = f"answer of {self.model} on candidate {candidate_id!r}: {self._shown(said)}"
            rule = f"it is a JSON object of {', '.join(ASPECTS)}, each an integer from 0 to {_MOST}; {limit}"
            raise _UnansweredError(value, rule, "take a model and a server with structured output")
        return [rating[aspect] for aspect in ASPECTS]

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
            raise InputError("key_variable of http_judge", rule, "name one, e.g. OPENAI_API_KEY")
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


def _is_mark(value):
    return type(value) is int and 0 <= value <= _MOST  # a bool is an int too


def _text(text):
    return {"type": "text", "text": text}


def _picture(image):
    url = f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def _check_url(url):
    """Raise InputError unless it is a plain http(s) address; what may hold a key is not shown."""
    if re.search("[@?#]", url):
        raise InputError("url of http_judge with one of @ ? #", "it holds no user, key or query", "use key_variable")
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname.encode("idna") and parts.port != 0
    except (ValueError, AttributeError):  # a bad port or name; no name at all
        known = False
    if not known:
        rule = "it is the base address of an OpenAI-compatible server"
        raise InputError(f"url {url!r}", rule, "give one, e.g. http://localhost:8000/v1")
