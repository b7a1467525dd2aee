"""``python -m tests.bench [NAME...]``: measure, print a table, write artifacts/bench/latest.json.

A goal that is missed is printed and does not fail the run: a bench informs. A bench that breaks
does (exit code 1), after the others have been measured.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from tests.bench.harness import Record, as_table, find_benches, records_of, save

_HERE = Path(__file__).resolve().parent


def main(names: Sequence[str]) -> int:
    """Run the benches whose name holds one of *names*, or all."""
    artifacts = Path(os.environ.get("RECAST_ARTIFACTS") or _HERE.parents[1] / "artifacts")
    latest = artifacts / "bench" / "latest.json"
    records: list[Record] = []
    broken: list[str] = []
    for name, bench in find_benches(_HERE):
        if names and not any(wanted in name for wanted in names):
            continue
        print(f"{name} ...", flush=True)
        try:
            for record in records_of(bench()):
                records.append(record)
                save(records, latest)  # a long run that is stopped keeps what it measured
                print(f"  {record.bench}: {record.ours:g} {record.unit}", flush=True)
        except Exception:
            broken.append(name)
            traceback.print_exc()
    print()
    print(as_table(records))
    missed = [record.bench for record in records if not record.met]
    print()
    print(f"{len(records) - len(missed)} of {len(records)} goals met; written to {latest}")
    for name in missed:
        print(f"GOAL MISSED: {name}")
    for name in broken:
        print(f"BROKEN: {name}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
