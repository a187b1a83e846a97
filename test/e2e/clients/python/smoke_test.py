# Copyright The Knarr Authors.
# SPDX-License-Identifier: Apache-2.0
"""Debian's python3-kubernetes against the cluster of KUBECONFIG: typed and dynamic client, watch, streams.

Run by TestClients of test/e2e; needs the images of test/images on the nodes.
"""

import json
import threading
import time
import unittest

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

NAMESPACE = "python"

GREETINGS = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "greetings.python.example.com"},
    "spec": {
        "group": "python.example.com",
        "scope": "Namespaced",
        "names": {"plural": "greetings", "singular": "greeting", "kind": "Greeting", "shortNames": ["hi"]},
        "versions": [{
            "name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "required": ["text"], "properties": {
                    "text": {"type": "string", "maxLength": 20}, "times": {"type": "integer", "default": 1}}},
                "status": {"type": "object", "properties": {"said": {"type": "integer"}}},
            }}},
        }],
    },
}


def container(name, image, *command):
    return client.V1Container(name=name, image=image, command=list(command))


def pod(name, *containers, **labels):
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name=name, labels=labels),
        spec=client.V1PodSpec(containers=list(containers), termination_grace_period_seconds=1))


def eventually(check, seconds=60):
    """Repeats check until it returns something true, which is the result."""
    deadline = time.monotonic() + seconds
    while True:
        got = check()
        if got:
            return got
        if time.monotonic() > deadline:
            raise AssertionError("not in time: %s gave %r" % (check, got))
        time.sleep(0.1)


class Smoke(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        config.load_kube_config()
        cls.api = client.ApiClient()
        cls.core, cls.apps = client.CoreV1Api(cls.api), client.AppsV1Api(cls.api)
        cls.core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
        eventually(lambda: cls.core.list_namespaced_service_account(NAMESPACE).items)

    @classmethod
    def tearDownClass(cls):
        cls.core.delete_namespace(NAMESPACE)

    def refused(self, status, reason, call, *args, **kwargs):
        """The Status of a call that must be refused."""
        with self.assertRaises(ApiException) as raised:
            call(*args, **kwargs)
        self.assertEqual(status, raised.exception.status)
        body = json.loads(raised.exception.body)
        self.assertEqual(("Status", "v1", "Failure", reason, status),
                         (body["kind"], body["apiVersion"], body["status"], body["reason"], body["code"]))
        return body

    def test_discovery(self):
        self.assertEqual("1", client.VersionApi().get_code().major)
        groups = [g.name for g in client.ApisApi().get_api_versions().groups]
        self.assertIn("apps", groups)
        names = [r.name for r in self.core.get_api_resources().resources]
        self.assertIn("pods/exec", names)

    def test_errors(self):
        body = self.refused(404, "NotFound", self.core.read_namespaced_pod, "none", NAMESPACE)
        self.assertEqual('pods "none" not found', body["message"])
        self.assertEqual({"name": "none", "kind": "pods"}, body["details"])
        wrong = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="Not_A_Name"))
        body = self.refused(422, "Invalid", self.core.create_namespaced_config_map, NAMESPACE, wrong)
        self.assertEqual("metadata.name", body["details"]["causes"][0]["field"])
        fine = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="twice"))
        made = self.core.create_namespaced_config_map(NAMESPACE, fine)
        self.refused(409, "AlreadyExists", self.core.create_namespaced_config_map, NAMESPACE, fine)
        self.core.patch_namespaced_config_map("twice", NAMESPACE, {"data": {"a": "b"}})
        made.data = {"a": "c"}
        self.refused(409, "Conflict", self.core.replace_namespaced_config_map, "twice", NAMESPACE, made)
        self.refused(403, "Forbidden", client.CoreV1Api(self.api_as("nobody")).list_node)
        self.refused(400, "BadRequest", self.core.list_namespaced_pod, NAMESPACE, field_selector="spec.none=1")

    def api_as(self, user):
        api = client.ApiClient()
        api.set_default_header("Impersonate-User", user)
        return api

    def test_typed_objects(self):
        data = client.V1ConfigMap(metadata=client.V1ObjectMeta(generate_name="typed-", labels={"set": "typed"}), data={"a": "1"})
        made = [self.core.create_namespaced_config_map(NAMESPACE, data) for _ in range(3)]
        self.assertEqual(3, len({m.metadata.name for m in made}))
        self.assertIsNotNone(made[0].metadata.creation_timestamp.tzinfo)
        page = self.core.list_namespaced_config_map(NAMESPACE, label_selector="set=typed", limit=2)
        self.assertEqual((2, 1), (len(page.items), page.metadata.remaining_item_count or 1))
        rest = self.core.list_namespaced_config_map(NAMESPACE, label_selector="set=typed", limit=2, _continue=page.metadata._continue)
        self.assertEqual(1, len(rest.items))
        name = made[0].metadata.name
        # The client sends a dictionary as strategic merge patch, a list as JSON patch.
        self.assertEqual({"a": "1", "b": "2"}, self.core.patch_namespaced_config_map(name, NAMESPACE, {"data": {"b": "2"}}).data)
        patch = [{"op": "test", "path": "/data/a", "value": "1"}, {"op": "remove", "path": "/data/a"}]
        self.assertEqual({"b": "2"}, self.core.patch_namespaced_config_map(name, NAMESPACE, patch).data)
        dry = self.core.delete_namespaced_config_map(name, NAMESPACE, dry_run="All")
        self.assertEqual("Success", dry.status)
        self.assertEqual("Success", self.core.delete_namespaced_config_map(name, NAMESPACE).status)
        self.core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="set=typed")
        self.assertEqual([], self.core.list_namespaced_config_map(NAMESPACE, label_selector="set=typed").items)

    def test_deployment(self):
        template = client.V1PodTemplateSpec(metadata=client.V1ObjectMeta(labels={"app": "web"}), spec=client.V1PodSpec(
            termination_grace_period_seconds=1, containers=[container("web", "knarr.dev/web:1")]))
        web = client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=client.V1DeploymentSpec(
            replicas=2, selector=client.V1LabelSelector(match_labels={"app": "web"}), template=template))
        self.apps.create_namespaced_deployment(NAMESPACE, web)
        eventually(lambda: self.apps.read_namespaced_deployment_status("web", NAMESPACE).status.ready_replicas == 2)
        pods = self.core.list_namespaced_pod(NAMESPACE, label_selector="app=web").items
        self.assertEqual(["ReplicaSet"] * 2, [p.metadata.owner_references[0].kind for p in pods])
        scale = self.apps.patch_namespaced_deployment_scale("web", NAMESPACE, {"spec": {"replicas": 1}})
        self.assertEqual(1, scale.spec.replicas)
        eventually(lambda: len(self.core.list_namespaced_pod(NAMESPACE, label_selector="app=web").items) == 1)
        self.apps.delete_namespaced_deployment("web", NAMESPACE, propagation_policy="Foreground")
        eventually(lambda: not self.core.list_namespaced_pod(NAMESPACE, label_selector="app=web").items)
        eventually(lambda: not self.apps.list_namespaced_deployment(NAMESPACE).items)

    def test_watch(self):
        start = self.core.list_namespaced_config_map(NAMESPACE).metadata.resource_version

        def change():
            self.core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="watched")))
            self.core.patch_namespaced_config_map("watched", NAMESPACE, {"data": {"a": "1"}})
            self.core.delete_namespaced_config_map("watched", NAMESPACE)

        writer = threading.Thread(target=change)
        writer.start()
        seen, w = [], watch.Watch()
        for event in w.stream(self.core.list_namespaced_config_map, NAMESPACE, resource_version=start,
                              field_selector="metadata.name=watched", timeout_seconds=30):
            self.assertIsInstance(event["object"], client.V1ConfigMap)
            seen.append(event["type"])
            if event["type"] == "DELETED":
                w.stop()
        writer.join()
        self.assertEqual(["ADDED", "MODIFIED", "DELETED"], seen)

    def test_dynamic_client(self):
        client.ApiextensionsV1Api(self.api).create_custom_resource_definition(GREETINGS)
        try:
            self.greet()
        finally:
            client.ApiextensionsV1Api(self.api).delete_custom_resource_definition(GREETINGS["metadata"]["name"])

    def greet(self):
        def established():
            d = client.ApiextensionsV1Api(self.api).read_custom_resource_definition(GREETINGS["metadata"]["name"])
            return any(c.type == "Established" and c.status == "True" for c in d.status.conditions or [])
        eventually(established)
        greetings = dynamic.DynamicClient(self.api).resources.get(api_version="python.example.com/v1", kind="Greeting")
        body = {"apiVersion": "python.example.com/v1", "kind": "Greeting", "metadata": {"name": "one"}, "spec": {"text": "hello"}}
        made = greetings.create(body=body, namespace=NAMESPACE)
        self.assertEqual(1, made.spec.times)
        with self.assertRaises(dynamic.exceptions.UnprocessibleEntityError) as raised:
            greetings.create(body=dict(body, metadata={"name": "two"}, spec={"text": "x" * 30}), namespace=NAMESPACE)
        self.assertIn("spec.text", raised.exception.summary())
        patch = {"spec": {"text": None}}
        with self.assertRaises(dynamic.exceptions.UnprocessibleEntityError):
            greetings.patch(name="one", namespace=NAMESPACE, body=patch, content_type="application/merge-patch+json")
        said = greetings.status.patch(name="one", namespace=NAMESPACE, body={"status": {"said": 3}}, content_type="application/merge-patch+json")
        self.assertEqual(3, said.status.said)
        listed = greetings.get(namespace=NAMESPACE)
        self.assertEqual(["one"], [g.metadata.name for g in listed.items])
        first = next(iter(greetings.watch(namespace=NAMESPACE, timeout=10)))
        self.assertEqual(("ADDED", "one"), (first["type"], first["object"].metadata.name))
        text = json.dumps(dict(body, spec={"text": "applied"}))  # this version of the client sends no dictionary in an apply patch
        applied = greetings.server_side_apply(body=text, name="one", namespace=NAMESPACE, field_manager="python", force_conflicts=True)
        self.assertEqual("applied", applied.spec.text)
        self.assertIn(("python", "Apply"), [(f.manager, f.operation) for f in applied.metadata.managedFields])
        self.assertEqual("Success", greetings.delete(name="one", namespace=NAMESPACE).status)
        with self.assertRaises(dynamic.exceptions.NotFoundError):
            greetings.get(name="one", namespace=NAMESPACE)

    def test_streams(self):
        box = container("box", "knarr.dev/busybox:1", "/bin/sh", "-c", "echo started; echo problem >&2; exec sleep 3600")
        self.core.create_namespaced_pod(NAMESPACE, pod("streams", box, container("web", "knarr.dev/web:1")))
        eventually(lambda: [c.ready for c in self.core.read_namespaced_pod("streams", NAMESPACE).status.container_statuses or []] == [True] * 2)
        self.logs()
        self.exec()
        self.forward()
        self.core.delete_namespaced_pod("streams", NAMESPACE, grace_period_seconds=0)

    def logs(self):
        log = self.core.read_namespaced_pod_log("streams", NAMESPACE, container="box")
        self.assertEqual(["problem", "started"], sorted(log.split()))
        line = self.core.read_namespaced_pod_log("streams", NAMESPACE, container="box", tail_lines=1, timestamps=True)
        self.assertRegex(line, r"^\d{4}-\d\d-\d\dT\S+Z (started|problem)\n$")
        body = self.refused(400, "BadRequest", self.core.read_namespaced_pod_log, "streams", NAMESPACE)
        self.assertIn("a container name must be specified for pod streams", body["message"])

    def exec(self):
        where = dict(name="streams", namespace=NAMESPACE, container="box", stdin=False, stdout=True, stderr=True, tty=False)
        out = stream(self.core.connect_get_namespaced_pod_exec, command=["/bin/echo", "to", "you"], **where)
        self.assertEqual("to you\n", out)
        session = stream(self.core.connect_post_namespaced_pod_exec, command=["/bin/sh"], _preload_content=False, **dict(where, stdin=True))
        session.write_stdin("echo out\n")
        self.assertEqual("out", session.readline_stdout(timeout=20))
        session.write_stdin("echo err >&2\n")  # not with the first: this client may overlook the second of two messages
        self.assertEqual("err", session.readline_stderr(timeout=20))
        session.write_stdin("exit 3\n")
        session.run_forever(timeout=20)
        self.assertEqual(3, session.returncode)
        on_terminal = dict(where, stdin=True, tty=True, command=["/bin/sh", "-c", "test -t 0 && echo terminal"])
        terminal = stream(self.core.connect_get_namespaced_pod_exec, **on_terminal)
        self.assertEqual("terminal", terminal.strip())
        for _ in range(5):  # without input, too, and not now and then
            terminal = stream(self.core.connect_get_namespaced_pod_exec, **dict(on_terminal, stdin=False, command=["echo", "shown"]))
            self.assertEqual("shown", terminal.strip())
        with self.assertRaises(ApiException) as raised:
            stream(self.core.connect_get_namespaced_pod_exec, command=["true"], **dict(where, name="none"))
        self.assertIn("404", str(raised.exception.reason))

    def forward(self):
        tunnel = portforward(self.core.connect_get_namespaced_pod_portforward, "streams", NAMESPACE, ports="8080")
        http = tunnel.socket(8080)
        http.setblocking(True)
        http.sendall(b"GET /healthz HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n")
        answer = b""
        while True:
            part = http.recv(4096)
            if not part:
                break
            answer += part
        http.close()
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK"), answer)
        self.assertIsNone(tunnel.error(8080))

    def test_create_from_dictionary(self):
        made = utils.create_from_dict(self.api, {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "dict"},
                                                 "spec": {"ports": [{"port": 80, "targetPort": "http"}]}}, namespace=NAMESPACE)
        self.assertTrue(made[0].spec.cluster_ip)


if __name__ == "__main__":
    unittest.main(verbosity=2)
