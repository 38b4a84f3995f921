"""The manifests: valid by Kubernetes' and the Prometheus operator's schemas, and true of the daemon."""
import copy
import json
import os
import re
import subprocess
import tempfile

import kubernetes_validate
import tools
import yaml
from harness import check, equal

VERSIONS = ("1.31", "1.35")  # the oldest whose `sleep` needs no gate, and a newer one
OPERATOR = ("ServiceMonitor", "PrometheusRule")


def names():
    return yaml.safe_load(tools.read("deploy/kubernetes/kustomization.yaml"))["resources"]


def load(kind):
    found = [d for n in names() if (d := yaml.safe_load(tools.read("deploy/kubernetes", n)))["kind"] == kind]
    check(len(found) == 1, kind, "is there", len(found), "times")
    return found[0]


def image():
    return yaml.safe_load(tools.read("deploy/kubernetes/kustomization.yaml"))["images"][0]


def pod():
    return load("Deployment")["spec"]["template"]["spec"]


def container():
    return pod()["containers"][0]


def test_kustomization_lists_what_is_there(c):
    there = sorted(os.listdir(tools.path("deploy/kubernetes")))
    equal(sorted(names() + ["kustomization.yaml"]), there, "files")


def test_the_schemas_of_kubernetes_take_them(c):
    for name in names():
        d = yaml.safe_load(tools.read("deploy/kubernetes", name))
        if d["kind"] not in OPERATOR:
            for version in VERSIONS:
                kubernetes_validate.validate(d, version, strict=True)


def test_they_would_refuse_a_misspelt_key(c):
    d = copy.deepcopy(load("Deployment"))
    d["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    try:
        kubernetes_validate.validate(d, VERSIONS[0], strict=True)
    except kubernetes_validate.ValidationError:
        return
    check(False, "the schema takes readinesProbe")


# Its schemas take keys that they do not know. So each object notes which of its keys the schema looked at.
OPERATOR_PROGRAM = """
import fs from "fs";
const folder = "./node_modules/@kubernetes-models/prometheus-operator/_schemas";
const prefix = "ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1";
const watch = (value, path, seen) => value === null || typeof value !== "object" ? value :
    new Proxy(value, {get: (o, key) => {
        seen.add(`${path}/${String(key)}`);
        return watch(o[key], `${path}/${String(key)}`, seen);
    }});
const unseen = (value, path, seen) => value === null || typeof value !== "object" ? [] :
    Object.keys(value).flatMap((key) => seen.has(`${path}/${key}`) ?
        unseen(value[key], `${path}/${key}`, seen) : [`${path}/${key} is not known`]);
for (const d of JSON.parse(fs.readFileSync(0))) {
    const { validate } = await import(`${folder}/${prefix}${d.kind}.js`);
    const seen = new Set();
    if (!validate(watch(d, "", seen)))
        console.log(JSON.stringify(validate.errors));
    delete d.metadata; // Kubernetes' own, and the same in every other file
    console.log(unseen(d, "", seen).join("\\n"));
}
"""


def operator_says(documents):
    """"" or what the operator's schemas have against the documents."""
    done = subprocess.run(["node", "--input-type=module", "-e", OPERATOR_PROGRAM], text=True, cwd=tools.NODE,
                          input=json.dumps(documents), capture_output=True)
    return done.stderr + done.stdout.strip()


def test_the_schemas_of_the_operator_take_them(c):
    documents = [load(k) for k in OPERATOR]
    equal(operator_says(documents), "", "operator")
    wrong = copy.deepcopy(documents)
    wrong[0]["spec"]["endpoints"][0]["interval"] = 15
    check("interval" in operator_says(wrong), "the schemas take a number as interval")
    wrong = copy.deepcopy(documents)
    wrong[0]["spec"]["endpoints"][0]["intervall"] = "15s"
    check("intervall is not known" in operator_says(wrong), "the schemas take an unknown key")


def test_the_operators_rules_are_the_files(c):
    want = [g for f in ("recording", "alerts")
            for g in yaml.safe_load(tools.read(f"deploy/prometheus/{f}.rules.yml"))["groups"]]
    equal(load("PrometheusRule")["spec"]["groups"], want, "rules")


def test_the_options_load(c):
    text = load("ConfigMap")["data"]["inferd.conf"]
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as f:
        f.write(text)
        f.flush()
        code, said = tools.say(c.options.binary, "config", "--config", f.name, env={})
    equal(code, 0, said)
    for name, value in re.findall(r"(?m)^([a-z-]+) = (.*)$", text):
        check(f"\n{name} = {value}\n" in "\n" + said, name, "has no effect")


def test_the_grace_period_is_longer_than_wait_and_drain(c):
    drain_s = int(re.search(r"drain-timeout-ms = (\d+)", load("ConfigMap")["data"]["inferd.conf"])[1]) / 1000
    wait_s = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    check(pod()["terminationGracePeriodSeconds"] >= wait_s + drain_s + 5, "too short")


def test_probes_and_ports_are_the_daemons(c):
    routes = set(re.findall(r'"(/[a-z]+)"', tools.read("server/routes.c")))
    for kind in ("startup", "liveness", "readiness"):
        probe = container()[kind + "Probe"]["httpGet"]
        check(probe["path"] in routes, probe["path"])
        equal(probe["port"], container()["ports"][0]["name"], kind)
    equal(container()["livenessProbe"]["httpGet"]["path"], "/livez", "a dead engine must not end the pod")
    port = container()["ports"][0]["containerPort"]
    check(f"port = {port}\n" in load("ConfigMap")["data"]["inferd.conf"], port)
    equal(load("Service")["spec"]["ports"][0]["name"], load("ServiceMonitor")["spec"]["endpoints"][0]["port"])


def test_labels_and_names_meet(c):
    want = load("Deployment")["spec"]["template"]["metadata"]["labels"]
    for kind, at in (("Deployment", "selector"), ("PodDisruptionBudget", "selector"),
                     ("NetworkPolicy", "podSelector")):
        equal(load(kind)["spec"][at]["matchLabels"], want, kind)
    equal(load("Service")["spec"]["selector"], want, "Service")
    equal(load("ServiceMonitor")["spec"]["selector"]["matchLabels"], load("Service")["metadata"]["labels"])
    volumes = {v["name"]: v for v in pod()["volumes"]}
    equal({m["name"] for m in container()["volumeMounts"]}, set(volumes), "volumes")
    equal(volumes["config"]["configMap"]["name"], load("ConfigMap")["metadata"]["name"])
    equal(load("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"], load("Deployment")["metadata"]["name"])


def test_the_pod_meets_the_restricted_standard(c):
    p, k = pod()["securityContext"], container()["securityContext"]
    equal((p["runAsNonRoot"], p["seccompProfile"]["type"]), (True, "RuntimeDefault"))
    equal((k["allowPrivilegeEscalation"], k["readOnlyRootFilesystem"], k["capabilities"]),
          (False, True, {"drop": ["ALL"]}))
    check(f"USER {p['runAsUser']}:{p['runAsGroup']}" in tools.read("Dockerfile"), "not the image's user")
    equal(pod()["enableServiceLinks"], False, "INFERD_PORT=tcp://... would be an option")


def test_the_autoscalers_metric_is_exported(c):
    metric = load("HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    check(f'"{metric}"' in tools.read("server/metrics.c"), metric)
