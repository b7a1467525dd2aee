"""What a machine at the edge must be, whatever it is for."""

from __future__ import annotations


def test_network_is_configured_by_dhcp(host):
    states = host.check_output("networkctl --no-legend --no-pager list")
    assert "routable" in states, states


def test_passwords_do_not_open_ssh(host):
    settings = host.check_output("sshd -T").splitlines()
    assert "passwordauthentication no" in settings
    assert "permitrootlogin without-password" in settings


def test_the_journal_is_kept_under_the_id_that_this_machine_keeps(host):
    assert host.mount_point("/var/log/journal").exists
    identity = host.check_output("cat /etc/machine-id")
    assert identity == host.check_output("cat /data/recast/machine-id")
    kept = host.check_output("ls /var/log/journal").split()
    assert [name for name in kept if len(name) == len(identity)] == [identity]


def test_nothing_patches_this_machine(host):
    for timer in ("apt-daily.timer", "apt-daily-upgrade.timer"):
        assert host.run("systemctl is-enabled %s", timer).stdout.strip() == "masked"


def test_python_is_there_for_automation(host):
    assert host.check_output("python3 -c 'print(6 * 7)'") == "42"


def test_the_package_archive_of_the_build_is_forgotten(host):
    assert host.check_output("find /etc/apt/sources.list.d /var/lib/apt/lists -type f") == ""
