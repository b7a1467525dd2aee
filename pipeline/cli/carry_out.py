"""What `run`, `build` and `test` have in common: a plan is executed, and its end is told."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pipeline.cli.context import Context
from pipeline.cli.terminal import forget_stdout
from pipeline.errors import HostError, Interrupted, RecastError, UsageError

if TYPE_CHECKING:
    from pipeline.engine.plan import Plan, PlannedImage
    from pipeline.engine.run import WorkFactory
    from pipeline.engine.stage import Stage
    from pipeline.models.release import Release
    from pipeline.models.run import RunRecord

_TEST_PROGRAMS = ("qemu-system-x86_64", "qemu-img", "ssh", "ssh-keygen")


class Unfinished(RecastError):
    """A run that did not do all that it was asked to."""

    def __init__(self, message: str, hint: str, code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = code


def carry_out(
    context: Context,
    plan: Plan,
    stages: Sequence[Stage],
    *,
    command: str,
    as_json: bool,
    jobs: int | None = None,
    force: Sequence[str] = (),
    trees: Sequence[str] = (),
    make_work: WorkFactory | None = None,
) -> None:
    """Execute *plan* while telling how it goes.

    Args:
        context: the project.
        plan: what to do.
        stages: with what.
        command: the command's name, for the record.
        as_json: tell it as JSON lines.
        jobs: stages at once; the project's setting if None.
        force: images that are done again even if nothing changed.
        trees: images whose trees are needed even if nothing changed.
        make_work: gives stages what they need; the context's if None.

    Raises:
        HostError: this machine cannot do it; nothing was started.
        Unfinished: something failed, or it was stopped; has the exit code for that.
    """
    from pipeline.cli.monitors import monitors
    from pipeline.engine.run import BUILD, TEST, Options, execute

    names = {stage.name for stage in stages}
    forced = bool(force)
    require_host(
        build=BUILD in names
        and (forced or bool(trees) or any(p.action == "build" for p in plan.images)),
        test=TEST in names and (forced or any(p.test for p in plan.images)),
    )
    record = execute(
        plan,
        stages,
        make_work or context.make_work,
        monitors(sys.stdout, context.runs.folder, as_json=as_json),
        Options(
            artifacts=context.artifacts,
            jobs=jobs or context.settings.jobs,
            command=command,
            force=frozenset(force),
            trees=frozenset(trees),
        ),
    )
    try:
        sys.stdout.flush()
    except OSError:  # whoever read has gone: how the run ended is told by its code all the same
        forget_stdout()
    if record.outcome != "passed":
        raise unfinished(record)


def plan_releases(context: Context, releases: Iterable[Release]) -> tuple[PlannedImage, ...]:
    """What a plan says of releases that are there already, parents first.

    Raises:
        UsageError: two are of one image, or one is of an image that is not defined any more.
    """
    from pipeline.engine.look import tests_digest
    from pipeline.engine.plan import PlannedImage
    from pipeline.engine.records import Components

    planned: dict[str, PlannedImage] = {}
    for release in releases:
        image = release.image
        if image in planned:
            raise UsageError(
                f"there cannot be two releases of {image} in one run",
                hint="Take one, then the other.",
            )
        if image not in context.catalog:
            raise UsageError(
                f"{image} is not defined in images/ any more",
                hint=f"Go to a commit that has it, such as {release.commit[:12]}.",
            )
        planned[image] = PlannedImage(
            image=image,
            action="unchanged",
            reasons=("asked for",),
            build_key=release.build_key,
            parent=context.catalog[image].from_,
            release=release.version,
            tests_digest=tests_digest(context.catalog, image),
            test=True,
            components=Components(definition={}),
            tree=release.build_key,
        )
    return tuple(planned[name] for name in context.catalog.order() if name in planned)


def unfinished(record: RunRecord) -> Unfinished:
    """The error for a run that was stopped, or in which something failed."""
    code = record.exit_code or RecastError.exit_code
    again = f"`recast {record.command}` again continues: finished work is kept."
    if record.outcome == "interrupted":
        kept = [
            f"{name} {stage}"
            for name, image in record.images.items()
            for stage, found in image.stages.items()
            if found.status == "done"
        ]
        what = f"kept is what had ended: {', '.join(kept)}" if kept else "nothing had ended yet"
        return Unfinished(
            f"run {record.id} was stopped; {what}", again, record.exit_code or Interrupted.exit_code
        )
    failed = [
        (name, stage)
        for name, image in record.images.items()
        for stage, found in image.stages.items()
        if found.status == "failed"
    ]
    skipped = [
        name
        for name, image in record.images.items()
        if image.status == "skipped" and name not in dict(failed)
    ]
    told = ", ".join(f"{name} failed at {stage}" for name, stage in failed)
    if skipped:
        told += f"; skipped for it: {', '.join(skipped)}"
    log = f"`recast log {record.id} {' '.join(failed[0])}` shows all of it. " if failed else ""
    return Unfinished(told, f"{log}Once that is mended, {again}", code)


def require_host(*, build: bool, test: bool) -> None:
    """Refuse what this machine cannot do, before anything has started.

    Args:
        build: images are going to be built, which needs root.
        test: machines are going to be booted.

    Raises:
        HostError: names everything that is missing, and the packages that bring it.
    """
    from pipeline import doctor

    if build and os.geteuid() != 0:
        raise HostError(
            "building an image needs root (it makes mounts and enters the image's tree)",
            hint="Run it with `sudo`. `recast plan` needs no root, nor does `recast test`.",
        )
    host = doctor.Host()
    found: list[doctor.Finding] = []
    if build:
        found += [*doctor.check_programs(host), doctor.check_keyring(host)]
        if host.which("unshare"):  # else that it is missing says it all
            found.append(doctor.check_namespaces(host))
    elif test:
        found += [f for f in doctor.check_programs(host) if f.check in _TEST_PROGRAMS]
    if test:
        found.append(doctor.check_firmware(host))
    elif build:
        found = [f for f in found if f.check not in _TEST_PROGRAMS]
    missing = [finding for finding in found if finding.state is doctor.State.MISSING]
    if missing:
        packages = doctor.packages(missing)
        raise HostError(
            "this machine lacks " + ", ".join(finding.check for finding in missing),
            hint=(f"Install with `apt-get install {' '.join(packages)}`; " if packages else "")
            + "`recast doctor` tells more.",
        )
