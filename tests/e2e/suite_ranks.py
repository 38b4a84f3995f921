"""A model divided among three ranks: threads of one engine, and processes as a launcher starts them;
and its layers among three stages.

The suite's own daemon has its ranks as threads; what it says is what the processes must say, also
when one of them is killed or stopped meanwhile."""
import os
import signal
import subprocess
import threading
import time

import harness
from harness import check, equal

RANKS = 3
MEMORY = ("--kv-memory", "64MiB")
OPTIONS = ("--tensor-parallel", str(RANKS), *MEMORY)
STAGES = ("--layer-split", str(RANKS), *MEMORY)
REQUESTS = [("/v1/completions", {"model": "test-model", "prompt": f"Chapter {i}:", "max_tokens": 60,
                                 "seed": i, "temperature": (0, 0.9)[i % 2], "ignore_eos": True})
            for i in range(4)]


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return [int(p) for p in f.read().split()]


class Group:
    """RANKS processes with the environment of torchrun; the first one is a harness.Server."""

    def __init__(self, options, flags=OPTIONS):
        self.logs, self.others = [], []
        self.env = {"WORLD_SIZE": str(RANKS), "MASTER_PORT": str(harness.free_port())}
        for rank in range(1, RANKS):
            self.logs.append(open(f"/tmp/inferd-e2e-rank-{os.getpid()}-{rank}", "w+"))
            self.others.append(subprocess.Popen(
                [options.binary, "serve", "--model", options.model, *flags],
                env={**os.environ, **self.env, "RANK": str(rank)}, stderr=self.logs[-1]))
        before = dict(os.environ)
        os.environ.update(self.env, RANK="0")
        try:
            self.first = harness.Server(options.binary, options.model, *flags)
        except harness.Failure:
            self.kill()
            raise
        finally:
            for name in (*self.env, "RANK"):
                os.environ.pop(name, None)
            os.environ.update(before)

    def engine_pid(self, rank):
        if rank == 0:
            return self.first.engine_pid()
        pids = children(self.others[rank - 1].pid)
        return pids[0] if pids else 0

    def kill(self):
        for p in self.others:
            if p.poll() is None:
                p.kill()
            p.wait()
        for log in self.logs:
            os.unlink(log.name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.kill()
        if self.first.alive():
            self.first.process.kill()
            self.first.process.wait()


def run_all(server):
    return harness.run_parallel([lambda r=r: server.stream_text(*r) for r in REQUESTS])


def test_processes_say_what_threads_say_and_end_together(c):
    want = run_all(c.server)
    with Group(c.options) as group:
        equal(run_all(group.first), want, "streams of processes")
        start = time.monotonic()
        group.first.stop()
        for rank, p in enumerate(group.others, 1):
            equal(p.wait(10), 0, "exit code of rank", rank)
        c.say(f"all ended {time.monotonic() - start:.2f} s after SIGTERM to the first")


def strike(c, group, want, rank, sig):
    streams = []
    thread = threading.Thread(target=lambda: streams.extend(run_all(group.first)))
    thread.start()
    time.sleep(0.4)
    pid, start = group.engine_pid(rank), time.monotonic()
    os.kill(pid, sig)
    thread.join()
    equal(streams, want, "streams while rank", rank, "had", sig.name)
    check(group.engine_pid(rank) != pid, "rank", rank, "is still process", pid)
    c.say(f"{sig.name} to rank {rank}: streams done after {time.monotonic() - start:.1f} s")


def test_streams_go_on_when_a_rank_is_killed_or_stopped(c):
    want = run_all(c.server)
    with Group(c.options) as group:
        for rank, sig in ((1, signal.SIGKILL), (0, signal.SIGKILL), (2, signal.SIGSTOP)):
            strike(c, group, want, rank, sig)
        group.first.stop()


def test_stages_say_what_one_says_and_outlive_deaths(c):
    one = harness.Server(c.options.binary, c.options.model, *MEMORY)
    try:
        want = run_all(one)
    finally:
        one.stop()
    threads = harness.Server(c.options.binary, c.options.model, *STAGES)
    try:
        equal(run_all(threads), want, "streams of stages that are threads")
    finally:
        threads.stop()
    with Group(c.options, STAGES) as group:
        equal(run_all(group.first), want, "streams of stages that are processes")
        for rank, sig in ((1, signal.SIGKILL), (0, signal.SIGKILL), (2, signal.SIGSTOP)):
            strike(c, group, want, rank, sig)
        group.first.stop()
        for rank, p in enumerate(group.others, 1):
            equal(p.wait(10), 0, "exit code of rank", rank)


def test_ranks_that_differ_are_refused_by_name(c):
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_PORT": str(harness.free_port())}
    args = [c.options.binary, "serve", "--model", c.options.model, "--port", "0"]
    first = subprocess.run([*args, "--tensor-parallel", "3"], env={**env, "RANK": "0"},
                           capture_output=True, text=True, timeout=30)
    equal(first.returncode, 2, first.stderr)
    check("tensor-parallel is 3, and WORLD_SIZE says 2" in first.stderr, first.stderr)
    env["WORLD_SIZE"] = str(RANKS)
    ranks = [subprocess.Popen([*args, "--kv-dtype", ("f16", "f16", "f32")[rank]],
                              env={**env, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
             for rank in range(RANKS)]
    try:
        for rank, p in enumerate(ranks):
            text = p.communicate(timeout=60)[1]
            equal(p.returncode, 1, "rank", rank, text)
            check("differ in the options" in text, "rank", rank, text)
    finally:
        for p in ranks:
            p.kill()
