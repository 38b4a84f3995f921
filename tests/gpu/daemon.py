"""daemon.py - `inferd serve` as scripts of this folder run it: started, asked over loopback, ended."""
import contextlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request


def free_port():
    """Below those that connections get, of which one could take it before a daemon listens."""
    while True:
        port = random.randrange(12000, 32000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            return port


def copy_program(folder, work, module):
    """A BIN-FOLDER in the folder `work`, in which `module` of the old one is in front of the CUDA module."""
    os.makedirs(f"{work}/bin")
    shutil.copy(f"{folder}/inferd", f"{work}/bin")
    shutil.copy(f"{folder}/libinferd_cuda.so", f"{work}/bin/libinferd_cuda_real.so")
    shutil.copy(f"{folder}/{module}", f"{work}/bin/libinferd_cuda.so")
    if os.path.isdir(f"{folder}/../lib"):
        os.symlink(os.path.abspath(f"{folder}/../lib"), f"{work}/lib")
    return f"{work}/bin"


def order_fault(folder, word):
    """What libinferd_cuda_fault.so of that BIN-FOLDER does next."""
    with open(f"{folder}/fault.new", "w") as f:
        f.write(word)
    os.rename(f"{folder}/fault.new", f"{folder}/fault")


def environment(folder):
    """For a program of BIN-FOLDER: what pack.sh packed has its libraries beside it."""
    env = dict(os.environ)
    if os.path.isdir(f"{folder}/../lib"):
        env["LD_LIBRARY_PATH"] = ":".join([os.path.abspath(f"{folder}/../lib"), env.get("LD_LIBRARY_PATH", "")])
    return env


def start(folder, model, *options, before=(), env=None):
    """`inferd serve` and its log.  `before` goes in front of the command (a launcher), `env` on top of the
    environment."""
    log = tempfile.TemporaryFile("w+")
    return subprocess.Popen([*before, f"{folder}/inferd", "serve", "--model", model, *options],
                            env={**environment(folder), **(env or {})}, stdout=log, stderr=log), log


def tail(log, n=12):
    log.seek(0)
    return "".join(log.readlines()[-n:])


def end(process, seconds=30):
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


class Daemon:
    """One front, which answers."""

    def __init__(self, folder, model, *options, before=(), env=None, ready_s=120):
        self.port = free_port()
        self.process, self.log = start(folder, model, "--port", str(self.port), *options, before=before, env=env)
        try:
            self.await_ready(ready_s)
            self.model = self.ask("/v1/models")["data"][0]["id"]
        except BaseException:
            self.close()
            raise

    def get(self, path, body=None, timeout=300):
        data = json.dumps(body).encode() if body is not None else None
        return urllib.request.urlopen(urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}),
            timeout=timeout)

    def ask(self, path, body=None):
        try:
            with self.get(path, body) as r:
                return json.load(r)
        except urllib.error.HTTPError as e:
            raise SystemExit(f"{path}: {e.code} {e.read().decode()[:300]}") from e

    def stream(self, body, seen):
        """The text of a completion's events, and how it ended; seen(n) after each event."""
        text, n, how = "", 0, "cut"
        try:
            with self.get("/v1/completions", {**body, "model": self.model, "stream": True}, timeout=120) as r:
                for line in r:
                    if line.startswith(b"data: [DONE]"):
                        how = "done"
                        break
                    if line.startswith(b"data: "):
                        event = json.loads(line[6:])
                        if "error" in event:
                            how = "error: " + event["error"]["message"]
                            break
                        text += event["choices"][0]["text"]
                        seen(n := n + 1)
        except OSError as e:
            how = str(e)
        return text, how

    def streams(self, bodies, strike=None, events=20):
        """All at once: (text, how it ended) of each; strike() once each stream had so many events."""
        out, seen = [None] * len(bodies), [0] * len(bodies)

        def run(i):
            out[i] = self.stream(bodies[i], lambda n: seen.__setitem__(i, n))
        threads = [threading.Thread(target=run, args=(i,)) for i in range(len(bodies))]
        for t in threads:
            t.start()
        while strike and min(seen) < events and any(t.is_alive() for t in threads):
            time.sleep(0.001)
        if strike:
            strike()
        for t in threads:
            t.join()
        return out

    def await_ready(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                with self.get("/readyz", timeout=10) as r:
                    if r.status == 200:
                        return
            except OSError:
                pass
            time.sleep(0.05)
        raise SystemExit("not ready:\n" + tail(self.log))

    def metric(self, name):
        with self.get("/metrics") as r:
            return float(re.search(rf"^{name}(?:\{{\S*)? (\S+)", r.read().decode(), re.M)[1])

    def close(self):
        self.process.terminate()
        return end(self.process)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


class Group:
    """A process for each of `n` ranks, told by variables which it is; the first is a Daemon."""

    def __init__(self, n, folder, model, *options, env=None):
        env = {**(env or {}), "WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        others = [start(folder, model, *options, env={**env, "RANK": str(i), "LOCAL_RANK": str(i)})
                  for i in range(1, n)]
        self.fronts, self.logs = [p for p, _ in others], [log for _, log in others]
        try:
            self.first = Daemon(folder, model, *options, env={**env, "RANK": "0", "LOCAL_RANK": "0"})
        except BaseException:
            print(self.tails())
            for p in self.fronts:
                p.kill()
                p.wait()
            raise
        self.fronts.insert(0, self.first.process)
        self.logs.insert(0, self.first.log)

    def tails(self, n=8):
        return "\n".join(tail(log, n) for log in self.logs)

    def close(self):
        """The ranks end with the first; their exit codes."""
        self.first.process.terminate()
        return [end(p) for p in self.fronts]

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()
