"""What tests of folders of scores share."""

import json

import pyarrow.parquet as pq


def thirds(rows):
    return rows[:134], rows[134:267], rows[267:]


def scores_in(target):
    return {path.relative_to(target).as_posix(): pq.read_table(path) for path in sorted(target.rglob("*.parquet"))}


def summary_of(target):
    return json.loads((target / "_summary.json").read_text())
