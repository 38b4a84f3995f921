"""Faults of ranks at random moments, under streams: a rank is killed, stopped, paused, slowed, or loses its
whole `inferd serve`. All ranks are down in time, the group starts again, and every stream says what
it said undisturbed, or ends with one error that says why."""
import json
import os
import random
import signal
import threading
import time

from harness import Failure, check, equal
from rank_group import RANKS, Group, is_gone

STREAMS = 8
ALL_DOWN_S = 10
READY_S = 60
OPTIONS = ("--tensor-parallel", str(RANKS), "--kv-memory", "64MiB")
GROUP = ("--kv-memory", "64MiB", "--engine-deaths-max", "-1", "--engine-backoff-ms", "1")
REQUESTS = [("/v1/completions", {"model": "test-model", "prompt": f"Chapter {i}:",
                                 "max_tokens": 24 + i, "seed": i, "temperature": (0, 0.9)[i % 2],
                                 "ignore_eos": True})
            for i in range(3 * STREAMS)]


def outcome(server, request, hear):
    """(text, finish reason) of a stream, or ("error", its message) of one that ends with an error."""
    text, finish, end = "", None, None
    for data in server.stream(*request):
        check(end is None, "an event after the end:", data)
        hear()
        if data == "[DONE]":
            end = text, finish
            continue
        event = json.loads(data)
        if "error" in event:
            check(event["error"]["message"] and event["error"]["code"], "an error that says nothing:",
                  data)
            end = "error", event["error"]["message"]
            continue
        text += event["choices"][0]["text"]
        finish = event["choices"][0]["finish_reason"] or finish
    check(end is not None, "a stream was cut after", repr(text[-100:]))
    return end


class Load:
    """STREAMS clients, each with one stream after another."""

    def __init__(self, server, calm):
        self.server, self.calm = server, calm
        self.heard = [0] * STREAMS
        self.n_equal = self.n_errors = 0
        self.lock = threading.Lock()
        self.error = None
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(i,)) for i in range(STREAMS)]

    def run(self, client):
        def hear():
            self.heard[client] += 1
        turn = client
        try:
            while not self.stopping.is_set():
                n = turn % len(REQUESTS)
                end = outcome(self.server, REQUESTS[n], hear)
                with self.lock:
                    self.n_errors += end[0] == "error"
                    self.n_equal += end[0] != "error"
                if end[0] != "error":
                    equal(end, self.calm[n], "client", client, "request", n)
                turn += 7
        except Exception as e:
            self.error = self.error or e
            self.stopping.set()

    def check(self):
        if self.error:
            raise Failure(f"after {self.n_equal} streams: {self.error}")

    def await_news(self, seconds):
        """Until every stream has moved by two events: who is in flight at two deaths in a row fails."""
        before, end = list(self.heard), time.monotonic() + seconds
        while any(now < then + 2 for now, then in zip(self.heard, before)):
            self.check()
            check(time.monotonic() < end, "a stream did not go on within", seconds, "s")
            time.sleep(0.01)

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, *exc):
        self.stopping.set()
        for t in self.threads:
            t.join()


def send(pid, sig):
    try:
        os.kill(pid, sig)
    except ProcessLookupError:
        pass


def kill(group, pids, r):
    send(r.choice(pids), signal.SIGKILL)


def stop(group, pids, r):
    send(r.choice(pids), signal.SIGSTOP)


def pause(group, pids, r):
    """For less than it takes to be given up, or for more."""
    pid = r.choice(pids)
    send(pid, signal.SIGSTOP)
    end = time.monotonic() + 0.2 + 7 * r.random()
    while time.monotonic() < end and not any(is_gone(p) for p in pids):
        time.sleep(0.01)
    send(pid, signal.SIGCONT)


def slow(group, pids, r):
    """A tenth of its speed."""
    pid, end = r.choice(pids), time.monotonic() + 6
    while time.monotonic() < end and not any(is_gone(p) for p in pids):
        send(pid, signal.SIGSTOP)
        time.sleep(0.09)
        send(pid, signal.SIGCONT)
        time.sleep(0.01)


def lose(group, pids, r):
    """The process that a launcher would start again."""
    rank = r.randrange(1, RANKS)
    group.others[rank].kill()
    group.others[rank].wait()
    group.await_down(pids, ALL_DOWN_S)
    group.start(rank)


KINDS = {kill: 8, stop: 3, pause: 4, slow: 3, lose: 2}
MAY_GO_ON = (pause, slow)


def trial(group, load, r):
    """(kind, seconds until all were down, 0 when nothing had to end, seconds until ready again)"""
    kind = r.choices(list(KINDS), KINDS.values())[0]
    pids, start = group.engine_pids(), time.monotonic()
    kind(group, pids, r)
    if kind in MAY_GO_ON and not any(is_gone(pid) for pid in pids):
        try: # what was struck may still be found wanting
            load.await_news(3)
            if not any(is_gone(pid) for pid in pids):
                return kind.__name__, 0, 0
        except Failure:
            load.check()
    begin = start if kind not in MAY_GO_ON else time.monotonic()
    group.await_down(pids, ALL_DOWN_S)
    down = time.monotonic() - begin
    check(down < ALL_DOWN_S, kind.__name__, "all down only after", down, "s")
    return kind.__name__, down, group.await_ready(READY_S)


def describe(c, transport, done, load):
    for kind in KINDS:
        rows = [row for row in done if row[0] == kind.__name__]
        down = sorted(row[1] for row in rows if row[1])
        ready = sorted(row[2] for row in rows if row[1])
        if down:
            c.say(f"{transport}, {kind.__name__}: {len(rows)}, of them {len(down)} restarts; all down "
                  f"after {down[len(down) // 2]:.2f} s (median), {down[-1]:.2f} s (most); ready "
                  f"{ready[len(ready) // 2]:.2f} s later (median), {ready[-1]:.2f} s (most)")
        elif rows:
            c.say(f"{transport}, {kind.__name__}: {len(rows)}, none of them a restart")
    c.say(f"{transport}: {load.n_equal} streams byte-equal, {load.n_errors} ended with an error")


def run_trials(c, transport, n):
    calm = [outcome(c.server, q, lambda: None) for q in REQUESTS]
    seed, done = random.randrange(1 << 32), []
    r = random.Random(seed)
    with Group(c.options, *GROUP, "--rank-transport", transport) as group:
        try:
            with Load(group.first, calm) as load:
                load.await_news(60)
                while len(done) < n:
                    time.sleep(r.random() * 0.4)
                    load.check()
                    done.append(trial(group, load, r))
                    load.await_news(60)
                    if len(done) % 25 == 0:
                        c.say(f"{transport}: {len(done)} faults, {load.n_equal} streams byte-equal")
            load.check()
            group.first.wait_idle()
            equal(group.first.metric("inferd_invariant_faults_total"), 0, "invariant faults")
            group.stop()
        except Exception as e:
            raise Failure(f"seed {seed}, after {len(done)} faults, the last {done[-1:]}: {e}\n"
                          f"{group.tails()}")
    describe(c, transport, done, load)


def test_streams_survive_faults_of_ranks_over_tcp(c):
    run_trials(c, "socket", (c.options.faults + 1) // 2)


def test_streams_survive_faults_of_ranks_in_shared_memory(c):
    run_trials(c, "shared", c.options.faults // 2)
