# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The scalars that runs have logged."""

import json
import os.path as osp
from glob import escape, glob
from typing import Any, Dict, Iterable, Iterator, List, Tuple

#: Steps (epochs, or iterations), and the value at each.
Curve = Tuple[List[int], List[float]]


def read_scalars(work_dir: str) -> Iterator[Dict[str, Any]]:
    """Yield the records of a run's logs in order; resuming repeats some."""
    for path in sorted(glob(osp.join(escape(work_dir), '*', 'vis_data', 'scalars.json'))):
        with open(path, encoding='utf-8') as file:
            # The last line may be incomplete: being written, or cut off by an interruption.
            yield from (json.loads(line) for line in file if line.endswith('\n'))


def curve_of(records: Iterable[Dict[str, Any]], key: str) -> Curve:
    """Return the values of a key by step; those of a resumed run replace the ones from before."""
    values = {int(record['step']): float(record[key]) for record in records if key in record}
    steps = sorted(values)
    return steps, [values[step] for step in steps]
