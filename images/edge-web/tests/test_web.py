"""The site answers, and says truly what it runs."""

from __future__ import annotations


def test_nginx_listens(host):
    assert host.service("nginx").is_running
    assert host.socket("tcp://0.0.0.0:80").is_listening


def test_the_page_names_the_running_release_and_root(host, release):
    page = host.check_output("curl --fail --silent http://localhost/")
    assert release.name in page
    assert release.root_hash in page


def test_health_is_answered(host):
    assert host.check_output("curl --fail --silent http://localhost/healthz") == "ok"
