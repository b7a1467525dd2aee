"""The pytest plugin that images' tests run with: ``recast test`` loads it.

Fixtures, all of the session:

``host``
    testinfra's host: the machine over ssh, as root.
``release``
    the :class:`~pipeline.models.release.Release` that must be running.
``definition``
    the :class:`~pipeline.models.image.ImageDefinition`, with what it inherits.
``machine``
    :class:`TestMachine`: ``boot_seconds``, ``reboot()``.
``rebooted``
    the machine after one clean reboot, which all tests that ask for it share. They run last, so
    an ordinary test may leave a mark that another one looks for after the reboot.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline import ssh
from pipeline.testing import CHECKS, context, guest
from pipeline.testing.context import Context

if TYPE_CHECKING:
    from pipeline.models.image import ImageDefinition
    from pipeline.models.release import Release

TEST_NAME = "test"
"""The JUnit property that holds a test's name for people."""

_CONNECT_SECONDS = 60


class TestMachine:
    """The machine under test.

    Attributes:
        boot_seconds: from power-on to healthy; None when it was not healthy in time.
        reboots: how often it was rebooted by a test.
        host_keys: its ssh host keys, learnt since the last boot.
    """

    __test__ = False  # not a test class, whatever pytest makes of the name

    def __init__(self, told: Context) -> None:
        self._target = told.target
        self._deadline = float(told.definition.tests.boot_deadline)
        self.boot_seconds = told.boot_seconds
        self.reboots = 0

    @property
    def host_keys(self) -> frozenset[str]:
        """The host keys that it showed since it last booted."""
        ssh.run(self._target, ["true"], timeout=self._deadline, shared=False)
        lines = self._target.known_hosts.read_text().splitlines()
        return frozenset(" ".join(line.split()[1:3]) for line in lines)

    def boot_id(self) -> str:
        """The kernel's name for the running boot."""
        return guest.boot_id(self._target)

    def reboot(self) -> float:
        """Reboot cleanly, and wait for a new boot that is healthy.

        Returns:
            Seconds that it took.

        Raises:
            BootError: it was not back and healthy within the definition's ``boot_deadline``.
        """
        self.reboots += 1
        return guest.reboot(self._target, self._deadline)


@pytest.fixture(scope="session")
def recast_context() -> Context:
    """What `recast test` tells about the machine."""
    return context.load()


@pytest.fixture(scope="session")
def host(recast_context: Context) -> Any:
    """testinfra's host: the machine over ssh, as root."""
    import testinfra

    return testinfra.get_host(
        f"ssh://{ssh.ALIAS}",
        ssh_config=str(recast_context.ssh_config),
        timeout=_CONNECT_SECONDS,
        controlpersist=0,  # the ssh_config says it, with a path
    )


@pytest.fixture(scope="session")
def release(recast_context: Context) -> Release:
    """The release that must be running."""
    return recast_context.release


@pytest.fixture(scope="session")
def definition(recast_context: Context) -> ImageDefinition:
    """The image's definition, with what it inherits."""
    return recast_context.definition


@pytest.fixture(scope="session")
def machine(recast_context: Context) -> TestMachine:
    """The machine under test."""
    return TestMachine(recast_context)


@pytest.fixture(scope="session")
def rebooted(machine: TestMachine) -> TestMachine:
    """The machine after a clean reboot; tests that ask for it run last and share it."""
    machine.reboot()
    return machine


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give ``persistent_path`` one value for each path that the definition says must persist."""
    if "persistent_path" in metafunc.fixturenames:
        metafunc.parametrize("persistent_path", context.load().definition.persist)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Put the tests that need the reboot last, and give each test a name for people."""
    items.sort(key=lambda item: "rebooted" in getattr(item, "fixturenames", ()))
    for item in items:
        item.user_properties.append((TEST_NAME, _shown(item, config.rootpath)))


def _shown(item: pytest.Item, root: Path) -> str:
    """``images/web/tests/test_web.py::test_page``; the checks of every image as ``checks/…``."""
    base = CHECKS.parent if item.path.is_relative_to(CHECKS) else root
    path = item.path.relative_to(base) if item.path.is_relative_to(base) else item.path
    _, *inside = item.nodeid.split("::")
    return "::".join([path.as_posix(), *inside])
