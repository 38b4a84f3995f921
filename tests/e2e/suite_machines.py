"""Ranks on two machines, which are network namespaces of this one, joined by a link: ranks 0 and 1 here,
rank 2 there.  They say what ranks in shared memory say, also while the other machine's rank is killed
or stopped, the link goes down or becomes slow.

Wants root (or a user who may make namespaces), else it is skipped; and iproute2."""
import ctypes
import os
import signal
import subprocess
import tempfile
import time

import harness
from harness import check, equal
from rank_group import RANKS, Group
from suite_ranks import begin_all, run_all

OPTIONS = ("--tensor-parallel", str(RANKS), "--kv-memory", "64MiB")
ALL_DOWN_S = 10
HERE, THERE = {4: "10.77.0.1", 6: "fd77::1"}, {4: "10.77.0.2", 6: "fd77::2"}
CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    check(done.returncode == 0, *command, ":", done.stderr.strip())


class Machines:
    """This thread, and what it starts, in a namespace of its own; another one at the end of a link."""

    def __enter__(self):
        self.before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        self.other = None
        if libc.unshare(CLONE_NEWNET) != 0:
            error = os.strerror(ctypes.get_errno())
            os.close(self.before)
            raise harness.Failure(f"make a network namespace: {error}")
        try:
            self.other = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 3600"],
                                          stdout=subprocess.PIPE)
            self.other.stdout.readline()
            pid = str(self.other.pid)
            self.there = ("nsenter", "--target", pid, "--net")
            run("ip", "link", "set", "lo", "up")
            run("ip", "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", pid)
            for place, name, address in (((), "here", HERE), (self.there, "there", THERE)):
                run(*place, "ip", "address", "add", address[4] + "/24", "dev", name)
                run(*place, "ip", "address", "add", address[6] + "/64", "dev", name, "nodad")
                run(*place, "ip", "link", "set", name, "up")
        except Exception:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc):
        if self.other:
            self.other.kill()
            self.other.wait()
            self.other.stdout.close()
        libc.setns(self.before, CLONE_NEWNET)
        os.close(self.before)

    def link(self, state):
        run("ip", "link", "set", "here", state)
        if state == "up": # an interface that goes down forgets its IPv6 address
            run("ip", "address", "replace", HERE[6] + "/64", "dev", "here", "nodad")

    def group(self, c, *args, family=4, env=()):
        return Group(c.options, "--kv-memory", "64MiB", "--engine-deaths-max", "-1",
                     "--engine-backoff-ms", "100", *args,
                     env={"MASTER_ADDR": HERE[family], "MASTER_PORT": "29511", **dict(env)},
                     place=lambda rank: self.there if rank == 2 else ())


def want_namespaces():
    pid = os.fork()
    if pid == 0:
        os._exit(libc.unshare(CLONE_NEWNET) != 0)
    if os.waitpid(pid, 0)[1] != 0:
        raise harness.Skip("this user may not make a network namespace")


def test_two_machines_say_what_one_says(c):
    want_namespaces()
    want = run_all(c.server)
    with Machines() as m, tempfile.NamedTemporaryFile("w") as secret:
        secret.write("a secret of the ranks' own\n")
        secret.flush()
        for family, args in ((4, ()), (6, ("--rank-secret-file", secret.name))):
            with m.group(c, *args, family=family) as group:
                start = time.monotonic()
                equal(run_all(group.first), want, "streams over IPv", family)
                c.say(f"IPv{family}: {time.monotonic() - start:.2f} s")
                c.say(f"all ended {group.stop():.2f} s after SIGTERM to the first")


def test_a_rank_without_the_secret_is_refused(c):
    want_namespaces()
    with Machines() as m, tempfile.NamedTemporaryFile("w") as secret:
        secret.write("a secret of the ranks' own\n")
        secret.flush()
        env = {**os.environ, "WORLD_SIZE": str(RANKS), "MASTER_ADDR": HERE[4], "MASTER_PORT": "29511"}
        command = [c.options.binary, "serve", "--model", c.options.model, "--port", "0"]
        first = subprocess.Popen([*command, "--rank-secret-file", secret.name],
                                 env={**env, "RANK": "0"}, stderr=subprocess.DEVNULL)
        try:
            other = subprocess.run([*m.there, *command], env={**env, "RANK": "2"}, text=True,
                                   capture_output=True, timeout=30)
            equal(other.returncode, 1, other.stderr)
            check("ranks 0 and 2 have different secrets" in other.stderr, other.stderr)
        finally:
            first.kill()
            first.wait()


def under_load(c, group, want, what, strike):
    """Strikes while streams run; they must end as they would have, and all ranks go down in time
    unless strike gives None for the engines that should."""
    pids = group.engine_pids()
    thread, streams = begin_all(group.first)
    start = time.monotonic()
    heal = strike()
    down = group.await_down(pids, ALL_DOWN_S)
    heal()
    thread.join()
    equal(streams, want, "streams after", what)
    group.await_ready(30)
    c.say(f"{what}: all down after {down:.2f} s, streams done after {time.monotonic() - start:.1f} s")


def test_faults_between_machines_end_all_ranks_and_no_stream(c):
    want_namespaces()
    want = run_all(c.server)
    with Machines() as m, m.group(c) as group:
        def signalled(rank, sig):
            def strike():
                os.kill(group.engine_pid(rank), sig)
                return lambda: None
            return strike

        def unplugged():
            m.link("down")
            return lambda: m.link("up")

        under_load(c, group, want, "SIGKILL to rank 2", signalled(2, signal.SIGKILL))
        under_load(c, group, want, "SIGKILL to rank 0", signalled(0, signal.SIGKILL))
        under_load(c, group, want, "SIGSTOP to rank 2", signalled(2, signal.SIGSTOP))
        under_load(c, group, want, "SIGSTOP to rank 0", signalled(0, signal.SIGSTOP))
        under_load(c, group, want, "link down", unplugged)
        group.stop()


def test_a_machine_that_is_started_again_joins_again(c):
    want_namespaces()
    want = run_all(c.server)
    with Machines() as m, m.group(c) as group:
        def strike():
            group.others[2].kill() # its engine goes with it
            group.others[2].wait()
            return lambda: group.start(2)
        under_load(c, group, want, "the other machine's end", strike)
        group.stop()


def test_a_slow_link_is_slow_and_nothing_else(c):
    want_namespaces()
    want = run_all(c.server)
    with Machines() as m, m.group(c) as group:
        run("tc", "qdisc", "add", "dev", "here", "root", "tbf", "rate", "100mbit", "burst", "20kb",
            "latency", "100ms")
        pids, start = group.engine_pids(), time.monotonic()
        equal(run_all(group.first), want, "streams over a slow link")
        equal(group.engine_pids(), pids, "engine processes")
        c.say(f"100 Mbit/s: {time.monotonic() - start:.2f} s")
        group.stop()
