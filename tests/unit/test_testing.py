"""Reading pytest's report, and the way to a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import ssh
from pipeline.errors import TestError
from pipeline.testing import junit, runner

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="1" tests="5">
<testcase classname="images.web.tests.test_web" name="test_page" time="0.1">
  <properties><property name="test" value="images/web/tests/test_web.py::test_page"/></properties>
  <failure message="AssertionError: assert 404 == 200&#10;  +  where 404 = status()">long</failure>
</testcase>
<testcase classname="images.web.tests.test_web" name="test_page" time="0.1">
  <properties><property name="test" value="images/web/tests/test_web.py::test_page"/></properties>
  <error message="failed on teardown">long</error>
</testcase>
<testcase classname="a" name="test_ok" time="0.1"/>
<testcase classname="a" name="test_skipped"><skipped message="no reason"/></testcase>
<testcase classname="" name="images.web.tests.test_broken" time="0.0">
  <error message="collection failure">x = 1
E   ImportError: No module named 'nothing'</error>
</testcase>
</testsuite></testsuites>
"""


def test_a_report_names_what_failed_and_why(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(REPORT)
    report = junit.read(path)
    assert report.skipped == 1
    assert len(report.ran) == 3, "a test that fails twice is one test"
    page, broken = report.failures
    assert page.test == "images/web/tests/test_web.py::test_page"
    assert page.message == "AssertionError: assert 404 == 200\n  +  where 404 = status()"
    assert broken.test == "images.web.tests.test_broken"
    assert broken.message == "ImportError: No module named 'nothing'"


def test_a_long_message_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    path.write_text(
        f'<testsuite><testcase name="t"><failure message="{"x" * 5000}"/></testcase></testsuite>'
    )
    assert len(junit.read(path).failures[0].message) <= 601


def test_a_broken_fixture_is_told_in_its_own_words(tmp_path: Path) -> None:
    path = tmp_path / "report.xml"
    words = "failed on setup with &quot;pipeline.errors.BootError: it did not come back&quot;"
    path.write_text(
        f'<testsuite><testcase name="t"><error message="{words}"/></testcase></testsuite>'
    )
    assert junit.read(path).failures[0].message == "BootError: it did not come back"


@pytest.mark.parametrize("content", [None, "", "<testsuite>"])
def test_a_report_that_is_missing_or_cut_off_is_no_pass(
    content: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "report.xml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(TestError, match="left no report"):
        junit.read(path)


def test_tests_run_apart_from_the_settings_of_the_repository(tmp_path: Path) -> None:
    words = runner.arguments(tmp_path, [tmp_path / "a", tmp_path / "b"], tmp_path / "i", Path("r"))
    assert words[-2:] == [str(tmp_path / "a"), str(tmp_path / "b")], "parents' tests first"
    assert words[words.index("-c") + 1] == str(tmp_path / "i")


def test_ssh_uses_nothing_of_the_persons_own(tmp_path: Path) -> None:
    target = ssh.SshTarget("127.0.0.1", 2222, "root", tmp_path / "k 100%", tmp_path / "known")
    words = target.argv(["echo", "a b"])
    assert words[1:3] == ["-F", "none"]
    assert "-oIdentityAgent=none" in words
    assert "-oBatchMode=yes" in words
    assert f'-oIdentityFile="{tmp_path}/k 100%%"' in words
    assert words[-1] == "echo 'a b'"
    assert "Control" not in target.config()
