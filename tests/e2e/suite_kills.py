"""SIGKILL to the engine while streams run: they pause, go on, and say what they would have said."""
import os
import random
import signal
import threading
import time

from harness import check, equal, run_parallel

OPTIONS = ("--max-seqs", "16")
KILLS_OF_ONE = 4  # deaths of one daemon's engine: the fifth in 10 minutes gives it up


def make_requests():
    shared = "A tale that begins the same way every time. " * 8
    return [("/v1/chat/completions" if i % 3 == 0 else "/v1/completions", {
        "model": "test-model", "max_tokens": 60, "seed": i, "temperature": (0, 0.9)[i % 2],
        "ignore_eos": True,
        **({"messages": [{"role": "user", "content": f"Tell me about the number {i}"}]} if i % 3 == 0
           else {"prompt": (shared if i % 2 else "") + f"Chapter {i}:"})}) for i in range(12)]


def wait_engine(c, old):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pid = c.server.engine_pid()
        if pid and pid != old and c.server.get("/readyz")[0] == 200:
            return
        time.sleep(0.02)
    check(False, "no new engine after a kill")


def kill_once(c, requests, calm, wait_s, what):
    """Kills the engine after wait_s under all requests.  Seconds until it is ready again."""
    pid, pause = c.server.engine_pid(), []
    check(pid > 0, "no engine process")

    def kill():
        time.sleep(wait_s)
        os.kill(pid, signal.SIGKILL)
        start = time.monotonic()
        wait_engine(c, pid)
        pause.append(time.monotonic() - start)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        got = run_parallel([lambda q=q: c.server.stream_text(*q) for q in requests])
    finally:
        killer.join()
    check(pause, "the engine was not started again")
    for i, (a, b) in enumerate(zip(got, calm)):
        equal(a, b, f"{what}, stream {i}")
    return pause[0]


def await_ready(c, want, seconds):
    start = time.monotonic()
    while c.server.get("/readyz")[0] != want:
        check(time.monotonic() - start < seconds, "/readyz is not", want, "after", seconds, "s")
        time.sleep(0.02)
    return time.monotonic() - start


def test_an_engine_that_is_stopped_is_not_ready(c):
    pid = c.server.engine_pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        c.say(f"not ready {await_ready(c, 503, 3):.2f} s after a stop")
        check("does not run" in c.server.get("/readyz")[1], c.server.get("/readyz")[1])
        equal(c.server.get("/livez")[0], 200, "/livez")
    finally:
        os.kill(pid, signal.SIGCONT)
    await_ready(c, 200, 3)
    equal(c.server.engine_pid(), pid, "engine pid")


def test_signals_that_mean_nothing_do_nothing(c):
    for s in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGWINCH, signal.SIGPIPE,
              signal.SIGCHLD):
        for _ in range(100):
            os.kill(c.server.pid, s)
    time.sleep(0.1)
    equal(c.server.get("/readyz")[0], 200, "/readyz after signals")


def test_streams_survive_kills_of_the_engine(c):
    requests = make_requests()
    calm = [c.server.stream_text(*q) for q in requests]
    r, pauses = random.Random(5), []
    for trial in range(c.options.kills):
        if trial and trial % KILLS_OF_ONE == 0:
            c.restart()
        pauses.append(kill_once(c, requests, calm, r.random() * 1.2, f"trial {trial}"))
        want = trial % KILLS_OF_ONE + 1
        equal(c.server.metric("inferd_engine_restarts_total"), want, "restarts")
        equal(c.server.metric("inferd_invariant_faults_total"), 0, "invariant faults")
    first = sorted(pauses[::KILLS_OF_ONE]) # the later ones wait longer, by the back-off
    c.say(f"{len(pauses)} kills, {len(pauses) * len(requests)} streams byte-equal; after a first kill "
          f"ready again in {first[len(first) // 2]:.2f} s (median), {first[-1]:.2f} s (most)")
