# Copyright (c) rsd_mm contributors. Licensed under Apache-2.0.
"""The results of a race."""

import statistics
from typing import Any, Dict, List

from common.jobs import Run, read_log, resident_memory
from common.report import markdown_table, mean_and_spread, spread


def summarize(runs: List[Run], extra: Dict[str, int], metric: str) -> List[Dict[str, Any]]:
    """Return the results of each model over its finished seeds.

    Args:
        runs (List[Run]): All runs.
        extra (Dict[str, int]): Parameters that only training has, by model; the baseline is the first.
        metric (str): Key of the log.
    """
    results: List[Dict[str, Any]] = []
    for name, parameters in extra.items():
        logs = {run: read_log(run, metric) for run in runs if run.name == name}
        logs = {run: log for run, log in logs.items() if log['done']}
        values = [log['curve'][1][-1] for log in logs.values()]
        results.append(
            dict(
                name=name,
                seeds=[run.seed for run in logs],
                values=values,
                mean=statistics.mean(values) if values else None,
                std=spread(values) if values else None,
                seconds_per_iter=statistics.median(log['seconds'] for log in logs.values()) if logs else None,
                extra_parameters=parameters,
                gpu_memory_mb=max((log['memory'] for log in logs.values()), default=0) or None,
                resident_memory_mb=max(map(resident_memory, logs), default=0) or None,
                curves=[log['curve'] for log in logs.values()],
            )
        )
    baseline = dict(zip(results[0]['seeds'], results[0]['values']))
    for result in results:
        # Each seed against the same seed of the baseline, which shares initial weights and order of images.
        pairs = zip(result['seeds'], result['values'])
        gains = [value - baseline[seed] for seed, value in pairs if seed in baseline and result is not results[0]]
        result['gain'] = statistics.mean(gains) if gains else None
        result['gain_std'] = spread(gains) if gains else None
    return results


def results_table(results: List[Dict[str, Any]], metric: str) -> str:
    """Return the results as a Markdown table."""
    on_gpu = any(result['gpu_memory_mb'] for result in results)
    memory = 'gpu_memory_mb' if on_gpu else 'resident_memory_mb'
    header = ['model', f'{metric}, %', 'gain', 'seeds', 's / iteration', 'extra parameters']
    header.append(f'peak memory, MB ({"GPU" if on_gpu else "process"})')
    rows = []
    for result in results:
        if not result['values']:
            rows.append([result['name'], 'no finished run', *[''] * 5])
            continue
        gain = '' if result['gain'] is None else f'{result["gain"]:+.1f}'
        if gain and len(result['seeds']) > 1:
            gain += f' +- {result["gain_std"]:.1f}'
        rows.append(
            [
                result['name'],
                mean_and_spread(result['values']),
                gain,
                str(len(result['seeds'])),
                f'{result["seconds_per_iter"]:.3f}',
                f'{result["extra_parameters"]:,}',
                f'{result[memory] or 0:.0f}',
            ]
        )
    return markdown_table(header, rows)
