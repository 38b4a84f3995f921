"""The manifests for one model on several machines: pods that Kubernetes takes, and true of the daemon.

On CPUs, and an overlay of these on GPUs. Kubernetes' schemas, the Prometheus operator's, and for the
LeaderWorkerSet what its reference says (lws_schema.py)."""
import copy
import os
import re
import tempfile

import check_kubernetes
import kubernetes_validate
import lws_schema
import tools
import yaml
from harness import check, equal

CPU, CUDA = "deploy/kubernetes-machines", "deploy/kubernetes-machines-cuda"
VERSIONS = ("1.31", "1.35")


def kustomization(folder):
    return yaml.safe_load(tools.read(folder, "kustomization.yaml"))


def patched(document, steps):
    """The document after these steps of JSON Patch (RFC 6902): add and replace."""
    document = copy.deepcopy(document)
    for step in steps:
        *parents, last = [w.replace("~1", "/").replace("~0", "~") for w in step["path"].split("/")[1:]]
        at = document
        for word in parents:
            at = at[int(word)] if isinstance(at, list) else at[word]
        if isinstance(at, list):
            equal((step["op"], last), ("add", "-"), step["path"])
            at.append(step["value"])
        else:
            equal(step["op"], "replace" if last in at else "add", step["path"])
            at[last] = step["value"]
    return document


def load(kind, folder=CPU):
    """The only document of that kind, as `kubectl kustomize` makes it but for namespace and image."""
    if folder == CUDA:
        document = load(kind)
        for patch in kustomization(CUDA)["patches"]:
            if patch["target"] == {"kind": kind, "name": document["metadata"]["name"]}:
                document = patched(document, yaml.safe_load(tools.read(CUDA, patch["path"])))
        return document
    found = [d for n in kustomization(CPU)["resources"] if (d := yaml.safe_load(tools.read(CPU, n)))["kind"] == kind]
    equal(len(found), 1, kind)
    return found[0]


def pods(folder=CPU):
    template = load("LeaderWorkerSet", folder)["spec"]["leaderWorkerTemplate"]
    return template["leaderTemplate"], template["workerTemplate"]


def containers(folder):
    return [pod["spec"]["containers"][0] for pod in pods(folder)]


def test_the_kustomizations_name_what_is_there(c):
    for folder in (CPU, CUDA):
        k = kustomization(folder)
        names = k["resources"] + [p["path"] for p in k.get("patches", [])]
        equal(sorted([n for n in names if not n.startswith("../")] + ["kustomization.yaml"]),
              sorted(os.listdir(tools.path(folder))), folder)
    equal(kustomization(CUDA)["resources"], ["../" + os.path.basename(CPU)], "base")
    equal([p["target"] for p in kustomization(CUDA)["patches"]], [{"kind": "LeaderWorkerSet", "name": "inferd-ranks"}])
    base, over = kustomization(CPU)["images"][0], kustomization(CUDA)["images"][0]
    equal(over, {"name": base["newName"], "newTag": base["newTag"] + "-cuda"}, "the overlay's image")
    equal(over["newTag"], check_kubernetes.image()["newTag"], "that of one machine")


def test_the_schemas_of_kubernetes_take_them(c):
    documents = [load(k) for k in ("ConfigMap", "Service", "NetworkPolicy", "PodDisruptionBudget")]
    for i, pod in enumerate(pods(CPU) + pods(CUDA)):
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


def test_the_operators_schema_takes_the_monitor(c):
    equal(check_kubernetes.operator_says([load("ServiceMonitor")]), "", "operator")


def test_the_set_is_what_its_reference_says(c):
    for folder in (CPU, CUDA):
        equal(lws_schema.complaints(load("LeaderWorkerSet", folder)), [], folder)
    template = load("LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]
    equal(template["restartPolicy"], "None", "one pod's end must not be all pods' end")


def test_the_reference_refuses_what_is_wrong(c):
    for where, name, value, want in (("spec", "replica", 1, "/spec/replica is not known"),
                                     ("leaderWorkerTemplate", "size", "2", "/size: '2' is no int"),
                                     ("leaderWorkerTemplate", "restartPolicy", "Always", "'Always' is none of"),
                                     ("leaderWorkerTemplate", "workerTemplate", None, "is no object"),
                                     ("spec", "startupPolicy", "Ready", "'Ready' is none of"),
                                     ("spec", "rolloutStrategy", {}, "/rolloutStrategy/type is missing")):
        wrong = load("LeaderWorkerSet")
        at = wrong["spec"] if where == "spec" else wrong["spec"][where]
        at[name] = value
        said = lws_schema.complaints(wrong)
        check(len(said) == 1 and want in said[0], name, value, "gives", said)


def test_the_worker_is_the_leader_without_what_only_that_serves(c):
    for folder in (CPU, CUDA):
        leader, worker = (pod["spec"] for pod in pods(folder))
        for name in ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle", "ports"):
            check(leader["containers"][0].pop(name), name)
        equal(worker, leader, "worker of", folder)


def test_a_gpu_for_each_rank_and_memory_for_nccl(c):
    for pod in pods(CUDA):
        k = pod["spec"]["containers"][0]
        equal(k["resources"]["limits"]["nvidia.com/gpu"], "1", "a pod is a rank, and a rank has one GPU")
        check("nvidia.com/gpu" not in str(load("LeaderWorkerSet")), "the base is for CPUs")
        volumes = {v["name"]: v for v in pod["spec"]["volumes"]}
        shm = [m["name"] for m in k["volumeMounts"] if m["mountPath"] == "/dev/shm"]
        equal([volumes[name]["emptyDir"]["medium"] for name in shm], ["Memory"], "/dev/shm")
        equal({m["name"] for m in k["volumeMounts"]}, set(volumes), "volumes")


def test_the_environment_is_options_of_the_daemon(c):
    for k in containers(CUDA):
        env = {e["name"]: e["value"] for e in k["env"]}
        equal(env, {"INFERD_DEVICE": "cuda", "INFERD_LAYER_SPLIT": "auto"}, "environment")
        code, said = tools.say(c.options.binary, "config", env=env)
        equal(code, 0, said)
        for key, value in env.items():
            option = key[7:].lower().replace("_", "-")
            check(f"\n{option} = {value}\n" in "\n" + said, key, "has no effect:", said)
    check("c->n_stages = size / c->tensor_parallel" in tools.read("server", "config_ranks.c"),
          "auto is as many stages as there are pods")


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
    equal(load("PodDisruptionBudget")["spec"]["selector"]["matchLabels"], of_group)
    service, monitor = load("Service"), load("ServiceMonitor")["spec"]
    check(monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items(), "the monitor's Service")
    equal(monitor["endpoints"][0]["port"], service["spec"]["ports"][0]["name"], "its port")
    equal(service["metadata"]["labels"][monitor["jobLabel"]], "inferd", "the job that the rules name")
    equal(load("Service")["spec"]["selector"],
          {**of_group, "leaderworkerset.sigs.k8s.io/worker-index": "0"})
    volumes = {v["name"]: v for v in pods()[0]["spec"]["volumes"]}
    equal(volumes["config"]["configMap"]["name"], load("ConfigMap")["metadata"]["name"])


def test_the_daemon_reads_what_the_controller_sets(c):
    source = tools.read("server", "config_ranks.c")
    for name in ("LWS_LEADER_ADDRESS", "LWS_GROUP_SIZE", "LWS_WORKER_INDEX"):
        check(f'"{name}"' in source, name)
