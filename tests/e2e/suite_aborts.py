"""Clients that leave, in storms and at random: everything they held is free again at once."""
import json
import random
import socket
import threading
import time

from harness import KEY, Canary, check, equal

# A hundred streams of up to three choices must find place in the queue beside the canary.
OPTIONS = ("--max-seqs", "32", "--queue-max", "512", "--log-requests", "off")


def open_stream(server, i, max_tokens=400):
    n = 1 + i % 3
    body = json.dumps({"model": "test-model", "prompt": f"Story {i}: " + "once upon a time " * (i % 40),
                       "max_tokens": max_tokens, "stream": i % 5 != 0, "ignore_eos": True, "n": n,
                       "logprobs": i % 4 if i % 2 else None, "echo": i % 7 == 0}).encode()
    s = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    s.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n"
              f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return s


def leave(s, hard):
    if hard: # RST instead of FIN
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    s.close()


def wait_baseline(c, fds):
    c.server.wait_idle(30)
    c.server.wait_fds(fds)
    equal(c.server.metric("inferd_invariant_faults_total"), 0, "invariant faults")
    before = c.server.metric("process_cpu_seconds_total")
    time.sleep(2) # a timer or handle that was left behind would show
    spent = c.server.metric("process_cpu_seconds_total") - before
    check(spent < 0.02, "the front is idle, and took", spent, "s of CPU in 2 s")


def storm(c, first, n, seed):
    r = random.Random(seed)
    for i in range(first, first + n):
        s = open_stream(c.server, i)
        what = r.random()
        if what < 0.3:
            time.sleep(r.random() * 0.05)
        elif what < 0.7:
            s.settimeout(r.random() * 0.3 + 0.001)
            try:
                for _ in range(r.randint(1, 20)):
                    if not s.recv(r.choice((1, 100, 4096))):
                        break
            except (socket.timeout, ConnectionResetError):
                pass
        leave(s, r.random() < 0.5)


def test_a_storm_at_once(c):
    """All of a round are open, then all leave in the same moment."""
    fds = c.server.open_fds()
    rounds = max(1, c.options.aborts // 400)
    with Canary(c.server):
        for turn in range(rounds):
            streams = [open_stream(c.server, turn * 100 + i) for i in range(100)]
            time.sleep(0.3)
            for i, s in enumerate(streams):
                leave(s, i % 2)
    wait_baseline(c, fds)
    c.say(rounds, "rounds of 100")


def test_random_disconnects(c):
    fds = c.server.open_fds()
    with Canary(c.server):
        storm(c, 0, 30, 99)
        rss = c.server.rss_kib()
        n = c.options.aborts // 8
        threads = [threading.Thread(target=storm, args=(c, 1000 * k, n, k)) for k in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    wait_baseline(c, fds)
    grown = c.server.rss_kib() - rss
    c.say(f"{8 * n} disconnects, memory of the front grew by {grown} KiB")
    check(grown < 64 * 1024, "the front grew by", grown, "KiB")
    m = c.server.metrics()
    finished = sum(v for k, v in m.items() if k.startswith("inferd_requests_finished_total"))
    check(finished > 0, "nothing was counted")


def test_one_stream_cut_at_every_chunk(c):
    fds = c.server.open_fds()
    for n in range(25):
        s = open_stream(c.server, 1, max_tokens=24)
        got = b""
        while got.count(b"data: ") < n:
            more = s.recv(256)
            if not more:
                break
            got += more
        leave(s, n % 2)
    wait_baseline(c, fds)
