"""The same request gives the same bytes, alone or among many, and many together are worth it."""
import random
import time

from harness import check, equal, run_parallel

# Long prompts are prefilled in several chunks, beside sequences that decode.
OPTIONS = ("--max-seqs", "32", "--max-step-tokens", "256", "--prefill-chunk", "96")
URL = "/v1/completions"


def ask(server, body):
    status, answer = server.post(URL, dict(body, model="test-model"))
    equal(status, 200, answer)
    return [(x["text"], x["finish_reason"], x["logprobs"]) for x in answer["choices"]]


def make_requests(n):
    """Requests of every kind: short, long, with a shared beginning, greedy, sampled, penalized."""
    r = random.Random(7)
    words = "river stone light winter engine garden paper signal market ocean".split()
    shared = "You are reading the minutes of a meeting. " * 12
    requests = []
    for i in range(n):
        text = " ".join(r.choice(words) for _ in range(r.choice((4, 20, 150, 400))))
        if i % 3 == 0:
            text = shared + text
        body = {"prompt": text, "max_tokens": r.randint(8, 40), "seed": i}
        body["temperature"] = r.choice((0, 0.7, 1.2))
        if i % 4 == 1:
            body.update(top_p=0.9, top_k=50)
        if i % 5 == 2:
            body.update(repetition_penalty=1.2, frequency_penalty=0.5)
        if i % 6 == 3:
            body.update(logprobs=3)
        if i % 8 == 5:
            body.update(stop=["\n", "the"])
        requests.append(body)
    return requests


def test_32_together_equal_each_alone(c):
    requests = make_requests(32)
    alone = [ask(c.server, body) for body in requests]
    for turn in range(3):
        order = list(range(len(requests)))
        random.Random(turn).shuffle(order)
        together = run_parallel([lambda i=i: ask(c.server, requests[i]) for i in order])
        for i, got in zip(order, together):
            equal(got, alone[i], f"turn {turn}, request {i}")
    c.say("3 x 32 requests, byte-equal to each alone, with their log-probabilities")


def test_streams_together_equal_each_alone(c):
    requests = [dict(b, model="test-model") for b in make_requests(24)]
    alone = [c.server.stream_text(URL, body) for body in requests]
    together = run_parallel([lambda b=b: c.server.stream_text(URL, b) for b in requests])
    for i, (got, want) in enumerate(zip(together, alone)):
        equal(got, want, f"stream {i}")


def test_a_cached_prefix_changes_nothing(c):
    body = {"prompt": "The same long beginning, word by word. " * 30 + "And then", "max_tokens": 24,
            "temperature": 0.8, "seed": 3, "logprobs": 2}
    cold = ask(c.server, dict(body, cache_salt="cold"))
    for _ in range(3):
        equal(ask(c.server, dict(body, cache_salt="warm")), cold, "with a warm cache")


def test_32_streams_are_faster_than_one(c):
    body = {"model": "test-model", "prompt": "Count to a hundred: one,", "max_tokens": 64,
            "temperature": 0, "ignore_eos": True}
    run = lambda: c.server.stream_text(URL, body)
    run()
    ones, manys = [], []
    for _ in range(3):
        start = time.monotonic()
        run()
        ones.append(64 / (time.monotonic() - start))
        start = time.monotonic()
        run_parallel([run] * 32)
        manys.append(32 * 64 / (time.monotonic() - start))
    one, many = max(ones), max(manys)
    c.say(f"1 stream {one:.0f} tokens/s, 32 streams {many:.0f} tokens/s: {many / one:.2f} times")
    check(many >= 3 * one, f"32 streams are only {many / one:.2f} times one")
