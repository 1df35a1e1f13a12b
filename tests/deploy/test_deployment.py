"""The compose file and the image's steps: what they publish, install and run as."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import yaml
from typer.main import get_command

from tests.support.composed import COMPOSE, GUIDE, ROOT, compose, install, variables
from worker.cli.main import cli
from worker.settings.schema import Settings, load_settings

COMMANDS = set(get_command(cli).commands)  # type: ignore[attr-defined]
OURS = ("worker", "trainer", "console")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the documented commands leave."""
    return install(tmp_path_factory.mktemp("installed"))


def seconds(text: str) -> int:
    assert text.endswith("s")
    return int(text[:-1])


def test_the_compose_file_follows_the_specification(directory: Path) -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec" / "schema.json").read_text())
    jsonschema.Draft7Validator(schema).validate(compose(directory))


def test_every_variable_of_the_compose_file_is_in_the_example() -> None:
    named = set(re.findall(r"\$\{(\w+)", (ROOT / COMPOSE).read_text()))
    users = set(re.findall(r">(\w+_PASSWORD)", (ROOT / "deploy" / "redis" / "users.acl.example").read_text()))
    of_compose = {"COMPOSE_PROFILES"}  # read by the engine itself
    example = (ROOT / "deploy" / "env.example").read_text()
    assert named | users | of_compose == set(re.findall(r"^#?(\w+)=", example, re.M))


@pytest.mark.parametrize("name", OURS)
def test_a_service_is_a_command_of_ours_with_settings_of_ours(
    name: str, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = compose(directory)["services"][name]
    assert service["command"] == [name]
    assert name in COMMANDS
    for variable, value in service["environment"].items():
        monkeypatch.setenv(variable, str(value))
    monkeypatch.setenv("REFINERY_MARKET_DATA_DIR", str(tmp_path))
    settings = load_settings(state_dir=tmp_path)
    assert service["environment"]["REFINERY_MARKET_DATA_DIR"] in {v.split(":")[1] for v in service["volumes"]}
    assert seconds(service["stop_grace_period"]) > (settings.shutdown_grace_s if name != "console" else 0)
    assert service["user"] == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["depends_on"]["redis"]["condition"] == "service_healthy"
    port = {"worker": settings.metrics_port, "trainer": settings.trainer_metrics_port, "console": settings.console_port}
    assert f"127.0.0.1:{port[name]}/" in service["healthcheck"]["test"][-1]


def published(services: Mapping[str, Any]) -> dict[str, list[str]]:
    """Where each service is reached from outside: address, port there, port inside."""
    return {name: service["ports"] for name, service in services.items() if "ports" in service}


def test_every_way_in_is_on_this_machine_only_and_leads_to_what_listens_there(directory: Path) -> None:
    whole = compose(directory)
    services = whole["services"]
    settings = Settings.model_fields
    assert published(services) == {
        "redis": ["127.0.0.1:6379:6379"],
        "worker": [f"127.0.0.1:{settings['metrics_port'].default}:{settings['metrics_port'].default}"],
        "trainer": [f"127.0.0.1:{settings['trainer_metrics_port'].default}:{settings['trainer_metrics_port'].default}"],
        "console": [f"127.0.0.1:{settings['console_port'].default}:{settings['console_port'].default}"],
        "prometheus": ["127.0.0.1:9090:9090"],
        "grafana": ["127.0.0.1:3000:3000"],
    }
    listens = {name: services[name]["environment"] for name in OURS}
    hosts = {"worker": "REFINERY_METRICS_HOST", "trainer": "REFINERY_METRICS_HOST", "console": "REFINERY_CONSOLE_HOST"}
    assert {name: listens[name][variable] for name, variable in hosts.items()} == dict.fromkeys(hosts, "0.0.0.0")  # noqa: S104 - in a container


def test_what_is_published_is_in_a_network_that_ports_are_published_from(directory: Path) -> None:
    whole = compose(directory)
    assert whole["networks"] == {"inside": {"internal": True}, "outside": None}
    for service in whole["services"].values():
        with_a_way_in = {"inside", "outside"}  # an internal network alone publishes nothing
        assert set(service["networks"]) == (with_a_way_in if "ports" in service else {"inside"})


def test_another_port_of_redis_is_a_line_of_the_environment_file(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    (tmp_path / ".env").write_text((tmp_path / ".env").read_text().replace("#REDIS_PORT=6379", "REDIS_PORT=6390"))
    assert compose(tmp_path)["services"]["redis"]["ports"] == ["127.0.0.1:6390:6379"]


def test_the_guide_names_every_way_in(directory: Path) -> None:
    told = GUIDE.read_text()
    for ports in published(compose(directory)["services"]).values():
        for address in ports:
            assert address.rpartition(":")[0] in told
    users = re.findall(r"^user (\w+) on", (ROOT / "deploy" / "redis" / "users.acl.example").read_text(), re.M)
    assert re.findall(r"^\| `(\w+)` \| [^|]* \| [^|]* \| [^|]* \|$", told, re.M) == users
    assert set(re.findall(r"redis://(\w+):PASSWORD@127.0.0.1:6379/0", told)) == set(users) - {"consumer"}


def test_prometheus_scrapes_what_is_published_and_reads_the_rules(directory: Path) -> None:
    here = ROOT / "deploy" / "prometheus"
    wanted = yaml.safe_load((here / "prometheus.yml").read_text())
    [job] = wanted["scrape_configs"]
    targets = {entry["labels"]["process"]: entry["targets"] for entry in job["static_configs"]}
    ways_in = published(compose(directory)["services"])
    assert targets == {name: [ways_in[name][0].rpartition(":")[0]] for name in ("worker", "trainer")}
    assert all(yaml.safe_load((here / name).read_text())["groups"] for name in wanted["rule_files"])


def test_the_profile_of_monitoring_scrapes_the_services_and_reads_the_same_rules(directory: Path) -> None:
    services = compose(directory)["services"]
    assert {name for name in services if services[name].get("profiles") == ["monitoring"]} == {"prometheus", "grafana"}
    here = directory / "deploy" / "prometheus"
    alone, inside = (yaml.safe_load((here / f"prometheus{of}.yml").read_text()) for of in ("", ".compose"))
    [job] = inside["scrape_configs"]
    targets = {entry["labels"]["process"]: entry["targets"] for entry in job["static_configs"]}
    ways_in = published(services)
    assert targets == {name: [f"{name}:{ways_in[name][0].rpartition(':')[2]}"] for name in ("worker", "trainer")}
    for each in (alone, inside):
        del each["scrape_configs"][0]["static_configs"]
    assert alone == inside
    [config] = [word for word in services["prometheus"]["command"] if word.startswith("--config.file=")]
    assert mounted(services["prometheus"], config.partition("=")[2], directory).is_file()


def test_the_profile_of_scale_has_a_postgres_and_two_of_each_on_it(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    before = compose(tmp_path)["services"]
    assert {services["environment"]["REFINERY_STORE_URL"] for services in map(before.get, OURS)} == {""}
    for _ in range(2):  # a second run changes nothing
        subprocess.run(["sh", "deploy/set-passwords.sh", "--scale"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / ".env").read_text().count("\nSTORE_URL=") == 1
    assert variables(tmp_path)["COMPOSE_PROFILES"] == "scale"
    services = compose(tmp_path)["services"]
    scale = {name for name in services if services[name].get("profiles") == ["scale"]}
    assert scale == {"postgres", "upgrade", "worker-2", "trainer-2"}
    on_it = (*OURS, "worker-2", "trainer-2", "upgrade")
    (url,) = {services[name]["environment"]["REFINERY_STORE_URL"] for name in on_it}
    parts, told = urlsplit(url), services["postgres"]["environment"]
    assert parts.hostname == "postgres"
    assert (parts.username, parts.password) == (told["POSTGRES_USER"], told["POSTGRES_PASSWORD"])
    assert parts.path == f"/{told['POSTGRES_DB']}"
    for name, value in services["worker-2"]["environment"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REFINERY_MARKET_DATA_DIR", str(tmp_path))
    assert load_settings().masked_store == "postgresql://refinery@postgres/refinery?schema=signal_refinery"
    for one, other in (("worker", "worker-2"), ("trainer", "trainer-2")):
        assert services[one]["volumes"][0].split(":")[0] != services[other]["volumes"][0].split(":")[0]
        alike = ("command", "environment", "mem_limit", "healthcheck", "stop_grace_period")
        assert {name: services[other][name] for name in alike} == {name: services[one][name] for name in alike}
        assert services[other]["depends_on"]["upgrade"] == {"condition": "service_completed_successfully"}
    assert services["upgrade"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_every_service_is_told_how_many_shards_there_are(directory: Path, tmp_path: Path) -> None:
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    env = tmp_path / ".env"
    for line, wanted in (("#SHARDS=2", "1"), ("SHARDS=2", "2")):
        assert "#SHARDS=2" in env.read_text()
        env.write_text(env.read_text().replace("#SHARDS=2", line))
        services = compose(tmp_path)["services"]
        on_it = (*OURS, "worker-2", "trainer-2", "upgrade")
        assert {services[name]["environment"]["REFINERY_SHARDS"] for name in on_it} == {wanted}


def test_grafana_finds_its_data_source_and_its_dashboard_where_they_are_mounted(directory: Path) -> None:
    services = compose(directory)["services"]
    grafana = services["grafana"]
    provisioning = mounted(grafana, "/etc/grafana/provisioning", directory)
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["url"] == f"http://prometheus:{published(services)['prometheus'][0].rpartition(':')[2]}"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "refinery.yml").read_text())["providers"]
    assert [path.name for path in mounted(grafana, provider["options"]["path"], directory).glob("*.json")] == [
        "refinery.json"
    ]
    assert mounted(grafana, grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"], directory).is_file()
    assert len(grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"]) >= 32


def mounted(service: Mapping[str, Any], inside: str, directory: Path) -> Path:
    """Where a path of a container lies in the installation."""
    for volume in service["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("./") and (inside == target or inside.startswith(f"{target}/")):
            return directory / source / inside.removeprefix(target).lstrip("/")
    raise AssertionError(f"{inside} is not mounted")


def test_the_images_user_is_the_one_that_runs_it(directory: Path) -> None:
    image = (ROOT / "Dockerfile").read_text()
    group = re.search(r"groupadd .*--gid (\d+) (\w+)", image)
    user = re.search(r"useradd .*--uid (\d+) --gid (\d+) .* (\w+)", image)
    assert group
    assert user
    assert (user[2], user[3]) == (group[1], group[2])
    runs_as = f"{user[1]}:{group[1]}"
    assert re.findall(r"^USER (\S+)", image, re.M) == [runs_as]
    assert {compose(directory)["services"][name]["user"] for name in OURS} == {runs_as}
    assert re.search(rf"install -d -o {user[3]} -g {group[2]} -m 0700 /var/lib/refinery", image)


def test_every_extra_that_a_command_needs_is_in_the_image() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    installed = re.search(r"pip install .*'\.\[([\w,]+)\]'", (ROOT / "Dockerfile").read_text())
    assert installed
    assert set(installed[1].split(",")) == extras - {"dev", "bench"}


def test_what_is_sent_to_the_image_has_what_it_copies_and_no_passwords() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.M)
    assert sent == {name for line in copied for name in line.split()}
    assert (ROOT / ".dockerignore").read_text().splitlines()[0] == "*"


def test_files_with_passwords_are_not_committed(directory: Path) -> None:
    made = {path.relative_to(directory) for path in directory.rglob("*") if path.is_file()}
    made -= {path.relative_to(ROOT) for path in [*(ROOT / "deploy").rglob("*"), ROOT / COMPOSE]}
    assert made == {Path(".env"), Path("deploy/redis/users.acl")}
    assert set(map(str, made)) <= set((ROOT / ".gitignore").read_text().splitlines())


def test_the_image_is_installed_as_make_installs_it() -> None:
    image, make = (ROOT / "Dockerfile").read_text(), (ROOT / "Makefile").read_text()
    assert re.search(r"-m venv ", image)
    assert re.search(r"-m venv ", make)
    wanted = re.search(r"-m pip install .*-c constraints.txt", make)
    assert wanted
    assert re.search(r"-m pip install .*-c constraints.txt", image)
    assert set(re.findall(r"^COPY ([\w./ ]+?) (?:\./|\.)", image, re.M)) >= {
        "pyproject.toml constraints.txt README.md LICENSE"
    }
    assert all(re.search(r":\d+\.\d+\.\d+-", base) for base in re.findall(r"^FROM (\S+)", image, re.M))
    assert '["refinery"]' in image
