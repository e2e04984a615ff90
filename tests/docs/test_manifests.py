"""The manifests under deploy/: valid by their schemas, and their settings by our own rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml
from compose_spec import PyCompose

from dicomweb_cors_proxy import __version__
from dicomweb_cors_proxy.config.fields import ServerSettings
from dicomweb_cors_proxy.config.loading import load
from dicomweb_cors_proxy.demo.ohif import VERSION
from dicomweb_cors_proxy.probe.app_config import app_config, data_source
from dicomweb_cors_proxy.server.uvicorn_server import longest_end

if TYPE_CHECKING:
    from dicomweb_cors_proxy.config.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted((DEPLOY / "kubernetes").rglob("*.yaml"))
COMPOSE_FILES = sorted((DEPLOY / "compose").glob("*.yaml"))
# What the image sets.
IMAGE = dict(re.findall(r"\b(DICOMWEB_PROXY_\w+)=(\S+)", (ROOT / "Dockerfile").read_text()))
USER = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
PORT = 8080
GIVEN = {"ORTHANC_PASSWORD": "open sesame"}

Manifest = dict[str, Any]


def names(path: Path) -> str:
    return path.stem


def manifest(name: str) -> Manifest:
    return cast("Manifest", yaml.safe_load((DEPLOY / "kubernetes" / f"{name}.yaml").read_text()))


def pod() -> Manifest:
    return cast("Manifest", manifest("deployment")["spec"]["template"]["spec"])


def container() -> Manifest:
    (only,) = pod()["containers"]
    return cast("Manifest", only)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """What the proxy makes of the ConfigMap in a pod."""
    (tmp_path / "config.yaml").write_text(manifest("configmap")["data"]["config.yaml"])
    where = str(tmp_path / "config.yaml")
    return load(environ=IMAGE | {"DICOMWEB_PROXY_CONFIG": where})


@pytest.mark.parametrize("path", MANIFESTS, ids=names)
def test_a_manifest_follows_its_schema(path: Path) -> None:
    kubernetes_validate.validate(yaml.safe_load(path.read_text()), "1.37", strict=True)


def test_the_schema_knows_what_is_wrong() -> None:
    deployment = manifest("deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(deployment, "1.37", strict=True)


def test_every_object_has_one_name_and_selects_the_same_pods() -> None:
    label = {"app.kubernetes.io/name": "dicomweb-cors-proxy"}
    for path in MANIFESTS:
        metadata = yaml.safe_load(path.read_text())["metadata"]
        assert metadata == {"name": "dicomweb-cors-proxy", "labels": label}
    template = manifest("deployment")["spec"]["template"]
    assert template["metadata"]["labels"] == label
    assert manifest("service")["spec"]["selector"] == label
    for name in ("deployment", "pod-disruption-budget"):
        assert manifest(name)["spec"]["selector"]["matchLabels"] == label
    assert manifest("network-policy")["spec"]["podSelector"]["matchLabels"] == label
    for name in ("configMap", "secret"):
        (volume,) = (v[name] for v in pod()["volumes"] if name in v)
        assert "dicomweb-cors-proxy" in volume.values()


def test_the_config_map_is_a_configuration_without_warnings(settings: Settings) -> None:
    assert settings.warnings() == ()
    assert settings.server.port == PORT
    assert settings.server.host == "0.0.0.0"
    (mount,) = (m for m in container()["volumeMounts"] if m["name"] == "config")
    assert IMAGE["DICOMWEB_PROXY_CONFIG"] == f"{mount['mountPath']}/config.yaml"


def test_a_pod_has_time_to_end(settings: Settings) -> None:
    wait = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert wait > container()["readinessProbe"]["periodSeconds"]
    assert wait + longest_end(settings.server) <= pod()["terminationGracePeriodSeconds"]


def test_a_pod_may_do_nothing() -> None:
    assert USER
    user, group = map(int, USER.groups())
    security = pod()["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (
        user,
        group,
        group,
    )
    assert security["runAsNonRoot"]
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["automountServiceAccountToken"] is False
    assert pod()["enableServiceLinks"] is False


def test_an_archive_that_is_down_takes_no_pod_out() -> None:
    for probe in ("readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"] == {"path": "/healthz", "port": "http"}


def test_ports_lead_to_the_proxy_and_to_the_archive(settings: Settings) -> None:
    assert container()["ports"] == [{"name": "http", "containerPort": PORT}]
    assert manifest("service")["spec"]["ports"][0]["targetPort"] == "http"
    policy = manifest("network-policy")["spec"]
    assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": "http"}]]
    to_archive = policy["egress"][0]
    name = to_archive["to"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
    assert settings.upstream.url == f"http://{name}:{to_archive['ports'][0]['port']}/dicom-web"


def test_one_pod_can_go_at_any_time() -> None:
    assert manifest("horizontal-pod-autoscaler")["spec"]["minReplicas"] > 1
    assert manifest("pod-disruption-budget")["spec"]["maxUnavailable"] == 1
    assert "replicas" not in manifest("deployment")["spec"]


def test_the_image_is_of_this_version() -> None:
    assert container()["image"].endswith(f"/dicomweb-cors-proxy:{__version__}")


def test_the_secret_is_the_password_that_the_settings_lack(tmp_path: Path) -> None:
    """Laid out as the kubelet does it: behind two links, beside the pod's ConfigMap."""
    config, secrets = tmp_path / "config.yaml", tmp_path / "secrets"
    secret = manifest("examples/secret")
    comment = (DEPLOY / "kubernetes" / "examples" / "secret.yaml").read_text()
    added = yaml.safe_load("".join(re.findall(r"^#  (.*\n)", comment, re.MULTILINE)))
    file = yaml.safe_load(manifest("configmap")["data"]["config.yaml"])
    file["upstream"] |= added["upstream"]
    config.write_text(yaml.safe_dump(file))
    (secrets / "..2026_11_26").mkdir(parents=True)
    (secrets / "..data").symlink_to("..2026_11_26")
    for name, value in secret["stringData"].items():
        (secrets / "..2026_11_26" / name).write_text(value)
        (secrets / name).symlink_to(f"..data/{name}")
    settings = load(
        config_file=config, environ=IMAGE | {"DICOMWEB_PROXY_SECRETS_DIR": str(secrets)}
    )
    assert settings.upstream.auth.password
    assert settings.upstream.auth.password.get_secret_value() == "change-me"


def interpolated(text: str, variables: dict[str, str]) -> str:
    """Put the variables in as compose does it: `${NAME}`, `${NAME:-default}`, `${NAME:?error}`."""

    def value(match: re.Match[str]) -> str:
        name, _, default = match.groups()
        return variables.get(name) or (default if match[2] == ":-" else variables[name])

    return re.sub(r"\$\{(\w+)(?:(:-|:\?)([^}]*))?\}", value, text)


def services(path: Path) -> dict[str, Any]:
    text = interpolated(path.read_text(), GIVEN)
    return cast("dict[str, Any]", yaml.safe_load(text)["services"])


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=names)
def test_a_compose_file_follows_the_specification(path: Path) -> None:
    assert "proxy" in PyCompose.from_yaml(path.read_text()).service_names()


@pytest.mark.parametrize("line", ["raed_only: true", "cap_drop: ALL", "ports: ['x:y:z']"])
def test_the_specification_knows_what_is_wrong(line: str) -> None:
    with pytest.raises(ValueError, match=r"services\.proxy"):
        PyCompose.from_yaml(f"services:\n  proxy:\n    image: proxy\n    {line}\n")


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=names)
def test_a_compose_files_variables_are_settings(path: Path) -> None:
    environment = services(path)["proxy"]["environment"]
    settings = load(environ=IMAGE | {"DICOMWEB_PROXY_CONFIG": ""} | environment)
    # Without an archive's login there is nothing to warn of; with one, that others could come by
    # plain http: the port is published on loopback alone.
    assert [warning.partition(":")[0] for warning in settings.warnings()] == (
        ["server.host"] if settings.upstream.auth.type != "none" else []
    )
    assert settings.upstream.url
    url = urlsplit(settings.upstream.url)
    archive, port = str(url.hostname), url.port
    assert archive in services(path)
    assert archive in services(path)["proxy"]["depends_on"]
    behind = services(path)[archive]
    assert any(
        f":{each}".endswith(f":{port}") for each in behind.get("ports", behind.get("expose"))
    )


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=names)
def test_a_compose_files_proxy_is_hardened_and_has_time_to_end(path: Path) -> None:
    proxy = services(path)["proxy"]
    assert proxy["read_only"]
    assert proxy["cap_drop"] == ["ALL"]
    assert proxy["security_opt"] == ["no-new-privileges:true"]
    grace = int(proxy["stop_grace_period"].removesuffix("s"))
    assert grace >= longest_end(ServerSettings())


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=names)
def test_nothing_of_a_compose_file_is_reached_from_elsewhere(path: Path) -> None:
    for service in services(path).values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("path", COMPOSE_FILES, ids=names)
def test_a_compose_files_images_are_built_here_or_of_one_version(path: Path) -> None:
    for service in services(path).values():
        name, _, tag = service["image"].partition(":")
        assert ("build" in service) == (name == "dicomweb-cors-proxy")
        assert "build" in service or re.search(r"\d+\.\d+", tag)


def test_the_viewer_has_the_address_of_the_proxy() -> None:
    """The viewer's page is one that the proxy allows, at the origin where it is published."""
    with_viewer = services(DEPLOY / "compose" / "ohif.yaml")
    viewer, proxy = with_viewer["viewer"], with_viewer["proxy"]
    address, published, port = viewer["ports"][0].split(":")
    assert port == viewer["environment"]["PORT"]
    origins = proxy["environment"]["DICOMWEB_PROXY_CORS__ALLOW_ORIGINS"].split(",")
    assert origins == [f"http://{host}:{published}" for host in ("localhost", address)]
    assert proxy["ports"] == ["127.0.0.1:8080:8080"]
    expected = app_config(data_source("http://localhost:8080/dicom-web", "Archive"))
    assert viewer["environment"]["APP_CONFIG"] == expected
    assert viewer["image"] == f"ohif/app:v{VERSION}"
    assert proxy["build"] == with_viewer["samples"]["build"]
