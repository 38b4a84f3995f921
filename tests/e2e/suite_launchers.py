"""Ranks started by mpirun and by torch.distributed.run, as their users start them: the same answers.

OpenMPI's mpirun is in PATH (deploy/setup.sh test). Without a Python with torch, which INFERD_E2E_TORCH_PYTHON
names, torchrun's tests are skipped; what it says to its ranks is always tried, by its variables and a
listener in place of its store."""
import os
import shutil
import socket
import subprocess

import harness
from harness import check, equal
from rank_group import RANKS, Group
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
    check(shutil.which("mpirun"), "no mpirun: deploy/setup.sh test installs it")
    want = run_all(c.server)
    mpirun = ["mpirun", "--oversubscribe", "-np", str(RANKS)]
    if os.geteuid() == 0:
        mpirun.append("--allow-run-as-root")
    equal(launched(c, mpirun), want, "streams")
    equal(launched(c, [*mpirun, "-x", "MASTER_ADDR=127.0.0.1", "-x",
                       f"MASTER_PORT={harness.free_port()}"], "--rank-transport", "socket"), want,
          "streams over TCP")


def test_what_torchrun_says_to_its_ranks(c):
    """On one node, and as the ranks of two; its store has MASTER_PORT."""
    want = run_all(c.server)
    with socket.create_server(("127.0.0.1", 0)) as store:
        env = {"MASTER_PORT": str(store.getsockname()[1]), "TORCHELASTIC_USE_AGENT_STORE": "True",
               "GROUP_RANK": "0", "LOCAL_RANK": "0"}
        for here, args in ((RANKS, ()), (RANKS, ("--rank-transport", "socket")), (RANKS - 1, ())):
            with Group(c.options, "--kv-memory", "64MiB", *args,
                       env={**env, "LOCAL_WORLD_SIZE": str(here)}) as group:
                equal(run_all(group.first), want, "streams of", here, "on a node", *args)
                group.stop()


def test_a_set_of_one_serves_alone(c):
    """A LeaderWorkerSet that was scaled down to one pod keeps its configuration."""
    env = {"LWS_GROUP_SIZE": "1", "LWS_WORKER_INDEX": "0", "LWS_LEADER_ADDRESS": "inferd-ranks-0.inferd-ranks"}
    server = harness.Server(c.options.binary, c.options.model, "--kv-memory", "64MiB", "--rank-transport",
                            "socket", "--rank-port", "29500", "--rank-secret-file", "/run/secrets/rank", env=env)
    try:
        check(all(run_all(server)), "a stream said nothing")
        equal(server.metric("inferd_engine_ranks"), 1, "ranks")
    finally:
        server.stop()


def torchrun():
    python = os.environ.get("INFERD_E2E_TORCH_PYTHON")
    if not python:
        raise harness.Skip("INFERD_E2E_TORCH_PYTHON names no Python with torch")
    return [python, "-m", "torch.distributed.run", "--no-python"]


def test_torch_distributed_run(c):
    one = [*torchrun(), "--nproc-per-node", str(RANKS), "--master-port", str(harness.free_port())]
    want = run_all(c.server)
    equal(launched(c, one), want, "streams")
    equal(launched(c, one, "--rank-transport", "socket"), want, "streams over TCP")


def test_torch_distributed_run_on_two_nodes(c):
    nodes = [*torchrun(), "--nnodes", "2", "--master-addr", "127.0.0.1", "--master-port",
             str(harness.free_port())]
    want = run_all(c.server)
    other = subprocess.Popen([*nodes, "--node-rank", "1", "--nproc-per-node", str(RANKS - 1),
                              c.options.binary, "serve", "--model", c.options.model, "--kv-memory",
                              "64MiB"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        equal(launched(c, [*nodes, "--node-rank", "0", "--nproc-per-node", "1"]), want, "streams")
    finally:
        other.terminate()
        other.wait(60)
