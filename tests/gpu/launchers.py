#!/usr/bin/env python3
"""Ranks that a launcher starts, a process and a GPU each: the same answers whoever starts them and however
they speak, and those of one GPU.

    launchers.py BIN-FOLDER MODEL [--ranks N] [--device cuda|cpu] [--mpirun PROGRAM] [--seconds S]

By RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, by torchrun (of the Python that runs this,
which has torch) and by mpirun, each over memory and over TCP.  Every way gives the same bytes, log-probabilities
included, and ends with exit code 0 once its first rank is told to; beside one device greedy texts are equal but where its two likeliest tokens are closer than TIE, and
log-probabilities of the prompts within ERROR_MAX of their spread.  Loopback only; launchers that are not there
are named and left out.
"""
import argparse
import contextlib
import glob
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

from daemon import Daemon, Group, free_port, tail

PROMPTS, PROMPT, TOKENS = 8, 120, 48
TIE = 0.02  # nat; sums of partial sums, rounded to 16 bits
ERROR_MAX = 0.05  # root mean square, as in test_ranks.c


def ask(daemon):
    prompts = [[300 + (i * 7919 + k * k * 31 + k) % 3000 for k in range(PROMPT)] for i in range(PROMPTS)]
    answer = daemon.ask("/v1/completions", {
        "model": daemon.model, "prompt": prompts, "max_tokens": TOKENS, "temperature": 0, "logprobs": 2,
        "echo": True, "ignore_eos": True})
    return [c["logprobs"] for c in sorted(answer["choices"], key=lambda c: c["index"])]


@contextlib.contextmanager
def by_variables(o, transport, codes):
    group = Group(o.ranks, o.folder, o.model, *options(o, transport))
    try:
        yield group.first
    finally:
        codes += group.close()
        if any(codes):
            print(group.tails())


def descendants(pid):
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        with contextlib.suppress(OSError), open(path) as f:
            for child in map(int, f.read().split()):
                yield child
                yield from descendants(child)


def is_first(pid):
    """Whether a launcher told this process that it is rank 0."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as f:
        return not {b"RANK=0", b"OMPI_COMM_WORLD_RANK=0"}.isdisjoint(f.read().split(b"\0"))
    return False


@contextlib.contextmanager
def by_launcher(o, transport, codes, *before):
    """Its first rank is ended, the others end with that, and then the launcher says how all of them ended."""
    daemon = Daemon(o.folder, o.model, *options(o, transport), before=before)
    try:
        yield daemon
    finally:
        for pid in [p for p in descendants(daemon.process.pid) if is_first(p)][:1]:
            os.kill(pid, signal.SIGTERM)
        try:
            codes.append(daemon.process.wait(20))
        except subprocess.TimeoutExpired:
            print("the launcher does not end with rank 0")
            codes.append(daemon.close() or 1)
        if any(codes):
            print(tail(daemon.log))


def by_torchrun(o, transport, codes):
    return by_launcher(o, transport, codes, sys.executable, "-m", "torch.distributed.run", "--no-python",
                       "--nproc-per-node", str(o.ranks), "--master-port", str(free_port()))


def by_mpirun(o, transport, codes):
    over_tcp = ("-x", "MASTER_ADDR=127.0.0.1", "-x", f"MASTER_PORT={free_port()}") if transport == "socket" else ()
    root = ("--allow-run-as-root",) if os.geteuid() == 0 else ()
    return by_launcher(o, transport, codes, o.mpirun, *root, "--oversubscribe", "-np", str(o.ranks), *over_tcp)


def options(o, transport):
    if o.device == "cpu":
        how = ["--cpu-precision", "exact", "--kv-memory", "64MiB"]
    else:
        how = ["--gpu-memory", "0.3"]
    ranks = ["--rank-transport", transport] if transport else []
    return ["--device", o.device, "--max-context", "1024", *how, *ranks]


def beside_one(want, got):
    """Of two servers' answers: texts equal, texts that part at a tie, others; error of the prompts in their spread."""
    same = ties = 0
    before, after = [], []
    for w, g in zip(want, got):
        before += w["token_logprobs"][1:PROMPT]
        after += g["token_logprobs"][1:PROMPT]
        parts = [i for i, (a, b) in enumerate(zip(w["tokens"], g["tokens"])) if a != b]
        if not parts:
            same += 1
            continue
        top = sorted(w["top_logprobs"][parts[0]].values(), reverse=True)
        ties += top[0] - top[1] < TIE
    error = statistics.fmean((a - b) ** 2 for a, b in zip(before, after)) ** 0.5
    return same, ties, len(want) - same - ties, error / statistics.pstdev(before)


def has_torchrun():
    return subprocess.run([sys.executable, "-c", "import torch.distributed.run"], stderr=subprocess.DEVNULL,
                          check=False).returncode == 0


def ways(o):
    found = [("variables", by_variables)]
    if has_torchrun():
        found.append(("torchrun", by_torchrun))
    else:
        print("LEFT OUT: this Python has no torch")
    if o.mpirun:
        found.append(("mpirun", by_mpirun))
    else:
        print("LEFT OUT: no mpirun")
    return [(name, make, transport) for name, make in found for transport in ("shared", "socket")]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ap.add_argument("folder")
    ap.add_argument("model")
    ap.add_argument("--ranks", type=int, default=2)
    ap.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    ap.add_argument("--mpirun", default=shutil.which("mpirun"))
    ap.add_argument("--seconds", type=float, default=600, help="ways not begun by then are left out")
    o = ap.parse_args()
    begin = time.monotonic()
    with Daemon(o.folder, o.model, *options(o, None)) as daemon:
        want = ask(daemon)
    first = None
    n_ways = n_bad = 0
    for name, make, transport in ways(o):
        if time.monotonic() - begin > o.seconds:
            print(f"LEFT OUT: {name} over {transport}: no time")
            continue
        start, codes = time.monotonic(), []
        with make(o, transport, codes) as daemon:
            got, n_ranks = ask(daemon), daemon.metric("inferd_engine_ranks")
        first = first or got
        same, ties, other, error = beside_one(want, got)
        good = got == first and n_ranks == o.ranks and other == 0 and error < ERROR_MAX and not any(codes)
        n_ways, n_bad = n_ways + 1, n_bad + (not good)
        print(f"{name}, {transport}: {n_ranks:.0f} ranks, {'the bytes of' if got == first else 'NOT the bytes of'} the first "
              f"way; beside one: {same} of {len(want)} texts equal, {ties} part at a tie, {other} else, error {error:.4f} "
              f"of the spread; exit codes {codes}; {time.monotonic() - start:.1f} s{'' if good else '  FAILED'}", flush=True)
    print(f"{n_ways - n_bad} of {n_ways} ways passed")
    return n_bad != 0


if __name__ == "__main__":
    sys.exit(main())
