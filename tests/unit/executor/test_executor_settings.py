"""Settings of the executor: wrong ones are named, all at once, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from aegis_executor.settings import Settings, SettingsError


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    file = tmp_path / "file"
    file.write_text("x")
    names = ("TLS_CERT", "TLS_KEY", "TLS_CA", "TRUST_BUNDLE", "KUBECONFIG", "AUDIT_KEY")
    return {
        **{f"AEGIS_{name}": str(file) for name in names},
        "AEGIS_EXECUTOR_DATABASE_URL": "postgresql://",
        "AEGIS_CLUSTER": "sandbox",
        "AEGIS_EXECUTOR_NAMESPACES": "demo, shop",
    }


def test_defaults_are_the_safe_ones(environment: dict[str, str]):
    """Only the server may call, at most ten replicas, no metrics port."""
    settings = Settings.from_environment(environment)
    assert settings.peers == {"server:aegis"}
    assert settings.limits.namespaces == {"demo", "shop"}
    assert settings.limits.replicas_max == 10
    assert settings.metrics_listen is None
    assert settings.reach.namespaces == settings.limits.namespaces
    assert not settings.reach.nodes
    assert not settings.reach.delete_pods
    assert not settings.limits.delete_unready
    assert settings.failpoint == ""


def test_nodes_are_touched_only_where_they_are_named(environment: dict[str, str]):
    """They are everybody's, and no list of namespaces protects them."""
    assert "n-1" not in Settings.from_environment(environment).limits.nodes
    named = Settings.from_environment({**environment, "AEGIS_EXECUTOR_NODES": "n-1"})
    assert "n-1" in named.limits.nodes
    assert "n-2" not in named.limits.nodes


def test_failpoint_is_armed_in_development_only(environment: dict[str, str]):
    """Nobody's production dies of a variable that was left behind: it does not even start."""
    armed = {**environment, "AEGIS_FAILPOINT": "before-mutate:restart_pod"}
    with pytest.raises(SettingsError, match="AEGIS_FAILPOINT"):
        Settings.from_environment(armed)
    development = Settings.from_environment({**armed, "AEGIS_PROFILE": "development"})
    assert development.failpoint == "before-mutate:restart_pod"
    with pytest.raises(SettingsError, match="no failpoint"):
        unknown = {"AEGIS_PROFILE": "development", "AEGIS_FAILPOINT": "nowhere"}
        Settings.from_environment({**environment, **unknown})


def test_unready_pods_are_deleted_only_where_that_is_said(environment: dict[str, str]):
    """A deletion asks no disruption budget."""
    said = {**environment, "AEGIS_EXECUTOR_DELETE_UNREADY": "yes"}
    settings = Settings.from_environment(said)
    assert settings.limits.delete_unready
    assert settings.reach.delete_pods


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("AEGIS_EXECUTOR_NAMESPACES", ""),
        ("AEGIS_EXECUTOR_NAMESPACES", "demo,kube-system"),
        ("AEGIS_EXECUTOR_NAMESPACES", "*"),
        ("AEGIS_EXECUTOR_ACTIONS", "restart_pod,delete_everything"),
        ("AEGIS_EXECUTOR_MAX_REPLICAS", "many"),
        ("AEGIS_EXECUTOR_MAX_REPLICAS", "0"),
        ("AEGIS_EXECUTOR_SETTLE_SECONDS", "nan"),
        ("AEGIS_EXECUTOR_SETTLE_SECONDS", "inf"),
        ("AEGIS_EXECUTOR_MAX_REPLICAS", "inf"),
        ("AEGIS_EXECUTOR_DELETE_UNREADY", "perhaps"),
        ("AEGIS_CLUSTER", ""),
        ("AEGIS_KUBECONFIG", "/nowhere"),
        ("AEGIS_METRICS_LISTEN", "9090"),
        ("AEGIS_EXECUTOR_NODES", "*"),
        ("AEGIS_EXECUTOR_NODES", "node-a,Node B"),
        ("AEGIS_EXECUTOR_DELETE_UNREADY", "sometimes"),
        ("AEGIS_EXECUTOR_DETACHED_APPROVALS", "rollback_deployment"),
        ("AEGIS_EXECUTOR_STABILISE_SECONDS", "soon"),
        ("AEGIS_EXECUTOR_SUCCESSES", "0"),
        ("AEGIS_PROMETHEUS_URL", "prometheus:9090"),
        ("AEGIS_EXECUTOR_GUARDS", "/nowhere/guards.toml"),
        ("AEGIS_EXECUTOR_PAUSE_FILE", "/nowhere/pause"),
        ("AEGIS_EXECUTOR_PAUSE_FILE", "pause"),
        ("AEGIS_EXECUTOR_CLOCK_CHECK", "perhaps"),
        ("AEGIS_EXECUTOR_STANDBY", "1"),
    ],
)
def test_wrong_setting_is_named(environment: dict[str, str], variable: str, value: str):
    """The error names the variable."""
    with pytest.raises(SettingsError, match=variable):
        Settings.from_environment({**environment, variable: value})


def test_address_with_a_password_is_not_shown(environment: dict[str, str]):
    """What is wrong with a setting goes into the log."""
    wrong = {"AEGIS_PROMETHEUS_URL": "https://aegis:hunter2@prometheus/?x=1"}
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({**environment, **wrong})
    assert "hunter2" not in str(caught.value)


def test_all_problems_are_told_at_once():
    """One start is enough to learn everything that is missing."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({})
    for name in ("AEGIS_EXECUTOR_DATABASE_URL", "AEGIS_TLS_CERT", "AEGIS_EXECUTOR_NAMESPACES"):
        assert name in str(caught.value)


def test_database_url_is_not_shown(environment: dict[str, str]):
    """It may hold a password."""
    url = "postgresql://aegis:hunter2@host/db"
    settings = Settings.from_environment({**environment, "AEGIS_EXECUTOR_DATABASE_URL": url})
    assert settings.database_url == url
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("value", "allowed"),
    [("", []), ("no", []), ("node-a", ["node-a"]), ("yes", ["node-a", "node-b"])],
)
def test_nodes_are_those_that_were_named(
    environment: dict[str, str], value: str, allowed: list[str]
):
    """None by default; every one only where somebody wrote yes."""
    told = Settings.from_environment({**environment, "AEGIS_EXECUTOR_NODES": value})
    assert [name for name in ("node-a", "node-b") if name in told.reach.nodes] == allowed


@pytest.mark.parametrize(
    ("host", "url"), [("10.0.0.1", "https://10.0.0.1:6443"), ("fd00::1", "https://[fd00::1]:6443")]
)
def test_pod_without_a_kubeconfig_uses_its_own_cluster(
    environment: dict[str, str], host: str, url: str
):
    """The address the kubelet tells every pod."""
    del environment["AEGIS_KUBECONFIG"]
    inside = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "6443"}
    settings = Settings.from_environment({**environment, **inside})
    assert (settings.kubeconfig, settings.api_server) == (None, url)


def test_kubeconfig_counts_before_the_pods_own_cluster(environment: dict[str, str]):
    """An executor may run in one cluster and act in another."""
    inside = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}
    settings = Settings.from_environment({**environment, **inside})
    assert (settings.kubeconfig is not None, settings.api_server) == (True, "")


def test_neither_kubeconfig_nor_pod_is_told(environment: dict[str, str]):
    """There has to be a cluster."""
    del environment["AEGIS_KUBECONFIG"]
    with pytest.raises(SettingsError, match="AEGIS_KUBECONFIG"):
        Settings.from_environment(environment)


def test_probes_and_demands_are_read(environment: dict[str, str], tmp_path: Path):
    """Seconds instead of minutes for a demo; a Prometheus with its authority and token."""
    token = tmp_path / "token"
    token.write_text("secret")
    told = {
        "AEGIS_EXECUTOR_WINDOW_SECONDS": "6",
        "AEGIS_EXECUTOR_LOOK_SECONDS": "0.5",
        "AEGIS_EXECUTOR_DETACHED_APPROVALS": "rollback_deployment=1",
        "AEGIS_PROMETHEUS_URL": "https://prometheus.example/prefix",
        "AEGIS_PROMETHEUS_TOKEN_FILE": str(token),
    }
    settings = Settings.from_environment({**environment, **told})
    verification = settings.verification
    assert (verification.window_seconds, verification.every_seconds) == (6, 0.5)
    assert (verification.stabilise_seconds, verification.successes) == (30, 2)
    assert settings.limits.detached_approvals == {"rollback_deployment": 1}
    assert settings.prometheus is not None
    assert settings.prometheus.token_file == token


def test_token_is_not_sent_in_the_clear(environment: dict[str, str], tmp_path: Path):
    """A token over http belongs to everybody on the way."""
    told = {
        "AEGIS_PROMETHEUS_URL": "http://prometheus:9090",
        "AEGIS_PROMETHEUS_TOKEN_FILE": environment["AEGIS_TLS_KEY"],
    }
    with pytest.raises(SettingsError, match="https only"):
        Settings.from_environment({**environment, **told})


def test_guards_file_with_an_unknown_key_is_refused(environment: dict[str, str], tmp_path: Path):
    """By the variable's name and the key's."""
    file = tmp_path / "guards.toml"
    file.write_text("budget = 3")
    with pytest.raises(SettingsError, match=r"AEGIS_EXECUTOR_GUARDS: budget is no key"):
        Settings.from_environment({**environment, "AEGIS_EXECUTOR_GUARDS": str(file)})
    file.write_text("attempts = 2")
    told = {**environment, "AEGIS_EXECUTOR_GUARDS": str(file)}
    assert Settings.from_environment(told).guards.attempts == 2


@pytest.mark.parametrize(
    ("told", "checked"),
    [
        ({}, True),
        ({"AEGIS_PROFILE": "development"}, False),
        ({"AEGIS_PROFILE": "development", "AEGIS_EXECUTOR_CLOCK_CHECK": "yes"}, True),
        ({"AEGIS_EXECUTOR_CLOCK_CHECK": "no"}, False),
    ],
)
def test_clock_is_checked_in_production(
    environment: dict[str, str], told: dict[str, str], checked: bool
):
    """Unless somebody says otherwise."""
    assert Settings.from_environment({**environment, **told}).clock_check is checked
