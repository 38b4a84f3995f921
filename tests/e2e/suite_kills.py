"""SIGKILL to the engine while streams run: they pause, go on, and say what they would have said."""
import os
import random
import signal
import threading
import time

from harness import Failure, check, equal

STREAMS = 32
OPTIONS = ("--max-seqs", str(STREAMS), "--engine-deaths-max", "-1", "--engine-backoff-ms", "1")


def make_requests():
    shared = "A tale that begins the same way every time. " * 4
    return [("/v1/chat/completions" if i % 3 == 0 else "/v1/completions", {
        "model": "test-model", "max_tokens": 24 + i, "seed": i, "temperature": (0, 0.9)[i % 2],
        "ignore_eos": True,
        **({"messages": [{"role": "user", "content": f"Tell me about the number {i}"}]} if i % 3 == 0
           else {"prompt": (shared if i % 4 == 1 else "") + f"Chapter {i}:"})}) for i in range(STREAMS)]


class Load:
    """STREAMS clients, each with one stream after another; every stream says what it said calmly."""

    def __init__(self, server, requests, calm):
        self.server = server
        self.requests = requests
        self.calm = calm
        self.heard = [0] * STREAMS # events of each client, over all its streams
        self.n_streams = 0
        self.error = None
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(STREAMS)]

    def run(self, client):
        def hear(_):
            self.heard[client] += 1
        try:
            turn = client
            while not self.stopping.is_set():
                n = turn % len(self.requests)
                equal(self.server.stream_text(*self.requests[n], on_event=hear), self.calm[n],
                      f"client {client}, request {n}")
                self.n_streams += 1 # only counted: a lost update is no harm
                turn += 7
        except Exception as e:
            self.error = self.error or e
            self.stopping.set()

    def await_news(self, seconds):
        """Until every stream has moved.  One event may have been on its way before; two cannot:
        whoever is in flight at two deaths in a row is failed, and rightly."""
        before, end = list(self.heard), time.monotonic() + seconds
        while any(now < then + 2 for now, then in zip(self.heard, before)):
            self.check()
            check(time.monotonic() < end, "a stream did not go on within", seconds, "s")
            time.sleep(0.01)

    def check(self):
        if self.error:
            raise Failure(f"after {self.n_streams} streams: {self.error}")

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *exc):
        self.stopping.set()
        for t in self.threads:
            t.join()


def wait_engine(c, old, ready):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        pid = c.server.engine_pid()
        if pid and pid != old and (not ready or c.server.get("/readyz")[0] == 200):
            return pid
        time.sleep(0.002)
    check(False, "no new engine after a kill")


def kill_once(c, while_it_loads):
    """Kills the engine, maybe its successor too before it is ready.  (Kills, seconds until ready.)"""
    pid, n = c.server.engine_pid(), 1
    check(pid > 0, "no engine process")
    os.kill(pid, signal.SIGKILL)
    start = time.monotonic()
    if while_it_loads:
        pid, n = wait_engine(c, pid, ready=False), 2
        os.kill(pid, signal.SIGKILL)
    wait_engine(c, pid, ready=True)
    return n, time.monotonic() - start


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
    r, pauses, deaths = random.Random(5), [], 0
    c.server.wait_idle()
    fds = c.server.open_fds()
    with Load(c.server, requests, calm) as load:
        load.await_news(120)
        rss = c.server.rss_kib()
        while len(pauses) < c.options.kills:
            time.sleep(r.random() * 0.4)
            load.check()
            n, pause = kill_once(c, while_it_loads=r.random() < 0.1)
            deaths += n
            pauses.append(pause)
            load.await_news(120)
            if len(pauses) % 50 == 0:
                c.say(f"{len(pauses)} kills, {load.n_streams} streams byte-equal")
    load.check()
    c.server.wait_idle()
    equal(c.server.metric("inferd_engine_restarts_total"), deaths, "deaths of the engine")
    equal(c.server.metric("inferd_invariant_faults_total"), 0, "invariant faults")
    c.server.wait_fds(fds)
    grown = c.server.rss_kib() - rss
    check(grown < 32 * 1024, "the front grew by", grown, "KiB")
    carried = int(c.server.metric("inferd_replays_total"))
    pauses.sort()
    c.say(f"{deaths} deaths, {load.n_streams} streams byte-equal, carried over {carried} times; ready "
          f"again in {pauses[len(pauses) // 2]:.2f} s (median), {pauses[-1]:.2f} s (most); the front "
          f"grew by {grown} KiB")
