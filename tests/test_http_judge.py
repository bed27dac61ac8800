"""The judge behind a server, against a server that speaks the protocol: what is sent, and what is made of answers."""

import base64
import json
import logging
import random
import socket
import threading
import time
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from one_entry import entry
from PIL import Image
from small_rewards import PROMPTS, scenes, subject
from tenacity import wait_none

from narrative_jax import launch
from narrative_jax.core import chat
from narrative_jax.core.errors import InputError
from narrative_jax.core.records import Scene
from narrative_jax.rewards.base import ASPECTS, check_differentiable
from narrative_jax.rewards.http_judge import HttpJudge
from narrative_jax.runs.rewards import describe_reward, open_pure_reward, open_reward
from narrative_jax.stages import score

CONFIG = Path(__file__).parents[1] / "configs" / "score.py"
KEY = "sk-very/secret+key="


def completion(content):
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


def rating(*marks):
    return completion(json.dumps(dict(zip(ASPECTS, marks, strict=True))))


class Server(ThreadingHTTPServer):
    """Answers by `answer(request)`, (status, headers, text); keeps every request as (path, headers, JSON)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.requests, self.lock = lambda request: rating(7, 8, 9), [], threading.Lock()
        self.at_work = self.most_at_work = 0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def script(self, *answers):
        """These answers in turn, then ratings."""
        left = list(answers)
        self.answer = lambda request: left.pop(0) if left else rating(7, 8, 9)


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, dict(self.headers), request))
            self.server.at_work += 1
            self.server.most_at_work = max(self.server.most_at_work, self.server.at_work)
        status, headers, text = self.server.answer(request)
        with self.server.lock:
            self.server.at_work -= 1
        self.send_response(status)
        for name, value in {"Content-Length": str(len(text.encode())), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(chat, "_BACK_OFF", wait_none())
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def naps(monkeypatch):
    """The seconds that the judge would have slept."""
    slept = []
    monkeypatch.setattr("tenacity.nap.time.sleep", slept.append)
    return slept


@pytest.fixture
def judge(server):
    return HttpJudge(server.url, "small-vlm", tries=3, timeout_s=5)


def photos(request):
    """The pictures in a request, in order."""
    urls = [part["image_url"]["url"] for part in request["messages"][0]["content"] if part["type"] == "image_url"]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [np.array(Image.open(BytesIO(base64.b64decode(url.partition(",")[2])))) for url in urls]


def numbered(count):
    """Pictures whose first value is their number."""
    images = np.random.default_rng(0).integers(0, 256, (count, 6, 9, 3), np.uint8)
    images[:, 0, 0, 0] = range(count)
    return images


def ask(judge):
    """The judge's scores of one picture."""
    return judge.score_images(numbered(1), scenes(1), ["one"])


def test_scores_stand_in_the_order_of_the_pictures(server, judge):
    delays = random.Random(0)

    def answer(request):
        number = int(photos(request)[-1][0, 0, 0])
        time.sleep(delays.uniform(0, 0.03))
        return rating(number % 11, (number + 1) % 11, number // 11)

    server.answer = answer
    scores = replace(judge, at_once=4).score_images(numbered(24), scenes(*[1] * 24), [str(i) for i in range(24)])
    assert scores.dtype == np.float32
    expected = [[i % 11 / 10, (i + 1) % 11 / 10, i // 11 / 10] for i in range(24)]
    np.testing.assert_array_equal(scores, np.float32(expected))
    assert 1 < server.most_at_work <= 4


def test_what_is_sent(server, judge):
    named = replace(subject(3, images=2), name="Mara")
    plain = replace(subject(4, size=(13, 8)), name="dog", class_word="dog")
    image = numbered(1)
    judge.score_images(image, [Scene("s", "Mara walks a dog", [named, plain], "user")], ["s/0"])
    ((path, headers, request),) = server.requests
    assert path == "/v1/chat/completions" and "Authorization" not in headers
    assert (request["model"], request["temperature"]) == ("small-vlm", 0)
    sent, expected = photos(request), [*named.images, *plain.images, *image]
    assert len(sent) == len(expected) and all(map(np.array_equal, sent, expected))
    kinds = [part.get("text", "picture") for part in request["messages"][0]["content"]]
    assert kinds[1:3] == ["The prompt: Mara walks a dog", "Subject 1 (Mara, character):"]
    assert kinds[3:] == ["picture", "picture", "Subject 2 (dog):", "picture", "The picture to rate:", "picture"]
    assert all(aspect in kinds[0] for aspect in ASPECTS)
    schema = request["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == schema["required"] == list(ASPECTS)


def test_a_base_address_may_end_in_a_slash(server, judge):
    ask(replace(judge, url=server.url + "/"))
    assert server.requests[0][0] == "/v1/chat/completions"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, judge, caplog, status):
    server.script((status, {}, "come back later"), (status, {}, "come back later"))
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(ask(judge), np.float32([[0.7, 0.8, 0.9]]))
    assert len(server.requests) == 3
    told = [record.getMessage() for record in caplog.records if record.name == chat.__name__]
    assert len(told) == 2 and all(f"says {status} (come back later)" in line for line in told)


def test_a_server_that_stays_busy(server, judge):
    server.answer = lambda request: (503, {}, "the model\nis loading")
    with pytest.raises(InputError, match=r"says 503 \(the model is loading\): each question is asked up to 3 times"):
        ask(judge)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    "header, least, most",
    [("7", 7, 7), (lambda: formatdate(time.time() + 60, usegmt=True), 55, 60), ("soon", 0, 0), ("-5", 0, 0)],
)
def test_retry_after(server, judge, naps, header, least, most):
    server.script((429, {"Retry-After": header() if callable(header) else header}, ""))
    ask(judge)
    (slept,) = naps
    assert least <= slept <= most


def test_a_server_that_wants_to_be_left_alone_for_hours_is(server, judge, naps):
    server.script((429, {"Retry-After": "86400"}, ""))
    with pytest.raises(InputError, match="it wants to be left alone for 86400 s; run it again after that"):
        ask(judge)
    assert not naps and len(server.requests) == 1


def test_pauses_grow(server, judge, naps, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("tenacity.nap.time.sleep", naps.append)
    server.script(*[(500, {}, "")] * 4)
    ask(replace(judge, tries=5))
    assert all(2**n <= nap <= 2**n + 1 for n, nap in enumerate(naps)) and len(naps) == 4


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_a_refusal_is_final(server, judge, status):
    server.answer = lambda request: (status, {"Location": "/v1/elsewhere"}, '{"error": "no " }' + "x" * 999)
    with pytest.raises(InputError, match=rf"says {status} \(\{{\"error\": \"no \" \}}x+\.\.\.\): it refuses") as caught:
        ask(judge)
    assert len(server.requests) == 1 and len(str(caught.value)) < 500


def test_a_refusal_ends_the_batch(server, judge):
    server.answer = lambda request: (401, {}, "")
    with pytest.raises(InputError):
        replace(judge, at_once=2).score_images(numbered(60), scenes(*[1] * 60), [str(i) for i in range(60)])
    assert len(server.requests) < 60


MALFORMED = {
    "prose": completion("A fine picture: 7 of 10."),
    "nothing": completion(None),
    "parts": completion([{"type": "text", "text": "7"}]),
    "a list": completion("[7, 8, 9]"),
    "too few": completion(json.dumps(dict.fromkeys(ASPECTS[:2], 7))),
    "too many": completion(json.dumps(dict.fromkeys((*ASPECTS, "charm"), 7))),
    "too large": rating(7, 8, 11),
    "negative": rating(7, 8, -1),
    "a fraction": rating(7, 8, 8.5),
    "a text": rating(7, 8, "9"),
    "a bool": rating(7, 8, True),
    "cut off": completion('{"prompt_following": 7, "identity'),
    "no choice": (200, {}, '{"choices": []}'),
    "no completion": (200, {}, '"7"'),
    "no JSON": (200, {}, "<html>welcome</html>"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_answer_is_no_score(server, judge, kind):
    server.script(MALFORMED[kind])
    np.testing.assert_array_equal(ask(judge), np.float32([[0.7, 0.8, 0.9]]))
    assert len(server.requests) == 2
    server.answer = lambda request: MALFORMED[kind]
    with pytest.raises(InputError, match=r"answer of small-vlm on candidate 'one': .*it is a JSON object of"):
        ask(judge)
    assert len(server.requests) == 2 + 3


def test_what_it_said_instead_is_shown(server, judge):
    server.answer = lambda request: MALFORMED["prose"]
    with pytest.raises(InputError, match=r"A fine picture: 7 of 10\."):
        ask(judge)


def test_an_answer_that_takes_too_long(server, judge):
    ended = threading.Event()
    server.answer = lambda request: ended.wait(5) and rating(7, 8, 9)
    try:
        with pytest.raises(InputError, match=r"no answer from http.*timed out"):
            ask(replace(judge, timeout_s=0.05, tries=2))
    finally:
        ended.set()
    assert len(server.requests) == 2


@pytest.fixture
def closed(monkeypatch):
    """The address of a port where nobody listens."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(chat, "_BACK_OFF", wait_none())
    with socket.socket() as held:  # bound, so that nobody else takes it, but it does not listen
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}/v1"


def test_nobody_there(closed):
    with pytest.raises(InputError, match=r"no answer from http://127.*Connection refused\): .*up to 2 times; see that"):
        ask(HttpJudge(closed, "small-vlm", tries=2))


@pytest.fixture
def keyed(judge, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    return replace(judge, key_variable="JUDGE_KEY")


def test_the_key_is_sent_and_nowhere_else(server, keyed, tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    ask(keyed)
    ask(replace(keyed, key_variable=""))
    (_, first, request), (_, second, _) = server.requests
    assert first["Authorization"] == f"Bearer {KEY}" and "Authorization" not in second
    assert KEY not in json.dumps(request) and KEY not in repr(keyed)


@pytest.mark.parametrize(
    "answer", [(401, {}, f"wrong key {KEY}"), (503, {}, "x" * 290 + KEY), completion(f"your key is {KEY}")]
)
def test_a_server_that_repeats_the_key(server, keyed, caplog, answer):
    server.answer = lambda request: answer
    with pytest.raises(InputError) as caught:
        ask(keyed)
    for text in (str(caught.value), caplog.text):
        assert KEY not in text and KEY[:8] not in text
    assert "(the" in str(caught.value)


@pytest.mark.parametrize("value", [None, "", "two words", f"{KEY}\n", "schlüssel"])
def test_a_missing_or_broken_key(monkeypatch, value):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(InputError, match=r"key_variable 'JUDGE_KEY': .* holds no key.*export JUDGE_KEY=") as caught:
        HttpJudge("http://localhost:8000/v1", "small-vlm", "JUDGE_KEY")
    assert not value or value.strip() not in str(caught.value)


def test_a_key_in_place_of_its_variable():
    with pytest.raises(InputError, match="not the key; name one") as caught:
        HttpJudge("http://localhost:8000/v1", "small-vlm", KEY)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"url": ""}, "url ''.*base address.*e.g. http://localhost:8000/v1"),
        ({"url": "localhost:8000/v1"}, "url 'localhost:8000/v1'"),
        ({"url": "ftp://localhost/v1"}, "url 'ftp://localhost/v1'"),
        ({"url": "http:///v1"}, "url 'http:///v1'"),
        ({"url": "http://[::1/v1"}, "url 'http://"),
        ({"url": "http://localhost:99999/v1"}, "url 'http://localhost:99999/v1'"),
        ({"url": f"http://{'a' * 64}/v1"}, "url 'http://aaa"),
        ({"url": "http://me:secret@localhost/v1"}, "url of http_judge with one of @ [?] #"),
        ({"url": "http://localhost/v1?key=secret"}, "url of http_judge with one of @ [?] #"),
        ({"model": ""}, "model ''"),
        ({"timeout_s": 0}, "timeout_s 0"),
        ({"timeout_s": float("inf")}, "timeout_s inf"),
        ({"tries": 0}, "tries 0: tries is an integer ≥ 1"),
        ({"at_once": 2.0}, "at_once 2.0: at_once is an integer ≥ 1"),
    ],
)
def test_bad_options(options, said):
    with pytest.raises(InputError, match=said) as caught:
        HttpJudge(**{"url": "http://localhost:8000/v1", "model": "small-vlm", **options})
    assert "secret" not in str(caught.value)


def test_a_scene_without_subjects_is_not_sent(server, judge):
    with pytest.raises(InputError, match="scene '1' without subjects"):
        judge.score_images(numbered(2), scenes(1, 0), ["a", "b"])
    assert not server.requests


def test_it_is_refused_in_a_loss():
    options = {"url": "http://localhost:8000/v1", "model": "small-vlm"}
    with pytest.raises(InputError, match="reward 'http_judge' in a loss"):
        check_differentiable(HttpJudge(**options))
    section = {"stage": "train", "reward": "http_judge", "http_judge": options}
    with pytest.raises(InputError, match="reward 'http_judge' in a loss"):
        open_pure_reward(entry({"train": section}, "train"))
    section = {"stage": "score", "reward": "per_aspect", "per_aspect": dict.fromkeys(ASPECTS, "http_judge")}
    with pytest.raises(InputError, match="unknown pure reward 'http_judge'"):
        describe_reward(entry({"score": section | {"http_judge": options}}, "score"))


def test_options_stand_under_its_name():
    options = {"url": "http://localhost:8000/v1", "model": "small-vlm", "at_once": 3}
    section = {"stage": "score", "reward": "http_judge", "http_judge": options}
    assert open_reward(entry({"score": section}, "score")) == HttpJudge(**options)
    section["http_judge"]["retries"] = 3
    with pytest.raises(InputError, match=r"unknown option of score.http_judge 'retries'.*did you mean 'tries'"):
        describe_reward(entry({"score": section}, "score"))


def run(url, *flags):
    where = (f"--config={CONFIG}:judge", "--config.collect.pictures=mine.jsonl", "--workdir=run")
    judge = (f"--config.judge.http_judge.url={url}", "--config.judge.http_judge.model=small-vlm")
    return launch.main([*where, *judge, "--config.judge.http_judge.tries=2", *flags])


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """Five pictures with prompts and one subject's photo, in mine.jsonl of the working directory."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(subject(3).images[0]).save("mara.png")
    images, lines = numbered(5), []
    for number, image in enumerate(images):
        Image.fromarray(image).save(f"{number}.png")
        subjects = [{"name": "Mara", "class_word": "character", "images": ["mara.png"]}]
        lines.append({"id": f"x{number}", "prompt": PROMPTS[0], "picture": f"{number}.png", "subjects": subjects})
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return images


@pytest.mark.parametrize("chunk", [2, 5])
def test_the_command(server, mine, monkeypatch, capsys, chunk):
    """Ends early where the server refuses; the same command goes on without asking twice, also about what was rated
    beside the refused one.
    """
    monkeypatch.setattr(score, "_CHUNK", chunk)
    monkeypatch.setenv("JUDGE_KEY", KEY)
    seen, refused = [], []

    def answer(request):
        number = int(photos(request)[-1][0, 0, 0])
        if number == 4 and not refused:
            refused.append(number)
            return 401, {}, f"no more credit for {KEY}"
        seen.append(number)
        return rating(number, 10, 0)

    server.answer = answer
    assert run(server.url, "--config.judge.http_judge.key_variable=JUDGE_KEY") == 2
    assert "says 401 (no more credit for (the key)): it refuses" in capsys.readouterr().err
    assert sorted(seen) == [0, 1, 2, 3] and refused
    assert run(server.url, "--config.judge.http_judge.key_variable=JUDGE_KEY") == 0
    assert sorted(seen) == [0, 1, 2, 3, 4]
    table = pq.read_table("run/table/scores.parquet").to_pydict()
    assert list(table) == ["id", "prompt", *ASPECTS] and table["id"] == [f"x{i}" for i in range(5)]
    np.testing.assert_allclose(table["prompt_following"], [0, 0.1, 0.2, 0.3, 0.4], atol=1e-6)
    assert table["identity_consistency"] == [1] * 5 and table["visual_quality"] == [0] * 5
    assert "5 pictures: run/table/scores.parquet" in capsys.readouterr().out
    assert not [file for file in Path("run").rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


def test_the_command_without_a_server(closed, mine, capsys):
    assert run(closed) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "Connection refused): each question is asked up to 2 times; see that it runs" in told


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--config.judge.http_judge.url="], "url '': it is the base address"),
        (["--config.judge.http_judge.key_variable=NO_SUCH_KEY"], "NO_SUCH_KEY holds no key"),
        (["--config.judge.http_judge.modl=a"], "did you mean 'judge.http_judge.model'"),
    ],
)
def test_bad_flags_end_before_anything_is_written(mine, monkeypatch, capsys, flags, said):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    assert run("http://localhost:8000/v1", *flags) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1 and not Path("run").exists()
