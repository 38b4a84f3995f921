"""The manifests for one model on several machines: pods that Kubernetes takes, and true of the daemon.

The LeaderWorkerSet's own schema is not at hand; of it only what is used is looked at."""
import copy
import os
import re
import tempfile

import kubernetes_validate
import tools
import yaml
from harness import check, equal

FOLDER = "deploy/kubernetes-machines"
VERSIONS = ("1.31", "1.35")


def load(kind):
    names = yaml.safe_load(tools.read(FOLDER, "kustomization.yaml"))["resources"]
    equal(sorted(names + ["kustomization.yaml"]), sorted(os.listdir(tools.path(FOLDER))), "files")
    found = [d for n in names if (d := yaml.safe_load(tools.read(FOLDER, n)))["kind"] == kind]
    equal(len(found), 1, kind)
    return found[0]


def pods():
    template = load("LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    return template["leaderTemplate"], template["workerTemplate"]


def test_the_schemas_of_kubernetes_take_them(c):
    documents = [load(k) for k in ("ConfigMap", "Service", "NetworkPolicy")]
    for i, pod in enumerate(pods()):
        documents.append({"apiVersion": "v1", "kind": "Pod", "spec": pod["spec"],
                          "metadata": {**pod["metadata"], "name": f"pod-{i}"}})
    for d in documents:
        for version in VERSIONS:
            kubernetes_validate.validate(d, version, strict=True)
    wrong = copy.deepcopy(documents[-1])
    wrong["spec"]["containers"][0]["volumeMount"] = []
    try:
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)
    except kubernetes_validate.ValidationError:
        return
    check(False, "the schema takes volumeMount")


def test_the_set_is_of_the_form_that_its_controller_reads(c):
    lws = load("LeaderWorkerSet")
    equal(lws["apiVersion"], "leaderworkerset.x-k8s.io/v1")
    equal(set(lws["spec"]), {"replicas", "leaderWorkerTemplate"})
    template = lws["spec"]["leaderWorkerTemplate"]
    equal(set(template), {"size", "restartPolicy", "leaderTemplate", "workerTemplate"})
    equal(template["restartPolicy"], "None", "one pod's end must not be all pods' end")


def test_the_worker_is_the_leader_without_what_only_that_serves(c):
    leader, worker = (copy.deepcopy(pod["spec"]) for pod in pods())
    for name in ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle", "ports"):
        check(leader["containers"][0].pop(name), name)
    equal(worker, leader, "worker")


def test_no_service_of_the_namespace_becomes_an_option(c):
    for pod in pods():
        equal(pod["spec"]["enableServiceLinks"], False, "INFERD_PORT=tcp://... would be an option")


def test_the_options_load_and_ports_meet(c):
    text = load("ConfigMap")["data"]["inferd.conf"]
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
        f.write(text)
        f.flush()
        code, said = tools.say(c.options.binary, "config", "--config", f.name, env={})
    equal(code, 0, said)
    for name, value in re.findall(r"(?m)^([a-z-]+) = (.*)$", text):
        check(f"\n{name} = {value}\n" in "\n" + said, name, "has no effect")
    ports = {p["name"]: p["containerPort"] for p in pods()[0]["spec"]["containers"][0]["ports"]}
    check(f"\nport = {ports['http']}\n" in "\n" + text, "http", ports)
    check(f"\nrank-port = {ports['ranks']}\n" in text, "ranks", ports)


def test_labels_and_names_meet(c):
    name = load("LeaderWorkerSet")["metadata"]["name"]
    policy = load("NetworkPolicy")["spec"]
    of_group = {"leaderworkerset.sigs.k8s.io/name": name} # the controller puts it on each pod
    equal(policy["podSelector"]["matchLabels"], of_group)
    for way in (policy["ingress"][1]["from"], policy["egress"][0]["to"]):
        equal(way[0]["podSelector"]["matchLabels"], of_group)
    equal(load("Service")["spec"]["selector"],
          {**of_group, "leaderworkerset.sigs.k8s.io/worker-index": "0"})
    volumes = {v["name"]: v for v in pods()[0]["spec"]["volumes"]}
    equal(volumes["config"]["configMap"]["name"], load("ConfigMap")["metadata"]["name"])


def test_the_daemon_reads_what_the_controller_sets(c):
    source = tools.read("server", "config_ranks.c")
    for name in ("LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"):
        check(f'"{name}"' in source, name)
