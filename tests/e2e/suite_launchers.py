"""Ranks started by mpirun and by torch.distributed.run, as their users start them: the same answers.

A launcher that is not installed is left out, and named: OpenMPI's mpirun in PATH, and a Python with
torch, which INFERD_E2E_TORCH_PYTHON names."""
import os
import shutil
import subprocess

import harness
from harness import equal
from rank_group import RANKS
from suite_ranks import run_all

OPTIONS = ("--tensor-parallel", str(RANKS), "--kv-memory", "64MiB")


def launched(c, prefix, *args):
    """What ranks say that this command starts; it is ended afterwards, its exit code is its own."""
    server = harness.Server(c.options.binary, c.options.model, "--kv-memory", "64MiB", *args,
                            prefix=prefix)
    try:
        return run_all(server)
    finally:
        server.process.terminate()
        try:
            server.process.wait(20)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


def test_mpirun(c):
    if not shutil.which("mpirun"):
        c.say("LEFT OUT: no mpirun")
        return
    want = run_all(c.server)
    mpirun = ["mpirun", "--oversubscribe", "-np", str(RANKS)]
    if os.geteuid() == 0:
        mpirun.append("--allow-run-as-root")
    equal(launched(c, mpirun), want, "streams")
    equal(launched(c, [*mpirun, "-x", "MASTER_ADDR=127.0.0.1", "-x",
                       f"MASTER_PORT={harness.free_port()}"], "--rank-transport", "socket"), want,
          "streams over TCP")


def torchrun():
    return [os.environ["INFERD_E2E_TORCH_PYTHON"], "-m", "torch.distributed.run", "--no-python"]


def test_torch_distributed_run(c):
    if not os.environ.get("INFERD_E2E_TORCH_PYTHON"):
        c.say("LEFT OUT: INFERD_E2E_TORCH_PYTHON names no Python with torch")
        return
    want = run_all(c.server)
    one = [*torchrun(), "--nproc-per-node", str(RANKS), "--master-port", str(harness.free_port())]
    equal(launched(c, one), want, "streams")
    equal(launched(c, one, "--rank-transport", "socket"), want, "streams over TCP")


def test_torch_distributed_run_on_two_nodes(c):
    if not os.environ.get("INFERD_E2E_TORCH_PYTHON"):
        c.say("LEFT OUT: INFERD_E2E_TORCH_PYTHON names no Python with torch")
        return
    want = run_all(c.server)
    nodes = [*torchrun(), "--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port",
             str(harness.free_port())]
    other = subprocess.Popen([*nodes, "--node-rank", "1", "--nproc-per-node", str(RANKS - 1),
                              c.options.binary, "serve", "--model", c.options.model, "--kv-memory",
                              "64MiB"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        equal(launched(c, [*nodes, "--node-rank", "0", "--nproc-per-node", "1"]), want, "streams")
    finally:
        other.terminate()
        other.wait(60)
