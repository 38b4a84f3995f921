"""rank_group.py - the processes of one model's ranks, with the environment of a launcher."""
import os
import subprocess
import time

import harness
from harness import check, equal

RANKS = 3 # what divides the test model's heads


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return [int(p) for p in f.read().split()]
    except OSError:
        return []


def is_gone(pid):
    """Ended, or at its end; a process that is stopped is not."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


class Group:
    """RANKS processes of `inferd serve`; the first one is a harness.Server.  place(rank) is put in
    front of a rank's command."""

    def __init__(self, options, *args, env=(), place=lambda rank: ()):
        self.logs, self.others = {}, {}
        self.place = place
        self.env = {"WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(harness.free_port()), **dict(env)}
        self.command = [options.binary, "serve", "--model", options.model, *args]
        try:
            for rank in range(1, RANKS):
                self.start(rank)
            self.first = harness.Server(options.binary, options.model, *args,
                                        env={**self.env, "RANK": "0"})
        except Exception:
            self.kill()
            raise

    def start(self, rank):
        if rank not in self.logs:
            self.logs[rank] = open(f"/tmp/inferd-e2e-rank-{os.getpid()}-{rank}", "w+")
        self.others[rank] = subprocess.Popen(
            [*self.place(rank), *self.command], env={**os.environ, **self.env, "RANK": str(rank)},
            stderr=self.logs[rank])

    def engine_pid(self, rank):
        if rank == 0:
            return self.first.engine_pid()
        pids = children(self.others[rank].pid)
        return pids[0] if pids else 0

    def engine_pids(self):
        return [self.engine_pid(rank) for rank in range(RANKS)]

    def await_down(self, pids, seconds):
        """Until none of these engine processes is there any more; how long that took."""
        start = time.monotonic()
        while not all(is_gone(pid) for pid in pids):
            check(time.monotonic() - start < seconds, "after", seconds, "s there are still",
                  [pid for pid in pids if not is_gone(pid)])
            time.sleep(0.01)
        return time.monotonic() - start

    def await_ready(self, seconds):
        """Until all ranks have engine processes and the first is ready; how long that took."""
        start = time.monotonic()
        while not (all(self.engine_pids()) and self.first.get("/readyz")[0] == 200):
            check(time.monotonic() - start < seconds, "not ready after", seconds, "s:",
                  self.first.tail(8))
            time.sleep(0.02)
        return time.monotonic() - start

    def stop(self):
        """The first is told to end, and all do; how long that took."""
        start = time.monotonic()
        self.first.stop()
        for rank, p in self.others.items():
            equal(p.wait(10), 0, "exit code of rank", rank)
        return time.monotonic() - start

    def tails(self, n=6):
        texts = ["rank 0:\n" + self.first.tail(n)]
        for rank, log in self.logs.items():
            with open(log.name, errors="replace") as f:
                texts.append(f"rank {rank}:\n" + "".join(f.readlines()[-n:]))
        return "\n".join(texts)

    def kill(self):
        for p in self.others.values():
            if p.poll() is None:
                p.kill()
            p.wait()
        for log in self.logs.values():
            log.close()
            os.unlink(log.name)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.kill()
        if self.first.alive():
            self.first.process.kill()
            self.first.process.wait()
