"""The Helm chart: it renders the manifests, and takes no values that it does not know."""

from __future__ import annotations

import json
import runpy
from typing import TYPE_CHECKING, Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from jsonschema import Draft202012Validator

from dicomweb_cors_proxy import __version__
from dicomweb_cors_proxy.config.loading import load
from dicomweb_cors_proxy.server.uvicorn_server import longest_end
from tests.support.guides import ROOT, command
from tests.support.helm import CAN_BE_INSTALLED, CHART, helm, program, rendered

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = CHART / "values.schema.json"
EXAMPLE = CHART / "ci" / "manifests-values.yaml"
NAME = "dicomweb-cors-proxy"
OF_HELM = ("instance", "managed-by", "version")

# A value for each that is empty by default.
EVERYTHING = {
    "image": {"repository": "registry.test/proxy", "tag": "1.2.3", "pullPolicy": "Always"},
    "imagePullSecrets": [{"name": "registry"}],
    "config": {
        "upstream": {"url": "http://archive:8042/dicom-web"},
        "cors": {"allow_origins": ["https://viewer.test"]},
        "server": {
            "port": 8443,
            "drain_delay": 2.5,
            "shutdown_timeout": 60,
            "max_body_bytes": 5 * 2**30,
        },
    },
    "secretName": "of-the-archive",
    "env": [{"name": "DICOMWEB_PROXY_LOGGING__LEVEL", "value": "debug"}],
    "service": {"type": "LoadBalancer", "port": 443, "annotations": {"a": "b"}},
    "autoscaling": {"enabled": False},
    "replicas": 3,
    "podDisruptionBudget": {"enabled": False},
    "networkPolicy": {"enabled": True, "from": [{"podSelector": {}}], "egress": [{}]},
    "preStopSeconds": 0,
    "volumes": [{"name": "tls", "secret": {"secretName": "tls"}}],
    "volumeMounts": [{"name": "tls", "mountPath": "/tls", "readOnly": True}],
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"e": "f"},
    "tolerations": [{"key": "g", "operator": "Exists"}],
    "affinity": {"podAntiAffinity": {}},
    "priorityClassName": "high",
}

needs_helm = pytest.mark.usefixtures("installed")


@pytest.fixture
def installed() -> None:
    if program() is None:
        if CAN_BE_INSTALLED:
            pytest.skip("Helm is not installed (tests/docs/install-helm)")
        pytest.xfail("there is no Helm for this processor")


def values(file: Path) -> Any:  # noqa: ANN401
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def faults(content: Any) -> list[str]:  # noqa: ANN401
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    return [error.json_path for error in Draft202012Validator(schema).iter_errors(content)]


def settings_of(objects: dict[str, dict[str, Any]]) -> Any:  # noqa: ANN401
    return yaml.safe_load(objects["ConfigMap"]["data"]["config.yaml"])


def container_of(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (only,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def plain(value: Any) -> Any:  # noqa: ANN401
    """Leave out what only Helm adds, and read the configuration."""
    if isinstance(value, list):
        return [plain(each) for each in value]
    if not isinstance(value, dict):
        return value
    own = {f"app.kubernetes.io/{name}" for name in OF_HELM} | {"helm.sh/chart", "imagePullPolicy"}
    result = {key: plain(each) for key, each in value.items() if key not in own}
    annotations = result.get("annotations")
    if isinstance(annotations, dict) and annotations.keys() == {"checksum/config"}:
        del result["annotations"]
    if isinstance(text := result.get("config.yaml"), str):
        result["config.yaml"] = yaml.safe_load(text)
    return result


def test_schema_of_the_values_has_the_current_settings() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "chart_schema.py"))
    text = SCHEMA.read_text(encoding="utf-8")
    Draft202012Validator.check_schema(json.loads(text))
    assert text == tool["renewed"](text), "run `python tools/chart_schema.py`"


@pytest.mark.parametrize(
    "content", [values(CHART / "values.yaml"), values(EXAMPLE), EVERYTHING], ids=str
)
def test_schema_accepts_values(content: Any) -> None:  # noqa: ANN401
    assert not faults(content)


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({"imge": {}}, "$"),
        ({"image": {"repository": ""}}, "$.image.repository"),
        ({"config": {"cors": {"allow_orgins": []}}}, "$.config.cors"),
        ({"config": {"server": {"port": 65536}}}, "$.config.server.port"),
        ({"autoscaling": {"minReplicas": 0}}, "$.autoscaling.minReplicas"),
    ],
)
def test_schema_rejects_unknown_values(content: Any, path: str) -> None:  # noqa: ANN401
    assert faults(content) == [path]


def test_every_value_has_a_schema_and_a_default() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))["properties"]
    assert schema.keys() - {"global"} == values(CHART / "values.yaml").keys()


def test_chart_has_the_version_of_the_package() -> None:
    chart = values(CHART / "Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_chart_begins_with_a_valid_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values(CHART / "values.yaml")["config"]))
    assert load(config_file=tmp_path / "config.yaml", environ={}).upstream.url


@needs_helm
@pytest.mark.parametrize("flags", [(), ("--values", EXAMPLE)], ids=["defaults", "example"])
def test_helm_finds_no_fault(flags: tuple[str | Path, ...]) -> None:
    ended = helm("lint", "--strict", CHART, *flags)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@needs_helm
def test_chart_renders_the_manifests() -> None:
    manifests = map(values, (ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    expected = {each["kind"]: plain(each) for each in manifests}
    objects = rendered(NAME, "--values", EXAMPLE)
    assert plain(objects) == expected


@needs_helm
def test_command_of_the_guide_renders() -> None:
    (_, release, chart, *flags) = command("kubernetes", "helm").arguments
    assert ROOT / chart == CHART
    settings = settings_of(rendered(release, *flags))
    assert settings["upstream"]["url"] in flags[3]
    assert settings["cors"]["allow_origins"] == ["https://viewer.example"]


@needs_helm
@pytest.mark.parametrize("content", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_rendered_objects_follow_their_schemas(content: dict[str, Any]) -> None:
    objects = rendered("first", values=content)
    for each in objects.values():
        kubernetes_validate.validate(each, "1.37", strict=True)
    assert {each["metadata"]["name"] for each in objects.values()} == {"first"}


@needs_helm
def test_values_reach_the_objects(tmp_path: Path) -> None:
    objects = rendered("first", values=EVERYTHING)
    assert objects.keys() == {"ConfigMap", "Deployment", "NetworkPolicy", "Service"}
    (tmp_path / "config.yaml").write_text(objects["ConfigMap"]["data"]["config.yaml"])
    settings = load(config_file=tmp_path / "config.yaml", environ={})
    assert settings.server.max_body_bytes == 5 * 2**30
    assert settings.cors.allow_origins == ("https://viewer.test",)
    deployment = objects["Deployment"]["spec"]
    assert deployment["replicas"] == 3
    pod = deployment["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= longest_end(settings.server)
    assert pod["volumes"][1]["secret"] == {
        "secretName": "of-the-archive",
        "defaultMode": 0o440,
        "optional": False,
    }
    container = container_of(objects)
    assert container["image"] == "registry.test/proxy:1.2.3"
    assert container["ports"] == [{"name": "http", "containerPort": 8443}]
    assert container["env"] == EVERYTHING["env"]
    assert "lifecycle" not in container
    assert deployment["template"]["metadata"]["labels"]["c"] == "d"


@needs_helm
def test_probes_use_tls_if_the_proxy_does() -> None:
    config = {"server": {"tls_cert_file": "/tls/tls.crt", "tls_key_file": "/tls/tls.key"}}
    container = container_of(rendered("first", values={"config": config}))
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["scheme"] == "HTTPS"


@needs_helm
def test_changed_configuration_restarts_the_pods() -> None:
    def checksum(content: dict[str, Any]) -> str:
        template = rendered("first", values=content)["Deployment"]["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) == checksum({})
    assert checksum({}) != checksum({"config": {"logging": {"level": "debug"}}})


@needs_helm
def test_two_releases_select_their_own_pods() -> None:
    def selector(release: str) -> Any:  # noqa: ANN401
        return rendered(release)["Service"]["spec"]["selector"]

    assert selector("first") != selector("second")


@needs_helm
def test_helm_rejects_an_unknown_setting() -> None:
    ended = helm("template", "x", CHART, values={"config": {"cors": {"allow_orgins": ["*"]}}})
    assert ended.returncode != 0
    assert "allow_orgins" in ended.stderr
