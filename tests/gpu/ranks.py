#!/usr/bin/env python3
"""Ranks that are processes on GPUs, of which one is killed, stopped or slow again and again: all engines of
the group are down within 10 s, they come back, and every stream says what it would have said.

    ranks.py BIN-FOLDER MODEL [--ranks N] [--trials N] [--seconds S]

BIN-FOLDER: inferd, libinferd_cuda.so, libinferd_cuda_fault.so.  The trials end early, and are
counted as they are, when S are over.  Needs a GPU for each rank; loopback only.
"""
import argparse
import glob
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

STREAMS, TOKENS, DOWN_S = 8, 1500, 10
# A slow rank sleeps in a step for longer than the others wait; which, is whoever comes first.
TRIALS = [("kill", 1), ("stop", 1), ("kill", 0), ("slow", None), ("kill", 1), ("stop", 0)]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


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


class Group:
    def __init__(self, folder, model, n):
        self.work = tempfile.mkdtemp(prefix="inferd-ranks-")
        shutil.copy(f"{folder}/inferd", self.work)
        shutil.copy(f"{folder}/libinferd_cuda.so", f"{self.work}/libinferd_cuda_real.so")
        shutil.copy(f"{folder}/libinferd_cuda_fault.so", f"{self.work}/libinferd_cuda.so")
        self.port = free_port()
        env = {**os.environ, "WORLD_SIZE": str(n), "MASTER_PORT": str(free_port())}
        self.logs = [open(f"{self.work}/log{i}", "w") for i in range(n)]
        self.fronts = [subprocess.Popen(
            [f"{self.work}/inferd", "serve", "--model", model, "--device", "cuda", "--port",
             str(self.port), "--engine-backoff-ms", "1", "--engine-deaths-max", "-1",
             "--max-context", "4096", "--gpu-memory", "0.3"],
            env={**env, "RANK": str(i)}, stdout=self.logs[i], stderr=self.logs[i]) for i in range(n)]
        self.await_ready(120)
        with self.get("/v1/models") as r:
            self.model = json.load(r)["data"][0]["id"]

    def get(self, path):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10)

    def await_ready(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                with self.get("/readyz") as r:
                    if r.status == 200:
                        return
            except OSError:
                pass
            if any(p.poll() is not None for p in self.fronts):
                break
            time.sleep(0.05)
        raise SystemExit("not ready:\n" + self.tail())

    def tail(self):
        return "".join(f"rank {i}: {line}" for i in range(len(self.logs))
                       for line in list(open(f"{self.work}/log{i}"))[-8:])

    def engine(self, rank):
        while True:
            pids = [p for p in children(self.fronts[rank].pid) if is_there(p)]
            if pids:
                return pids[0]
            time.sleep(0.01)

    def engines(self):
        return [self.engine(rank) for rank in range(len(self.fronts))]

    def slow(self):
        with open(f"{self.work}/fault.new", "w") as f:
            f.write("slow")
        os.rename(f"{self.work}/fault.new", f"{self.work}/fault")

    def close(self):
        for p in self.fronts:
            p.terminate()
        for p in self.fronts:
            try:
                p.wait(20)
            except subprocess.TimeoutExpired:
                p.kill()
        shutil.rmtree(self.work)


def stream(group, i, out, seen):
    body = {"model": group.model, "prompt": [100 + i, 7, 300 + i], "max_tokens": TOKENS,
            "stream": True, "temperature": 0.8, "seed": i, "ignore_eos": True}
    request = urllib.request.Request(f"http://127.0.0.1:{group.port}/v1/completions",
                                     json.dumps(body).encode(), {"Content-Type": "application/json"})
    text, n, end = "", 0, "cut"
    try:
        with urllib.request.urlopen(request, timeout=60) as r:
            for line in r:
                if line.startswith(b"data: [DONE]"):
                    end = "done"
                    break
                if line.startswith(b"data: "):
                    event = json.loads(line[6:])
                    if "error" in event:
                        end = "error: " + event["error"]["message"]
                        break
                    text += event["choices"][0]["text"]
                    n += 1
                    seen[i] = n
    except OSError as e:
        end = str(e)
    out[i] = (text, end)


def run(group, strike=None):
    out, seen = [None] * STREAMS, [0] * STREAMS
    threads = [threading.Thread(target=stream, args=(group, i, out, seen)) for i in range(STREAMS)]
    for t in threads:
        t.start()
    down = None
    if strike:
        while min(seen) < 20 and any(t.is_alive() for t in threads):
            time.sleep(0.001)
        before, start = group.engines(), time.monotonic()
        strike()
        while any(is_there(p) for p in before) and time.monotonic() - start < 3 * DOWN_S:
            time.sleep(0.01)
        down = time.monotonic() - start
    for t in threads:
        t.join()
    return out, down


def trial(group, want, kind, rank):
    def strike():
        if kind == "slow":
            group.slow()
        else:
            os.kill(group.engine(rank), signal.SIGKILL if kind == "kill" else signal.SIGSTOP)
    start = time.monotonic()
    got, down = run(group, strike)
    same = sum(g == w for g, w in zip(got, want))
    ended = sum(g != w and g[1].startswith("error: ") for g, w in zip(got, want))
    good = same + ended == STREAMS and down <= DOWN_S
    print(f"{kind:5} {'rank ' + str(rank) if rank is not None else 'any   '}: down {down:5.2f} s, {same} "
          f"streams alike, {ended} ended with an error, all done after "
          f"{time.monotonic() - start:5.2f} s{'' if good else '  FAILED'}", flush=True)
    if not good:
        print("\n".join(g[1] for g, w in zip(got, want) if g != w))
    return good, same, ended


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("folder")
    ap.add_argument("model")
    ap.add_argument("--ranks", type=int, default=2)
    ap.add_argument("--trials", type=int, default=30)
    ap.add_argument("--seconds", type=float, default=3600)
    o = ap.parse_args()
    start = time.monotonic()
    group = Group(o.folder, o.model, o.ranks)
    passed = failed = alike = errors = 0
    try:
        print(f"ready after {time.monotonic() - start:.2f} s", flush=True)
        want = run(group)[0]
        if any(w[1] != "done" for w in want):
            raise SystemExit("undisturbed: " + str([w[1] for w in want]) + "\n" + group.tail())
        for kind, rank in itertools.islice(itertools.cycle(TRIALS), o.trials):
            if time.monotonic() - start > o.seconds:
                break
            good, same, ended = trial(group, want, kind, rank)
            passed, failed = passed + good, failed + (not good)
            alike, errors = alike + same, errors + ended
        if failed:
            print(group.tail())
    finally:
        group.close()
    print(f"{passed} passed, {failed} failed of {passed + failed} trials; {alike} streams alike, {errors} ended with "
          "an error")
    return failed != 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
