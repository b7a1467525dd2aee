"""Reading what a fleet says: 5,000 signed reports in a folder, each verified."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from pipeline.fleet.arrivals import StoreCheckIns
from pipeline.fleet.standing import lags, shares, stand
from pipeline.models.checkin import checkin_key
from pipeline.store.local import LocalStore
from tests.bench.harness import Record, within
from tests.fakes.machines import NOW, Reporter

_MACHINES = 5000
_SECONDS = 3.0


def bench_sites() -> Iterator[Record]:
    """From the folder to who lags and why."""
    with tempfile.TemporaryDirectory(prefix="sites-") as name:
        folder = Path(name)
        (folder / "checkins").mkdir()
        for number in range(_MACHINES):
            reporter = Reporter(f"m{number:05}")
            report = reporter.report(site=f"s{number % 100}", version=str(1 + number % 3))
            (folder / checkin_key(reporter.device)).write_bytes(report)
        before = time.perf_counter()
        now = NOW + timedelta(minutes=1)
        found = [s for a in StoreCheckIns(LocalStore(folder)).newest() if (s := stand(a, now))]
        counted = sum(share.machines for share in shares(found))
        late = sum(len(lag.devices) for lag in lags(found))
        seconds = time.perf_counter() - before
        assert (counted, late > 0) == (_MACHINES, True)
        yield within(f"sites.read_{_MACHINES}", seconds, _SECONDS, unit="s")
