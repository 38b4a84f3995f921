#!/usr/bin/env python3
"""Ranks that are processes on GPUs, of which one is killed, stopped or slow again and again: all engines of
the group are down within 10 s, they come back, and every stream says what it would have said.  Stages may
wait for a slow one instead.

    ranks.py BIN-FOLDER MODEL [--ranks N] [--stages N] [--trials N] [--from I] [--groups G] [--seconds S]

BIN-FOLDER: inferd, libinferd_cuda.so, libinferd_cuda_fault.so.  With --stages the ranks are N stages, of one or
several that divide each layer.  Trials are divided among G groups, each with GPUs
of its own; --from goes on where another run ended.  They end early, and are counted as they are, when S are over.
The last line sums up.  Needs a GPU for each rank; loopback only.
"""
import argparse
import glob
import os
import shutil
import signal
import sys
import tempfile
import threading
import time

from daemon import Group, copy_program, order_fault

STREAMS, TOKENS, DOWN_S = 8, 1000, 10
SLOW_S = 8  # as fault_module.cu has it
BODIES = [{"prompt": [100 + i, 7, 300 + i], "max_tokens": TOKENS, "temperature": 0.8, "seed": i, "ignore_eos": True}
          for i in range(STREAMS)]
# A slow rank sleeps in a step for longer than the others wait; which, is whoever comes first.
TRIALS = [("kill", 1), ("stop", 1), ("kill", 0), ("slow", None), ("kill", 1), ("stop", 0)]


def children(pid):
    """Of all its threads: the one that starts an engine is not the first."""
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            with open(path) as f:
                found += [int(p) for p in f.read().split()]
        except OSError:
            pass
    return found


def is_there(pid):
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def engine(front):
    while True:
        pids = [p for p in children(front.pid) if is_there(p)]
        if pids:
            return pids[0]
        time.sleep(0.01)


class Strike:
    """What happens to the group in the middle of its streams; `down_s`: until all its engines are.  0 where it
    may wait for a slow one, and did."""

    def __init__(self, group, folder, kind, rank, may_wait):
        self.group, self.folder, self.kind, self.rank, self.may_wait = group, folder, kind, rank, may_wait
        self.down_s = None

    def __call__(self):
        before, start = [engine(p) for p in self.group.fronts], time.monotonic()
        if self.kind == "slow":
            order_fault(self.folder, "slow")
        else:
            os.kill(before[self.rank], signal.SIGKILL if self.kind == "kill" else signal.SIGSTOP)
        seconds = SLOW_S + 2 if self.may_wait else 3 * DOWN_S
        while any(is_there(p) for p in before) and time.monotonic() - start < seconds:
            time.sleep(0.01)
        waited = self.may_wait and all(is_there(p) for p in before)
        self.down_s = 0 if waited else time.monotonic() - start
        self.has_struck = not os.path.exists(f"{self.folder}/fault")  # the module takes the order


class Trial:
    def __init__(self, group, folder, want, kind, rank, may_wait):
        strike, start = Strike(group, folder, kind, rank, may_wait), time.monotonic()
        got = group.first.streams(BODIES, strike)
        self.kind, self.down_s = kind, strike.down_s
        self.same = sum(g == w for g, w in zip(got, want))
        self.errors = [g[1] for g, w in zip(got, want) if g != w]
        n_named = sum(e.startswith("error: ") for e in self.errors)
        self.good = strike.has_struck and self.same + n_named == STREAMS and self.down_s <= DOWN_S
        print(f"{kind:5} {'rank ' + str(rank) if rank is not None else 'any   '}: down {self.down_s:5.2f} s, {self.same} "
              f"streams alike, {n_named} ended with an error, all done after {time.monotonic() - start:5.2f} s"
              f"{'' if self.good else '  FAILED'}{'' if strike.has_struck else ': no step took the order'}", flush=True)
        if not self.good:
            print("\n".join(self.errors))


def run_group(o, number, trials, done, broken):
    """In a thread, which would drop what is raised."""
    try:
        try_group(o, number, trials, done)
    except BaseException as e:
        print(f"group {number}: {e!r}")
        broken.append(number)


def try_group(o, number, trials, done):
    work = tempfile.mkdtemp(prefix="inferd-ranks-")
    folder = copy_program(o.folder, work, "libinferd_cuda_fault.so")
    all_gpus = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(o.groups * o.ranks)))
    gpus = ",".join(all_gpus.split(",")[number * o.ranks:(number + 1) * o.ranks])
    with Group(o.ranks, folder, o.model, "--device", "cuda", "--layer-split", str(o.stages), "--engine-backoff-ms", "1",
               "--engine-deaths-max", "-1", "--max-context", "4096", "--gpu-memory", "0.3",
               env={"CUDA_VISIBLE_DEVICES": gpus}) as group:
        want = group.first.streams(BODIES)
        if any(how != "done" for _, how in want):
            raise SystemExit(f"undisturbed: {[how for _, how in want]}\n{group.tails()}")
        for kind, rank in trials:
            done.append(Trial(group, folder, want, kind, rank, kind == "slow" and o.stages > 1))
            if not done[-1].good:
                print(group.tails())
        print(f"group {number}: {group.first.metric('inferd_replays_total'):.0f} requests carried over "
              f"{group.first.metric('inferd_engine_restarts_total'):.0f} deaths")
    shutil.rmtree(work)


class Shared:
    """Trials, of which each group takes the next, until it is too late."""

    def __init__(self, first, n, end):
        self.trials, self.end, self.lock = iter(range(first, first + n)), end, threading.Lock()

    def __iter__(self):
        return self

    def __next__(self):
        with self.lock:
            if time.monotonic() > self.end:
                raise StopIteration
            return TRIALS[next(self.trials) % len(TRIALS)]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("folder")
    ap.add_argument("model")
    ap.add_argument("--ranks", type=int, default=2)
    ap.add_argument("--stages", type=int, default=1)
    ap.add_argument("--trials", type=int, default=30)
    ap.add_argument("--from", type=int, default=0, dest="first")
    ap.add_argument("--groups", type=int, default=1)
    ap.add_argument("--seconds", type=float, default=3600)
    o = ap.parse_args()
    start, done, broken = time.monotonic(), [], []
    trials = Shared(o.first, o.trials, start + o.seconds)
    groups = [threading.Thread(target=run_group, args=(o, g, trials, done, broken)) for g in range(o.groups)]
    for g in groups:
        g.start()
    for g in groups:
        g.join()
    passed = sum(t.good for t in done)
    worst = ", ".join(f"{kind} {max(t.down_s for t in done if t.kind == kind):.2f} s"
                      for kind in ("kill", "stop", "slow") if any(t.kind == kind for t in done))
    print(f"{passed} passed, {len(done) - passed} failed of {len(done)} trials, {o.ranks} ranks, {o.stages} stages; all "
          f"engines down at most after: {worst}; {sum(t.same for t in done)} of {STREAMS * len(done)} streams equal, "
          f"{sum(len(t.errors) for t in done)} others; {time.monotonic() - start:.0f} s")
    return passed != len(done) or not done or bool(broken)


if __name__ == "__main__":
    sys.exit(main())
