"""A model divided among three ranks: threads of one engine, and processes as a launcher starts them;
and its layers among three stages.

The suite's own daemon has its ranks as threads; what it says is what the processes must say, in
shared memory and over TCP, also when one of them is killed or stopped meanwhile."""
import os
import signal
import subprocess
import threading
import time

import harness
from harness import check, equal
from rank_group import RANKS, Group

MEMORY = ("--kv-memory", "64MiB")
OPTIONS = ("--tensor-parallel", str(RANKS), *MEMORY)
STAGES = ("--layer-split", str(RANKS), *MEMORY)
TRANSPORTS = ("shared", "socket")
REQUESTS = [("/v1/completions", {"model": "test-model", "prompt": f"Chapter {i}:", "max_tokens": 60,
                                 "seed": i, "temperature": (0, 0.9)[i % 2], "ignore_eos": True})
            for i in range(4)]


def group_of(c, transport, options=OPTIONS):
    return Group(c.options, *options, "--rank-transport", transport)


def run_all(server, hear=lambda i: None):
    """What the streams say; hear(i) at each event of stream i."""
    return harness.run_parallel([lambda i=i, r=r: server.stream_text(*r, on_event=lambda _: hear(i))
                                 for i, r in enumerate(REQUESTS)])


def begin_all(server):
    """The same in a thread: it, and the list that will have what they say, when all are under way."""
    said, heard = [], [0] * len(REQUESTS)

    def hear(i):
        heard[i] += 1

    thread = threading.Thread(target=lambda: said.extend(run_all(server, hear)))
    thread.start()
    end = time.monotonic() + 60
    while min(heard) < 2 and thread.is_alive():
        check(time.monotonic() < end, "streams have not begun within 60 s; events:", heard)
        time.sleep(0.002)
    return thread, said


def test_processes_say_what_threads_say_and_end_together(c):
    want = run_all(c.server)
    for transport in TRANSPORTS:
        with group_of(c, transport) as group:
            start = time.monotonic()
            equal(run_all(group.first), want, "streams of processes")
            middle = time.monotonic()
            c.say(f"{transport}: {middle - start:.2f} s; all ended {group.stop():.2f} s after SIGTERM "
                  "to the first")


def strike(c, group, want, rank, sig):
    thread, streams = begin_all(group.first)
    pid, start = group.engine_pid(rank), time.monotonic()
    os.kill(pid, sig)
    thread.join()
    equal(streams, want, "streams while rank", rank, "had", sig.name)
    check(group.engine_pid(rank) != pid, "rank", rank, "is still process", pid)
    c.say(f"{sig.name} to rank {rank}: streams done after {time.monotonic() - start:.1f} s")


def test_streams_go_on_when_a_rank_is_killed_or_stopped(c):
    want = run_all(c.server)
    for transport in TRANSPORTS:
        with group_of(c, transport) as group:
            for rank, sig in ((1, signal.SIGKILL), (0, signal.SIGKILL), (2, signal.SIGSTOP)):
                strike(c, group, want, rank, sig)
            group.stop()


def test_a_second_first_rank_on_the_port_is_refused_and_a_lone_follower_ends_soon(c):
    for transport in TRANSPORTS:
        with group_of(c, transport) as group:
            command = [c.options.binary, "serve", "--model", c.options.model, *OPTIONS,
                       "--rank-transport", transport, "--port", "0"]
            pids = group.engine_pids()
            again = subprocess.run(command, env={**os.environ, **group.env, "RANK": "0"},
                                   capture_output=True, text=True, timeout=60)
            equal(again.returncode, 1, again.stderr)
            check("another process is rank 0" in again.stderr
                  or "Address already in use" in again.stderr, again.stderr)
            equal(group.first.get("/readyz")[0], 200, "/readyz of the first group")
            equal(group.engine_pids(), pids, "engines of the first group")
            group.stop()
        lone = subprocess.Popen(command, env={**os.environ, **group.env, "RANK": "1"},
                                stderr=subprocess.DEVNULL)
        time.sleep(1)
        start = time.monotonic()
        lone.terminate()
        equal(lone.wait(30), 0, "exit code of a lone follower")
        check(time.monotonic() - start < 5, "a lone follower took", time.monotonic() - start, "s")


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
    for transport in TRANSPORTS:
        with group_of(c, transport, STAGES) as group:
            equal(run_all(group.first), want, "streams of stages that are processes")
            for rank, sig in ((1, signal.SIGKILL), (0, signal.SIGKILL), (2, signal.SIGSTOP)):
                strike(c, group, want, rank, sig)
            group.first.stop()
            for rank, p in group.others.items():
                equal(p.wait(10), 0, "exit code of rank", rank)


def test_a_local_rank_that_is_none_is_refused_and_a_good_one_changes_no_answer(c):
    env = {**os.environ, "WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": str(harness.free_port())}
    args = [c.options.binary, "serve", "--model", c.options.model, "--port", "0"]
    for value, size in (("2", {}), ("gpu0", {}), ("1", {"LOCAL_WORLD_SIZE": "1"})):
        done = subprocess.run(args, env={**env, **size, "LOCAL_RANK": value}, capture_output=True, text=True,
                              timeout=30)
        equal(done.returncode, 2, done.stderr)
        check(f'environment variable LOCAL_RANK: "{value}" is not a number from 0 to' in done.stderr, done.stderr)
    want = run_all(c.server)
    with Group(c.options, *MEMORY, env={"LOCAL_RANK": str(RANKS - 1)}) as group:
        equal(run_all(group.first), want, "streams")
        group.stop()


def test_ranks_that_differ_are_refused_by_name(c):
    env = {**os.environ, "WORLD_SIZE": "2", "MASTER_PORT": str(harness.free_port())}
    args = [c.options.binary, "serve", "--model", c.options.model, "--port", "0"]
    first = subprocess.run([*args, "--tensor-parallel", "3"], env={**env, "RANK": "0"},
                           capture_output=True, text=True, timeout=30)
    equal(first.returncode, 2, first.stderr)
    check("tensor-parallel is 3, and WORLD_SIZE says 2" in first.stderr, first.stderr)
    env["WORLD_SIZE"] = str(RANKS)
    for transport in TRANSPORTS:
        options = ("--rank-transport", transport, "--kv-dtype")
        ranks = [subprocess.Popen([*args, *options, ("f16", "f16", "f32")[rank]],
                                  env={**env, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
                 for rank in range(RANKS)]
        try:
            for rank, p in enumerate(ranks):
                text = p.communicate(timeout=60)[1]
                equal(p.returncode, 1, "rank", rank, text)
                check("differ in the options" in text, transport, "rank", rank, text)
        finally:
            for p in ranks:
                p.kill()
